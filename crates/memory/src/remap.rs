//! What may lie at an address beside plain RAM, and may change while the guest runs: ROM, flash, shadowed RAM, video memory.
//!
//! The mapping has *extra* memory behind the RAM, which no DMA reaches. A [`Mapping`] shows a piece of it, or of RAM, at
//! guest-physical addresses where there is no RAM - or within the one range that is *shadowed*, where mappings alone say what there
//! is. Stores to a page that is not writable go to the memory bus, as do all accesses to pages that are not mapped. Engines cache
//! what they find, so each change tells them ([`Remaps::on_change`]).

use std::sync::{PoisonError, RwLock};

use crate::{Gpa, RamRange};

/// A range of guest-physical addresses and what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The addresses, page aligned.
    pub range: RamRange,
    /// Offset of its first byte in the mapping of the whole memory, page aligned.
    pub offset: u64,
    /// Stores go to this memory.
    pub writable: bool,
}

/// Takes away what is shown in `range`, and shows something else if `to` says so: an offset, and whether it is writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remap {
    /// The addresses, page aligned.
    pub range: RamRange,
    /// See [`Mapping`]; `None`: nothing is there.
    pub to: Option<(u64, bool)>,
}

type Listener = Box<dyn Fn() + Send + Sync>;

/// The mappings of a machine.
#[derive(Default)]
pub(crate) struct Remaps {
    /// Ascending, without overlaps.
    mappings: RwLock<Vec<Mapping>>,
    listeners: RwLock<Vec<Listener>>,
}

impl Remaps {
    /// Makes changes, then tells the listeners once. True if anything has changed.
    pub(crate) fn apply(&self, changes: &[Remap]) -> bool {
        let changed = {
            let mut mappings = self.mappings.write().unwrap_or_else(PoisonError::into_inner);
            let mut next = mappings.clone();
            for c in changes {
                next = next.iter().flat_map(|m| cut(m, &c.range)).collect();
                next.extend(c.to.map(|(offset, writable)| Mapping { range: c.range, offset, writable }));
            }
            next.sort_by_key(|m| m.range.start);
            let next = joined(next);
            let changed = next != *mappings;
            *mappings = next;
            changed
        };
        if changed {
            self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|l| l());
        }
        changed
    }

    pub(crate) fn on_change(&self, f: Listener) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(f);
    }

    /// Offset of the page at `at`, and whether it is writable.
    pub(crate) fn find(&self, at: u64) -> Option<(u64, bool)> {
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let i = mappings.partition_point(|m| m.range.start.0 <= at).checked_sub(1)?;
        let m = mappings.get(i)?;
        let into = at - m.range.start.0;
        (into < m.range.len).then_some((m.offset + into, m.writable))
    }

    pub(crate) fn all(&self) -> Vec<Mapping> {
        self.mappings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Remaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

/// What remains of `m` outside of `hole`.
pub(crate) fn cut(m: &Mapping, hole: &RamRange) -> impl Iterator<Item = Mapping> + use<> {
    let (start, end) = (m.range.start.0, m.range.start.0 + m.range.len);
    let (from, to) = (hole.start.0, hole.start.0 + hole.len);
    let m = *m;
    let piece = move |s: u64, e: u64| {
        (s < e).then(|| Mapping {
            range: RamRange { start: Gpa(s), len: e - s },
            offset: m.offset + (s - start),
            writable: m.writable,
        })
    };
    [piece(start, end.min(from)), piece(start.max(to), end)].into_iter().flatten()
}

/// The same with neighbours that continue each other made one.
fn joined(mappings: Vec<Mapping>) -> Vec<Mapping> {
    let mut out: Vec<Mapping> = Vec::new();
    for m in mappings {
        match out.last_mut() {
            Some(last)
                if last.range.start.0 + last.range.len == m.range.start.0
                    && last.offset + last.range.len == m.offset
                    && last.writable == m.writable =>
            {
                last.range.len += m.range.len;
            }
            _ => out.push(m),
        }
    }
    out
}
