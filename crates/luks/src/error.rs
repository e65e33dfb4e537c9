//! What can go wrong with a volume.

use std::io;

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LuksErrorKind {
    /// There is no LUKS header.
    NotLuks,
    /// The header is damaged or contradicts itself.
    Damaged,
    /// A cipher, hash, or feature that is not known here, or parameters beyond what is carried out.
    Unsupported,
    /// No key slot opens with this key.
    WrongKey,
    /// No such key slot, or no room for another one.
    Slot,
    /// The last key would go.
    LastKey,
    /// The host failed.
    Io,
}

/// An error of a volume. Never holds a key.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct LuksError {
    /// For control flow.
    pub kind: LuksErrorKind,
    /// What was being done.
    pub what: String,
    /// The host's reason.
    pub source: Option<io::Error>,
}

impl LuksError {
    pub(crate) fn new(kind: LuksErrorKind, what: impl Into<String>) -> Self {
        LuksError { kind, what: what.into(), source: None }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::new(LuksErrorKind::Damaged, format!("the LUKS header is damaged: {}", what.into()))
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::new(LuksErrorKind::Unsupported, what)
    }

    pub(crate) fn host(doing: &str, e: io::Error) -> Self {
        LuksError { kind: LuksErrorKind::Io, what: format!("cannot {doing}"), source: Some(e) }
    }
}

/// Fresh random bytes of the host.
pub(crate) fn random(data: &mut [u8]) -> Result<(), LuksError> {
    getrandom::fill(data).map_err(|e| LuksError::new(LuksErrorKind::Io, format!("the host gives no random bytes: {e}")))
}
