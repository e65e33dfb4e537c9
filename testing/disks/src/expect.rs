//! What may be in each sector after a cut.

use std::collections::BTreeMap;

use visor_block::SECTOR;

use crate::guest::{Action, Asked, sector};
use crate::medium::Op;

/// The guest's requests, and when each was sent and answered.
pub struct Expect {
    asked: Vec<Asked>,
    sent: Vec<Option<usize>>,
    answered: Vec<Option<usize>>,
    /// Requests that concern a sector, in the order in which they were sent.
    of: BTreeMap<u64, Vec<usize>>,
    noise: bool,
}

impl Expect {
    pub(crate) fn new(asked: Vec<Asked>) -> Self {
        let (mut of, n) = (BTreeMap::<u64, Vec<usize>>::new(), asked.len());
        for (i, (_, at, len)) in asked.iter().enumerate() {
            (*at..at + len).for_each(|s| of.entry(s).or_default().push(i));
        }
        Expect { asked, sent: vec![None; n], answered: vec![None; n], of, noise: false }
    }

    /// What holds nothing may read as anything, as in an encrypted disk.
    #[must_use]
    pub fn with_noise(self, noise: bool) -> Self {
        Expect { noise, ..self }
    }

    /// Takes in when that was.
    #[must_use]
    pub fn with(mut self, log: &[Op]) -> Self {
        for (place, op) in log.iter().enumerate() {
            match op {
                Op::Sent(n) => self.sent[*n] = Some(place),
                Op::Answered(n) => self.answered[*n] = Some(place),
                _ => {}
            }
        }
        self
    }

    /// The disk after a cut at `place`; panics with `what` if a sector holds what cannot be there.
    #[track_caller]
    pub fn judge(&self, disk: &[u8], place: usize, what: &str) {
        // The latest request for durability that the guest knows to have succeeded.
        let durable = |(n, a): (usize, &Asked)| match a.0 {
            Action::Flush | Action::Snapshot(_) | Action::Grow(_) if self.was_answered(n, place) => self.sent[n],
            _ => None,
        };
        let floor = self.asked.iter().enumerate().filter_map(durable).max().unwrap_or(0);
        self.compare(disk, floor, place, what);
        let grown = |(n, a): (usize, &Asked)| match a.0 {
            Action::Grow(sectors) if self.was_answered(n, place) => Some(sectors),
            _ => None,
        };
        let size = self.asked.iter().enumerate().filter_map(grown).max().unwrap_or(0);
        assert!(disk.len() as u64 >= size * SECTOR, "{what}: the disk has lost its size");
    }

    /// The snapshots that must be there after a cut at `place`.
    pub fn snapshots(&self, place: usize) -> Vec<String> {
        let all = self.asked.iter().enumerate();
        let all = all.filter(|(n, _)| self.was_answered(*n, place)).filter_map(|(_, a)| match &a.0 {
            Action::Snapshot(name) => Some(name.clone()),
            _ => None,
        });
        all.collect()
    }

    /// The disk as the snapshot of this name shows it.
    #[track_caller]
    pub fn judge_snapshot(&self, disk: &[u8], name: &str, place: usize, what: &str) {
        let it = |a: &Asked| matches!(&a.0, Action::Snapshot(n) if n == name);
        let n = self.asked.iter().position(it).unwrap_or_else(|| panic!("{what}: nobody asked for {name}"));
        let end = self.answered[n].filter(|a| *a < place).unwrap_or(place);
        self.compare(disk, self.sent[n].unwrap(), end, &format!("{what}: {name}"));
    }

    fn was_answered(&self, n: usize, place: usize) -> bool {
        self.answered[n].is_some_and(|a| a < place)
    }

    /// Whether the guest may rely on a request after a cut at `end`, the last flush that it saw succeed having been sent at `floor`.
    fn is_durable(&self, n: usize, floor: usize, end: usize) -> bool {
        self.was_answered(n, if self.asked[n].0 == Action::Through { end } else { floor })
    }

    /// Every sector is from a request sent before `end`, and none that was overtaken by one answered before `floor`.
    fn compare(&self, disk: &[u8], floor: usize, end: usize, what: &str) {
        for (s, bytes) in disk.chunks(SECTOR as usize).enumerate() {
            let s = s as u64;
            let history = self.of.get(&s).map_or(&[][..], Vec::as_slice);
            let mut fits = false;
            for n in history.iter().rev().copied().filter(|n| self.sent[*n].is_some_and(|at| at < end)) {
                fits = match self.asked[n].0 {
                    Action::Write | Action::Through => bytes == sector(n, s),
                    Action::Discard if self.noise => true,
                    _ => bytes.iter().all(|b| *b == 0),
                };
                // What was discarded may also be what it was before.
                if fits || (self.is_durable(n, floor, end) && self.asked[n].0 != Action::Discard) {
                    break;
                }
            }
            let first =
                || history.iter().all(|n| self.asked[*n].0 == Action::Discard || !self.is_durable(*n, floor, end));
            let empty = || (self.noise || bytes.iter().all(|b| *b == 0)) && first();
            assert!(fits || empty(), "{what}: sector {s} holds {:x?}; {:?}", &bytes[..16], self.told(history));
        }
    }

    fn told(&self, history: &[usize]) -> Vec<(usize, &Action, Option<usize>, Option<usize>)> {
        history.iter().map(|n| (*n + 1, &self.asked[*n].0, self.sent[*n], self.answered[*n])).collect()
    }
}
