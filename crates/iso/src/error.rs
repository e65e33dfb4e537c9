//! What can be wrong with an image.

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsoErrorKind {
    /// The image cannot be read, or files for a new one.
    Io,
    /// It is no ISO 9660 image.
    NotIso,
    /// It ends before what it says it has.
    Truncated,
    /// It contradicts itself.
    Corrupt,
    /// There is no such file in it.
    NotFound,
    /// The path names something of another kind: a directory where a file is wanted, or the other way round.
    WrongKind,
    /// An image cannot be made of these files.
    Unsuitable,
}

/// An error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct IsoError {
    /// For control flow.
    pub kind: IsoErrorKind,
    /// What is wrong, where.
    pub what: String,
    /// The host's reason.
    #[source]
    pub source: Option<std::io::Error>,
}

impl IsoError {
    pub(crate) fn new(kind: IsoErrorKind, what: impl Into<String>) -> Self {
        IsoError { kind, what: what.into(), source: None }
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        IsoError { kind: IsoErrorKind::Io, what: what.into(), source: Some(source) }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::new(IsoErrorKind::Corrupt, what)
    }
}
