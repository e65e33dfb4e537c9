//! A disk in memory, which completes at once.

use std::sync::{Arc, Mutex};

use visor_block::{BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, SECTOR};

/// The disk.
pub(crate) struct MemoryDisk {
    bytes: Mutex<Vec<u8>>,
    read_only: bool,
}

/// Most bytes that a front end may ask for in one request.
const LARGEST: u64 = 64 << 20;

impl MemoryDisk {
    /// A disk of `sectors` sectors.
    pub(crate) fn new(sectors: u64, read_only: bool) -> Arc<Self> {
        let bytes = (0..sectors * SECTOR).map(|at| (at / SECTOR) as u8).collect();
        Arc::new(MemoryDisk { bytes: Mutex::new(bytes), read_only })
    }
}

impl BlockBackend for MemoryDisk {
    fn geometry(&self) -> BlockGeometry {
        let sectors = self.bytes.lock().expect("nobody panicked").len() as u64 / SECTOR;
        BlockGeometry { sectors, physical_block: 4096, read_only: self.read_only }
    }

    fn submit(&self, mut request: BlockRequest) {
        assert!(request.len <= LARGEST, "{request:?}");
        let result = request.check(&self.geometry()).and_then(|at| {
            let mut bytes = self.bytes.lock().expect("nobody panicked");
            let outside = || BlockError::new(BlockErrorKind::OutOfRange, "outside the disk");
            let range = bytes.get_mut(at as usize..(at + request.len) as usize).ok_or_else(outside)?;
            match request.op {
                BlockOp::Read => request.buffer.put(0, range),
                BlockOp::Write => request.buffer.get(0, range),
                BlockOp::Flush => Ok(()),
                BlockOp::Discard | BlockOp::WriteZeroes { .. } => {
                    range.fill(0);
                    Ok(())
                }
            }
        });
        request.complete(result);
    }

    fn drain(&self) {}
}
