//! Translations by the place of their bytes: how they are found, linked to each other, and dropped when the bytes change.
//!
//! Code is keyed by guest-physical place, so that a page mapped at several addresses is translated once. User code runs wherever
//! it is mapped; the kernel's is made for one address, at which it then need not ask where it is.
//!
//! *Invalidation* puts a jump over the first bytes of a translation: whatever still leads there, be it a link or a table of branch
//! targets, then leads to the engine, or to a newer translation of the same place. Nothing has to be searched.

use rustc_hash::{FxHashMap, FxHashSet};
use visor_memory::Frame;

use super::build::{Built, Site, Way};
use super::cache::{At, CodeCache};
use super::context::Context;
use crate::op::Op;

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
    pub(crate) invalidated: u64,
    pub(crate) links: u64,
    pub(crate) unlinked: u64,
    pub(crate) flushes: u64,
    pub(crate) evicted: u64,
}

/// See the module's documentation.
pub(super) struct Map {
    pub(super) cache: CodeCache,
    by_key: FxHashMap<Key, u32>,
    by_frame: FxHashMap<u32, Vec<u32>>,
    blocks: Vec<Block>,
    pub(super) sites: Vec<SiteState>,
    pub(super) ways: Vec<Way>,
    /// Places whose first instruction goes on in the next page.
    never: FxHashSet<Key>,
    /// Entries of dropped translations, by what they were of.
    diverted: FxHashMap<Key, Vec<At>>,
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
            never: FxHashSet::default(),
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
        self.jumps[jump_index(lin)] = Jump { lin, generation, context: key.context, block: id };
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
            for at in old {
                self.cache.divert(*at, block.entry);
            }
        }
        self.stats.translated += 1;
        self.stats.instructions += u64::from(built.instructions);
        true
    }

    /// Lets way `id` lead to `to`, which is its target's translation.
    pub(super) fn link(&mut self, id: u32, to: At) {
        let way = self.ways[id as usize];
        let Some(jump) = way.jump else { return };
        self.cache.redirect(jump, to);
        if !way.near {
            self.far.push((jump, way.cold));
        }
        self.stats.links += 1;
    }

    /// Breaks all links between pages of the kernel: other code may be there now.
    pub(super) fn unlink_far(&mut self) {
        self.stats.unlinked += self.far.len() as u64;
        for (jump, cold) in self.far.drain(..) {
            self.cache.redirect(jump, cold);
        }
    }

    /// Drops what was made of `frame`.
    pub(super) fn invalidate(&mut self, frame: Frame) {
        let Some(ids) = self.by_frame.remove(&frame.0) else { return };
        for id in ids {
            let block = &mut self.blocks[id as usize];
            block.dead = true;
            let block = *block;
            self.by_key.remove(&block.key);
            self.cache.divert(block.entry, block.leave);
            self.diverted.entry(block.key).or_default().push(block.entry);
            self.stats.invalidated += 1;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.stats.evicted += self.by_key.len() as u64;
        self.cache.start_over();
        self.by_key.clear();
        self.by_frame.clear();
        self.blocks.clear();
        self.sites.clear();
        self.ways.clear();
        self.never.clear();
        self.diverted.clear();
        self.far.clear();
        self.jumps.fill(NO_JUMP);
        self.stats.flushes += 1;
    }
}

#[inline]
fn jump_index(lin: u64) -> usize {
    (lin ^ lin >> 12) as usize & (JUMPS - 1)
}
