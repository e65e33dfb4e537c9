//! The SCSI host adapter (virtio 1.2 §5.6): disks and CD-ROM drives on one bus, which come and go while the machine runs.
//!
//! ```text
//! queues         0 control (task management)   1 events   2.. requests
//! configuration  00 num_queues  04 seg_max  08 max_sectors  0C cmd_per_lun  10 event_info_size  14 sense_size  18 cdb_size
//!                1C max_channel  1E max_target  20 max_lun
//! request        LUN (8), id (8), attribute, priority, CRN, command (cdb_size) | data out
//!                sense_len (4), residual (4), qualifier (2), status, response, sense (sense_size) | data in
//! LUN            01, target, 40h | unit >> 8, unit, 0, 0, 0, 0
//! ```
//! Each target has one unit, number 0, that executes commands (`visor_storage::ScsiUnit`); what a command moves between medium and
//! guest is a request to a block back end, completes on its threads, and many are under way at once. A task management function
//! that ends commands answers when they have ended.

mod device;
mod events;
mod request;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use visor_storage::ScsiUnit;

pub use device::Scsi;

use self::events::{Event, Events};
use self::request::Request;
use crate::in_flight::InFlight;
use crate::{Buffer, Queues};

/// Addresses on the bus: 0 up to this, exclusively. OVMF looks at no more.
pub const TARGETS: u8 = 32;
/// Most request queues.
pub const MAX_QUEUES: u16 = 16;

const F_HOTPLUG: u64 = 1 << 1;
const F_CHANGE: u64 = 1 << 2;

const CONTROL: u16 = 0;
const EVENTS: u16 = 1;
/// The first of the request queues.
const REQUESTS: u16 = 2;
const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;

/// Bytes of a sense data field and of a command, until the driver says otherwise (§5.6.4).
const SENSE_SIZE: u32 = 96;
const CDB_SIZE: u32 = 32;
/// Most that a driver may ask for.
const FIELD_LIMIT: u32 = 255;

/// Responses (§5.6.6.1, §5.6.6.2).
mod response {
    pub(super) const OK: u8 = 0;
    pub(super) const OVERRUN: u8 = 1;
    pub(super) const ABORTED: u8 = 2;
    pub(super) const BAD_TARGET: u8 = 3;
    pub(super) const RESET: u8 = 4;
    pub(super) const FAILURE: u8 = 9;
    pub(super) const SUCCEEDED: u8 = 10;
    pub(super) const REJECTED: u8 = 11;
}

/// An address of the bus, if it is one of ours: target, and number of the unit there.
fn address(lun: &[u8]) -> Option<(u8, u16)> {
    match *lun {
        [1, target, high, low, 0, 0, 0, 0] if high >> 6 <= 1 => {
            Some((target, u16::from(high & 0x3f) << 8 | u16::from(low)))
        }
        _ => None,
    }
}

/// What is at an address.
struct Target {
    unit: Mutex<ScsiUnit>,
    /// Commands under way.
    tasks: Mutex<BTreeMap<u64, Weak<Request>>>,
    next_task: AtomicU64,
}

impl Target {
    fn unit(&self) -> MutexGuard<'_, ScsiUnit> {
        lock(&self.unit)
    }
}

/// What the device shares with its requests and with the host.
struct Shared {
    targets: Mutex<BTreeMap<u8, Arc<Target>>>,
    queues: OnceLock<Arc<Queues>>,
    events: Mutex<Events>,
    features: AtomicU64,
    sense_size: AtomicU32,
    cdb_size: AtomicU32,
    in_flight: InFlight,
}

impl Shared {
    fn target(&self, at: u8) -> Option<Arc<Target>> {
        lock(&self.targets).get(&at).cloned()
    }

    /// Most requests under way. Those of a device that was reset count too, so that a driver cannot pile them up.
    fn budget(&self) -> usize {
        self.queues.get().map_or(0, |q| usize::from(q.count()) * usize::from(QUEUE_SIZE))
    }

    /// Starts what the driver has put into request queue `queue`, as far as the budget allows.
    fn pump(self: &Arc<Self>, queue: u16) {
        self.in_flight.pump(&self.queues, queue, self.budget(), |chain| request::start(self, chain));
    }

    /// A request has completed.
    fn finished(self: &Arc<Self>) {
        self.in_flight.finish(&self.queues, REQUESTS).for_each(|q| self.pump(q));
    }

    /// Tells the driver, if it wishes to know.
    fn tell(&self, event: Event) {
        if self.features.load(Ordering::Relaxed) & event.feature() != 0 {
            let mut events = lock(&self.events);
            events.add(event);
            events.deliver(self.queues.get());
        }
    }
}

/// Why a unit cannot be plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScsiError {
    /// There is a unit already.
    #[error("SCSI target {0} is taken")]
    Taken(u8),
    /// There is no such address.
    #[error("no SCSI target {0}: there are {TARGETS}")]
    Target(u8),
}

/// The host's hold on the bus. Clones hold the same one.
#[derive(Clone)]
pub struct ScsiHandle(Arc<Shared>);

impl ScsiHandle {
    /// Puts `unit` at address `target`; a running guest is told, and finds it.
    ///
    /// # Errors
    /// [`ScsiError`]; nothing changes then.
    pub fn insert(&self, target: u8, unit: ScsiUnit) -> Result<(), ScsiError> {
        if target >= TARGETS {
            return Err(ScsiError::Target(target));
        }
        let mut targets = lock(&self.0.targets);
        if targets.contains_key(&target) {
            return Err(ScsiError::Taken(target));
        }
        let new = Target { unit: Mutex::new(unit), tasks: Mutex::default(), next_task: AtomicU64::new(0) };
        targets.insert(target, Arc::new(new));
        drop(targets);
        self.0.tell(Event::inserted(target));
        Ok(())
    }

    /// Takes away what is at `target`; false if there is nothing. Commands under way go on; the guest is told.
    pub fn remove(&self, target: u8) -> bool {
        let gone = lock(&self.0.targets).remove(&target);
        if gone.is_some() {
            self.0.tell(Event::removed(target));
        }
        gone.is_some()
    }

    /// The disk at `target` has another size now; a running guest is told.
    pub fn resized(&self, target: u8) {
        if let Some(t) = self.0.target(target) {
            t.unit().resized();
            self.0.tell(Event::resized(target));
        }
    }

    /// The first of `range` where nothing is.
    pub fn free(&self, range: std::ops::Range<u8>) -> Option<u8> {
        let targets = lock(&self.0.targets);
        range.into_iter().find(|t| *t < TARGETS && !targets.contains_key(t))
    }
}

impl std::fmt::Debug for ScsiHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(lock(&self.0.targets).keys()).finish()
    }
}

/// The bytes of `buffer` from `offset`; zeroes where it ends.
fn field<const N: usize>(buffer: &Buffer, offset: usize) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    buffer.get(offset, &mut bytes).ok().map(|()| bytes)
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
