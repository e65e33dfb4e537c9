//! Dropping translations whose bytes have changed.
//!
//! A jump is put over the first bytes of a translation: whatever still leads there, be it a link or a table of branch targets, then
//! leads to the engine, or to a newer translation of the same place. Nothing has to be searched.

use visor_memory::Frame;

use super::{Block, Map, NO_JUMP, Never};
use crate::changed::Writer;
use crate::translate::cache::At;

/// The first dropped translation of a place.
#[derive(Clone, Copy)]
pub(super) struct Diverted {
    pub(super) entry: At,
    /// Code that leaves to it.
    leave: At,
}

impl Map {
    /// Drops what was made of any frame, since `writer` wrote.
    pub(in crate::translate) fn invalidate_all(&mut self, writer: Writer) {
        for frame in self.by_frame.keys().copied().collect::<Vec<_>>() {
            self.invalidate(Frame(frame), writer);
        }
        self.never = Never::default();
    }

    /// Drops what was made of `frame`, since `writer` wrote there.
    pub(in crate::translate) fn invalidate(&mut self, frame: Frame, writer: Writer) {
        self.never.forget(frame);
        let Some(ids) = self.by_frame.remove(&frame.0) else { return };
        for id in ids {
            let block = &mut self.blocks[id as usize];
            block.dead = true;
            let block = *block;
            self.by_key.remove(&block.key);
            self.divert(&block);
            match writer {
                Writer::Own => self.stats.invalidated.own_store += 1,
                Writer::OtherCpu => self.stats.invalidated.other_cpu += 1,
                Writer::Device => self.stats.invalidated.device += 1,
            }
        }
    }

    /// Lets the dropped `block` lead to whoever comes after it. The first one of its place leads there itself, all others to that
    /// one: however often code changes, one jump has to be moved.
    fn divert(&mut self, block: &Block) {
        use std::collections::hash_map::Entry;
        self.stats.diverted += 1;
        match self.diverted.entry(block.key) {
            Entry::Vacant(v) => {
                v.insert(Diverted { entry: block.entry, leave: block.leave });
                self.cache.divert(block.entry, block.leave);
            }
            Entry::Occupied(o) => {
                let first = *o.get();
                self.cache.divert(first.entry, first.leave);
                self.cache.divert(block.entry, first.entry);
            }
        }
    }

    /// Drops everything.
    pub(in crate::translate) fn clear(&mut self) {
        self.stats.invalidated.eviction += self.by_key.len() as u64;
        self.cache.start_over();
        self.by_key.clear();
        self.by_frame.clear();
        self.blocks.clear();
        self.sites.clear();
        self.ways.clear();
        self.never = Never::default();
        self.diverted.clear();
        self.far.clear();
        self.jumps.fill(NO_JUMP);
        self.stats.flushes += 1;
    }
}
