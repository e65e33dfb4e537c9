//! The session with the agent in a guest: moves bytes between the port and the state machine of `visor-guest`.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use visor_guest::host::{HostEvent, HostSession};
use visor_guest::protocol::{ProtocolError, ShutdownKind};
use visor_machine::{ConsolePort, PortEvent};

use super::wake::Wake;

/// Pause between greetings while the agent has not answered.
const GREET_AGAIN: Duration = Duration::from_secs(1);
/// Most bytes read at a time, so that a guest that writes without end cannot hold the main thread.
const AT_A_TIME: usize = 1 << 20;

/// The host's end of the agent's port with a session on it.
pub(super) struct Agent {
    port: ConsolePort,
    pub(super) session: HostSession,
    closed: Arc<AtomicBool>,
    greeted: Instant,
    wake: Wake,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("the guest restarted or its agent ended")]
    Closed,
    #[error("the guest agent broke its protocol")]
    Protocol(#[from] ProtocolError),
}

impl Agent {
    /// Opens the port and greets the agent, whenever it comes up.
    pub(super) fn new(port: ConsolePort, wake: Wake) -> Self {
        let closed = Arc::new(AtomicBool::new(false));
        let (flag, waker) = (closed.clone(), wake.clone());
        port.on_event(move |event| {
            if event == PortEvent::Closed {
                flag.store(true, Ordering::SeqCst);
            }
            waker.wake();
        });
        port.set_open(true);
        Agent { port, session: HostSession::new(nonce()), closed, greeted: Instant::now(), wake }
    }

    /// The agent has answered.
    pub(super) fn is_ready(&self) -> bool {
        self.session.ready().is_some()
    }

    /// When [`Agent::pump`] has to be called although nothing happened.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.is_ready()).then(|| self.greeted + GREET_AGAIN)
    }

    /// Moves bytes in both directions. When a session is lost, the next one has begun already.
    pub(super) fn pump(&mut self) -> Result<(), Lost> {
        if !self.is_ready() && self.greeted.elapsed() >= GREET_AGAIN {
            self.greeted = Instant::now();
            self.session.greet();
        }
        let was_ready = self.is_ready();
        let result = self.read();
        if let Err(error) = result {
            self.begin_anew();
            return Err(error.into());
        }
        self.write();
        if self.closed.swap(false, Ordering::SeqCst) && was_ready {
            self.begin_anew();
            return Err(Lost::Closed);
        }
        Ok(())
    }

    /// The next thing that happened in the session.
    pub(super) fn next_event(&mut self) -> Option<HostEvent> {
        self.session.poll_event()
    }

    /// Asks the guest to power off.
    pub(super) fn shut_down(&mut self) {
        self.session.shutdown(ShutdownKind::PowerOff);
        self.write();
    }

    /// Keeps the port moving when nothing of what comes matters any more.
    pub(super) fn keep_going(&mut self) {
        let _ = self.pump();
        while self.next_event().is_some() {}
    }

    fn read(&mut self) -> Result<(), ProtocolError> {
        let mut bytes = vec![0; 64 << 10];
        for _ in 0..AT_A_TIME / bytes.len() {
            match self.port.read(&mut bytes) {
                0 => return Ok(()),
                n => self.session.feed(&bytes[..n])?,
            }
        }
        self.wake.wake();
        Ok(())
    }

    fn write(&mut self) {
        while !self.session.output().is_empty() {
            match self.port.write(self.session.output()) {
                0 => return,
                n => self.session.consume_output(n),
            }
        }
    }

    fn begin_anew(&mut self) {
        self.session = HostSession::new(nonce());
        self.greeted = Instant::now();
        self.wake.wake();
    }
}

/// A number that no earlier session had: the standard library's hash keys are random.
fn nonce() -> u64 {
    RandomState::new().hash_one(Instant::now())
}
