//! Why a kernel could not be placed in memory.

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootErrorKind {
    /// The file is something else.
    NotAKernel,
    /// The file ends before what its headers announce.
    Truncated,
    /// Headers contradict themselves or compressed data is damaged.
    Corrupt,
    /// A kernel, but of a kind or version that cannot be booted here.
    Unsupported,
    /// The kernel does not fit into the guest's memory.
    KernelTooLarge,
    /// The initial ramdisk does not fit into the guest's memory.
    InitrdTooLarge,
    /// The kernel takes shorter command lines only.
    CmdlineTooLong,
    /// Tables or structures of the firmware do not fit into low memory.
    Memory,
}

/// A boot error: what is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BootError {
    /// For control flow.
    pub kind: BootErrorKind,
    /// What is wrong, in words for a person.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl BootError {
    /// An error without a hint.
    pub fn new(kind: BootErrorKind, what: impl Into<String>) -> Self {
        BootError { kind, what: what.into(), hint: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn truncated(what: &str, need: u64, have: u64) -> Self {
        BootError::new(
            BootErrorKind::Truncated,
            format!("the kernel file is truncated: {what} ends at byte {need}, but the file has {have} bytes"),
        )
        .hint("fetch or copy the file again and compare its size or checksum")
    }

    pub(crate) fn corrupt(what: impl std::fmt::Display) -> Self {
        BootError::new(BootErrorKind::Corrupt, format!("the kernel file is damaged: {what}"))
            .hint("fetch or copy the file again and compare its checksum")
    }
}
