//! The host's half of a session as a state machine: bytes in, events and bytes out, no I/O and no clock.
//!
//! The owner moves bytes between the port and the session:
//!
//! 1. [`HostSession::feed`] with what came from the guest, then [`HostSession::poll_event`] until it is `None`;
//! 2. write [`HostSession::output`] to the guest and tell with [`HostSession::consume_output`] how much went;
//! 3. after passing output of a command on, call [`HostSession::consumed`], or the command stands still when its
//!    window is full.
//!
//! The guest is not trusted: what it can make the host hold is bounded by the windows, and a guest that breaks the
//! rules ends the session with an error.

use std::collections::{BTreeMap, VecDeque};

use crate::protocol::{
    ExecSpec, ExitStatus, Failure, FrameReader, MAX_CHANNELS, MAX_PAYLOAD, ProtocolError, Ready, SYNC, ShutdownKind,
    Stream, ToGuest, ToHost, VERSION, WINDOW, hello,
};

#[cfg(test)]
mod tests;

/// Most events that may wait for [`HostSession::poll_event`].
const MAX_EVENTS: usize = 8192;

/// A command of this session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecId(u32);

/// What the guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostEvent {
    /// The agent answered; commands may be started.
    Ready(Ready),
    /// Output of a command; give room back with [`HostSession::consumed`].
    Output {
        /// Which command.
        id: ExecId,
        /// `Stdout` or `Stderr`.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A command takes more input again; see [`HostSession::stdin_room`].
    StdinRoom(ExecId),
    /// A command ended; all its output came before.
    Exited {
        /// Which command.
        id: ExecId,
        /// How it ended.
        status: ExitStatus,
    },
    /// A command did not start.
    Refused {
        /// Which command.
        id: ExecId,
        /// Why.
        failure: Failure,
    },
    /// The guest complains about something that belongs to no command.
    Complaint(Failure),
    /// Answer to [`HostSession::ping`].
    Pong(u64),
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The agent has not answered yet.
    NotReady,
    /// [`MAX_CHANNELS`] commands run already.
    Busy,
    /// No such command, or it has ended.
    Unknown,
    /// Arguments and environment do not fit into one message, or there is no program.
    Invalid(ProtocolError),
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotReady => f.write_str("the guest agent has not answered yet"),
            Self::Busy => write!(f, "{MAX_CHANNELS} commands are running already"),
            Self::Unknown => f.write_str("no such command in this session"),
            Self::Invalid(e) => write!(f, "the command cannot be sent: {e}"),
        }
    }
}

impl std::error::Error for RequestError {}

#[derive(Debug)]
struct Channel {
    stdin_room: usize,
    stdin_open: bool,
    output: [Window; 2],
}

#[derive(Debug, Default)]
struct Window {
    /// Received and not yet consumed by the owner.
    held: usize,
    /// Consumed but not yet told to the guest.
    owed: usize,
}

/// The host's half of a session with a guest agent.
#[derive(Debug)]
pub struct HostSession {
    reader: FrameReader,
    nonce: u64,
    ready: Option<Ready>,
    failed: Option<ProtocolError>,
    channels: BTreeMap<u32, Channel>,
    next_id: u32,
    events: VecDeque<HostEvent>,
    out: Vec<u8>,
    out_start: usize,
}

impl HostSession {
    /// Begins a session: the greeting is in [`Self::output`] at once. `nonce` tells this session from earlier ones on
    /// the same port: take a random number; 0 counts as 1.
    pub fn new(nonce: u64) -> Self {
        let mut session = Self {
            reader: FrameReader::new(),
            nonce: nonce.max(1),
            ready: None,
            failed: None,
            channels: BTreeMap::new(),
            next_id: 1,
            events: VecDeque::new(),
            out: Vec::new(),
            out_start: 0,
        };
        session.greet();
        session
    }

    /// Sends the greeting again while the agent has not answered; does nothing later. Harmless at any time: a port
    /// may swallow bytes written before the guest opened it.
    pub fn greet(&mut self) {
        if self.ready.is_none() && self.output().len() < 4096 {
            self.out.extend_from_slice(&SYNC);
            self.send(&hello(self.nonce));
        }
    }

    /// What the agent said about itself, once it has answered.
    pub fn ready(&self) -> Option<&Ready> {
        self.ready.as_ref()
    }

    /// Takes bytes from the guest.
    ///
    /// # Errors
    /// When the guest breaks the protocol. The session is dead then and returns the same error for ever.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.reader.push(bytes);
        loop {
            let step = match self.reader.next_frame() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => ToHost::parse(frame).and_then(|m| self.take(m)),
                Err(error) => Err(error),
            };
            match step {
                Ok(()) => {}
                // Before the greeting is answered, anything may still come from an earlier session.
                Err(_) if self.ready.is_none() => {}
                Err(error) => {
                    self.failed = Some(error);
                    return Err(error);
                }
            }
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<HostEvent> {
        self.events.pop_front()
    }

    /// Bytes to write to the guest.
    pub fn output(&self) -> &[u8] {
        self.out.get(self.out_start..).unwrap_or_default()
    }

    /// Forgets the first `n` bytes of [`Self::output`]: they are written.
    pub fn consume_output(&mut self, n: usize) {
        self.out_start = (self.out_start + n).min(self.out.len());
        if self.out_start == self.out.len() || self.out_start > MAX_PAYLOAD {
            self.out.drain(..self.out_start);
            self.out_start = 0;
        }
    }

    /// Starts a command.
    ///
    /// # Errors
    /// `NotReady`, `Busy` or `Invalid`. That the guest cannot run it comes later, as [`HostEvent::Refused`].
    pub fn exec(&mut self, spec: &ExecSpec) -> Result<ExecId, RequestError> {
        if self.ready.is_none() {
            return Err(RequestError::NotReady);
        }
        if self.channels.len() >= MAX_CHANNELS {
            return Err(RequestError::Busy);
        }
        if spec.argv.is_empty() {
            return Err(RequestError::Invalid(ProtocolError::BadField("argv")));
        }
        let id = self.free_id();
        let message = ToGuest::Exec { id, spec: spec.clone() };
        message.emit(&mut self.out).map_err(RequestError::Invalid)?;
        let channel = Channel { stdin_room: WINDOW, stdin_open: true, output: Default::default() };
        self.channels.insert(id, channel);
        Ok(ExecId(id))
    }

    /// Bytes of input the command takes now; 0 when it is gone or its input is closed.
    pub fn stdin_room(&self, id: ExecId) -> usize {
        self.channels.get(&id.0).filter(|c| c.stdin_open).map_or(0, |c| c.stdin_room)
    }

    /// Sends input, as much as there is room for; returns how many bytes were taken.
    pub fn write_stdin(&mut self, id: ExecId, bytes: &[u8]) -> usize {
        let n = self.stdin_room(id).min(bytes.len());
        let Some(channel) = self.channels.get_mut(&id.0) else {
            return 0;
        };
        channel.stdin_room -= n;
        for part in bytes.get(..n).unwrap_or_default().chunks(MAX_PAYLOAD) {
            self.send(&ToGuest::Stdin { id: id.0, bytes: part.to_vec() });
        }
        n
    }

    /// Ends the command's input. Does nothing when it has ended already.
    pub fn close_stdin(&mut self, id: ExecId) {
        if let Some(channel) = self.channels.get_mut(&id.0).filter(|c| c.stdin_open) {
            channel.stdin_open = false;
            self.send(&ToGuest::StdinEof { id: id.0 });
        }
    }

    /// Says that `n` bytes of an [`HostEvent::Output`] have been passed on, so that the guest may send more.
    pub fn consumed(&mut self, id: ExecId, stream: Stream, n: usize) {
        let Some(window) = self.channels.get_mut(&id.0).and_then(|c| c.window(stream)) else {
            return;
        };
        let n = n.min(window.held);
        window.held -= n;
        window.owed += n;
        // Not for every few bytes: a frame per quarter window keeps the pipe full and the port quiet.
        if window.owed >= WINDOW / 4 {
            let bytes = u32::try_from(std::mem::take(&mut window.owed)).unwrap_or(u32::MAX);
            self.send(&ToGuest::Credit { id: id.0, stream, bytes });
        }
    }

    /// Tells a command's terminal its new size.
    ///
    /// # Errors
    /// `Unknown` when the command is gone.
    pub fn resize(&mut self, id: ExecId, cols: u16, rows: u16) -> Result<(), RequestError> {
        self.known(id)?;
        self.send(&ToGuest::Resize { id: id.0, cols, rows });
        Ok(())
    }

    /// Tells the guest the size of the terminal behind its serial console.
    pub fn resize_console(&mut self, cols: u16, rows: u16) {
        self.send(&ToGuest::Resize { id: 0, cols, rows });
    }

    /// Sends a signal to a command's process group.
    ///
    /// # Errors
    /// `Unknown` when the command is gone.
    pub fn signal(&mut self, id: ExecId, signo: u8) -> Result<(), RequestError> {
        self.known(id)?;
        self.send(&ToGuest::Signal { id: id.0, signo });
        Ok(())
    }

    /// Asks the guest to stop.
    pub fn shutdown(&mut self, kind: ShutdownKind) {
        self.send(&ToGuest::Shutdown(kind));
    }

    /// Sets the guest's wall clock; `nanos` below 10^9.
    pub fn set_clock(&mut self, secs: i64, nanos: u32) {
        self.send(&ToGuest::SetClock { secs, nanos: nanos.min(999_999_999) });
    }

    /// Asks for a [`HostEvent::Pong`].
    pub fn ping(&mut self, token: u64) {
        self.send(&ToGuest::Ping { token });
    }

    fn known(&self, id: ExecId) -> Result<(), RequestError> {
        if self.channels.contains_key(&id.0) { Ok(()) } else { Err(RequestError::Unknown) }
    }

    fn free_id(&mut self) -> u32 {
        while self.next_id == 0 || self.channels.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    fn send(&mut self, message: &ToGuest) {
        // Only `Exec` can be too long, and `exec` emits for itself.
        let sent = message.emit(&mut self.out);
        debug_assert!(sent.is_ok());
    }

    fn take(&mut self, message: ToHost) -> Result<(), ProtocolError> {
        if self.ready.is_none() {
            return self.take_greeting(message);
        }
        if self.events.len() >= MAX_EVENTS {
            return Err(ProtocolError::Flooded);
        }
        let event = match message {
            ToHost::Ready(r) if r.nonce == self.nonce => return Ok(()),
            // The agent was started anew: what ran in it is gone.
            ToHost::Ready(_) => return Err(ProtocolError::BadField("nonce")),
            ToHost::Stdout { id, bytes } => self.take_output(id, Stream::Stdout, bytes)?,
            ToHost::Stderr { id, bytes } => self.take_output(id, Stream::Stderr, bytes)?,
            ToHost::Exit { id, status } => {
                self.channels.remove(&id).ok_or(ProtocolError::FlowControl(id))?;
                HostEvent::Exited { id: ExecId(id), status }
            }
            ToHost::Error { id: 0, failure } => HostEvent::Complaint(failure),
            ToHost::Error { id, failure } => {
                self.channels.remove(&id).ok_or(ProtocolError::FlowControl(id))?;
                HostEvent::Refused { id: ExecId(id), failure }
            }
            ToHost::Credit { id, bytes } => {
                let channel = self.channels.get_mut(&id).ok_or(ProtocolError::FlowControl(id))?;
                channel.stdin_room += bytes as usize;
                if channel.stdin_room > WINDOW {
                    return Err(ProtocolError::FlowControl(id));
                }
                HostEvent::StdinRoom(ExecId(id))
            }
            ToHost::Pong { token } => HostEvent::Pong(token),
        };
        self.events.push_back(event);
        Ok(())
    }

    fn take_greeting(&mut self, message: ToHost) -> Result<(), ProtocolError> {
        match message {
            ToHost::Ready(r) if r.nonce == self.nonce => {
                if r.version == VERSION {
                    self.ready = Some(r.clone());
                }
                self.events.push_back(HostEvent::Ready(r));
            }
            // It announces itself and may have missed our greeting.
            ToHost::Ready(r) if r.nonce == 0 => self.greet(),
            ToHost::Error { id: 0, failure } if self.events.len() < MAX_EVENTS => {
                self.events.push_back(HostEvent::Complaint(failure));
            }
            _ => {}
        }
        Ok(())
    }

    fn take_output(&mut self, id: u32, stream: Stream, bytes: Vec<u8>) -> Result<HostEvent, ProtocolError> {
        let window = self.channels.get_mut(&id).and_then(|c| c.window(stream));
        let window = window.ok_or(ProtocolError::FlowControl(id))?;
        window.held += bytes.len();
        if window.held + window.owed > WINDOW {
            return Err(ProtocolError::FlowControl(id));
        }
        Ok(HostEvent::Output { id: ExecId(id), stream, bytes })
    }
}

impl Channel {
    fn window(&mut self, stream: Stream) -> Option<&mut Window> {
        let [stdout, stderr] = &mut self.output;
        match stream {
            Stream::Stdin => None,
            Stream::Stdout => Some(stdout),
            Stream::Stderr => Some(stderr),
        }
    }
}
