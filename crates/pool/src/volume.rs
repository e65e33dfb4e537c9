//! A volume as a disk.

mod change;
mod io;
mod open;
mod rebuild;

pub(crate) use open::OpenVolume;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use visor_block::{BlockBackend, BlockGeometry, BlockRequest};
use visor_disk::Workers;
use visor_qcow2::Storage;

use crate::intent::{self, Intent};
use crate::layout::Layout;
use crate::registry::Held;
use crate::{PoolError, PoolErrorKind, Result};

/// Where the data starts in a part.
pub(crate) const DATA_AT: u64 = 1 << 20;
const _: () = assert!(DATA_AT >= intent::AT + intent::LEN);
/// Locks of chunks: two writes to one chunk must reach all copies in the same order.
const LOCKS: usize = 64;
/// Threads of a volume.
const THREADS: usize = 8;

/// What every part says of its volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) layout: Layout,
    /// Unlike that of any other change, so that two changes made apart do not look the same.
    pub(crate) event: String,
    /// That of the generation before.
    pub(crate) previous: String,
    /// Members whose parts are out of date, and since when.
    pub(crate) stale: BTreeMap<String, Fell>,
    /// Open for writing: if it is found like that, copies may differ where that is noted.
    pub(crate) open: bool,
}

/// When a member fell out of date.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fell {
    /// The generation then. It may have missed that one already.
    pub(crate) generation: u64,
    /// Events that it may have as its last one. With another one it went on by itself.
    pub(crate) events: Vec<String>,
}

/// What a part is of.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) member: String,
    /// For messages.
    pub(crate) place: String,
    pub(crate) part: Arc<dyn Storage>,
}

/// What happens to a volume while it is used, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member failed and is not used any more.
    Degraded {
        /// The volume.
        volume: String,
        /// Where the member is.
        member: String,
        /// Why.
        why: String,
    },
    /// Copies were made equal after a crash.
    Resynced {
        /// The volume.
        volume: String,
        /// Bytes compared by copying.
        bytes: u64,
    },
    /// A member is filling up.
    Filling {
        /// Where the member is.
        member: String,
        /// Parts of a hundred in use.
        percent: u8,
    },
}

/// How a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its generation.
    pub generation: u64,
    /// Places of members that have current data.
    pub current: Vec<String>,
    /// Members without: missing, failed, or out of date.
    pub stale: Vec<String>,
}

/// Tells people.
pub(crate) type Tell = Arc<dyn Fn(Event) + Send + Sync>;
/// Remembers a generation before it counts.
pub(crate) type Remember = Arc<dyn Fn(u64) -> Result<()> + Send + Sync>;

/// A volume in use.
pub struct Volume {
    core: Arc<Core>,
    workers: Workers,
    /// Keeps others away as long as it is open.
    held: Option<Held>,
}

/// How a member of a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has all data.
    Current,
    /// It gets what is written, and the rest is being copied.
    Rebuilding,
    /// It is not used.
    Stale,
}

pub(crate) struct Core {
    pub(crate) geometry: BlockGeometry,
    pub(crate) layout: Layout,
    /// Members of each group; without a part where one is missing.
    pub(crate) groups: Vec<Vec<Seat>>,
    pub(crate) state: RwLock<Vec<Vec<Standing>>>,
    /// Held while a new generation is made.
    pub(crate) record: Mutex<Current>,
    pub(crate) intent: RwLock<Intent>,
    /// Held while a region is noted.
    pub(crate) noting: Mutex<()>,
    pub(crate) locks: Vec<Mutex<()>>,
    pub(crate) tell: Tell,
    pub(crate) remember: Remember,
    /// Looks from time to time how full members are.
    pub(crate) watch: Box<dyn Fn() + Send + Sync>,
}

/// The place of a member in a group.
pub(crate) struct Seat {
    pub(crate) member: String,
    pub(crate) replica: Option<Replica>,
}

/// The record as it is on current members.
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) record: VolumeRecord,
}

impl Volume {
    /// How it is.
    pub fn health(&self) -> Health {
        self.core.health()
    }

    /// The same, keeping `held` until it is closed.
    pub(crate) fn holding(mut self, held: Held) -> Self {
        self.held = Some(held);
        self
    }

    /// Its layout.
    pub fn layout(&self) -> &Layout {
        &self.core.layout
    }

    /// Copies all data to members that are there and out of date, while the volume is used. `progress` is told bytes done and
    /// bytes in all, and stops it with `false`. Returns how many members are current again.
    ///
    /// # Errors
    /// [`PoolErrorKind::Cancelled`], or why a copy failed. Who was current stays it.
    pub fn rebuild(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Result<usize> {
        self.core.rebuild(progress)
    }
}

impl BlockBackend for Volume {
    fn geometry(&self) -> BlockGeometry {
        self.core.geometry
    }

    fn submit(&self, request: BlockRequest) {
        self.workers.submit(request);
    }

    fn drain(&self) {
        self.workers.drain();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.workers.drain();
        if !self.core.geometry.read_only
            && let Err(e) = self.core.close()
        {
            tracing::error!("the volume {} was not closed: {e}", lock(&self.core.record).record.name);
        }
    }
}

impl Core {
    pub(crate) fn health(&self) -> Health {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let (mut current, mut stale) = (Vec::new(), Vec::new());
        for (seats, syncs) in self.groups.iter().zip(state.iter()) {
            for (seat, sync) in seats.iter().zip(syncs) {
                let place = seat.replica.as_ref().map_or(&seat.member, |r| &r.place).clone();
                if *sync == Standing::Current { current.push(place) } else { stale.push(place) }
            }
        }
        Health { generation: lock(&self.record).generation, current, stale }
    }

    /// Members in this state, with their places in the groups.
    pub(crate) fn seats(&self, wanted: Standing) -> Vec<(usize, usize, &Replica)> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::new();
        for (g, seats) in self.groups.iter().enumerate() {
            for (m, seat) in seats.iter().enumerate() {
                if let (Some(r), true) = (&seat.replica, state[g][m] == wanted) {
                    list.push((g, m, r));
                }
            }
        }
        list
    }

    /// How the members of a group are now.
    pub(crate) fn syncs(&self, group: usize) -> Vec<Standing> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)[group].clone()
    }

    pub(crate) fn set(&self, group: usize, member: usize, sync: Standing) {
        self.state.write().unwrap_or_else(PoisonError::into_inner)[group][member] = sync;
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A volume of which some part has no current copy left.
pub(crate) fn missing(name: &str, places: &[String]) -> PoolError {
    let what = format!("the volume {name} needs a member that is missing or out of date: {}", places.join(", "));
    PoolError::new(PoolErrorKind::Missing, what)
}
