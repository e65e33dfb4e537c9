//! The messages, and how each is laid out in a frame's payload. All integers are little-endian.

use super::wire::{Fields, Frame, FrameBuilder, ProtocolError};
use super::{MAX_STRINGS, VERSION};

/// A command to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecSpec {
    /// Program and arguments; the program is looked up in `PATH`. Never empty.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` entries set on top of the agent's default environment.
    pub env: Vec<Vec<u8>>,
    /// Working directory; empty means the default (`/root`, or `/` when that is missing).
    pub cwd: Vec<u8>,
    /// Give the command a terminal of this size (columns, rows) instead of three pipes.
    pub tty: Option<(u16, u16)>,
}

impl ExecSpec {
    /// A command with pipes, default environment and default directory.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<Vec<u8>>,
    {
        Self { argv: argv.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// What a [`ToGuest::Shutdown`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownKind {
    /// Stop services, unmount, power off.
    PowerOff,
    /// Stop services, unmount, restart.
    Reboot,
}

/// A byte stream of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Host to guest.
    Stdin,
    /// Guest to host; the only output stream of a command with a terminal.
    Stdout,
    /// Guest to host.
    Stderr,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It returned this status, 0 to 255.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

impl ExitStatus {
    /// The status as a shell reports it: the code, or 128 + signal.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128u8.saturating_add(signal),
        }
    }
}

/// Why the guest refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such program or directory (a shell would report 127).
    NotFound,
    /// The program may not be executed (a shell would report 126).
    NotPermitted,
    /// The message made no sense, for example a channel already in use.
    BadRequest,
    /// Too many commands at once.
    Busy,
    /// The versions of host and guest do not meet.
    Version,
    /// Anything else; the message says what.
    Other,
}

/// A refusal, with words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Kind for control flow.
    pub kind: ErrorKind,
    /// What happened, one line.
    pub message: String,
}

/// The guest's half of the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Protocol version of the guest.
    pub version: u16,
    /// The nonce of the `Hello` this answers; 0 when the agent announces itself unasked.
    pub nonce: u64,
    /// Milliseconds since the guest's kernel started.
    pub uptime_ms: u64,
    /// Version of the agent program.
    pub agent: String,
    /// Release of the guest's kernel.
    pub kernel: String,
}

/// Messages from host to guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Opens a session and ends the one before, killing its commands.
    Hello {
        /// Protocol version of the host.
        version: u16,
        /// Any number but 0; comes back in `Ready`.
        nonce: u64,
    },
    /// Starts a command on a new channel.
    Exec {
        /// Channel, not 0 and not in use.
        id: u32,
        /// What to run.
        spec: ExecSpec,
    },
    /// Bytes for a command's standard input.
    Stdin {
        /// Channel.
        id: u32,
        /// At most [`super::MAX_PAYLOAD`] bytes, within the window.
        bytes: Vec<u8>,
    },
    /// No more input follows.
    StdinEof {
        /// Channel.
        id: u32,
    },
    /// New size of a command's terminal, or of the serial console when `id` is 0.
    Resize {
        /// Channel or 0.
        id: u32,
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// A signal for a command's process group.
    Signal {
        /// Channel.
        id: u32,
        /// Linux signal number.
        signo: u8,
    },
    /// Room for more output of a command.
    Credit {
        /// Channel.
        id: u32,
        /// `Stdout` or `Stderr`.
        stream: Stream,
        /// Bytes passed on.
        bytes: u32,
    },
    /// Stops the guest.
    Shutdown(ShutdownKind),
    /// Sets the guest's wall clock.
    SetClock {
        /// Seconds since 1970 (UTC).
        secs: i64,
        /// Nanoseconds, below 10^9.
        nanos: u32,
    },
    /// Asks for a `Pong`.
    Ping {
        /// Comes back.
        token: u64,
    },
}

/// Messages from guest to host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// The agent listens.
    Ready(Ready),
    /// Bytes from a command's standard output, or its terminal.
    Stdout {
        /// Channel.
        id: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes from a command's standard error.
    Stderr {
        /// Channel.
        id: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The command ended and all its output has been sent; the channel is free again.
    Exit {
        /// Channel.
        id: u32,
        /// How it ended.
        status: ExitStatus,
    },
    /// Something was refused. On a command's channel: it did not start, and the channel is free again.
    Error {
        /// Channel or 0.
        id: u32,
        /// Why.
        failure: Failure,
    },
    /// Room for more standard input.
    Credit {
        /// Channel.
        id: u32,
        /// Bytes passed on.
        bytes: u32,
    },
    /// Answer to `Ping`.
    Pong {
        /// The token of the question.
        token: u64,
    },
}

mod code {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const EXEC: u8 = 0x02;
    pub(super) const STDIN: u8 = 0x03;
    pub(super) const STDIN_EOF: u8 = 0x04;
    pub(super) const RESIZE: u8 = 0x05;
    pub(super) const SIGNAL: u8 = 0x06;
    pub(super) const CREDIT: u8 = 0x07;
    pub(super) const SHUTDOWN: u8 = 0x08;
    pub(super) const SET_CLOCK: u8 = 0x09;
    pub(super) const PING: u8 = 0x0a;
    pub(super) const READY: u8 = 0x81;
    pub(super) const STDOUT: u8 = 0x82;
    pub(super) const STDERR: u8 = 0x83;
    pub(super) const EXIT: u8 = 0x84;
    pub(super) const ERROR: u8 = 0x85;
    pub(super) const STDIN_CREDIT: u8 = 0x86;
    pub(super) const PONG: u8 = 0x87;
}

impl ToGuest {
    /// Appends the message as one frame.
    ///
    /// # Errors
    /// `TooLong` when the payload would exceed [`super::MAX_PAYLOAD`]; nothing is appended then.
    pub fn emit(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        match self {
            Self::Hello { version, nonce } => FrameBuilder::new(code::HELLO, 0).u16(*version).u64(*nonce).finish(out),
            Self::Exec { id, spec } => {
                let (cols, rows) = spec.tty.unwrap_or((0, 0));
                let mut b = FrameBuilder::new(code::EXEC, *id)
                    .u8(spec.tty.is_some().into())
                    .u16(cols)
                    .u16(rows)
                    .bytes(&spec.cwd);
                for list in [&spec.argv, &spec.env] {
                    b = b.u32(u32::try_from(list.len()).unwrap_or(u32::MAX));
                    b = list.iter().fold(b, |b, s| b.bytes(s));
                }
                b.finish(out)
            }
            Self::Stdin { id, bytes } => FrameBuilder::new(code::STDIN, *id).raw(bytes).finish(out),
            Self::StdinEof { id } => FrameBuilder::new(code::STDIN_EOF, *id).finish(out),
            Self::Resize { id, cols, rows } => FrameBuilder::new(code::RESIZE, *id).u16(*cols).u16(*rows).finish(out),
            Self::Signal { id, signo } => FrameBuilder::new(code::SIGNAL, *id).u8(*signo).finish(out),
            Self::Credit { id, stream, bytes } => {
                FrameBuilder::new(code::CREDIT, *id).u8(*stream as u8).u32(*bytes).finish(out)
            }
            Self::Shutdown(kind) => FrameBuilder::new(code::SHUTDOWN, 0).u8(*kind as u8).finish(out),
            Self::SetClock { secs, nanos } => {
                FrameBuilder::new(code::SET_CLOCK, 0).u64(secs.cast_unsigned()).u32(*nanos).finish(out)
            }
            Self::Ping { token } => FrameBuilder::new(code::PING, 0).u64(*token).finish(out),
        }
    }

    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// When the type is unknown or the payload does not have the layout of the type.
    pub fn parse(frame: Frame) -> Result<Self, ProtocolError> {
        let id = frame.channel;
        if frame.kind == code::STDIN {
            return Ok(Self::Stdin { id, bytes: frame.payload });
        }
        let mut f = Fields::new(&frame.payload);
        let message = match frame.kind {
            code::HELLO => Self::Hello { version: f.u16()?, nonce: f.u64()? },
            code::EXEC => Self::Exec { id, spec: parse_exec(&mut f)? },
            code::STDIN_EOF => Self::StdinEof { id },
            code::RESIZE => Self::Resize { id, cols: f.u16()?, rows: f.u16()? },
            code::SIGNAL => Self::Signal { id, signo: f.u8()? },
            code::CREDIT => {
                let stream = match f.u8()? {
                    1 => Stream::Stdout,
                    2 => Stream::Stderr,
                    _ => return Err(ProtocolError::BadField("stream")),
                };
                Self::Credit { id, stream, bytes: f.u32()? }
            }
            code::SHUTDOWN => Self::Shutdown(match f.u8()? {
                0 => ShutdownKind::PowerOff,
                1 => ShutdownKind::Reboot,
                _ => return Err(ProtocolError::BadField("shutdown kind")),
            }),
            code::SET_CLOCK => {
                let (secs, nanos) = (f.u64()?.cast_signed(), f.u32()?);
                if nanos >= 1_000_000_000 {
                    return Err(ProtocolError::BadField("nanoseconds"));
                }
                Self::SetClock { secs, nanos }
            }
            code::PING => Self::Ping { token: f.u64()? },
            other => return Err(ProtocolError::UnknownType(other)),
        };
        f.end()?;
        Ok(message)
    }
}

impl ToHost {
    /// Appends the message as one frame.
    ///
    /// # Errors
    /// `TooLong` when the payload would exceed [`super::MAX_PAYLOAD`]; nothing is appended then.
    pub fn emit(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        match self {
            Self::Ready(r) => FrameBuilder::new(code::READY, 0)
                .u16(r.version)
                .u64(r.nonce)
                .u64(r.uptime_ms)
                .bytes(r.agent.as_bytes())
                .bytes(r.kernel.as_bytes())
                .finish(out),
            Self::Stdout { id, bytes } => FrameBuilder::new(code::STDOUT, *id).raw(bytes).finish(out),
            Self::Stderr { id, bytes } => FrameBuilder::new(code::STDERR, *id).raw(bytes).finish(out),
            Self::Exit { id, status } => {
                let (kind, value) = match *status {
                    ExitStatus::Code(c) => (0, c),
                    ExitStatus::Signal(s) => (1, s),
                };
                FrameBuilder::new(code::EXIT, *id).u8(kind).u8(value).finish(out)
            }
            Self::Error { id, failure } => {
                FrameBuilder::new(code::ERROR, *id).u8(failure.kind as u8).bytes(failure.message.as_bytes()).finish(out)
            }
            Self::Credit { id, bytes } => FrameBuilder::new(code::STDIN_CREDIT, *id).u32(*bytes).finish(out),
            Self::Pong { token } => FrameBuilder::new(code::PONG, 0).u64(*token).finish(out),
        }
    }

    /// Reads the message in `frame`.
    ///
    /// # Errors
    /// When the type is unknown or the payload does not have the layout of the type.
    pub fn parse(frame: Frame) -> Result<Self, ProtocolError> {
        let id = frame.channel;
        match frame.kind {
            code::STDOUT => {
                return Ok(Self::Stdout { id, bytes: frame.payload });
            }
            code::STDERR => {
                return Ok(Self::Stderr { id, bytes: frame.payload });
            }
            _ => {}
        }
        let mut f = Fields::new(&frame.payload);
        let message = match frame.kind {
            code::READY => Self::Ready(Ready {
                version: f.u16()?,
                nonce: f.u64()?,
                uptime_ms: f.u64()?,
                agent: f.text()?,
                kernel: f.text()?,
            }),
            code::EXIT => {
                let status = match (f.u8()?, f.u8()?) {
                    (0, c) => ExitStatus::Code(c),
                    (1, s) => ExitStatus::Signal(s),
                    _ => return Err(ProtocolError::BadField("exit status")),
                };
                Self::Exit { id, status }
            }
            code::ERROR => {
                let kind = match f.u8()? {
                    0 => ErrorKind::NotFound,
                    1 => ErrorKind::NotPermitted,
                    2 => ErrorKind::BadRequest,
                    3 => ErrorKind::Busy,
                    4 => ErrorKind::Version,
                    _ => ErrorKind::Other,
                };
                Self::Error { id, failure: Failure { kind, message: f.text()? } }
            }
            code::STDIN_CREDIT => Self::Credit { id, bytes: f.u32()? },
            code::PONG => Self::Pong { token: f.u64()? },
            other => return Err(ProtocolError::UnknownType(other)),
        };
        f.end()?;
        Ok(message)
    }
}

/// The host's first message of a session.
pub(crate) fn hello(nonce: u64) -> ToGuest {
    ToGuest::Hello { version: VERSION, nonce }
}

fn parse_exec(f: &mut Fields<'_>) -> Result<ExecSpec, ProtocolError> {
    let has_tty = match f.u8()? {
        0 => false,
        1 => true,
        _ => return Err(ProtocolError::BadField("tty")),
    };
    let size = (f.u16()?, f.u16()?);
    let cwd = f.string()?;
    let argv = parse_list(f)?;
    let env = parse_list(f)?;
    if argv.is_empty() {
        return Err(ProtocolError::BadField("argv"));
    }
    Ok(ExecSpec { argv, env, cwd, tty: has_tty.then_some(size) })
}

fn parse_list(f: &mut Fields<'_>) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let count = f.u32()? as usize;
    if count > MAX_STRINGS {
        return Err(ProtocolError::BadField("string count"));
    }
    (0..count).map(|_| f.string()).collect()
}
