//! The session with the agent in a guest: moves bytes between the port and the state machine of `visor-guest`.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use visor_guest::host::{HostEvent, HostSession};
use visor_guest::protocol::{ProtocolError, ShutdownKind};
use visor_machine::AgentPort;

use super::wake::Wake;

/// Pause between greetings while the agent has not answered.
const GREET_AGAIN: Duration = Duration::from_secs(1);
/// Most bytes read at a time, so that a guest that writes without end cannot hold the main thread.
const AT_A_TIME: usize = 1 << 20;

/// The host's end of the agent's port with a session on it.
pub(super) struct Agent {
    port: AgentPort,
    pub(super) session: HostSession,
    /// Closings of the port until this session began.
    closings: u64,
    greeted: Instant,
    /// The guest has been asked to shut down in this session.
    asked: bool,
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
    /// Greets the agent, whenever it comes up. The port's events wake the main thread.
    pub(super) fn new(port: AgentPort, wake: Wake) -> Self {
        let closings = port.closings();
        Agent { port, session: HostSession::new(nonce()), closings, greeted: Instant::now(), asked: false, wake }
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
        if let Err(error) = self.read() {
            self.begin_anew();
            return Err(error.into());
        }
        self.write();
        let closings = self.port.closings();
        if std::mem::replace(&mut self.closings, closings) != closings && was_ready {
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
        self.asked = true;
        self.session.shutdown(ShutdownKind::PowerOff);
        self.write();
    }

    /// Keeps the port moving when nothing of what comes matters any more. An agent that has begun anew, such as that of a guest which
    /// resumes from a sleep, is asked again to shut down. Gives the time to come again.
    pub(super) fn keep_going(&mut self) -> Option<Instant> {
        self.asked &= self.pump().is_ok();
        while self.next_event().is_some() {}
        if !self.asked && self.is_ready() {
            self.shut_down();
        }
        self.due()
    }

    fn read(&mut self) -> Result<(), ProtocolError> {
        let mut bytes = vec![0; 64 << 10];
        for _ in 0..AT_A_TIME / bytes.len() {
            match self.port.try_read(&mut bytes) {
                0 => return Ok(()),
                n => self.session.feed(&bytes[..n])?,
            }
        }
        self.wake.wake();
        Ok(())
    }

    fn write(&mut self) {
        while !self.session.output().is_empty() {
            match self.port.try_write(self.session.output()) {
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
