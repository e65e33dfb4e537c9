//! Requests and answers. The crate's page shows them on the wire.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the protocol.
pub const VERSION: u32 = 1;
/// Most bytes of a request's line.
pub const MAX_REQUEST: usize = 1 << 20;
/// Most bytes of an answer's line.
pub const MAX_ANSWER: usize = 8 << 20;
/// Most bytes that follow an answer's line.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// What kind of thing went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The line is no request.
    Malformed,
    /// The request is of a version that this machine does not speak.
    Version,
    /// No verb has that name.
    UnknownVerb,
    /// The arguments are not those of the verb.
    Arguments,
    /// The machine has no such thing: no screen, no such drive.
    Missing,
    /// Not in the state that the machine is in.
    State,
    /// Too many clients.
    Busy,
    /// It was tried, and failed.
    #[serde(other)]
    Failed,
}

/// Why a request was not fulfilled, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// What failed and why, for people.
    pub message: String,
    /// What to do, one line each.
    #[serde(default)]
    pub hints: Vec<String>,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Refusal { kind, message: message.into(), hints: Vec::new() }
    }

    /// It was tried, and failed: `error` with its causes.
    pub fn failed(error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(c) = cause {
            let text = c.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = c.source();
        }
        Refusal::new(RefusalKind::Failed, message)
    }

    /// Adds a line that says what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) v: u32,
    pub(crate) verb: String,
    #[serde(default)]
    pub(crate) args: Value,
}

/// One answer: `error`, or `ok` and perhaps a payload behind the line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) v: u32,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) ok: Value,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) payload: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Refusal>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Answer {
    pub(crate) fn ok(ok: Value, payload: usize) -> Self {
        Answer { v: VERSION, ok, payload, error: None }
    }

    pub(crate) fn error(error: Refusal) -> Self {
        Answer { v: VERSION, ok: Value::Null, payload: 0, error: Some(error) }
    }
}

/// `value` as a line.
pub(crate) fn line(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
