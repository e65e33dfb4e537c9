//! Giving up contents: discards and zeroes without data.

use super::*;
use crate::entry::{Plain, Slot};

/// Clusters changed before others get their turn.
const BATCH: u64 = 512;

/// What a range becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its contents do not matter; its space is given back.
    Discard,
    /// Zeroes; its space is given back or kept.
    Zero { unmap: bool },
}

impl Image {
    /// The range is not needed any more; its space is given back as far as it consists of whole (sub)clusters. It reads as
    /// zeroes or as before afterwards.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub fn discard(&self, at: u64, len: u64) -> Result<()> {
        self.must_write()?;
        self.span(at, len)?;
        let sub = self.layout.sub();
        let (start, mut end) = (at.next_multiple_of(sub), (at + len) / sub * sub);
        if at + len == self.size() {
            // Nobody sees what lies behind the end.
            end = at + len;
        }
        if start < end { self.give_up(start, end - start, Fate::Discard) } else { Ok(()) }
    }

    /// The range reads as zeroes afterwards; with `unmap`, its space is given back.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub fn write_zeroes(&self, at: u64, len: u64, unmap: bool) -> Result<()> {
        self.must_write()?;
        self.span(at, len)?;
        if len == 0 {
            return Ok(());
        }
        let (sub, end) = (self.layout.sub(), at + len);
        let inner = at.next_multiple_of(sub);
        let outer = if end == self.size() { end } else { end / sub * sub };
        if inner >= outer {
            return self.write_some_zeroes(at, len);
        }
        self.write_some_zeroes(at, inner - at)?;
        self.write_some_zeroes(outer, end - outer)?;
        self.give_up(inner, outer - inner, Fate::Zero { unmap })
    }

    /// Writes zeroes as data, unless there are some already.
    fn write_some_zeroes(&self, at: u64, len: u64) -> Result<()> {
        let mut at = at;
        let end = at + len;
        while at < end {
            let (zero, n) = Source::is_zero(self, at, end - at)?;
            let n = n.min(1 << 20);
            if !zero {
                self.write(at, &vec![0; n as usize])?;
            }
            at += n;
        }
        Ok(())
    }

    /// A range of whole subclusters (or up to the end of the disk) meets its fate.
    fn give_up(&self, at: u64, len: u64, fate: Fate) -> Result<()> {
        self.touch_bitmaps(at, len);
        let (cluster, end) = (self.layout.cluster(), at + len);
        let mut pos = at;
        while pos < end {
            let stop = end.min((pos / cluster + BATCH) * cluster);
            let _held = self.ranges.lock(pos / cluster, (stop - 1) / cluster, true);
            if self.layout.external {
                // Without an entry of its own nothing else can refer to the place.
                self.data.release(pos, stop - pos).map_err(|e| Error::host("cannot release", pos, e))?;
            }
            self.give_up_held(pos, stop, fate)?;
            pos = stop;
        }
        Ok(())
    }

    fn give_up_held(&self, at: u64, end: u64, fate: Fate) -> Result<()> {
        let cluster = self.layout.cluster();
        let mut by_hand = Vec::new();
        let mut meta = self.meta();
        meta.alive()?;
        let mut pos = at;
        while pos < end {
            let index = pos / cluster;
            let stop = end.min((index + 1) * cluster);
            let mut mask = self.layout.mask(pos % cluster, stop - pos);
            if stop == self.size() {
                mask |= self.layout.mask(pos % cluster, cluster - pos % cluster);
            }
            let old = meta.lookup(index)?;
            match self.after(old, mask, fate) {
                Some(new) if new != old => {
                    meta.relieve()?;
                    meta.store(index, new)?;
                    let gone = old.clusters(&self.layout);
                    if gone != new.clusters(&self.layout) {
                        meta.free(gone.0, gone.1);
                    }
                }
                Some(_) => {}
                None if matches!(fate, Fate::Zero { .. }) => by_hand.push((pos, stop)),
                None => {}
            }
            pos = stop;
        }
        drop(meta);
        for (from, to) in by_hand {
            self.write_new(from, &vec![0; (to - from) as usize])?;
        }
        Ok(())
    }

    /// The entry of a cluster whose subclusters in `mask` meet their fate; nothing if entries cannot say that.
    fn after(&self, old: Slot, mask: u32, fate: Fate) -> Option<Slot> {
        let whole = mask == self.layout.all();
        let v2 = self.layout.version == 2;
        // Without a backing file, a hole reads as zeroes; with one, version 2 cannot hide it.
        if v2 && self.backing.is_some() {
            return None;
        }
        let zero = if self.backing.is_some() || self.layout.external { mask } else { 0 };
        let unmap = fate != Fate::Zero { unmap: false };
        match old {
            Slot::Compressed { .. } if whole => Some(Slot::Plain(Plain { zero, ..Plain::default() })),
            // It would have to be unpacked first.
            Slot::Compressed { .. } => None,
            Slot::Plain(p) => {
                let alloc = p.alloc & !mask;
                let keep = p.host.is_some() && p.copied && (alloc != 0 || !unmap && !v2);
                let shared = p.host.is_some() && !p.copied && alloc != 0;
                // Space that is kept would show its old contents without the zero bits.
                let zero = if keep || shared { p.zero | mask } else { p.zero & !mask | zero };
                let host = p.host.filter(|_| keep || shared || self.layout.external);
                Some(Slot::Plain(Plain { host, copied: p.copied && host.is_some(), alloc, zero }))
            }
        }
    }
}
