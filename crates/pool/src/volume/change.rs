//! New generations: who is current changes.

use super::*;
use crate::record;

impl Core {
    /// Makes a new generation with a changed record. It is on all current members and remembered by this host when this returns.
    /// A member that does not take it is out of date from then on, which is a further generation.
    pub(super) fn advance(&self, change: impl Fn(&mut VolumeRecord)) -> Result<()> {
        let mut current = lock(&self.record);
        loop {
            let mut next = current.record.clone();
            change(&mut next);
            let now = self.stale_now();
            next.stale.retain(|m, _| now.contains(m));
            let events = vec![current.record.event.clone(), current.record.previous.clone()];
            let fell = Fell { generation: current.generation, events };
            now.into_iter().for_each(|m| _ = next.stale.entry(m).or_insert_with(|| fell.clone()));
            self.enough(&next.name)?;
            next.previous = std::mem::replace(&mut next.event, crate::unique()?);
            let generation = current.generation + 1;
            let payload = serde_json::to_vec(&next).map_err(|e| PoolError::host("cannot write a record", e.into()))?;
            let mut failed = Vec::new();
            let seats = self.seats(Standing::Current);
            let all = seats.len();
            for (g, m, r) in seats {
                if let Err(e) = record::store(&*r.part, 0, generation, &payload) {
                    tracing::error!("{}: cannot write its record: {e}", r.place);
                    failed.push((g, m, r.place.clone(), e));
                }
            }
            if failed.len() == all {
                let Some((_, _, place, e)) = failed.pop() else { return Err(missing(&next.name, &[])) };
                return Err(PoolError::host(format!("cannot write to {place}"), e));
            }
            current.generation = generation;
            current.record = next;
            if failed.is_empty() {
                return (self.remember)(generation);
            }
            for (g, m, place, e) in failed {
                self.set(g, m, Standing::Stale);
                let volume = current.record.name.clone();
                (self.tell)(Event::Degraded { volume, member: place, why: e.to_string() });
            }
        }
    }

    /// Whether each group has a current member.
    fn enough(&self, name: &str) -> Result<()> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.iter().position(|g| !g.contains(&Standing::Current)) {
            Some(g) => Err(missing(name, &self.layout.groups[g])),
            None => Ok(()),
        }
    }

    /// A member failed while others of its group did what was asked. From now on it is out of date; only when that is
    /// written down, what was asked is done.
    pub(super) fn degrade(&self, group: usize, member: usize, why: &std::io::Error) -> Result<()> {
        let before = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let others = state[group].iter().enumerate().any(|(m, s)| m != member && *s == Standing::Current);
            if state[group][member] == Standing::Current && !others {
                let name = lock_name(self);
                return Err(missing(&name, &self.layout.groups[group]));
            }
            std::mem::replace(&mut state[group][member], Standing::Stale)
        };
        let Some(replica) = &self.groups[group][member].replica else { return Ok(()) };
        if before == Standing::Stale {
            // Somebody else noticed; wait until it is written down.
            drop(lock(&self.record));
            return Ok(());
        }
        let volume = lock_name(self);
        (self.tell)(Event::Degraded { volume, member: replica.place.clone(), why: why.to_string() });
        // Who is being rebuilt is out of date by the record anyway.
        if before == Standing::Current { self.advance(|_| {}) } else { Ok(()) }
    }

    /// The end of a use in good order.
    pub(super) fn close(&self) -> Result<()> {
        for (_, _, r) in self.seats(Standing::Current) {
            r.part.flush().map_err(|e| PoolError::host(format!("cannot write {}", r.place), e))?;
        }
        self.advance(|r| r.open = false)
    }
}

fn lock_name(core: &Core) -> String {
    lock(&core.record).record.name.clone()
}
