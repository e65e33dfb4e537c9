//! Translations by the place of their bytes: how they are found, linked to each other, and dropped when the bytes change.
//!
//! Code is keyed by guest-physical place, so that a page mapped at several addresses is translated once. User code runs wherever
//! it is mapped; the kernel's is made for one address, at which it then need not ask where it is.
//!
//! - `link`: translations lead to each other;
//! - `invalidate`: and are dropped when their bytes change;
//! - `never`: what is not worth another try.

mod invalidate;
mod link;
mod never;

use rustc_hash::FxHashMap;
use visor_engine::InvalidationStats;
use visor_memory::Frame;

use super::build::{Built, Site, Way};
use super::cache::{At, CodeCache};
use super::context::Context;
use crate::op::Op;
use invalidate::Diverted;
use never::Never;

/// Entries of the table from linear addresses to translations.
const JUMPS: usize = 4096;
/// Counters of how often code was met, a power of two.
const HEATS: usize = 1 << 16;

/// What a translation is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Frame and offset of the first byte.
    pub(super) at: u64,
    pub(super) context: Context,
    /// Linear address of the page, where the code is made for it.
    pub(super) page: Option<u64>,
    /// Every access checks for itself.
    pub(super) apart: bool,
}

impl Key {
    pub(super) fn frame(&self) -> Frame {
        Frame((self.at >> 12) as u32)
    }
}

/// A translation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    key: Key,
    /// Entry for those who have the target in R14 and nothing else.
    pub(super) start: At,
    /// Entry for those who have set the page.
    pub(super) entry: At,
    /// Code that leaves to the start of this translation.
    leave: At,
    dead: bool,
}

/// A site and what the interpreter executes there, once it had to.
#[derive(Debug)]
pub(super) struct SiteState {
    pub(super) site: Site,
    pub(super) op: Option<Box<Lowered>>,
}

/// An instruction ready for the interpreter.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) op: Op,
    /// Code behind it may run in another mode.
    pub(super) ends: bool,
}

#[derive(Clone, Copy)]
struct Jump {
    lin: u64,
    generation: u64,
    context: Context,
    block: u32,
}

const NO_JUMP: Jump = Jump { lin: 0, generation: u64::MAX, context: Context::NONE, block: 0 };

/// Counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MapStats {
    pub(crate) translated: u64,
    pub(crate) instructions: u64,
    pub(crate) invalidated: InvalidationStats,
    pub(crate) links: u64,
    pub(crate) unlinked: u64,
    pub(crate) flushes: u64,
    /// Jumps put over the entries of dropped translations.
    pub(crate) diverted: u64,
}

/// See the module's documentation.
pub(super) struct Map {
    pub(super) cache: CodeCache,
    by_key: FxHashMap<Key, u32>,
    by_frame: FxHashMap<u32, Vec<u32>>,
    blocks: Vec<Block>,
    pub(super) sites: Vec<SiteState>,
    pub(super) ways: Vec<Way>,
    never: Never,
    /// Dropped translations, by what they were of.
    diverted: FxHashMap<Key, Diverted>,
    /// Linked jumps to other pages: the jump and where it went before.
    far: Vec<(At, At)>,
    jumps: Vec<Jump>,
    heat: Vec<u8>,
    /// How often code is met before it is hot.
    hot: u8,
    pub(super) stats: MapStats,
}

impl Map {
    pub(super) fn new(cache: CodeCache, hot: u8) -> Self {
        Map {
            cache,
            by_key: FxHashMap::default(),
            by_frame: FxHashMap::default(),
            blocks: Vec::new(),
            sites: Vec::new(),
            ways: Vec::new(),
            never: Never::default(),
            diverted: FxHashMap::default(),
            far: Vec::new(),
            jumps: vec![NO_JUMP; JUMPS],
            heat: vec![0; HEATS],
            hot,
            stats: MapStats::default(),
        }
    }

    /// The translation found at `lin` before under the same `generation`.
    #[inline]
    pub(super) fn recall(&self, lin: u64, generation: u64, context: Context) -> Option<&Block> {
        let j = &self.jumps[jump_index(lin)];
        if j.lin != lin || j.generation != generation || j.context != context {
            return None;
        }
        let block = &self.blocks[j.block as usize];
        (!block.dead).then_some(block)
    }

    /// The translation of `key`, which is at `lin` under `generation`.
    pub(super) fn find(&mut self, key: &Key, lin: u64, generation: u64) -> Option<&Block> {
        let id = *self.by_key.get(key)?;
        if !key.apart {
            self.jumps[jump_index(lin)] = Jump { lin, generation, context: key.context, block: id };
        }
        Some(&self.blocks[id as usize])
    }

    /// Whether the code of `key` has been met often enough to be worth a translation. Counts.
    pub(super) fn is_hot(&mut self, key: &Key) -> bool {
        let i = (key.at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize & (HEATS - 1);
        if self.heat[i] >= self.hot {
            return !self.never.contains(key);
        }
        self.heat[i] += 1;
        false
    }

    /// `key` cannot be translated.
    pub(super) fn give_up(&mut self, key: Key) {
        self.never.insert(key);
    }

    /// Dropped translations through which others are reached, and places that cannot be translated.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.diverted.len(), self.never.count)
    }

    /// Keeps a translation; false if the cache is full.
    pub(super) fn insert(&mut self, key: Key, built: Built) -> bool {
        let Some(start) = self.cache.append(&built.code) else { return false };
        let block =
            Block { key, start, entry: At(start.0 + built.entry), leave: At(start.0 + built.leave), dead: false };
        let id = self.blocks.len() as u32;
        self.blocks.push(block);
        self.by_key.insert(key, id);
        self.by_frame.entry(key.frame().0).or_default().push(id);
        self.sites.extend(built.sites.into_iter().map(|site| SiteState { site, op: None }));
        self.ways.extend(built.ways);
        if let Some(old) = self.diverted.get(&key) {
            self.cache.divert(old.entry, block.entry);
            self.stats.diverted += 1;
        }
        self.stats.translated += 1;
        self.stats.instructions += u64::from(built.instructions);
        true
    }
}

#[inline]
fn jump_index(lin: u64) -> usize {
    (lin ^ lin >> 12) as usize & (JUMPS - 1)
}

#[cfg(test)]
mod tests {
    use super::never::NEVERS;
    use super::*;
    use crate::changed::Writer;

    fn map() -> Map {
        Map::new(CodeCache::new(32 << 20).unwrap(), 0)
    }

    fn key(frame: u64, offset: u64) -> Key {
        Key { at: frame << 12 | offset, context: Context::default(), page: None, apart: false }
    }

    fn built() -> Built {
        let code = vec![0x90; 32];
        Built { code, sites: Vec::new(), ways: Vec::new(), entry: 8, leave: 16, instructions: 1 }
    }

    /// Where one ends that enters at `at` and follows jumps.
    fn follow(map: &Map, mut at: At) -> (At, u32) {
        for jumps in 0..100 {
            match map.cache.jump_at(at) {
                Some(to) => at = to,
                None => return (at, jumps),
            }
        }
        panic!("a circle");
    }

    #[test]
    fn a_block_that_changes_for_ever_costs_the_same_each_time() {
        const TIMES: u64 = 100_000;
        let (mut map, place) = (map(), key(5, 0x100));
        let mut entries = Vec::new();
        for _ in 0..TIMES {
            assert!(map.insert(place, built()));
            let entry = map.find(&place, 0x100, 1).unwrap().entry;
            entries.push(entry);
            for old in [entries[0], entries[entries.len() / 2], entry] {
                let (end, jumps) = follow(&map, old);
                assert!(end == entry && jumps <= 2, "from {old:?}");
            }
            map.invalidate(Frame(5), Writer::Own);
            assert!(map.find(&place, 0x100, 1).is_none());
            for old in [entries[0], entries[entries.len() / 2], entry] {
                assert_eq!(follow(&map, old).0, At(entries[0].0 + 8), "to the code that leaves");
            }
        }
        assert_eq!(map.stats.invalidated.own_store, TIMES);
        assert!(map.stats.diverted <= 2 * TIMES, "{} jumps moved", map.stats.diverted);
        assert_eq!(map.kept().0, 1);
        assert!(map.by_frame.is_empty() && map.by_key.is_empty());
    }

    #[test]
    fn what_cannot_be_translated_is_bounded_and_reconsidered() {
        let mut map = map();
        map.give_up(key(5, 0xfff));
        map.give_up(key(6, 0xfff));
        assert!(!map.is_hot(&key(5, 0xfff)) && map.is_hot(&key(5, 0xffe)));
        map.invalidate(Frame(5), Writer::Device);
        assert!(map.is_hot(&key(5, 0xfff)), "its bytes have changed");
        assert!(!map.is_hot(&key(6, 0xfff)));
        map.invalidate_all(Writer::Device);
        assert!(map.is_hot(&key(6, 0xfff)));
        for i in 0..500_000 {
            map.give_up(Key { page: Some(i << 12), ..key(i % 7, 0xfff) });
            assert!(map.kept().1 <= NEVERS);
        }
        let all: usize = map.never.by_frame.values().map(|keys| keys.len()).sum();
        assert_eq!(all, map.kept().1);
    }

    #[test]
    fn causes_are_told_apart() {
        let mut map = map();
        for (i, writer) in [Writer::Own, Writer::OtherCpu, Writer::Device].into_iter().enumerate() {
            for offset in 0..=i as u64 {
                assert!(map.insert(key(9, offset), built()));
            }
            map.invalidate(Frame(9), writer);
        }
        assert!(map.insert(key(9, 0), built()));
        map.clear();
        let expected =
            InvalidationStats { own_store: 1, other_cpu: 2, device: 3, eviction: 1, ..InvalidationStats::default() };
        assert_eq!(map.stats.invalidated, expected);
    }
}
