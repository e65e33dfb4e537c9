//! The requests of a raw image, carried out one at a time on the calling thread.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::RawOptions;
use crate::format::Format;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use visor_block::{BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, SECTOR};

/// Bytes moved at a time between file and guest.
const CHUNK: usize = 256 << 10;

/// The file behind a disk.
pub(super) struct RawFile {
    file: Arc<File>,
    path: PathBuf,
    /// Bytes it had when it was opened, or was given since.
    bytes: AtomicU64,
    geometry: BlockGeometry,
    discard: bool,
    guard: bool,
}

impl RawFile {
    pub(super) fn new(file: File, path: PathBuf, bytes: u64, geometry: BlockGeometry, options: &RawOptions) -> Self {
        let (file, bytes) = (Arc::new(file), AtomicU64::new(bytes));
        RawFile { file, path, bytes, geometry, discard: options.discard, guard: options.guard }
    }

    pub(super) fn geometry(&self) -> BlockGeometry {
        BlockGeometry { sectors: self.bytes.load(Ordering::Acquire).div_ceil(SECTOR), ..self.geometry }
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes of the disk; those behind the end of the file are zeroes up to the end of a sector.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The file lost its end while it was open.
    pub(super) fn too_short(&self) -> BlockError {
        let what = format!("{} is shorter than when it was opened", self.path.display());
        BlockError::new(BlockErrorKind::Io, what)
    }

    /// Refuses `data` at the file's start that would make it look like another format, if the format was guessed.
    pub(super) fn check_start(&self, at: u64, data: &[u8]) -> Result<(), BlockError> {
        if !self.guard || at != 0 || Format::of_bytes(data) == Format::Raw {
            return Ok(());
        }
        let what = format!(
            "{} was taken as raw by its contents; what the guest writes would make it look like {}",
            self.path.display(),
            Format::of_bytes(data)
        );
        Err(BlockError::new(BlockErrorKind::Unsupported, what))
    }

    /// Makes the file longer; one whose space was all taken stays so.
    pub(super) fn grow(&self, sectors: u64) -> Result<(), BlockError> {
        let (old, now) = (self.bytes.load(Ordering::Acquire), self.geometry().sectors);
        let bytes = sectors.checked_mul(SECTOR).filter(|b| i64::try_from(*b).is_ok());
        let Some(bytes) = bytes.filter(|_| sectors >= now && !self.geometry.read_only) else {
            let what = format!("{} has {now} sectors and cannot get {sectors} while it is in use", self.path.display());
            return Err(BlockError::new(BlockErrorKind::OutOfRange, what));
        };
        let meta = self.file.metadata().map_err(|e| self.host_error("resize", bytes, e))?;
        if !meta.is_file() {
            let what = format!("{} is a device, whose size is the host's business", self.path.display());
            return Err(BlockError::new(BlockErrorKind::Unsupported, what));
        }
        let full = meta.blocks() * 512 >= old;
        let grown = match full && bytes > old {
            true => fallocate(&*self.file, FallocateFlags::empty(), old as i64, (bytes - old) as i64)
                .map_err(io::Error::from),
            false => self.file.set_len(bytes),
        };
        match grown {
            Err(e) if unsupported(&e) => self.file.set_len(bytes),
            other => other,
        }
        .and_then(|()| self.file.sync_all())
        .map_err(|e| self.host_error("resize", bytes, e))?;
        self.bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Carries out and completes `request`.
    pub(super) fn serve(&self, mut request: BlockRequest) {
        let result = crate::request::check(&request, &self.geometry()).and_then(|at| match request.op {
            BlockOp::Read => self.read(&mut request, at),
            BlockOp::Write => self.write(&request, at),
            BlockOp::Flush => self.flush(),
            BlockOp::Discard => self.release(at, request.len),
            BlockOp::WriteZeroes { may_unmap } => self.zero(at, request.len, may_unmap),
        });
        request.complete(result);
    }

    /// Carries out a read of what the host has in its cache, on the calling thread, which it never keeps waiting. What cannot be done
    /// so comes back.
    pub(super) fn read_now(&self, request: BlockRequest) -> Option<BlockRequest> {
        crate::request::read_now(request, &self.geometry(), |at, data| {
            let len = data.len();
            let slices = &mut [io::IoSliceMut::new(data)];
            // Fewer bytes: not all of it is in the cache, or the file ends.
            matches!(rustix::io::preadv2(&*self.file, slices, at, rustix::io::ReadWriteFlags::NOWAIT), Ok(n) if n == len)
        })
    }

    /// Makes durable what was written.
    pub(super) fn flush(&self) -> Result<(), BlockError> {
        if self.geometry.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| self.host_error("flush", 0, e))
    }

    fn read(&self, request: &mut BlockRequest, at: u64) -> Result<(), BlockError> {
        let mut chunk = vec![0; CHUNK.min(request.buffer.len())];
        let mut done = 0;
        while done < request.buffer.len() {
            let n = chunk.len().min(request.buffer.len() - done);
            let from = at + done as u64;
            let got = self.read_some(&mut chunk[..n], from).map_err(|e| self.host_error("read", from, e))?;
            // Only the rest of the last sector lies behind the end.
            if got < n && from + (got as u64) < self.bytes() {
                return Err(self.too_short());
            }
            chunk[got..n].fill(0);
            request.buffer.put(done, &chunk[..n])?;
            done += n;
        }
        Ok(())
    }

    /// Reads as much of `data` as the file has.
    fn read_some(&self, data: &mut [u8], at: u64) -> io::Result<usize> {
        let mut got = 0;
        while got < data.len() {
            match self.file.read_at(&mut data[got..], at + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(got)
    }

    fn write(&self, request: &BlockRequest, at: u64) -> Result<(), BlockError> {
        let mut chunk = vec![0; CHUNK.min(request.buffer.len())];
        let mut done = 0;
        while done < request.buffer.len() {
            let n = chunk.len().min(request.buffer.len() - done);
            request.buffer.get(done, &mut chunk[..n])?;
            self.check_start(at + done as u64, &chunk[..n])?;
            let to = at + done as u64;
            self.file.write_all_at(&chunk[..n], to).map_err(|e| self.host_error("write", to, e))?;
            done += n;
        }
        Ok(())
    }

    /// Gives the range back to the host, as far as it takes it: a discard is a hint.
    fn release(&self, at: u64, len: u64) -> Result<(), BlockError> {
        if !self.discard {
            return Ok(());
        }
        match self.punch(at, len) {
            Err(e) if !unsupported(&e) => Err(self.host_error("discard", at, e)),
            _ => Ok(()),
        }
    }

    fn zero(&self, at: u64, len: u64, may_unmap: bool) -> Result<(), BlockError> {
        let quick = if may_unmap && self.discard { self.punch(at, len) } else { self.zero_range(at, len) };
        match quick {
            Ok(()) => Ok(()),
            Err(e) if unsupported(&e) => self.write_zeroes(at, len),
            Err(e) => Err(self.host_error("write zeroes", at, e)),
        }
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        self.fallocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, at, len)
    }

    fn zero_range(&self, at: u64, len: u64) -> io::Result<()> {
        self.fallocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, at, len)
    }

    fn fallocate(&self, mode: FallocateFlags, at: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        // The range lies inside a file, whose offsets are positive.
        let (at, len) = (at as i64, len as i64);
        Ok(fallocate(&*self.file, mode | FallocateFlags::FALLOC_FL_KEEP_SIZE, at, len)?)
    }

    fn write_zeroes(&self, at: u64, len: u64) -> Result<(), BlockError> {
        let zeroes = vec![0; CHUNK.min(len as usize)];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(CHUNK as u64);
            let to = at + done;
            self.file.write_all_at(&zeroes[..n as usize], to).map_err(|e| self.host_error("write zeroes", to, e))?;
            done += n;
        }
        Ok(())
    }

    /// An error of the host as one of a request.
    pub(super) fn error(&self, op: impl fmt::Debug, at: u64, e: io::Error) -> BlockError {
        self.host_error(&format!("{op:?}").to_lowercase(), at, e)
    }

    fn host_error(&self, doing: &str, at: u64, e: io::Error) -> BlockError {
        let what = format!("{doing} at byte {at} of {}", self.path.display());
        BlockError { kind: classify(&e), what, source: Some(e) }
    }
}

/// The kind of a host error.
pub(crate) fn classify(e: &io::Error) -> BlockErrorKind {
    match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => BlockErrorKind::NoSpace,
        Some(Errno::EROFS) => BlockErrorKind::ReadOnly,
        _ => BlockErrorKind::Io,
    }
}

fn unsupported(e: &io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_errors_have_kinds() {
        let kind = |e: Errno| classify(&io::Error::from(e));
        assert_eq!(kind(Errno::ENOSPC), BlockErrorKind::NoSpace);
        assert_eq!(kind(Errno::EDQUOT), BlockErrorKind::NoSpace);
        assert_eq!(kind(Errno::EROFS), BlockErrorKind::ReadOnly);
        assert_eq!(kind(Errno::EIO), BlockErrorKind::Io);
        assert_eq!(classify(&io::Error::other("no number")), BlockErrorKind::Io);
    }
}
