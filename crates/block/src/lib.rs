//! The contract between a disk front end (a guest-visible device) and a disk back end (an image).
//!
//! A [`BlockRequest`] is an owned value that completes exactly once: a back end calls [`BlockRequest::complete`]; a request
//! that is dropped instead reports [`BlockErrorKind::Lost`], so that no guest waits for ever.
#![forbid(unsafe_code)]

mod buffer;
mod control;

use std::fmt;
use std::sync::Arc;

pub use buffer::{SharedBuffer, run};
pub use control::{DiskLimits, DiskResize, DiskSnapshots, Rescue};

/// Bytes in a sector, the unit of all positions.
pub const SECTOR: u64 = 512;

/// Position on a disk, in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// What a back end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockGeometry {
    /// Capacity in sectors.
    pub sectors: u64,
    /// Bytes that a write should be aligned to for speed, a power of two of at least 512.
    pub physical_block: u32,
    /// Writes and discards are refused.
    pub read_only: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOp {
    /// Fill the request's buffer from the disk.
    Read,
    /// Write the request's buffer to the disk.
    Write,
    /// All completed writes become durable.
    Flush,
    /// The range's contents are no longer needed; it reads as anything afterwards.
    Discard,
    /// The range reads as zeroes afterwards.
    WriteZeroes {
        /// The back end may release the space.
        may_unmap: bool,
    },
}

/// The data of a request: guest memory, or a buffer of the host. Accessed by copy, since guests change their memory at will.
pub trait BlockBuffer: Send {
    /// Bytes.
    fn len(&self) -> usize;
    /// True for a request without data.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies `data` to `offset` of the buffer (for reads).
    fn put(&mut self, offset: usize, data: &[u8]) -> Result<(), BlockError>;
    /// Copies from `offset` of the buffer to `data` (for writes).
    fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BlockError>;
}

/// One request, owned by whoever has to finish it.
pub struct BlockRequest {
    /// What to do.
    pub op: BlockOp,
    /// Where it starts.
    pub sector: Sector,
    /// Bytes concerned, a multiple of 512; the buffer's length for reads and writes.
    pub len: u64,
    /// The data of reads and writes, empty otherwise.
    pub buffer: Box<dyn BlockBuffer>,
    done: Option<Done>,
    rescue: Option<Arc<dyn Rescue>>,
}

/// Called with the result and the buffer when a request is finished, from any thread.
type Done = Box<dyn FnOnce(Result<(), BlockError>) + Send>;

impl BlockRequest {
    /// A request whose result goes to `done`, exactly once.
    pub fn new(
        op: BlockOp,
        sector: Sector,
        len: u64,
        buffer: Box<dyn BlockBuffer>,
        done: impl FnOnce(Result<(), BlockError>) + Send + 'static,
    ) -> Self {
        BlockRequest { op, sector, len, buffer, done: Some(Box::new(done)), rescue: None }
    }

    /// The same, which `rescue` takes over if it fails in a way that it wants.
    #[must_use]
    pub fn rescued_by(mut self, rescue: Arc<dyn Rescue>) -> Self {
        self.rescue = Some(rescue);
        self
    }

    /// Where the request starts on a disk of this geometry, in bytes (0 for a flush), if it is one that can be carried out.
    ///
    /// # Errors
    /// [`BlockErrorKind::ReadOnly`], [`BlockErrorKind::OutOfRange`] (also for parts of sectors), [`BlockErrorKind::BadBuffer`].
    pub fn check(&self, geometry: &BlockGeometry) -> Result<u64, BlockError> {
        let fail = |kind, why: &str| Err(BlockError::new(kind, format!("{self:?}: {why}")));
        if self.op == BlockOp::Flush {
            return Ok(0);
        }
        if self.op != BlockOp::Read && geometry.read_only {
            return fail(BlockErrorKind::ReadOnly, "the disk is read-only");
        }
        let end = self.sector.0.checked_add(self.len / SECTOR);
        if !self.len.is_multiple_of(SECTOR) || end.is_none_or(|end| end > geometry.sectors) {
            return fail(BlockErrorKind::OutOfRange, "outside the disk");
        }
        let has_data = matches!(self.op, BlockOp::Read | BlockOp::Write);
        if has_data && self.buffer.len() as u64 != self.len {
            return fail(BlockErrorKind::BadBuffer, "the buffer has another length");
        }
        Ok(self.sector.0 * SECTOR)
    }

    /// Finishes the request.
    pub fn complete(mut self, result: Result<(), BlockError>) {
        if let Err(error) = result {
            return match self.rescue.take().filter(|r| r.wants(error.kind)) {
                Some(rescue) => rescue.rescue(self, error),
                None => self.finish(Err(error)),
            };
        }
        self.finish(result);
    }

    fn finish(mut self, result: Result<(), BlockError>) {
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
}

impl Drop for BlockRequest {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(BlockError::new(BlockErrorKind::Lost, "the request was dropped before it was finished")));
        }
    }
}

impl fmt::Debug for BlockRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at sector {} of {} bytes", self.op, self.sector.0, self.len)
    }
}

/// A disk image or device.
pub trait BlockBackend: Send + Sync {
    /// What it is; only [`DiskResize`] changes it.
    fn geometry(&self) -> BlockGeometry;

    /// Starts `request`; it completes now or later, on any thread. Requests outside the disk fail with
    /// [`BlockErrorKind::OutOfRange`]. Order between requests is not kept; [`BlockOp::Flush`] covers those completed before.
    fn submit(&self, request: BlockRequest);

    /// Returns when every submitted request has completed.
    fn drain(&self);

    /// How requests reach the host, for people: such as `io_uring` or `4 threads`.
    fn means(&self) -> String {
        String::new()
    }

    /// Changing its capacity, where that is possible.
    fn as_resize(&self) -> Option<&dyn DiskResize> {
        None
    }

    /// Keeping states of it, where that is possible.
    fn as_snapshots(&self) -> Option<&dyn DiskSnapshots> {
        None
    }

    /// Its limits, if it has some that can be changed.
    fn as_limits(&self) -> Option<&dyn DiskLimits> {
        None
    }
}

/// What went wrong, for control flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockErrorKind {
    /// The host failed to read or write.
    Io,
    /// The image's capacity is exceeded.
    OutOfRange,
    /// The disk cannot be written.
    ReadOnly,
    /// The back end has no such operation.
    Unsupported,
    /// The host has no space left.
    NoSpace,
    /// The image is damaged or not of its format.
    Corrupt,
    /// Another user holds the image.
    Locked,
    /// The guest's buffer is not in RAM.
    BadBuffer,
    /// The request was abandoned.
    Lost,
}

/// A block error.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BlockError {
    /// For control flow.
    pub kind: BlockErrorKind,
    /// What was being done (path, offset, operation).
    pub what: String,
    /// The host's reason.
    pub source: Option<std::io::Error>,
}

impl BlockError {
    /// An error without a host reason.
    pub fn new(kind: BlockErrorKind, what: impl Into<String>) -> Self {
        BlockError { kind, what: what.into(), source: None }
    }
}
