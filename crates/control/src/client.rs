//! The user's side: asking a machine.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::lines::{LineError, Lines};
use crate::message::{Answer, MAX_ANSWER, MAX_PAYLOAD, Refusal, Request, VERSION, line};
use crate::place::Place;
use crate::server::at;

/// How long an answer may take unless the caller says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the rest of an answer may take once it has begun.
const LINE: Duration = Duration::from_secs(30);

/// A connection to a machine.
pub struct Client {
    lines: Lines,
    patience: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens at the socket: the machine starts, or is about to end.
    #[error("the machine does not take requests")]
    Unreachable(#[source] io::Error),
    /// It went before it answered.
    #[error("the machine ended before it answered")]
    Gone,
    /// It did not answer in time.
    #[error("the machine did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// What it answered is not this protocol.
    #[error("the machine's answer is not understood: {0}")]
    Protocol(String),
    /// It refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What the system says.
    #[error("the connection to the machine failed")]
    Io(#[source] io::Error),
}

impl Client {
    /// Connects to the machine at `place`.
    ///
    /// # Errors
    /// [`CallError::Unreachable`].
    pub fn connect(place: &Place) -> Result<Self, CallError> {
        let stream = at(place, |p| UnixStream::connect(p)).map_err(CallError::Unreachable)?;
        Ok(Client { lines: Lines::new(stream), patience: PATIENCE })
    }

    /// The same, waiting up to `patience` for each answer.
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks for `verb` and gives its answer.
    ///
    /// # Errors
    /// [`CallError`]; after another than [`CallError::Refused`] the connection is of no use.
    pub fn call<T: DeserializeOwned>(&mut self, verb: &str, args: &impl Serialize) -> Result<T, CallError> {
        Ok(self.call_with_payload(verb, args)?.0)
    }

    /// As [`Client::call`], with the bytes behind the answer.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_with_payload<T: DeserializeOwned>(
        &mut self,
        verb: &str,
        args: &impl Serialize,
    ) -> Result<(T, Vec<u8>), CallError> {
        let protocol = |e: serde_json::Error| CallError::Protocol(e.to_string());
        let request = Request { v: VERSION, verb: verb.into(), args: serde_json::to_value(args).map_err(protocol)? };
        let mut stream = self.lines.stream();
        let sent = stream.set_write_timeout(Some(LINE)).and_then(|()| stream.write_all(&line(&request)?));
        // A server that refuses a client says why before it hangs up.
        let unsent = sent.err().map(|e| if gone(&e) { CallError::Gone } else { CallError::Io(e) });
        let answer = match self.lines.next(MAX_ANSWER, Some(self.patience), LINE) {
            Ok(answer) => answer,
            Err(e) => return Err(unsent.unwrap_or_else(|| self.failure(e))),
        };
        let answer: Answer = serde_json::from_slice(&answer).map_err(protocol)?;
        if let Some(refusal) = answer.error {
            return Err(CallError::Refused(refusal));
        }
        if answer.v != VERSION {
            return Err(CallError::Protocol(format!("it is of version {}, not {VERSION}", answer.v)));
        }
        if answer.payload > MAX_PAYLOAD {
            return Err(CallError::Protocol(format!("{} bytes are too many", answer.payload)));
        }
        let payload = self.lines.bytes(answer.payload, LINE).map_err(|e| self.failure(e))?;
        Ok((serde_json::from_value(answer.ok).map_err(protocol)?, payload))
    }

    /// Asks for a verb that makes a stream of the connection, and gives its answer, what followed it at once, and the stream.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn stream(mut self, verb: &str, args: &impl Serialize) -> Result<(Value, Vec<u8>, UnixStream), CallError> {
        let value = self.call(verb, args)?;
        let stream = self.lines.stream().try_clone().map_err(CallError::Io)?;
        stream.set_read_timeout(None).map_err(CallError::Io)?;
        stream.set_write_timeout(None).map_err(CallError::Io)?;
        Ok((value, self.lines.rest(), stream))
    }

    fn failure(&self, error: LineError) -> CallError {
        match error {
            LineError::Closed => CallError::Gone,
            LineError::TooLong => CallError::Protocol(format!("a line of more than {MAX_ANSWER} bytes")),
            LineError::TimedOut => CallError::TimedOut(self.patience),
            LineError::Io(e) => CallError::Io(e),
        }
    }
}

fn gone(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected)
}
