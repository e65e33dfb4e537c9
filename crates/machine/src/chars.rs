//! Byte streams between guest and host: bounded, and closed when the machine stops.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use visor_chipset::CharSink;

use crate::listener::Listener;
use crate::wake::Waker;

/// How long a guest's output waits for a reader that has let a whole buffer fill up, before it is thrown away.
const PATIENCE: Duration = Duration::from_secs(2);

/// A bounded byte queue.
#[derive(Debug)]
struct Queue {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
    listener: Listener,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
    /// The reader does not read: writers drop at once until there is room again.
    stalled: bool,
    dropped: u64,
}

impl Queue {
    fn new(capacity: usize, listener: Listener) -> Arc<Self> {
        Arc::new(Queue { capacity, state: Mutex::default(), changed: Condvar::new(), listener })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, s: MutexGuard<'a, State>, until: Option<Instant>) -> Option<MutexGuard<'a, State>> {
        let Some(until) = until else { return Some(self.changed.wait(s).unwrap_or_else(PoisonError::into_inner)) };
        let left = until.checked_duration_since(Instant::now())?;
        Some(self.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
        self.listener.tell();
    }

    /// Takes bytes; waits for some until `until`. 0 at the end of the stream, `None` when the time is up.
    fn pop(&self, data: &mut [u8], until: Option<Instant>) -> Option<usize> {
        let mut s = self.lock();
        while s.bytes.is_empty() && !s.closed {
            s = self.wait(s, until)?;
        }
        let n = s.bytes.len().min(data.len());
        for (to, from) in data.iter_mut().zip(s.bytes.drain(..n)) {
            *to = from;
        }
        s.stalled = false;
        drop(s);
        self.changed.notify_all();
        Some(n)
    }

    /// Puts bytes in, waiting for room until `until`; the number taken.
    fn push(&self, data: &[u8], until: Option<Instant>) -> usize {
        let mut s = self.lock();
        let mut done = 0;
        while done < data.len() && !s.closed {
            let n = (self.capacity - s.bytes.len()).min(data.len() - done);
            let was_empty = s.bytes.is_empty();
            s.bytes.extend(&data[done..done + n]);
            done += n;
            if n > 0 {
                self.changed.notify_all();
                if was_empty {
                    self.listener.tell();
                }
            } else if s.stalled {
                break;
            } else {
                match self.wait(s, until) {
                    Some(again) => s = again,
                    None => return done,
                }
            }
        }
        done
    }
}

/// The guest's serial output, as the host reads it: blocks until there is some; ends when the machine has stopped.
#[derive(Clone, Debug)]
pub struct SerialOutput(Arc<Queue>);

impl SerialOutput {
    /// Reads what there is, waiting up to `timeout`: 0 at the end of the stream, `None` when the time is up.
    pub fn read_timeout(&self, data: &mut [u8], timeout: Duration) -> Option<usize> {
        self.0.pop(data, Some(Instant::now() + timeout))
    }

    /// Bytes that were thrown away because nobody read them.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }
}

impl Read for SerialOutput {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.pop(data, None).unwrap_or(0))
    }
}

/// Serial input for the guest: a write blocks while 64 KiB wait.
#[derive(Clone, Debug)]
pub struct SerialInput {
    queue: Arc<Queue>,
    waker: Waker,
}

impl SerialInput {
    /// Takes what there is room for, without waiting, and tells how much that was. When there is room again after less than all
    /// was taken, [`crate::Machine::on_event`]'s listener is told.
    pub fn try_write(&self, data: &[u8]) -> usize {
        let n = self.queue.push(data, Some(Instant::now()));
        if n > 0 {
            self.waker.wake();
        }
        n
    }
}

impl Write for SerialInput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // Room for one byte is enough: the I/O thread must learn of it before more is waited for.
        let n = self.queue.push(data.get(..1).unwrap_or_default(), None);
        if n < data.len().min(1) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the machine has stopped"));
        }
        let now = Some(Instant::now());
        let n = n + self.queue.push(data.get(1..).unwrap_or_default(), now);
        self.waker.wake();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The machine's end of the serial line.
#[derive(Clone, Debug)]
pub(crate) struct SerialLine {
    output: Arc<Queue>,
    input: Arc<Queue>,
    waker: Waker,
}

impl SerialLine {
    pub(crate) fn new(waker: Waker, listener: Listener) -> Self {
        let (output, input) = (Queue::new(1 << 20, listener.clone()), Queue::new(64 << 10, listener));
        SerialLine { output, input, waker }
    }

    /// What the UART writes to.
    pub(crate) fn sink(&self) -> Box<dyn CharSink> {
        Box::new(self.clone())
    }

    pub(crate) fn host_output(&self) -> SerialOutput {
        SerialOutput(self.output.clone())
    }

    pub(crate) fn host_input(&self) -> SerialInput {
        SerialInput { queue: self.input.clone(), waker: self.waker.clone() }
    }

    /// Offers waiting input to `take`, which returns how much of it it has taken.
    pub(crate) fn feed(&self, take: impl FnOnce(&[u8]) -> usize) {
        let waiting: Vec<u8> = self.input.lock().bytes.iter().take(256).copied().collect();
        if waiting.is_empty() {
            return;
        }
        // The queue is not locked here: the UART is locked before it elsewhere. Only this thread takes bytes out.
        let n = take(&waiting).min(waiting.len());
        let (more, was_full) = {
            let mut s = self.input.lock();
            let was_full = s.bytes.len() >= self.input.capacity;
            s.bytes.drain(..n);
            (!s.bytes.is_empty(), was_full)
        };
        self.input.changed.notify_all();
        if n > 0 && was_full {
            self.input.listener.tell();
        }
        if n > 0 && more {
            self.waker.wake();
        }
    }

    pub(crate) fn close(&self) {
        self.output.close();
        self.input.close();
    }
}

impl CharSink for SerialLine {
    fn write(&mut self, bytes: &[u8]) {
        let n = self.output.push(bytes, Some(Instant::now() + PATIENCE));
        if n < bytes.len() {
            let mut s = self.output.lock();
            s.stalled = true;
            s.dropped += (bytes.len() - n) as u64;
        }
    }

    fn ready(&mut self) {
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_bounded_and_ends() {
        let line = SerialLine::new(Waker::new().unwrap(), Listener::default());
        let (mut sink, mut out) = (line.sink(), line.host_output());
        sink.write(b"hello");
        let mut data = [0; 16];
        assert_eq!(out.read(&mut data).unwrap(), 5);
        assert_eq!(out.read_timeout(&mut data, Duration::from_millis(1)), None);
        sink.write(&vec![b'x'; 1 << 20]);
        let begin = Instant::now();
        sink.write(b"1");
        sink.write(b"23");
        assert!(begin.elapsed() < PATIENCE * 2, "only the first write waits");
        assert_eq!(out.dropped(), 3);
        line.close();
        let mut rest = Vec::new();
        out.read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 1 << 20);
    }

    #[test]
    fn input_waits_until_it_is_taken() {
        let line = SerialLine::new(Waker::new().unwrap(), Listener::default());
        let mut input = line.host_input();
        input.write_all(b"abcdef").unwrap();
        let mut got: Vec<u8> = Vec::new();
        line.feed(|b| {
            got.extend(&b[..4]);
            4
        });
        line.feed(|_| 0);
        line.feed(|b| {
            got.extend(b);
            b.len()
        });
        assert_eq!(got, b"abcdef");
        line.close();
        assert!(input.write(b"x").is_err());
    }
}
