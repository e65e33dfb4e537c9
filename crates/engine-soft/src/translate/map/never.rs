//! Places that are not to be translated.

use rustc_hash::{FxHashMap, FxHashSet};
use visor_memory::Frame;

use super::Key;

/// Most places that are remembered.
pub(super) const NEVERS: usize = 1 << 16;

/// Places that cannot be translated as their bytes are: the first instruction is none, or goes on in the next page.
#[derive(Default)]
pub(super) struct Never {
    pub(super) by_frame: FxHashMap<u32, FxHashSet<Key>>,
    pub(super) count: usize,
}

impl Never {
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.by_frame.get(&key.frame().0).is_some_and(|keys| keys.contains(key))
    }

    /// Starts over when there are too many: they are found out again.
    pub(super) fn insert(&mut self, key: Key) {
        if self.count >= NEVERS {
            *self = Never::default();
        }
        self.count += usize::from(self.by_frame.entry(key.frame().0).or_default().insert(key));
    }

    pub(super) fn forget(&mut self, frame: Frame) {
        self.count -= self.by_frame.remove(&frame.0).map_or(0, |keys| keys.len());
    }
}
