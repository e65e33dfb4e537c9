//! What can be done with a disk that is in use, beside its requests.

use crate::{BlockError, BlockErrorKind, BlockRequest};

/// Changing the capacity. Decorators pass it on.
pub trait DiskResize {
    /// Gives the disk `sectors`, more than it has; [`crate::BlockBackend::geometry`] says so when this returns. What is new reads
    /// as zeroes.
    ///
    /// # Errors
    /// [`BlockErrorKind::OutOfRange`] for fewer sectors than there are, otherwise the host's.
    fn resize(&self, sectors: u64) -> Result<(), BlockError>;
}

/// Keeping states of the disk.
pub trait DiskSnapshots {
    /// Keeps the disk as it is now, with all requests that have completed, under `name`; `seconds` is the time since 1970.
    ///
    /// # Errors
    /// [`BlockErrorKind::Unsupported`] where the name is taken or the format has none, otherwise the host's.
    fn create(&self, name: &str, seconds: u32) -> Result<(), BlockError>;
}

/// Limits on requests and bytes, zero for none.
pub trait DiskLimits {
    /// Requests and bytes per second that are allowed now.
    fn limits(&self) -> (u64, u64);
    /// Allows these from now on.
    fn set_limits(&self, requests: u64, bytes: u64);
}

/// Takes over requests that failed for a reason that may pass, so that the guest hears of no error.
pub trait Rescue: Send + Sync {
    /// Whether requests that fail so are wanted.
    fn wants(&self, kind: BlockErrorKind) -> bool;
    /// Owns `request` from here on: to submit it again, or to finish it with `error`. Called from any thread.
    fn rescue(&self, request: BlockRequest, error: BlockError);
}
