//! What a volume lies in.

use std::io;
use std::sync::Arc;

use visor_block::{BlockBackend, BlockBuffer, BlockOp, SECTOR, Sector, SharedBuffer};

/// Bytes that hold a volume. Positions and lengths of all accesses are multiples of 512.
pub trait Medium {
    /// Its length in bytes.
    fn size(&self) -> u64;
    /// Fills `data` from `at`.
    ///
    /// # Errors
    /// The host's, also outside the medium.
    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()>;
    /// Writes `data` at `at`.
    ///
    /// # Errors
    /// The host's, also outside the medium.
    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written durable.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> io::Result<()>;
}

/// A disk as the medium, one request at a time.
pub struct BackendMedium(pub Arc<dyn BlockBackend>);

impl BackendMedium {
    fn run(&self, op: BlockOp, at: u64, buffer: SharedBuffer) -> io::Result<()> {
        let len = buffer.len() as u64;
        visor_block::run(&*self.0, op, Sector(at / SECTOR), len, Box::new(buffer)).map_err(|e| match e.source {
            Some(source) => io::Error::new(source.kind(), format!("{}: {source}", e.what)),
            None => io::Error::other(e.what),
        })
    }
}

impl Medium for BackendMedium {
    fn size(&self) -> u64 {
        self.0.geometry().sectors * SECTOR
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let buffer = SharedBuffer::new(vec![0; data.len()]);
        self.run(BlockOp::Read, at, buffer.clone())?;
        data.copy_from_slice(&buffer.take());
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.run(BlockOp::Write, at, SharedBuffer::new(data.to_vec()))
    }

    fn flush(&self) -> io::Result<()> {
        self.run(BlockOp::Flush, 0, SharedBuffer::default())
    }
}
