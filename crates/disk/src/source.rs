//! Raw files and devices as something to read from, and whatever can be read as a read-only disk.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Whence, lseek64};
use visor_block::{BlockBackend, BlockError, BlockGeometry, BlockOp, BlockRequest, SECTOR, Sector, SharedBuffer};
use visor_qcow2::{Error, ErrorKind, FileStorage, Result, Source, Storage};

use crate::error::{block_error, host_error};
use crate::pool::Pool;

/// A raw image for reading. Its length is rounded up to whole sectors.
#[derive(Debug)]
pub struct RawSource {
    storage: FileStorage,
    bytes: u64,
}

impl RawSource {
    /// The image in `file`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(file: File) -> Result<Self> {
        let storage = FileStorage::new(file);
        let bytes = storage.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
        Ok(RawSource { storage, bytes })
    }
}

impl Source for RawSource {
    fn size(&self) -> u64 {
        self.bytes.next_multiple_of(512)
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        self.storage.read_at(data, at).map_err(|e| Error::host("cannot read the image", at, e))
    }

    fn read_now(&self, at: u64, data: &mut [u8]) -> bool {
        self.storage.read_now(data, at)
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let file = self.storage.file().as_fd();
        // A host that knows nothing of holes says that all is data.
        let Ok(data) = lseek64(file, at as i64, Whence::SeekData).map(|d| d as u64).or_else(|e| match e {
            nix::errno::Errno::ENXIO => Ok(u64::MAX),
            e => Err(e),
        }) else {
            return Ok((false, len));
        };
        if data > at {
            return Ok((true, (data - at).min(len)));
        }
        let hole = lseek64(file, at as i64, Whence::SeekHole).map_or(at + len, |h| h as u64);
        Ok((false, hole.saturating_sub(at).clamp(1, len)))
    }
}

/// A disk in use as something to read from.
pub struct DiskSource(pub Arc<dyn BlockBackend>);

impl Source for DiskSource {
    fn size(&self) -> u64 {
        self.0.geometry().sectors * SECTOR
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        // Requests are of whole sectors.
        let start = at / SECTOR * SECTOR;
        let len = (at + data.len() as u64).next_multiple_of(SECTOR) - start;
        let buffer = SharedBuffer::new(vec![0; len as usize]);
        visor_block::run(&*self.0, BlockOp::Read, Sector(start / SECTOR), len, Box::new(buffer.clone()))
            .map_err(|e| Error { kind: ErrorKind::Io, what: e.what, source: e.source })?;
        let bytes = buffer.take();
        let from = (at - start) as usize;
        data.copy_from_slice(&bytes[from..from + data.len()]);
        Ok(())
    }
}

/// Something that can be read, as a read-only disk.
pub struct SourceDisk {
    geometry: BlockGeometry,
    pool: Pool,
}

impl SourceDisk {
    /// The disk in `source`, served by 1 to 8 `threads`. `path` is for messages.
    ///
    /// # Errors
    /// The host's, where it gives no threads.
    pub fn new(source: Arc<dyn Source>, path: &Path, threads: usize) -> std::result::Result<Self, BlockError> {
        let geometry = BlockGeometry { sectors: source.size() / SECTOR, physical_block: 4096, read_only: true };
        let pool = Pool::new(threads.clamp(1, 8), "source", move |r| serve(&*source, geometry, r))
            .map_err(|e| host_error("no threads for", path, e))?;
        Ok(SourceDisk { geometry, pool })
    }
}

fn serve(source: &dyn Source, geometry: BlockGeometry, mut request: BlockRequest) {
    let result = crate::request::check(&request, &geometry).and_then(|at| match request.op {
        BlockOp::Read => {
            let mut data = vec![0; request.buffer.len().min(1 << 20)];
            let mut done = 0;
            while done < request.buffer.len() {
                let n = data.len().min(request.buffer.len() - done);
                source.read(at + done as u64, &mut data[..n]).map_err(block_error)?;
                request.buffer.put(done, &data[..n])?;
                done += n;
            }
            Ok(())
        }
        _ => Ok(()),
    });
    request.complete(result);
}

impl BlockBackend for SourceDisk {
    fn geometry(&self) -> BlockGeometry {
        self.geometry
    }

    fn submit(&self, request: BlockRequest) {
        self.pool.submit(request);
    }

    fn drain(&self) {
        self.pool.drain();
    }
}
