//! Locks on ranges of the disk, so that requests of several queues run side by side and only those wait that touch the same
//! clusters in conflicting ways.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The ranges in use.
#[derive(Default)]
pub(crate) struct Ranges {
    held: Mutex<Vec<Held>>,
    freed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    first: u64,
    last: u64,
    exclusive: bool,
    id: u64,
}

/// A range that is held until this is dropped.
pub(crate) struct Guard<'a> {
    ranges: &'a Ranges,
    id: u64,
}

impl Ranges {
    /// Waits until nobody holds a cluster from `first` to `last` in a conflicting way, then holds them.
    pub(crate) fn lock(&self, first: u64, last: u64, exclusive: bool) -> Guard<'_> {
        let mut held = self.held();
        while conflict(&held, first, last, exclusive) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        self.hold(held, first, last, exclusive)
    }

    /// As [`Ranges::lock`] if nobody has to be waited for.
    pub(crate) fn try_lock(&self, first: u64, last: u64, exclusive: bool) -> Option<Guard<'_>> {
        let held = self.held.try_lock().ok()?;
        if conflict(&held, first, last, exclusive) { None } else { Some(self.hold(held, first, last, exclusive)) }
    }

    fn hold(&self, mut held: MutexGuard<'_, Vec<Held>>, first: u64, last: u64, exclusive: bool) -> Guard<'_> {
        // Few are held at a time, so that the smallest free number is quickly found.
        let id = (0..).find(|id| held.iter().all(|h| h.id != *id)).unwrap_or(u64::MAX);
        held.push(Held { first, last, exclusive, id });
        Guard { ranges: self, id }
    }

    /// Holds the whole disk: no request is under way.
    pub(crate) fn lock_all(&self) -> Guard<'_> {
        self.lock(0, u64::MAX, true)
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn conflict(held: &[Held], first: u64, last: u64, exclusive: bool) -> bool {
    held.iter().any(|h| h.first <= last && first <= h.last && (h.exclusive || exclusive))
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut held = self.ranges.held();
        held.retain(|h| h.id != self.id);
        self.ranges.freed.notify_all();
    }
}
