//! qcow2 images as disks of a machine.

use std::path::Path;
use std::sync::Arc;

use visor_block::{
    BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, DiskResize, DiskSnapshots, SECTOR,
};
use visor_qcow2::{Image, Preallocation};

use crate::error::{block_error, host_error};
use crate::pool::Pool;

/// Bytes moved at a time between image and guest.
const CHUNK: usize = 1 << 20;
/// Most worker threads of a disk.
const MAX_THREADS: usize = 8;

/// A qcow2 image in use by a machine.
pub struct Qcow2Disk {
    image: Arc<Image>,
    geometry: BlockGeometry,
    pool: Pool,
    threads: usize,
}

impl Qcow2Disk {
    /// The disk in `image`, served by 1 to 8 `threads`; with `discard`, discarded space goes back to the host.
    ///
    /// # Errors
    /// The host's, where it gives no threads.
    pub fn new(
        image: Arc<Image>,
        path: &Path,
        read_only: bool,
        threads: usize,
        discard: bool,
    ) -> Result<Self, BlockError> {
        // Writes of whole pages of the guest never need to read anything where clusters are there; larger hints than this
        // make file systems waste space.
        let geometry = BlockGeometry { sectors: image.size() / SECTOR, physical_block: 4096, read_only };
        let (worker, threads) = (image.clone(), threads.clamp(1, MAX_THREADS));
        let pool = Pool::new(threads, "qcow2", move |r| serve(&worker, now(&worker, geometry), discard, r))
            .map_err(|e| host_error("no threads for", path, e))?;
        Ok(Qcow2Disk { image, geometry, pool, threads })
    }

    /// The image: for snapshots and resizing while the machine runs.
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }
}

impl BlockBackend for Qcow2Disk {
    fn geometry(&self) -> BlockGeometry {
        now(&self.image, self.geometry)
    }

    fn submit(&self, request: BlockRequest) {
        let now = crate::request::read_now(request, &self.geometry(), |at, data| self.image.read_now(at, data));
        if let Some(request) = now {
            self.pool.submit(request);
        }
    }

    fn drain(&self) {
        self.pool.drain();
    }

    fn means(&self) -> String {
        format!("{} threads", self.threads)
    }

    fn as_resize(&self) -> Option<&dyn DiskResize> {
        Some(self)
    }

    fn as_snapshots(&self) -> Option<&dyn DiskSnapshots> {
        Some(self)
    }
}

impl DiskResize for Qcow2Disk {
    fn resize(&self, sectors: u64) -> Result<(), BlockError> {
        let bytes = sectors.checked_mul(SECTOR).filter(|b| *b >= self.image.size() && !self.geometry.read_only);
        let bytes = bytes.ok_or_else(|| {
            let what = format!("{sectors} sectors are no size that the disk can get while it is in use");
            BlockError::new(BlockErrorKind::OutOfRange, what)
        })?;
        let done = self.image.resize(bytes, Preallocation::Off, &mut |_, _| true);
        done.and_then(|()| self.image.flush()).map_err(block_error)
    }
}

impl DiskSnapshots for Qcow2Disk {
    fn create(&self, name: &str, seconds: u32) -> Result<(), BlockError> {
        let done = self.image.create_snapshot(name, seconds);
        done.and_then(|()| self.image.flush()).map_err(block_error)
    }
}

/// The disk as it is now: its size changes.
fn now(image: &Image, geometry: BlockGeometry) -> BlockGeometry {
    BlockGeometry { sectors: image.size() / SECTOR, ..geometry }
}

/// Carries out and completes a request.
fn serve(image: &Image, geometry: BlockGeometry, discard: bool, mut request: BlockRequest) {
    let result = crate::request::check(&request, &geometry).and_then(|at| match request.op {
        BlockOp::Read => read(image, &mut request, at),
        BlockOp::Write => write(image, &request, at),
        BlockOp::Flush => image.flush().map_err(block_error),
        BlockOp::Discard if !discard => Ok(()),
        BlockOp::Discard => image.discard(at, request.len).map_err(block_error),
        BlockOp::WriteZeroes { may_unmap } => {
            image.write_zeroes(at, request.len, may_unmap && discard).map_err(block_error)
        }
    });
    // A damaged image concerns more than one request.
    if let Err(e) = &result
        && e.kind == BlockErrorKind::Corrupt
    {
        tracing::error!("{request:?}: {e}");
    }
    request.complete(result);
}

fn read(image: &Image, request: &mut BlockRequest, at: u64) -> Result<(), BlockError> {
    let mut chunk = vec![0; CHUNK.min(request.buffer.len())];
    let mut done = 0;
    while done < request.buffer.len() {
        let n = chunk.len().min(request.buffer.len() - done);
        image.read(at + done as u64, &mut chunk[..n]).map_err(block_error)?;
        request.buffer.put(done, &chunk[..n])?;
        done += n;
    }
    Ok(())
}

fn write(image: &Image, request: &BlockRequest, at: u64) -> Result<(), BlockError> {
    let mut chunk = vec![0; CHUNK.min(request.buffer.len())];
    let mut done = 0;
    while done < request.buffer.len() {
        let n = chunk.len().min(request.buffer.len() - done);
        request.buffer.get(done, &mut chunk[..n])?;
        image.write(at + done as u64, &chunk[..n]).map_err(block_error)?;
        done += n;
    }
    Ok(())
}
