//! Errors of images.

use std::io;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The host failed to read or write.
    Io,
    /// The host has no space left.
    NoSpace,
    /// The image breaks its format.
    Corrupt,
    /// The image uses something that this crate does not know.
    Unsupported,
    /// A value or a position is out of range.
    OutOfRange,
    /// The image was opened for reading only.
    ReadOnly,
    /// No snapshot has that name.
    NotFound,
    /// A snapshot has that name already.
    Exists,
    /// The caller stopped the operation.
    Cancelled,
}

/// An error of an image.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    /// For control flow.
    pub kind: ErrorKind,
    /// What was being done, or what is wrong.
    pub what: String,
    /// The host's reason.
    pub source: Option<io::Error>,
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a reason of the host's.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), source: None }
    }

    /// The image breaks its format.
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Error::new(ErrorKind::Corrupt, what)
    }

    /// The image needs something that is not there.
    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unsupported, what)
    }

    /// The host failed while `doing` something.
    pub fn host(doing: &str, at: u64, e: io::Error) -> Self {
        let kind = match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                ErrorKind::NoSpace
            }
            _ => ErrorKind::Io,
        };
        Error { kind, what: format!("{doing} at byte {at}"), source: Some(e) }
    }
}
