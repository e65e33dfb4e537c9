//! Why a machine could not be made.

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineErrorKind {
    /// The machine that was asked for is not possible.
    Spec,
    /// The kernel cannot be booted.
    Boot,
    /// A file cannot be read.
    File,
    /// The engine refused.
    Engine,
    /// The host refused memory, a thread or a descriptor.
    Host,
    /// Devices do not fit together.
    Board,
}

/// A machine's error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct MachineError {
    /// For control flow.
    pub kind: MachineErrorKind,
    /// What was being done, in words for a person.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The reason.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl MachineError {
    /// An error without an underlying one.
    pub fn new(kind: MachineErrorKind, what: impl Into<String>) -> Self {
        MachineError { kind, what: what.into(), hint: None, source: None }
    }

    /// An error with its reason.
    pub fn because(
        kind: MachineErrorKind,
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        MachineError { kind, what: what.into(), hint: None, source: Some(source.into()) }
    }
}

impl From<visor_firmware::BootError> for MachineError {
    fn from(e: visor_firmware::BootError) -> Self {
        MachineError { kind: MachineErrorKind::Boot, what: e.what, hint: e.hint, source: None }
    }
}

impl From<visor_engine::EngineError> for MachineError {
    fn from(e: visor_engine::EngineError) -> Self {
        MachineError::because(MachineErrorKind::Engine, "the engine refused", e)
    }
}

impl From<visor_device::BusError> for MachineError {
    fn from(e: visor_device::BusError) -> Self {
        MachineError::because(MachineErrorKind::Board, "two devices want the same addresses", e)
    }
}

impl From<visor_pci::PciError> for MachineError {
    fn from(e: visor_pci::PciError) -> Self {
        MachineError::because(MachineErrorKind::Board, "the PCI bus cannot be put together", e)
    }
}
