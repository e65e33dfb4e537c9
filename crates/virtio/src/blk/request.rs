//! One request: decoded, checked, handed to the back end, and its status given back (virtio 1.2 §5.2.6).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use visor_block::{BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, SECTOR, Sector};

use super::{MAX_RANGE, MAX_RANGES, Shared};
use crate::block_buffer::{GuestBuffer, Sink};
use crate::{Buffer, Chain};

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;

const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

const HEADER: usize = 16;
const RANGE: usize = 16;
const RANGE_UNMAP: u32 = 1;

/// A request of the driver. The operations that it consists of hold it; when the last one lets go, its status is written and
/// the chain goes back.
struct Request {
    shared: Arc<Shared>,
    chain: Option<Chain>,
    status: AtomicU8,
}

/// Part of a disk, in sectors.
#[derive(Clone, Copy)]
struct Range {
    sector: u64,
    count: u64,
    unmap: bool,
}

/// Starts the request in `chain`.
pub(super) fn start(shared: &Arc<Shared>, chain: Chain) {
    let mut header = [0; HEADER];
    // Without header or room for the status the driver cannot even be told (§2.7.5.2: it broke the rules).
    if chain.writable.is_empty() || chain.readable.get(0, &mut header).is_err() {
        if let Some(queues) = shared.queues.get() {
            queues.fail("block request without header or status");
        }
        return;
    }
    shared.in_flight.add();
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sector = u64::from_le_bytes([
        header[8], header[9], header[10], header[11], header[12], header[13], header[14], header[15],
    ]);
    let data_out = chain.readable.slice(HEADER, chain.readable.len() - HEADER);
    let data_in = chain.writable.slice(0, chain.writable.len() - 1);
    let request = Arc::new(Request { shared: shared.clone(), chain: Some(chain), status: AtomicU8::new(S_OK) });
    let (Ok(data_out), Ok(data_in)) = (data_out, data_in) else { return };
    match kind {
        T_IN => request.transfer(BlockOp::Read, sector, data_in),
        T_OUT => request.transfer(BlockOp::Write, sector, data_out),
        T_FLUSH => request.submit(BlockOp::Flush, 0, 0, Box::new(Sink(0))),
        T_GET_ID => {
            let n = data_in.len().min(shared.serial.len());
            if data_in.put(0, &shared.serial[..n]).is_err() {
                request.set(S_IOERR);
            }
        }
        T_DISCARD | T_WRITE_ZEROES => request.ranges(kind, &data_out),
        _ => request.set(S_UNSUPP),
    }
}

impl Request {
    fn set(&self, status: u8) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn transfer(self: &Arc<Self>, op: BlockOp, sector: u64, data: Buffer) {
        let len = data.len() as u64;
        let denied = op == BlockOp::Write && self.shared.geometry.read_only;
        if denied || !len.is_multiple_of(SECTOR) || !self.inside(sector, len / SECTOR) {
            self.set(S_IOERR);
        } else if len > 0 {
            self.submit(op, sector, len, Box::new(GuestBuffer(data)));
        }
    }

    fn ranges(self: &Arc<Self>, kind: u32, data: &Buffer) {
        match self.decode_ranges(kind, data) {
            Ok(ranges) => {
                for r in ranges.into_iter().filter(|r| r.count > 0) {
                    let op = match kind {
                        T_DISCARD => BlockOp::Discard,
                        _ => BlockOp::WriteZeroes { may_unmap: r.unmap },
                    };
                    self.submit(op, r.sector, r.count * SECTOR, Box::new(Sink(0)));
                }
            }
            Err(status) => self.set(status),
        }
    }

    /// The ranges of a discard or write-zeroes request, all valid, or the status to refuse it with.
    fn decode_ranges(&self, kind: u32, data: &Buffer) -> Result<Vec<Range>, u8> {
        let count = data.len() / RANGE;
        let whole = data.len().is_multiple_of(RANGE) && (1..=MAX_RANGES as usize).contains(&count);
        if !whole || self.shared.geometry.read_only {
            return Err(S_IOERR);
        }
        let mut ranges = Vec::with_capacity(count);
        for i in 0..count {
            let mut b = [0; RANGE];
            data.get(i * RANGE, &mut b).map_err(|_| S_IOERR)?;
            let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            let (sector, sectors, flags) = (u64::from(word(0)) | u64::from(word(4)) << 32, word(8), word(12));
            // §5.2.6.2: unknown flags, and unmap in a discard, are unsupported.
            if flags & !RANGE_UNMAP != 0 || kind == T_DISCARD && flags != 0 {
                return Err(S_UNSUPP);
            }
            if sectors > MAX_RANGE || !self.inside(sector, u64::from(sectors)) {
                return Err(S_IOERR);
            }
            ranges.push(Range { sector, count: u64::from(sectors), unmap: flags & RANGE_UNMAP != 0 });
        }
        Ok(ranges)
    }

    fn inside(&self, sector: u64, count: u64) -> bool {
        sector.checked_add(count).is_some_and(|end| end <= self.shared.sectors())
    }

    fn submit(self: &Arc<Self>, op: BlockOp, sector: u64, len: u64, buffer: Box<dyn BlockBuffer>) {
        let request = self.clone();
        let done = move |result| request.done(op, result);
        self.shared.backend.submit(BlockRequest::new(op, Sector(sector), len, buffer, done));
    }

    fn done(self: Arc<Self>, op: BlockOp, result: Result<(), BlockError>) {
        match result {
            Ok(()) => {
                let writes = matches!(op, BlockOp::Write | BlockOp::WriteZeroes { .. });
                if writes && self.shared.write_through() {
                    self.submit(BlockOp::Flush, 0, 0, Box::new(Sink(0)));
                }
            }
            Err(error) => {
                self.set(if error.kind == BlockErrorKind::Unsupported { S_UNSUPP } else { S_IOERR });
                if error.kind != BlockErrorKind::Lost {
                    tracing::warn!(?op, %error, "block request failed");
                }
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(chain) = self.chain.take() {
            // The status is the last byte; everything before it counts as written. Fails for a stale chain only.
            let len = chain.writable.len();
            let _ = chain.writable.put(len - 1, &[self.status.load(Ordering::Relaxed)]);
            chain.complete(len as u32);
        }
        self.shared.finished();
    }
}
