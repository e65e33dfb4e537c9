//! What the guest writes to its serial port, on its way from the vCPU threads to the main thread.
//!
//! The main thread takes bytes out only as fast as it can pass them on, so a reader of standard output that is slow or stands
//! still fills the buffer. Then every write of the guest waits a moment for room, and is kept in any case: the guest slows down
//! to a few writes a second and nothing is lost. It must not wait for longer, because the UART's lock is held meanwhile, and the
//! main thread itself wants that lock to pass input on; while it does, writes do not wait at all ([`SerialLine::hurried`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use visor_machine::CharSink;

use super::wake::Wake;

/// Bytes from which on the guest is slowed down.
const FULL: usize = 1 << 20;
/// Bytes from which on the oldest are dropped: never reached at the pace that [`PAUSE`] allows, unless writes may not wait.
const LIMIT: usize = 16 << 20;
/// How long one write waits for room.
const PAUSE: Duration = Duration::from_millis(100);

/// The buffer.
pub(super) struct SerialLine {
    state: Mutex<State>,
    room: Condvar,
    wake: Wake,
    input_ready: AtomicBool,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    hurry: bool,
    closed: bool,
    dropped: u64,
}

impl SerialLine {
    pub(super) fn new(wake: Wake) -> Arc<Self> {
        Arc::new(SerialLine {
            state: Mutex::default(),
            room: Condvar::new(),
            wake,
            input_ready: AtomicBool::new(true),
        })
    }

    /// The guest's end.
    pub(super) fn sink(self: &Arc<Self>) -> Box<dyn CharSink> {
        Box::new(Sink(self.clone()))
    }

    /// Takes up to `most` bytes. A gap where bytes were dropped is marked in them.
    pub(super) fn take(&self, most: usize) -> Vec<u8> {
        let mut s = self.lock();
        let mut out = Vec::new();
        if s.dropped > 0 {
            out.extend(format!("\r\n[visor: {} bytes lost]\r\n", std::mem::take(&mut s.dropped)).into_bytes());
        }
        let n = s.bytes.len().min(most);
        out.extend(s.bytes.drain(..n));
        drop(s);
        self.room.notify_all();
        out
    }

    /// Nothing waits to be taken.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().bytes.is_empty()
    }

    /// Runs `f`, during which no write of the guest waits.
    pub(super) fn hurried<R>(&self, f: impl FnOnce() -> R) -> R {
        self.lock().hurry = true;
        self.room.notify_all();
        let result = f();
        self.lock().hurry = false;
        result
    }

    /// Throws away what the guest writes from now on. To be called before the machine is stopped.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.notify_all();
    }

    /// The serial port may take input: it has not refused any yet, or takes some again. Asking clears it.
    pub(super) fn input_ready(&self) -> bool {
        self.input_ready.swap(false, Ordering::SeqCst)
    }

    /// The serial port took all there was, so it may take more.
    pub(super) fn set_input_ready(&self) {
        self.input_ready.store(true, Ordering::SeqCst);
    }

    fn push(&self, bytes: &[u8]) {
        let mut s = self.lock();
        if s.bytes.len() >= FULL && !s.hurry && !s.closed {
            s = self.room.wait_timeout(s, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        }
        if s.closed {
            return;
        }
        let was_empty = s.bytes.is_empty();
        s.bytes.extend(bytes);
        let excess = s.bytes.len().saturating_sub(LIMIT);
        s.bytes.drain(..excess);
        s.dropped += excess as u64;
        drop(s);
        if was_empty {
            self.wake.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Sink(Arc<SerialLine>);

impl CharSink for Sink {
    fn write(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    fn ready(&mut self) {
        self.0.input_ready.store(true, Ordering::SeqCst);
        self.0.wake.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_the_first_wakes() {
        let wake = Wake::new().unwrap();
        let line = SerialLine::new(wake.clone());
        let mut sink = line.sink();
        sink.write(b"hello ");
        sink.write(b"world");
        assert_eq!((line.take(8), line.take(99), line.is_empty()), (b"hello wo".to_vec(), b"rld".to_vec(), true));
        assert!(line.input_ready() && !line.input_ready());
        sink.ready();
        assert!(line.input_ready());
    }

    #[test]
    fn a_full_buffer_slows_the_guest_down_and_loses_nothing() {
        let line = SerialLine::new(Wake::new().unwrap());
        let mut sink = line.sink();
        sink.write(&vec![b'a'; FULL]);
        let start = Instant::now();
        sink.write(b"b");
        assert!(start.elapsed() >= PAUSE);
        let other = line.clone();
        let start = Instant::now();
        line.hurried(|| other.sink().write(b"c"));
        assert!(start.elapsed() < PAUSE, "the main thread must get at the port");
        assert!(line.take(usize::MAX).ends_with(b"abc"));
        line.close();
        sink.write(b"d");
        assert!(line.is_empty());
    }

    #[test]
    fn what_was_dropped_is_said() {
        let line = SerialLine::new(Wake::new().unwrap());
        line.hurried(|| {
            for _ in 0..LIMIT / FULL + 1 {
                line.push(&vec![b'x'; FULL]);
            }
        });
        let text = String::from_utf8(line.take(4)).unwrap();
        assert_eq!(text, format!("\r\n[visor: {FULL} bytes lost]\r\nxxxx"));
    }
}
