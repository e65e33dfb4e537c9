//! One pending moment for each of many flows.
//!
//! A flow's moment may move without touching the heap: an entry that comes up early is put back by whoever looks at it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::Time;
use crate::table::Id;

/// Moments with the flows they belong to.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Time, Id)>>,
}

impl Timers {
    /// Has `id` come up at `at`.
    pub(crate) fn add(&mut self, at: Time, id: Id) {
        self.heap.push(Reverse((at, id)));
    }

    /// The next flow whose moment has come.
    pub(crate) fn due(&mut self, now: Time) -> Option<Id> {
        let Reverse((at, id)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some(id)
    }

    /// When [`Timers::due`] has something next.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops the entries of flows that are gone, once they outnumber the living.
    pub(crate) fn tidy(&mut self, alive: impl Fn(Id) -> bool, living: usize) {
        if self.heap.len() > 64 + 4 * living {
            self.heap.retain(|Reverse((_, id))| alive(*id));
            self.heap.shrink_to(64);
        }
    }
}
