//! What can go wrong with a file of a web server.

use std::io;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebErrorKind {
    /// No such address, or none that is used here.
    Address,
    /// The server does not have the file, or not for us.
    Refused,
    /// The server sends whole files only.
    NoRanges,
    /// The file is not what it was.
    Changed,
    /// The server answers nonsense, or not in time, also after trying again.
    Failed,
    /// The host's cache or certificates.
    Host,
}

/// An error of a file of a web server.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct WebError {
    /// For control flow.
    pub kind: WebErrorKind,
    /// What was being done.
    pub what: String,
    /// The host's or the network's reason.
    pub source: Option<io::Error>,
}

impl WebError {
    pub(crate) fn new(kind: WebErrorKind, what: impl Into<String>) -> Self {
        WebError { kind, what: what.into(), source: None }
    }

    pub(crate) fn host(what: impl Into<String>, e: io::Error) -> Self {
        WebError { kind: WebErrorKind::Host, what: what.into(), source: Some(e) }
    }
}
