//! The standard streams of the main thread, none of which may hold it up: signals, timers and the machine go on meanwhile.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A pipe or terminal that poll calls writable takes this many bytes without waiting (pipe(7): a page of room). The descriptor
/// is not made non-blocking instead, because that would happen to other programs at the same terminal or pipe as well.
const PIECE: usize = 4096;
/// Bytes for a file.
const BIG_PIECE: usize = 64 << 10;

/// Standard output or error, behind a buffer.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    piece: usize,
    waiting: Vec<u8>,
    start: usize,
    broken: bool,
}

impl Output {
    pub(super) fn stdout() -> anyhow::Result<Self> {
        Ok(Self::new(std::io::stdout().as_fd().try_clone_to_owned()?))
    }

    pub(super) fn stderr() -> anyhow::Result<Self> {
        Ok(Self::new(std::io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn new(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        let piece = if file.metadata().is_ok_and(|m| m.is_file()) { BIG_PIECE } else { PIECE };
        Output { file, piece, waiting: Vec::new(), start: 0, broken: false }
    }

    /// Appends bytes; [`Output::pump`] writes them.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() - self.start
    }

    /// Nobody reads it any more.
    pub(super) fn broken(&self) -> bool {
        self.broken
    }

    /// Writes what can be written without waiting and returns how many bytes are done with. Bytes for a reader that has gone
    /// are done with.
    pub(super) fn pump(&mut self) -> usize {
        let before = self.waiting();
        while self.waiting() > 0 && !self.broken && self.writable() {
            let end = (self.start + self.piece).min(self.waiting.len());
            match self.file.write(&self.waiting[self.start..end]) {
                Ok(n) => self.start += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
        }
        if self.broken || self.waiting() == 0 {
            self.waiting.clear();
            self.start = 0;
        } else if self.start >= BIG_PIECE {
            self.waiting.drain(..self.start);
            self.start = 0;
        }
        before - self.waiting()
    }

    /// For poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn writable(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLOUT)];
        // An error condition makes the write fail, which says more.
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }
}

/// Standard input, unbuffered.
#[derive(Debug)]
pub(super) struct Input {
    file: File,
    open: bool,
}

impl Input {
    pub(super) fn stdin() -> anyhow::Result<Self> {
        Ok(Self::new(std::io::stdin().as_fd().try_clone_to_owned()?))
    }

    fn new(fd: OwnedFd) -> Self {
        Input { file: File::from(fd), open: true }
    }

    /// The end has not been seen yet.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Reads once, up to `most` bytes (at least 1); to be called when poll says so. `None` at the end.
    pub(super) fn read(&mut self, most: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; most.clamp(1, BIG_PIECE)];
        match self.file.read(&mut bytes) {
            Ok(n) if n > 0 => {
                bytes.truncate(n);
                return Some(bytes);
            }
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => return Some(Vec::new()),
            // A terminal that was closed gives an error; nothing more comes either way.
            Ok(_) | Err(_) => self.open = false,
        }
        None
    }

    /// For poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (std::io::PipeReader, Output) {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, Output::new(OwnedFd::from(writer)))
    }

    #[test]
    fn a_full_pipe_does_not_hold_anybody_up() {
        let (mut reader, mut output) = pipe();
        output.push(&vec![7; 1 << 20]);
        let first = output.pump();
        assert!(first > 0 && first < 1 << 20, "{first}");
        assert_eq!(output.pump(), 0);
        let mut bytes = vec![0; first];
        reader.read_exact(&mut bytes).unwrap();
        assert!(output.pump() > 0);
        assert!(!output.broken());
    }

    #[test]
    fn a_reader_that_goes_is_noticed() {
        let (reader, mut output) = pipe();
        drop(reader);
        output.push(b"hello");
        assert_eq!((output.pump(), output.broken(), output.waiting()), (5, true, 0));
    }

    #[test]
    fn input_ends_once() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut input = Input::new(OwnedFd::from(reader));
        writer.write_all(b"abc").unwrap();
        assert_eq!(input.read(2), Some(b"ab".to_vec()));
        drop(writer);
        assert_eq!(input.read(2), Some(b"c".to_vec()));
        assert!(input.is_open());
        assert_eq!((input.read(2), input.is_open()), (None, false));
    }
}
