//! Who has current data, decided when a volume is opened.

use std::collections::BTreeSet;
use std::sync::{Mutex, RwLock};

use visor_block::{BlockGeometry, SECTOR};

use super::*;
use crate::record;

/// How to open a volume.
pub(crate) struct OpenVolume {
    pub(crate) read_only: bool,
    /// The newest generation that this host has seen.
    pub(crate) known: u64,
    pub(crate) tell: Tell,
    pub(crate) remember: Remember,
    pub(crate) watch: Box<dyn Fn() + Send + Sync>,
}

/// What a member says.
struct Said {
    replica: Replica,
    generation: u64,
    record: VolumeRecord,
}

impl Volume {
    /// Opens the volume whose parts are `replicas`, as many as could be reached.
    ///
    /// # Errors
    /// [`PoolErrorKind::Missing`] without a current copy of everything, [`PoolErrorKind::Split`] where members went separate
    /// ways, [`PoolErrorKind::Corrupt`] for records that cannot be.
    pub(crate) fn open(name: &str, replicas: Vec<Replica>, options: OpenVolume) -> Result<Self> {
        let said = listen(replicas)?;
        let newest = said.iter().max_by_key(|s| s.generation);
        let newest = newest.ok_or_else(|| missing(name, &["all of them".into()]))?;
        let (generation, truth) = (newest.generation, newest.record.clone());
        if generation < options.known {
            let what = format!(
                "the volume {name} was written (generation {}) since the members that are there were up to date ({generation}); \
                 bring the others back",
                options.known
            );
            return Err(PoolError::new(PoolErrorKind::Missing, what));
        }
        agree(name, &said, generation, &truth)?;
        let (groups, state) = seat(&truth, generation, said);
        let lost = state.iter().position(|g| !g.contains(&Standing::Current));
        if let Some(g) = lost {
            return Err(missing(name, &truth.layout.groups[g]));
        }
        let geometry =
            BlockGeometry { sectors: truth.layout.size / SECTOR, physical_block: 4096, read_only: options.read_only };
        let (was_open, layout) = (truth.open, truth.layout.clone());
        let core = Core {
            geometry,
            intent: RwLock::new(Intent::new(layout.size)),
            layout,
            groups,
            state: RwLock::new(state),
            record: Mutex::new(Current { generation, record: truth }),
            noting: Mutex::default(),
            locks: (0..LOCKS).map(|_| Mutex::default()).collect(),
            tell: options.tell,
            remember: options.remember,
            watch: options.watch,
        };
        if !options.read_only {
            core.start(was_open)?;
        }
        let core = Arc::new(core);
        let worker = core.clone();
        let workers = Workers::new(THREADS, "pool", move |r| worker.serve(r))
            .map_err(|e| PoolError::host("no threads for a volume", e))?;
        Ok(Volume { core, workers, held: None })
    }
}

impl Volume {
    /// How the volume is, without opening it.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub(crate) fn look(name: &str, replicas: Vec<Replica>) -> Result<Health> {
        let places: Vec<(String, String)> = replicas.iter().map(|r| (r.member.clone(), r.place.clone())).collect();
        let said = listen(replicas)?;
        let newest = said.iter().max_by_key(|s| s.generation);
        let newest = newest.ok_or_else(|| missing(name, &["all of them".into()]))?;
        let (generation, truth) = (newest.generation, newest.record.clone());
        agree(name, &said, generation, &truth)?;
        let (groups, state) = seat(&truth, generation, said);
        let mut health = Health { generation, current: Vec::new(), stale: Vec::new() };
        for (seat, sync) in groups.iter().flatten().zip(state.iter().flatten()) {
            let place = places.iter().find(|(id, _)| *id == seat.member).map_or(&seat.member, |(_, place)| place);
            let list = if *sync == Standing::Current { &mut health.current } else { &mut health.stale };
            list.push(place.clone());
        }
        Ok(health)
    }
}

/// What the members say, those that say anything.
fn listen(replicas: Vec<Replica>) -> Result<Vec<Said>> {
    let mut said = Vec::new();
    for replica in replicas {
        match record::load(&*replica.part, 0) {
            Ok(Some(found)) => match serde_json::from_slice::<VolumeRecord>(&found.payload) {
                Ok(record) => {
                    record.layout.check()?;
                    said.push(Said { replica, generation: found.generation, record });
                }
                Err(e) => tracing::warn!("{}: its record: {e}", replica.place),
            },
            Ok(None) => tracing::warn!("{}: there is no record", replica.place),
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                return Err(PoolError::host(format!("cannot use {}", replica.place), e));
            }
            Err(e) => tracing::warn!("{}: {e}", replica.place),
        }
    }
    Ok(said)
}

/// Whether what the members say can be one history.
fn agree(name: &str, said: &[Said], generation: u64, truth: &VolumeRecord) -> Result<()> {
    for s in said {
        if s.record.id != truth.id {
            let what = format!("{} has a part of another volume", s.replica.place);
            return Err(PoolError::new(PoolErrorKind::Corrupt, what));
        }
        let same = s.generation == generation && s.record.event != truth.event;
        // Who fell out of date has one of the events that were known to it then, unless it went on by itself. Something older is
        // a copy that was put back.
        let apart = truth.stale.get(&s.replica.member).is_some_and(|fell| {
            s.generation >= fell.generation && s.record.event != truth.event && !fell.events.contains(&s.record.event)
        });
        if same || apart {
            let what = format!(
                "the volume {name} was written in two ways: {} does not know what others have written, nor they what it has",
                s.replica.place
            );
            return Err(PoolError::new(PoolErrorKind::Split, what));
        }
    }
    Ok(())
}

/// Gives everybody a seat.
fn seat(truth: &VolumeRecord, generation: u64, mut said: Vec<Said>) -> (Vec<Vec<Seat>>, Vec<Vec<Standing>>) {
    let (mut groups, mut state) = (Vec::new(), Vec::new());
    for ids in &truth.layout.groups {
        let (mut seats, mut syncs) = (Vec::new(), Vec::new());
        for id in ids {
            let found = said.iter().position(|s| s.replica.member == *id).map(|i| said.swap_remove(i));
            // A generation that not everybody has was never acted upon: who has the one before is current too.
            let fresh = |s: &Said| {
                s.generation == generation || (s.generation + 1 == generation && s.record.event == truth.previous)
            };
            let current = found.as_ref().is_some_and(|s| fresh(s) && !truth.stale.contains_key(id));
            syncs.push(if current { Standing::Current } else { Standing::Stale });
            seats.push(Seat { member: id.clone(), replica: found.map(|s| s.replica) });
        }
        groups.push(seats);
        state.push(syncs);
    }
    (groups, state)
}

impl Core {
    /// Makes the first generation of this use: everybody who is missing is out of date from now on. If the last use ended
    /// in a crash, copies are made equal before.
    fn start(&self, was_open: bool) -> Result<()> {
        if was_open {
            let mut intent = self.intent.write().unwrap_or_else(PoisonError::into_inner);
            for (_, _, r) in self.seats(Standing::Current) {
                intent.add(&*r.part).map_err(|e| PoolError::host(format!("cannot read {}", r.place), e))?;
            }
            drop(intent);
            self.advance(|r| r.open = true)?;
            self.resync()?;
        } else {
            // Bits of an older use say nothing.
            self.write_intent()?;
            self.advance(|r| r.open = true)?;
        }
        Ok(())
    }

    /// Members that have no current data.
    pub(super) fn stale_now(&self) -> BTreeSet<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let all = self.groups.iter().zip(state.iter()).flat_map(|(seats, syncs)| seats.iter().zip(syncs));
        all.filter(|(_, sync)| **sync != Standing::Current).map(|(seat, _)| seat.member.clone()).collect()
    }

    /// Makes copies equal where they may differ: any of them is right, since nobody was told that the write is done.
    fn resync(&self) -> Result<()> {
        let regions = self.intent.read().unwrap_or_else(PoisonError::into_inner).regions(self.layout.size);
        let mut bytes = 0;
        for (start, len) in regions {
            let mut at = start;
            while at < start + len {
                let piece = self.layout.piece(at);
                bytes += self.equalize(&piece)?;
                at += piece.len;
            }
        }
        for (_, _, r) in self.seats(Standing::Current) {
            r.part.flush().map_err(|e| PoolError::host(format!("cannot write {}", r.place), e))?;
        }
        self.intent.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.write_intent()?;
        if bytes > 0 {
            (self.tell)(Event::Resynced { volume: lock(&self.record).record.name.clone(), bytes });
        }
        Ok(())
    }

    /// Copies a piece from the first current member of its group to the others. Returns the bytes that were looked at.
    fn equalize(&self, piece: &crate::layout::Piece) -> Result<u64> {
        let current: Vec<_> = self
            .seats(Standing::Current)
            .into_iter()
            .filter(|(g, _, _)| *g == piece.group)
            .map(|(_, _, r)| r)
            .collect();
        let Some((first, others)) = current.split_first().filter(|(_, o)| !o.is_empty()) else { return Ok(0) };
        let fail = |r: &Replica| {
            let place = r.place.clone();
            move |e| PoolError::host(format!("cannot make copies equal on {place}"), e)
        };
        let (mut good, mut other) = (vec![0; piece.len as usize], vec![0; piece.len as usize]);
        first.part.read_at(&mut good, DATA_AT + piece.at).map_err(fail(first))?;
        for r in others {
            r.part.read_at(&mut other, DATA_AT + piece.at).map_err(fail(r))?;
            if other != good {
                r.part.write_at(&good, DATA_AT + piece.at).map_err(fail(r))?;
            }
        }
        Ok(piece.len)
    }

    pub(super) fn write_intent(&self) -> Result<()> {
        let intent = self.intent.read().unwrap_or_else(PoisonError::into_inner);
        for (_, _, r) in self.seats(Standing::Current) {
            let written = intent.write(&*r.part).and_then(|()| r.part.flush());
            written.map_err(|e| PoolError::host(format!("cannot write {}", r.place), e))?;
        }
        Ok(())
    }
}
