//! The disk inside a volume.
//!
//! Requests are cut into pieces of at most [`CHUNK`] bytes, one of which is under way at a time: read and decrypted, or encrypted and
//! written. The work is done where the disk below completes its requests, so that it is spread over that disk's threads.
//!
//! Where the cipher's sectors are larger than those of the disk, a write of a part of one reads the rest first. Meanwhile no other
//! write is under way (`gate`), since it could be to the same sector.

mod gate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use visor_block::{
    BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, DiskResize, DiskSnapshots, SECTOR,
    Sector, SharedBuffer,
};

use crate::cipher::{UNIT, Xts};
use crate::header::{Luks, Segment, VolumeKey};
use crate::{LuksErrorKind, Result};
use gate::{Gate, Ticket};

/// Most bytes of a request that are under way at a time.
const CHUNK: u64 = 1 << 20;

/// An opened volume as a disk.
pub struct LuksDisk {
    inside: Arc<Inside>,
    gate: Arc<Gate>,
}

struct Inside {
    below: Arc<dyn BlockBackend>,
    xts: Xts,
    segment: Segment,
    /// As it was when the volume was opened.
    geometry: BlockGeometry,
    /// What the volume has now.
    sectors: AtomicU64,
    discard: bool,
}

impl LuksDisk {
    /// The disk in the volume that `below` holds, opened with `key`. With `discard`, discarded space is given back below, by which
    /// everybody who sees the volume sees which parts of it are in use.
    ///
    /// # Errors
    /// [`LuksErrorKind::Unsupported`] if the key is of no kind that the cipher has.
    pub fn new(below: Arc<dyn BlockBackend>, luks: &Luks, key: &VolumeKey, discard: bool) -> Result<Self> {
        let outer = below.geometry();
        let len = luks.data_len(outer.sectors * SECTOR);
        let geometry = BlockGeometry {
            sectors: len / SECTOR,
            physical_block: outer.physical_block.max(luks.segment.sector),
            read_only: outer.read_only,
        };
        if geometry.sectors == 0 {
            return Err(crate::LuksError::new(LuksErrorKind::Damaged, "the volume has no data"));
        }
        let xts = Xts::new(&key.key)?;
        let sectors = AtomicU64::new(geometry.sectors);
        let inside = Inside { below, xts, segment: luks.segment, geometry, sectors, discard };
        Ok(LuksDisk { inside: Arc::new(inside), gate: Arc::default() })
    }
}

impl BlockBackend for LuksDisk {
    fn geometry(&self) -> BlockGeometry {
        self.inside.geometry()
    }

    fn submit(&self, request: BlockRequest) {
        let at = match request.check(&self.inside.geometry()) {
            Ok(at) => at,
            Err(e) => return request.complete(Err(e)),
        };
        let inside = self.inside.clone();
        match request.op {
            BlockOp::Flush | BlockOp::Discard | BlockOp::Read => {
                let ticket = self.gate.pass();
                Job { inside, request, at, done: 0, ticket }.start();
            }
            BlockOp::Write | BlockOp::WriteZeroes { .. } => {
                let alone = !inside.whole(at, request.len);
                let start = move |ticket| Job { inside, request, at, done: 0, ticket }.start();
                self.gate.enter(alone, Box::new(start));
            }
        }
    }

    fn drain(&self) {
        self.gate.drain();
    }

    fn means(&self) -> String {
        let below = self.inside.below.means();
        if below.is_empty() { "encrypted".into() } else { format!("encrypted, {below}") }
    }

    fn as_resize(&self) -> Option<&dyn DiskResize> {
        self.inside.below.as_resize().map(|_| self as _)
    }

    /// Of what the volume lies in, which knows nothing of the encryption: header and keys are kept with the data.
    fn as_snapshots(&self) -> Option<&dyn DiskSnapshots> {
        self.inside.below.as_snapshots()
    }
}

impl DiskResize for LuksDisk {
    fn resize(&self, sectors: u64) -> std::result::Result<(), BlockError> {
        let inside = &self.inside;
        let refuse = |kind, what: &str| Err(BlockError::new(kind, what));
        let Some(below) = inside.below.as_resize() else {
            return refuse(BlockErrorKind::Unsupported, "what the volume lies in cannot change its size");
        };
        if inside.segment.size.is_some() {
            return refuse(BlockErrorKind::Unsupported, "the header of the volume says a size, which stays");
        }
        let unit = u64::from(inside.segment.sector) / SECTOR;
        let whole = sectors.checked_add(inside.segment.offset / SECTOR);
        match whole.filter(|_| sectors.is_multiple_of(unit) && sectors >= self.geometry().sectors) {
            None => refuse(BlockErrorKind::OutOfRange, "no size that the disk can get while it is in use"),
            Some(whole) => {
                below.resize(whole)?;
                inside.sectors.store(sectors, Ordering::Release);
                Ok(())
            }
        }
    }
}

impl Inside {
    fn geometry(&self) -> BlockGeometry {
        BlockGeometry { sectors: self.sectors.load(Ordering::Acquire), ..self.geometry }
    }

    /// Whether a range consists of whole sectors of the cipher.
    fn whole(&self, at: u64, len: u64) -> bool {
        let size = u64::from(self.segment.sector);
        at.is_multiple_of(size) && len.is_multiple_of(size)
    }

    /// The whole sectors of the cipher that a range touches.
    fn around(&self, at: u64, len: u64) -> (u64, u64) {
        let size = u64::from(self.segment.sector);
        let start = at / size * size;
        (start, (at + len).next_multiple_of(size) - start)
    }

    /// The number of the cipher's sector at a position of the disk.
    fn number(&self, at: u64) -> u64 {
        self.segment.tweak.wrapping_add(at / UNIT)
    }

    /// Has the disk below do something.
    fn below(
        &self,
        op: BlockOp,
        at: u64,
        len: u64,
        buffer: SharedBuffer,
        done: impl FnOnce(std::result::Result<(), BlockError>) + Send + 'static,
    ) {
        let sector = Sector((self.segment.offset + at) / SECTOR);
        self.below.submit(BlockRequest::new(op, sector, len, Box::new(buffer), done));
    }
}

/// A request under way.
struct Job {
    inside: Arc<Inside>,
    request: BlockRequest,
    /// Where it starts, in bytes.
    at: u64,
    /// Bytes done.
    done: u64,
    ticket: Ticket,
}

impl Job {
    fn start(self) {
        match self.request.op {
            BlockOp::Flush => self.pass(BlockOp::Flush, 0, 0),
            BlockOp::Discard => {
                // Only whole sectors of the cipher can go; the rest of what is a hint stays.
                let size = u64::from(self.inside.segment.sector);
                let (start, end) = (self.at.next_multiple_of(size), (self.at + self.request.len) / size * size);
                if !self.inside.discard || end <= start {
                    return self.finish(Ok(()));
                }
                self.pass(BlockOp::Discard, start, end - start);
            }
            _ => self.step(),
        }
    }

    /// Hands a request without data on.
    fn pass(self, op: BlockOp, at: u64, len: u64) {
        let inside = self.inside.clone();
        if op == BlockOp::Flush {
            let request =
                BlockRequest::new(op, Sector(0), 0, Box::new(SharedBuffer::default()), move |r| self.finish(r));
            return inside.below.submit(request);
        }
        inside.below(op, at, len, SharedBuffer::default(), move |r| self.finish(r));
    }

    /// The next piece.
    fn step(self) {
        let left = self.request.len - self.done;
        if left == 0 {
            return self.finish(Ok(()));
        }
        let at = self.at + self.done;
        let len = left.min(CHUNK - at % CHUNK);
        let (start, whole) = self.inside.around(at, len);
        let write = self.request.op != BlockOp::Read;
        if write && (start, whole) == (at, len) {
            let data = vec![0; len as usize];
            return self.write(data, start, at, len);
        }
        let (inside, data) = (self.inside.clone(), SharedBuffer::new(vec![0; whole as usize]));
        let kept = data.clone();
        inside.below(BlockOp::Read, start, whole, data, move |r| match r {
            Ok(()) => self.have(kept.take(), start, at, len),
            Err(e) => self.finish(Err(e)),
        });
    }

    /// The cipher's sectors from `start` are there; of them, `at` and `len` are concerned.
    fn have(mut self, mut data: Vec<u8>, start: u64, at: u64, len: u64) {
        let size = self.inside.segment.sector as usize;
        self.inside.xts.decrypt(&mut data, size, self.inside.number(start));
        if self.request.op != BlockOp::Read {
            return self.write(data, start, at, len);
        }
        let from = (at - start) as usize;
        match self.request.buffer.put(self.done as usize, &data[from..from + len as usize]) {
            Ok(()) => {
                self.done += len;
                self.step();
            }
            Err(e) => self.finish(Err(e)),
        }
    }

    /// Puts the request's data into `data`, which are whole sectors from `start`, and writes them.
    fn write(mut self, mut data: Vec<u8>, start: u64, at: u64, len: u64) {
        let from = (at - start) as usize;
        let part = &mut data[from..from + len as usize];
        if self.request.op == BlockOp::Write {
            if let Err(e) = self.request.buffer.get(self.done as usize, part) {
                return self.finish(Err(e));
            }
        } else {
            part.fill(0);
        }
        let inside = self.inside.clone();
        inside.xts.encrypt(&mut data, inside.segment.sector as usize, inside.number(start));
        let whole = data.len() as u64;
        self.done += len;
        inside.below(BlockOp::Write, start, whole, SharedBuffer::new(data), move |r| match r {
            Ok(()) => self.step(),
            Err(e) => self.finish(Err(e)),
        });
    }

    /// Completes the request; only then others may come that wait for it.
    fn finish(self, result: std::result::Result<(), BlockError>) {
        let Job { request, ticket, .. } = self;
        // What a volume lies in may be shorter than it was.
        let result = result.map_err(|e| match e.kind {
            BlockErrorKind::OutOfRange => BlockError { kind: BlockErrorKind::Io, ..e },
            _ => e,
        });
        request.complete(result);
        drop(ticket);
    }
}
