//! The host's end of the port to a program in the guest, as blocking byte streams.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use visor_virtio::console::{ConsolePort, PortEvent};

use crate::listener::Listener;

/// A connection to the agent port ([`crate::AGENT_PORT`]). Clones share it: one may read while another writes.
#[derive(Clone)]
pub struct AgentPort {
    port: ConsolePort,
    bell: Arc<Bell>,
}

/// Rings at every event of the port.
#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    rings: u64,
    /// Times the guest has closed the port.
    closings: u64,
    closed: bool,
}

impl AgentPort {
    pub(crate) fn new(port: ConsolePort, listener: Listener) -> Self {
        let bell = Arc::new(Bell::default());
        let ring = bell.clone();
        port.on_event(move |event| {
            ring.ring(false, event == PortEvent::Closed);
            listener.tell();
        });
        port.set_open(true);
        AgentPort { port, bell }
    }

    /// Whether the guest's program has the port open.
    pub fn is_guest_open(&self) -> bool {
        self.port.guest_open()
    }

    /// How often the guest's program has closed the port, or the guest was reset while it was open. What was under way then is
    /// gone.
    pub fn closings(&self) -> u64 {
        self.bell.lock().closings
    }

    /// Reads what there is, without waiting; 0 if there is nothing.
    pub fn try_read(&self, data: &mut [u8]) -> usize {
        self.port.read(data)
    }

    /// Takes what there is room for, without waiting: nothing while the guest's program has not opened the port. The listener of
    /// [`crate::Machine::on_event`] is told when that changes.
    pub fn try_write(&self, data: &[u8]) -> usize {
        self.port.write(data)
    }

    /// Waits until the guest's program has opened the port; false when the time is up or the machine has stopped.
    pub fn wait_guest_open(&self, timeout: Duration) -> bool {
        self.until(Some(timeout), || self.port.guest_open().then_some(())).is_some()
    }

    /// Reads what there is, waiting up to `timeout`: `None` when the time is up, 0 when the machine has stopped.
    pub fn read_timeout(&self, data: &mut [u8], timeout: Duration) -> Option<usize> {
        self.read_until(data, Some(timeout))
    }

    /// Ends all reads and writes.
    pub(crate) fn close(&self) {
        self.bell.ring(true, false);
    }

    fn read_until(&self, data: &mut [u8], timeout: Option<Duration>) -> Option<usize> {
        let read = self.until(timeout, || Some(self.port.read(data)).filter(|n| *n > 0));
        read.or_else(|| self.bell.is_closed().then_some(0))
    }

    /// Tries `f` at once and after every event until it gives something, the time is up or the machine has stopped.
    fn until<T>(&self, timeout: Option<Duration>, mut f: impl FnMut() -> Option<T>) -> Option<T> {
        let end = timeout.map(|t| Instant::now() + t);
        loop {
            // The count is read before the try, so that an event during the try is not slept over.
            let (seen, closed) = self.bell.look();
            if let Some(done) = f() {
                return Some(done);
            }
            if closed || !self.bell.wait(seen, end) {
                return None;
            }
        }
    }
}

impl Bell {
    fn ring(&self, over: bool, closed: bool) {
        let mut s = self.lock();
        s.rings += 1;
        s.closings += u64::from(closed);
        s.closed |= over;
        drop(s);
        self.rung.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> (u64, bool) {
        let s = self.lock();
        (s.rings, s.closed)
    }

    fn is_closed(&self) -> bool {
        self.look().1
    }

    /// Waits for a ring after the `seen`th; false when the time is up.
    fn wait(&self, seen: u64, end: Option<Instant>) -> bool {
        let mut s = self.lock();
        while s.rings == seen {
            s = match end {
                None => self.rung.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(end) => {
                    let Some(left) = end.checked_duration_since(Instant::now()) else { return false };
                    self.rung.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }
}

impl Read for AgentPort {
    /// Waits for bytes; 0 when the machine has stopped.
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        Ok(self.read_until(data, None).unwrap_or(0))
    }
}

impl Write for AgentPort {
    /// Waits until the guest has opened the port and there is room.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        self.until(None, || Some(self.port.write(data)).filter(|n| *n > 0))
            .ok_or_else(|| io::Error::new(io::ErrorKind::BrokenPipe, "the machine has stopped"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
