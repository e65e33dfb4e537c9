//! What a long build tells whoever watches.

/// The steps of a build, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Package lists are fetched if they are old, and packages chosen. Unit: steps.
    Resolve,
    /// Packages are fetched. Unit: bytes.
    Download,
    /// Packages are compared with their hashes. Unit: bytes.
    Verify,
    /// Packages are unpacked. Unit: packages.
    Unpack,
    /// Kernel modules are chosen and put in order. Unit: modules.
    Modules,
    /// The image's files are written. Unit: files.
    Assemble,
    /// The image is in its place.
    Done,
}

/// Receives the progress of a build. All methods do nothing by default.
pub trait Progress {
    /// A phase begins; it will take `total` of the phase's units, or 0 when that is not known.
    fn phase(&mut self, phase: Phase, total: u64) {
        let _ = (phase, total);
    }
    /// The phase has come so far, in the phase's units; never more than its total, unless that is 0.
    fn at(&mut self, done: u64) {
        let _ = done;
    }
    /// Something worth a line, for example that another build is waited for.
    fn note(&mut self, text: &str) {
        let _ = text;
    }
}

/// A progress nobody watches.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
