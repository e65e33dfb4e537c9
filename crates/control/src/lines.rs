//! Lines of bounded length, in bounded time, from a socket whose other end may be anybody of the same user.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A socket, read by lines.
pub(crate) struct Lines {
    stream: UnixStream,
    /// Read, not yet given out.
    buffer: Vec<u8>,
}

/// Why there is no line.
#[derive(Debug)]
pub(crate) enum LineError {
    /// The other end has gone.
    Closed,
    /// Longer than is allowed.
    TooLong,
    /// Not there in time.
    TimedOut,
    /// What the system says.
    Io(io::Error),
}

impl Lines {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Lines { stream, buffer: Vec::new() }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The socket, if nothing was read that has not been given out.
    pub(crate) fn into_stream(self) -> Option<UnixStream> {
        self.buffer.is_empty().then_some(self.stream)
    }

    /// What was read beyond what has been given out.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.buffer
    }

    /// The next line without its end: up to `most` bytes, the first within `idle` (or whenever it comes), the last within `total`
    /// after that.
    pub(crate) fn next(&mut self, most: usize, idle: Option<Duration>, total: Duration) -> Result<Vec<u8>, LineError> {
        let mut until =
            if self.buffer.is_empty() { idle.map(|t| Instant::now() + t) } else { Some(Instant::now() + total) };
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|b| *b == b'\n').map(|i| searched + i) {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                return if line.len() > most { Err(LineError::TooLong) } else { Ok(line) };
            }
            searched = self.buffer.len();
            if searched > most {
                return Err(LineError::TooLong);
            }
            let fresh = self.buffer.is_empty();
            match self.read(until)? {
                0 => return Err(LineError::Closed),
                _ if fresh => until = Some(Instant::now() + total),
                _ => {}
            }
        }
    }

    /// Exactly `size` bytes within `total`.
    pub(crate) fn bytes(&mut self, size: usize, total: Duration) -> Result<Vec<u8>, LineError> {
        let until = Some(Instant::now() + total);
        while self.buffer.len() < size {
            if self.read(until)? == 0 {
                return Err(LineError::Closed);
            }
        }
        let rest = self.buffer.split_off(size);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    fn read(&mut self, until: Option<Instant>) -> Result<usize, LineError> {
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        if left.is_some_and(|l| l.is_zero()) {
            return Err(LineError::TimedOut);
        }
        self.stream.set_read_timeout(left).map_err(LineError::Io)?;
        let mut piece = [0; 16 << 10];
        loop {
            match self.stream.read(&mut piece) {
                Ok(n) => {
                    self.buffer.extend_from_slice(&piece[..n]);
                    return Ok(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(LineError::TimedOut);
                }
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    return Err(LineError::Closed);
                }
                Err(e) => return Err(LineError::Io(e)),
            }
        }
    }
}
