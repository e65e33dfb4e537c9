//! Scattered guest memory as one run of bytes.

use std::sync::{Arc, PoisonError, RwLock};

use visor_pci::DmaMemory;
use vm_memory::{Bytes, GuestAddress};

/// Why guest memory could not be copied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BufferError {
    /// The bytes asked for are not all in the buffer.
    #[error("bytes {offset}+{len} are outside a buffer of {size} bytes")]
    Range {
        /// First byte.
        offset: usize,
        /// Number of bytes.
        len: usize,
        /// The buffer's size.
        size: usize,
    },
    /// The driver has reset the queue or the device; the memory may serve other purposes by now.
    #[error("the driver has reset the queue that the buffer came from")]
    Stale,
    /// The host failed to copy.
    #[error("guest memory at {0:#x} cannot be accessed")]
    Memory(u64),
}

/// Counts the resets of a queue. A copy holds it for reading, a reset for writing: when the reset is over, no memory of the
/// chains taken before is touched any more.
pub(crate) type Epoch = Arc<RwLock<u64>>;

/// Parts of guest RAM that the driver has handed over, in order. Lies in RAM as a whole.
#[derive(Clone)]
pub struct Buffer {
    mem: DmaMemory,
    epoch: Epoch,
    born: u64,
    segments: Vec<Segment>,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) at: u64,
    pub(crate) len: usize,
}

impl Buffer {
    pub(crate) fn new(mem: DmaMemory, epoch: Epoch, born: u64, segments: Vec<Segment>) -> Self {
        let len = segments.iter().map(|s| s.len).sum();
        Buffer { mem, epoch, born, segments, len }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `len` bytes from `offset`.
    ///
    /// # Errors
    /// [`BufferError::Range`] if they are not all in the buffer.
    pub fn slice(&self, offset: usize, len: usize) -> Result<Buffer, BufferError> {
        let mut segments = Vec::new();
        self.parts(offset, len, |at, part| {
            segments.push(Segment { at, len: part.len() });
            Ok(())
        })?;
        Ok(Buffer { mem: self.mem.clone(), epoch: self.epoch.clone(), born: self.born, segments, len })
    }

    /// Copies from `offset` of the buffer to `data`.
    ///
    /// # Errors
    /// [`BufferError`]; `data` may then be filled in part.
    pub fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BufferError> {
        let epoch = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        if *epoch != self.born {
            return Err(BufferError::Stale);
        }
        self.parts(offset, data.len(), |at, part| {
            self.mem.read_slice(&mut data[part], GuestAddress(at)).map_err(|_| BufferError::Memory(at))
        })
    }

    /// Copies `data` to `offset` of the buffer.
    ///
    /// # Errors
    /// [`BufferError`]; a part may then have been copied.
    pub fn put(&self, offset: usize, data: &[u8]) -> Result<(), BufferError> {
        let epoch = self.epoch.read().unwrap_or_else(PoisonError::into_inner);
        if *epoch != self.born {
            return Err(BufferError::Stale);
        }
        self.parts(offset, data.len(), |at, part| {
            self.mem.write_slice(&data[part], GuestAddress(at)).map_err(|_| BufferError::Memory(at))
        })
    }

    /// Calls `f` for each contiguous part of `len` bytes from `offset`, with its address and its place in the run.
    fn parts(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), BufferError>,
    ) -> Result<(), BufferError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(BufferError::Range { offset, len, size: self.len });
        }
        let (mut skip, mut done) = (offset, 0);
        for s in &self.segments {
            if done == len {
                break;
            }
            if skip >= s.len {
                skip -= s.len;
                continue;
            }
            let n = (s.len - skip).min(len - done);
            f(s.at + skip as u64, done..done + n)?;
            done += n;
            skip = 0;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.segments).finish()
    }
}
