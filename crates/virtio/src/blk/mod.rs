//! The block device (virtio 1.2 §5.2) over any [`visor_block::BlockBackend`].
//!
//! ```text
//! configuration  00 capacity  08 size_max  0C seg_max  14 blk_size  18 topology  20 writeback  22 num_queues
//!                24 discard limits  30 write zeroes limits
//! request        type, reserved, sector (16 bytes) | data | status (1 byte)
//! ```
//! A notification takes requests from the queue and submits them; they complete on the back end's threads. Requests that are
//! under way when the driver resets the device finish in the back end, but neither touch guest memory nor the queue any more.

mod device;
mod request;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use visor_block::{BlockBackend, BlockGeometry};

pub use device::{Blk, BlkHandle};

use crate::Queues;
use crate::in_flight::InFlight;

/// Most queues of a device.
pub const MAX_QUEUES: u16 = 16;

/// Bytes of the serial number (§5.2.6).
pub const SERIAL_LEN: usize = 20;

const F_SIZE_MAX: u64 = 1 << 1;
const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_CONFIG_WCE: u64 = 1 << 11;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

const QUEUE_SIZE: u16 = 256;
/// Sectors and ranges of one discard or write-zeroes request.
const MAX_RANGE: u32 = 1 << 21;
const MAX_RANGES: u32 = 32;

/// A block device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// Number of queues, 1 to [`MAX_QUEUES`]; values outside are brought within. One for each vCPU serves well.
    pub queues: u16,
    /// Serial number that the guest can read; cut at [`SERIAL_LEN`] bytes.
    pub serial: String,
}

/// What the device shares with its requests.
struct Shared {
    backend: Arc<dyn BlockBackend>,
    geometry: BlockGeometry,
    sectors: AtomicU64,
    serial: [u8; SERIAL_LEN],
    queues: OnceLock<Arc<Queues>>,
    features: AtomicU64,
    /// The driver's wish in the writeback register.
    writeback: AtomicBool,
    in_flight: InFlight,
}

impl Shared {
    /// Sectors that the driver may use: what the configuration space says.
    fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }

    /// Most requests in the back end. Those of a device that was reset count too, so that a driver cannot pile them up.
    fn budget(&self) -> usize {
        self.queues.get().map_or(0, |q| usize::from(q.count()) * usize::from(QUEUE_SIZE))
    }

    /// Whether writes must be durable when they complete (§5.2.6.2).
    fn write_through(&self) -> bool {
        let features = self.features.load(Ordering::Relaxed);
        if features & F_CONFIG_WCE != 0 { !self.writeback.load(Ordering::Relaxed) } else { features & F_FLUSH == 0 }
    }

    /// Starts what the driver has put into `queue`, as far as the budget allows.
    fn pump(self: &Arc<Self>, queue: u16) {
        self.in_flight.pump(&self.queues, queue, self.budget(), |chain| request::start(self, chain));
    }

    /// A request has completed.
    fn finished(self: &Arc<Self>) {
        self.in_flight.finish(&self.queues, 0).for_each(|q| self.pump(q));
    }
}
