//! Locks on ranges of the disk, so that requests of several queues run side by side and only those wait that touch the same
//! clusters in conflicting ways.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The ranges in use.
#[derive(Default)]
pub(crate) struct Ranges {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    held: Vec<Held>,
    /// Requests that wait for others. Waking costs a call of the kernel even where nobody waits.
    waiting: usize,
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
        let mut state = self.state();
        while conflict(&state.held, first, last, exclusive) {
            state.waiting += 1;
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        self.hold(state, first, last, exclusive)
    }

    /// As [`Ranges::lock`] if nobody has to be waited for.
    pub(crate) fn try_lock(&self, first: u64, last: u64, exclusive: bool) -> Option<Guard<'_>> {
        let state = self.state.try_lock().ok()?;
        if conflict(&state.held, first, last, exclusive) {
            None
        } else {
            Some(self.hold(state, first, last, exclusive))
        }
    }

    fn hold(&self, mut state: MutexGuard<'_, State>, first: u64, last: u64, exclusive: bool) -> Guard<'_> {
        let held = &mut state.held;
        // Few are held at a time, so that the smallest free number is quickly found.
        let id = (0..).find(|id| held.iter().all(|h| h.id != *id)).unwrap_or(u64::MAX);
        held.push(Held { first, last, exclusive, id });
        Guard { ranges: self, id }
    }

    /// Holds the whole disk: no request is under way.
    pub(crate) fn lock_all(&self) -> Guard<'_> {
        self.lock(0, u64::MAX, true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn conflict(held: &[Held], first: u64, last: u64, exclusive: bool) -> bool {
    held.iter().any(|h| h.first <= last && first <= h.last && (h.exclusive || exclusive))
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let mut state = self.ranges.state();
        state.held.retain(|h| h.id != self.id);
        let waiting = state.waiting > 0;
        drop(state);
        if waiting {
            self.ranges.freed.notify_all();
        }
    }
}
