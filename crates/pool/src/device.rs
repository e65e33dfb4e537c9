//! A disk, or a part of something, as storage of fixed size.

use std::io;
use std::sync::Arc;

use visor_block::{BlockBackend, BlockErrorKind, BlockOp, SECTOR, Sector, SharedBuffer};
use visor_qcow2::Storage;

/// A disk. Positions and lengths are whole sectors.
pub(crate) struct Device(pub(crate) Arc<dyn BlockBackend>);

impl Device {
    fn run(&self, op: BlockOp, at: u64, len: u64, buffer: SharedBuffer) -> io::Result<()> {
        visor_block::run(&*self.0, op, Sector(at / SECTOR), len, Box::new(buffer)).map_err(|e| match e.kind {
            BlockErrorKind::NoSpace => io::Error::new(io::ErrorKind::StorageFull, e.what),
            BlockErrorKind::Unsupported => io::Error::new(io::ErrorKind::Unsupported, e.what),
            _ => io::Error::other(e.what),
        })
    }
}

impl Device {
    fn zero(&self, may_unmap: bool, at: u64, len: u64) -> io::Result<()> {
        match self.run(BlockOp::WriteZeroes { may_unmap }, at, len, SharedBuffer::default()) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {}
            other => return other,
        }
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeroes.len() as u64);
            self.write_at(&zeroes[..n as usize], at + done)?;
            done += n;
        }
        Ok(())
    }
}

impl Storage for Device {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.geometry().sectors * SECTOR)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let buffer = SharedBuffer::new(vec![0; data.len()]);
        self.run(BlockOp::Read, at, data.len() as u64, buffer.clone())?;
        data.copy_from_slice(&buffer.take());
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.run(BlockOp::Write, at, data.len() as u64, SharedBuffer::new(data.to_vec()))
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.zero(false, at, len)
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.zero(true, at, len)
    }

    fn allocate(&self, _at: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        self.run(BlockOp::Flush, 0, 0, SharedBuffer::default())
    }
}

/// A part of a storage.
pub(crate) struct Part {
    pub(crate) whole: Arc<dyn Storage>,
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Part {
    fn at(&self, at: u64, len: u64) -> io::Result<u64> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.start + at),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Storage for Part {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        self.whole.read_at(data, self.at(at, data.len() as u64)?)
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.whole.write_at(data, self.at(at, data.len() as u64)?)
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.whole.zero_at(self.at(at, len)?, len)
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.whole.release(self.at(at, len)?, len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.whole.allocate(self.at(at, len)?, len)
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        self.whole.flush()
    }
}
