//! What can go wrong with a pool.

use std::io;

use visor_block::BlockErrorKind;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolErrorKind {
    /// No such pool, volume or member.
    NotFound,
    /// There is one of that name already, or a member is in another pool.
    Exists,
    /// Somebody else uses it.
    Locked,
    /// A value that cannot be.
    Bad,
    /// A record is damaged.
    Corrupt,
    /// Too many members are missing.
    Missing,
    /// Members went separate ways: each was written without the other.
    Split,
    /// More would be promised than there is.
    NoSpace,
    /// The caller stopped the operation.
    Cancelled,
    /// The host or a server failed.
    Io,
}

/// An error of a pool.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct PoolError {
    /// For control flow.
    pub kind: PoolErrorKind,
    /// What was being done.
    pub what: String,
    /// The host's reason.
    pub source: Option<io::Error>,
}

impl PoolError {
    pub(crate) fn new(kind: PoolErrorKind, what: impl Into<String>) -> Self {
        PoolError { kind, what: what.into(), source: None }
    }

    pub(crate) fn host(what: impl Into<String>, e: io::Error) -> Self {
        let kind = if is_full(&e) { PoolErrorKind::NoSpace } else { PoolErrorKind::Io };
        PoolError { kind, what: what.into(), source: Some(e) }
    }
}

/// Whether a store has no space left, which is no failure of it.
pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The kind for requests.
pub(crate) fn block_kind(e: &io::Error) -> BlockErrorKind {
    if is_full(e) { BlockErrorKind::NoSpace } else { BlockErrorKind::Io }
}
