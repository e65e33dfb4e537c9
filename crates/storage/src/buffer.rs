//! The data of requests beside the host's memory: scattered guest memory, nothing, or a sink.

use std::sync::{Arc, PoisonError, RwLock};

use visor_block::{BlockBuffer, BlockError, BlockErrorKind};
use visor_pci::DmaMemory;
use vm_memory::{Bytes, GuestAddress};

/// Whether a command still has a right to the guest's memory. Taken back when the guest aborts the command; then nothing of
/// it touches memory any more.
#[derive(Clone, Debug)]
pub(crate) struct Lease(Arc<RwLock<bool>>);

impl Default for Lease {
    fn default() -> Self {
        Lease(Arc::new(RwLock::new(true)))
    }
}

impl Lease {
    /// Waits for the copy under way, if there is one.
    pub(crate) fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

/// Pieces of guest memory, in order, as one run of bytes.
#[derive(Clone)]
pub(crate) struct Scatter {
    memory: DmaMemory,
    /// Address and length.
    pieces: Vec<(u64, u32)>,
    len: usize,
    lease: Lease,
}

impl Scatter {
    pub(crate) fn new(memory: DmaMemory, lease: Lease) -> Self {
        Scatter { memory, pieces: Vec::new(), len: 0, lease }
    }

    /// Appends a piece, as far as `limit` bytes in all are not exceeded.
    pub(crate) fn push(&mut self, at: u64, len: u32, limit: u64) {
        let len = u64::from(len).min(limit.saturating_sub(self.len as u64)) as u32;
        match self.pieces.last_mut() {
            // Neighbours become one piece.
            Some((a, l)) if *a + u64::from(*l) == at && l.checked_add(len).is_some() => *l += len,
            _ if len == 0 => {}
            _ => self.pieces.push((at, len)),
        }
        self.len += len as usize;
    }

    fn parts(
        &self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(outside());
        }
        let (mut skip, mut done) = (offset, 0);
        for (at, size) in &self.pieces {
            let size = *size as usize;
            if done == len {
                break;
            }
            if skip >= size {
                skip -= size;
                continue;
            }
            let n = (size - skip).min(len - done);
            f(at + skip as u64, done..done + n)?;
            done += n;
            skip = 0;
        }
        Ok(())
    }
}

impl BlockBuffer for Scatter {
    fn len(&self) -> usize {
        self.len
    }

    fn put(&mut self, offset: usize, data: &[u8]) -> Result<(), BlockError> {
        let alive = self.lease.0.read().unwrap_or_else(PoisonError::into_inner);
        if !*alive {
            return Err(aborted());
        }
        self.parts(offset, data.len(), |at, part| {
            self.memory.write_slice(&data[part], GuestAddress(at)).map_err(|_| no_ram(at))
        })
    }

    fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BlockError> {
        let alive = self.lease.0.read().unwrap_or_else(PoisonError::into_inner);
        if !*alive {
            return Err(aborted());
        }
        self.parts(offset, data.len(), |at, part| {
            self.memory.read_slice(&mut data[part], GuestAddress(at)).map_err(|_| no_ram(at))
        })
    }
}

/// So many bytes that nobody wants (to verify), or none at all.
pub(crate) struct Sink(pub(crate) usize);

impl BlockBuffer for Sink {
    fn len(&self) -> usize {
        self.0
    }

    fn put(&mut self, _offset: usize, _data: &[u8]) -> Result<(), BlockError> {
        Ok(())
    }

    fn get(&self, _offset: usize, _data: &mut [u8]) -> Result<(), BlockError> {
        Err(outside())
    }
}

fn outside() -> BlockError {
    BlockError::new(BlockErrorKind::BadBuffer, "outside the buffer")
}

fn aborted() -> BlockError {
    BlockError::new(BlockErrorKind::Lost, "the guest has aborted the command")
}

fn no_ram(at: u64) -> BlockError {
    BlockError::new(BlockErrorKind::BadBuffer, format!("the guest gave a buffer outside of its RAM, at {at:#x}"))
}
