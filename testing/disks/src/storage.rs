//! A disk that holds one file: an image that grows, as below a file system.

use std::io;
use std::sync::{Arc, Mutex};

use visor_block::{BlockBackend, BlockOp, SECTOR, Sector, SharedBuffer};
use visor_qcow2::Storage;

/// The file on a disk, whose last sector says how long it is. What is no whole sector is put together with what is there.
pub struct DiskStorage {
    disk: Arc<dyn BlockBackend>,
    size: Mutex<u64>,
    /// Held while a part of a sector is written.
    partial: Mutex<()>,
}

impl DiskStorage {
    /// The file on `disk`; on one that reads as zeroes an empty one.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(disk: Arc<dyn BlockBackend>) -> io::Result<Self> {
        let file = DiskStorage { disk, size: Mutex::default(), partial: Mutex::default() };
        let said = SharedBuffer::new(vec![0; SECTOR as usize]);
        file.run(BlockOp::Read, file.room(), SECTOR, said.clone())?;
        let size = said.take().first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        *file.size.lock().unwrap() = size;
        Ok(file)
    }

    /// Bytes that the file can have.
    fn room(&self) -> u64 {
        (self.disk.geometry().sectors - 1) * SECTOR
    }

    fn resize(&self, size: &mut u64, new: u64) -> io::Result<()> {
        if new > self.room() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut sector = vec![0; SECTOR as usize];
        sector[..8].copy_from_slice(&new.to_le_bytes());
        self.run(BlockOp::Write, self.room(), SECTOR, SharedBuffer::new(sector))?;
        *size = new;
        Ok(())
    }

    fn grow(&self, end: u64) -> io::Result<()> {
        let mut size = self.size.lock().unwrap();
        if *size < end { self.resize(&mut size, end) } else { Ok(()) }
    }

    fn run(&self, op: BlockOp, at: u64, len: u64, buffer: SharedBuffer) -> io::Result<()> {
        let done = visor_block::run(&*self.disk, op, Sector(at / SECTOR), len, Box::new(buffer));
        done.map_err(|e| io::Error::other(e.to_string()))
    }

    /// The whole sectors around a range, and where the range is in them.
    fn sectors(&self, at: u64, len: u64) -> io::Result<(u64, Vec<u8>, usize)> {
        let start = at / SECTOR * SECTOR;
        let end = (at + len).next_multiple_of(SECTOR).min(self.room());
        let buffer = SharedBuffer::new(vec![0; (end.saturating_sub(start)) as usize]);
        self.run(BlockOp::Read, start, end.saturating_sub(start), buffer.clone())?;
        Ok((start, buffer.take(), (at - start) as usize))
    }
}

impl Storage for DiskStorage {
    fn size(&self) -> io::Result<u64> {
        Ok(*self.size.lock().unwrap())
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let (_, bytes, within) = self.sectors(at, data.len() as u64)?;
        let from = bytes.get(within..).unwrap_or_default();
        let n = data.len().min(from.len());
        data[..n].copy_from_slice(&from[..n]);
        data[n..].fill(0);
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let len = data.len() as u64;
        self.grow(at + len)?;
        if at.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR) {
            return self.run(BlockOp::Write, at, len, SharedBuffer::new(data.to_vec()));
        }
        let _alone = self.partial.lock().unwrap();
        let (start, mut bytes, within) = self.sectors(at, len)?;
        let place = bytes.get_mut(within..within + data.len()).ok_or(io::ErrorKind::StorageFull)?;
        place.copy_from_slice(data);
        self.run(BlockOp::Write, start, bytes.len() as u64, SharedBuffer::new(bytes))
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.run(BlockOp::WriteZeroes { may_unmap: false }, at, len, SharedBuffer::default())
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.run(BlockOp::WriteZeroes { may_unmap: true }, at, len, SharedBuffer::default())
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.grow(at + len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut now = self.size.lock().unwrap();
        // What is cut off reads as zeroes when the file grows again.
        let (from, to) = (size.next_multiple_of(SECTOR), now.next_multiple_of(SECTOR));
        if from < to {
            self.release(from, to - from)?;
        }
        self.resize(&mut now, size)
    }

    fn flush(&self) -> io::Result<()> {
        self.run(BlockOp::Flush, 0, 0, SharedBuffer::default())
    }
}
