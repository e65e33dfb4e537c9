//! Raw images: a byte of the disk is a byte of the file (or block device).
//!
//! A file whose size is no multiple of 512 shows a last sector that is filled up with zeroes; writing that sector grows the file.

mod io;
mod ring;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use visor_block::{BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockRequest, DiskResize, SECTOR};

pub(crate) use io::classify;

use crate::error::host_error;
use crate::lock::lock;
use crate::newfile::NewFile;
use crate::pool::Pool;
use io::RawFile;
use ring::RingServer;

/// Most worker threads of a disk.
const MAX_THREADS: usize = 4;

/// What a disk is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Writes fail with [`BlockErrorKind::ReadOnly`]. Any number of users may read.
    ReadOnly,
    /// Reading and writing, by one user at a time.
    ReadWrite,
}

/// How the space of a new image is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alloc {
    /// All of it now: later writes cannot run out of space.
    Static,
    /// As it is written.
    Dynamic,
}

/// How requests reach the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// io_uring where the host allows it and the format can use it, threads elsewhere.
    #[default]
    Auto,
    /// Threads that read and write.
    Threads,
    /// io_uring or nothing.
    Ring,
}

/// Details of opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOptions {
    /// Worker threads, 1 to 4; values outside are brought within.
    pub threads: usize,
    /// Refuse an image that another process (or disk) has open for writing, or writing one that is open at all.
    pub lock: bool,
    /// Give discarded space back to the host. To be off for images of [`Alloc::Static`].
    pub discard: bool,
    /// Refuse writes that make the first sector look like another format; to be on where the format was guessed.
    pub guard: bool,
    /// How requests reach the host.
    pub io: Io,
}

impl Default for RawOptions {
    fn default() -> Self {
        RawOptions { threads: 2, lock: true, discard: true, guard: false, io: Io::Auto }
    }
}

/// An open raw image.
pub struct RawDisk {
    file: Arc<RawFile>,
    server: Server,
}

/// Who carries requests out.
enum Server {
    Threads(Pool, usize),
    Ring(RingServer),
}

impl RawDisk {
    /// Opens the file or block device at `path`.
    ///
    /// # Errors
    /// [`BlockErrorKind::Locked`] if it is in use, [`BlockErrorKind::Unsupported`] if it is neither file nor block device,
    /// [`BlockErrorKind::Io`] with the host's reason otherwise.
    pub fn open(path: &Path, access: Access, options: &RawOptions) -> Result<Self, BlockError> {
        let file = open_file(path, access)?;
        if options.lock {
            lock(&file, path, access == Access::ReadWrite)?;
        }
        Self::from_file(file, path, access, options)
    }

    /// The disk in `file`, which will be `path` (see [`crate::NewFile`]), for writing.
    ///
    /// # Errors
    /// The host's.
    pub fn from_handle(file: File, path: &Path, options: &RawOptions) -> Result<Self, BlockError> {
        Self::from_file(file, path, Access::ReadWrite, options)
    }

    /// The disk in `file`, which is `path` and locked already.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn from_file(
        mut file: File,
        path: &Path,
        access: Access,
        options: &RawOptions,
    ) -> Result<Self, BlockError> {
        // Metadata has no size for block devices.
        let bytes = file.seek(SeekFrom::End(0)).map_err(|e| host_error("cannot open", path, e))?;
        let physical_block = block_size(&file);
        let read_only = access == Access::ReadOnly;
        let geometry = BlockGeometry { sectors: bytes.div_ceil(SECTOR), physical_block, read_only };
        let raw = Arc::new(RawFile::new(file, path.to_owned(), bytes, geometry, options));
        let server = Server::new(&raw, options).map_err(|e| host_error("no threads for", path, e))?;
        Ok(RawDisk { file: raw, server })
    }

    /// Makes a new image of `size` bytes, which reads as zeroes. An existing file is never touched.
    ///
    /// # Errors
    /// [`BlockErrorKind::OutOfRange`] for a size that is zero or no multiple of 512, [`BlockErrorKind::NoSpace`] where the host
    /// has no room, [`BlockErrorKind::Io`] otherwise. Nothing is left behind.
    pub fn create(path: &Path, size: u64, alloc: Alloc) -> Result<(), BlockError> {
        if size == 0 || !size.is_multiple_of(SECTOR) || i64::try_from(size).is_err() {
            let what = format!("{size} bytes are no size for the disk {}", path.display());
            return Err(BlockError::new(BlockErrorKind::OutOfRange, what));
        }
        let file = NewFile::create(path)?;
        let filled = match alloc {
            Alloc::Dynamic => file.file().set_len(size),
            Alloc::Static => nix::fcntl::posix_fallocate(file.file(), 0, size as i64).map_err(Into::into),
        };
        filled.map_err(|e| host_error("cannot create", path, e))?;
        file.finish()
    }
}

/// Opens a file or block device, and nothing else.
pub(crate) fn open_file(path: &Path, access: Access) -> Result<File, BlockError> {
    let fail = |e| host_error("cannot open", path, e);
    // Asked first, since opening a FIFO would wait.
    let kind = std::fs::metadata(path).map_err(fail)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let what = format!("{} is neither a file nor a block device", path.display());
        return Err(BlockError::new(BlockErrorKind::Unsupported, what));
    }
    OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path).map_err(fail)
}

impl Server {
    fn new(file: &Arc<RawFile>, options: &RawOptions) -> std::io::Result<Self> {
        if options.io == Io::Ring || options.io == Io::Auto && visor_uring::probe().is_ok() {
            match RingServer::new(file.clone()) {
                Ok(ring) => return Ok(Server::Ring(ring)),
                Err(e) if options.io == Io::Ring => return Err(e),
                // Such as memory that may not be locked any more.
                Err(error) => tracing::info!(%error, "threads instead of io_uring"),
            }
        }
        let (threads, worker) = (options.threads.clamp(1, MAX_THREADS), file.clone());
        Ok(Server::Threads(Pool::new(threads, "disk", move |r| worker.serve(r))?, threads))
    }
}

impl BlockBackend for RawDisk {
    fn geometry(&self) -> BlockGeometry {
        self.file.geometry()
    }

    fn submit(&self, request: BlockRequest) {
        let Some(request) = self.file.read_now(request) else { return };
        match &self.server {
            Server::Threads(pool, _) => pool.submit(request),
            Server::Ring(ring) => ring.submit(request),
        }
    }

    fn drain(&self) {
        match &self.server {
            Server::Threads(pool, _) => pool.drain(),
            Server::Ring(ring) => ring.drain(),
        }
    }

    fn means(&self) -> String {
        match &self.server {
            Server::Threads(_, n) => format!("{n} threads"),
            Server::Ring(_) => "io_uring".into(),
        }
    }

    fn as_resize(&self) -> Option<&dyn DiskResize> {
        Some(self)
    }
}

impl DiskResize for RawDisk {
    fn resize(&self, sectors: u64) -> Result<(), BlockError> {
        self.file.grow(sectors)
    }
}

/// The size that the host prefers for writes.
fn block_size(file: &File) -> u32 {
    let preferred = file.metadata().map_or(4096, |m| m.blksize()).clamp(SECTOR, 1 << 16);
    if preferred.is_power_of_two() { preferred as u32 } else { 4096 }
}
