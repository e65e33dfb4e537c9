//! Where an image's bytes lie: the only way in which this crate touches the host, so that tests can cut the power.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek64};

use crate::Result;

/// Bytes of an eager file that the host is asked to write at a time.
const WRITE_BEHIND: u64 = 8 << 20;

/// A file, a block device, or something that behaves like one. Positions and lengths are bytes.
///
/// All methods may be called from several threads at once. What was written is durable after [`Storage::flush`], not before,
/// and until then may reach the medium in any order.
pub trait Storage: Send + Sync {
    /// Its length.
    fn size(&self) -> io::Result<u64>;
    /// Fills `data`; what lies behind the end reads as zeroes.
    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()>;
    /// Fills `data` if that is possible without waiting for anything; false if it may not be, and then `data` holds anything.
    fn read_now(&self, data: &mut [u8], at: u64) -> bool {
        let _ = (data, at);
        false
    }
    /// Writes all of `data`, growing the storage where needed.
    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()>;
    /// The range reads as zeroes afterwards; its space stays taken. It lies inside the storage.
    fn zero_at(&self, at: u64, len: u64) -> io::Result<()>;
    /// The range reads as zeroes afterwards and its space is given back, as far as the host can.
    fn release(&self, at: u64, len: u64) -> io::Result<()>;
    /// Takes the range's space from the host, growing the storage where needed; contents stay.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    /// Cuts or grows the storage; what is new reads as zeroes.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Makes all writes durable that completed before.
    fn flush(&self) -> io::Result<()>;
    /// Bytes of the host's space that it takes, and how many of its bytes from `from` on hold data; `None` where nobody knows.
    fn usage(&self, from: u64) -> Option<(u64, u64)> {
        let _ = from;
        None
    }
}

/// What an image shows where it has no data of its own: another image, or a raw disk.
pub trait Source: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;
    /// Fills `data` from position `at`. The range lies inside [`Source::size`].
    ///
    /// # Errors
    /// Those of the storage below.
    fn read(&self, at: u64, data: &mut [u8]) -> Result<()>;
    /// As [`Source::read`] if that is possible without waiting for anything; false if it may not be.
    fn read_now(&self, at: u64, data: &mut [u8]) -> bool {
        let _ = (at, data);
        false
    }
    /// For how many bytes from `at`, at most `len`, the source is surely zero (`true`) or maybe not (`false`).
    ///
    /// # Errors
    /// Those of the storage below.
    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let _ = at;
        Ok((false, len))
    }
    /// Whether reading takes much work, as where data is compressed: then several threads should read.
    fn is_packed(&self) -> bool {
        false
    }
}

/// A file of the host.
#[derive(Clone, Debug)]
pub struct FileStorage {
    file: Arc<File>,
    /// Flushes do nothing.
    hasty: bool,
    /// Up to which byte the host was asked to start writing, if it is asked at all.
    started: Option<Arc<AtomicU64>>,
}

impl FileStorage {
    /// The storage in `file`.
    pub fn new(file: File) -> Self {
        FileStorage { file: Arc::new(file), hasty: false, started: None }
    }

    /// The same for a file that is worthless until it is complete: flushes do nothing, and whoever wants it on the medium flushes
    /// the file itself at the end.
    pub fn hasty(file: File) -> Self {
        FileStorage { hasty: true, ..FileStorage::new(file) }
    }

    /// The same for a file that is flushed as soon as it is complete: the host is asked to begin with what was written while the
    /// rest is still to come, so that medium and CPU work at the same time.
    pub fn eager(file: File) -> Self {
        FileStorage { started: Some(Arc::default()), ..FileStorage::hasty(file) }
    }

    /// The file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn fallocate(&self, mode: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
        let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else {
            return Err(io::ErrorKind::FileTooLarge.into());
        };
        if len == 0 {
            return Ok(());
        }
        loop {
            match fallocate(&*self.file, mode, at, len) {
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// Has the host start to write what lies before `end`, when that has become worth a request.
    fn write_behind(&self, started: &AtomicU64, end: u64) -> io::Result<()> {
        let from = started.load(Ordering::Relaxed);
        if end < from + WRITE_BEHIND {
            return Ok(());
        }
        started.store(end, Ordering::Relaxed);
        // Linux starts to write dirty pages of the range, and drops clean ones (mm/fadvise.c). It waits for nothing.
        Ok(posix_fadvise(&*self.file, from as i64, (end - from) as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }

    fn write_zeroes(&self, at: u64, len: u64) -> io::Result<()> {
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..n as usize], at + done)?;
            done += n;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn size(&self) -> io::Result<u64> {
        let meta = self.file.metadata()?;
        if meta.is_file() {
            return Ok(meta.len());
        }
        // Metadata has no size for block devices.
        Ok(lseek64(&*self.file, 0, Whence::SeekEnd)? as u64)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let mut got = 0;
        while got < data.len() {
            match self.file.read_at(&mut data[got..], at + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        data[got..].fill(0);
        Ok(())
    }

    /// What the host has in its cache. A file that ends within the range is left to [`Storage::read_at`].
    fn read_now(&self, data: &mut [u8], at: u64) -> bool {
        let len = data.len();
        let slices = &mut [io::IoSliceMut::new(data)];
        matches!(rustix::io::preadv2(&*self.file, slices, at, rustix::io::ReadWriteFlags::NOWAIT), Ok(n) if n == len)
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(data, at)?;
        self.started.as_ref().map_or(Ok(()), |started| self.write_behind(started, at + data.len() as u64))
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        match self.fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len) {
            Err(e) if unsupported(&e) => self.write_zeroes(at, len),
            other => other,
        }
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        match self.fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len) {
            Err(e) if unsupported(&e) => self.write_zeroes(at, len),
            other => other,
        }
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.fallocate(FallocateFlags::empty(), at, len)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_len(size)
    }

    fn flush(&self) -> io::Result<()> {
        if self.hasty { Ok(()) } else { self.file.sync_data() }
    }

    fn usage(&self, from: u64) -> Option<(u64, u64)> {
        let meta = self.file.metadata().ok().filter(std::fs::Metadata::is_file)?;
        let (mut at, mut data) = (i64::try_from(from).ok()?, 0);
        // ENXIO says that there is no more.
        while let Ok(start) = lseek64(&*self.file, at, Whence::SeekData) {
            at = lseek64(&*self.file, start, Whence::SeekHole).ok()?;
            data += (at - start).max(0) as u64;
        }
        Some((meta.blocks() * 512, data))
    }
}

fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV))
}
