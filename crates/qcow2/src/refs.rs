//! Refcounts: how many entries refer to each host cluster.
//!
//! The refcount table, which is kept in memory, points to refcount blocks, which are cached in slices. Writing a block early
//! is always safe: counts are raised before something refers to the cluster and lowered after nothing does, so that a cut in
//! between leaks space at worst.

use std::collections::BTreeSet;

use crate::bytes::{be16, be32, be64, put};
use crate::cache::SliceCache;
use crate::entry::Layout;
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

/// The offset in an entry of the table.
const BLOCK_OFFSET: u64 = 0xffff_ffff_ffff_fe00;
/// Bytes of blocks kept in memory.
const CACHE: u64 = 4 << 20;
/// Clusters that lie farther out cannot be addressed by an L2 entry.
const MAX_OFFSET: u64 = 1 << 55;

pub(crate) struct Refs {
    layout: Layout,
    pub(crate) table: Vec<u64>,
    dirty_table: BTreeSet<usize>,
    cache: SliceCache,
    /// No cluster before this one is free.
    pub(crate) hint: u64,
    /// No cluster from this one on was ever used; there the file has no bytes yet.
    pub(crate) end: u64,
}

impl Refs {
    pub(crate) fn new(layout: Layout, table: Vec<u64>, end: u64) -> Self {
        let cache = SliceCache::new("refcounts", layout.cluster(), CACHE);
        Refs { layout, table, dirty_table: BTreeSet::new(), cache, hint: 0, end }
    }

    /// Where the block with the refcount of cluster `index` is, if there is one.
    pub(crate) fn block(&self, index: u64) -> Result<Option<u64>> {
        let t = index / self.layout.block_entries();
        match usize::try_from(t).ok().and_then(|t| self.table.get(t)).map_or(0, |e| e & BLOCK_OFFSET) {
            0 => Ok(None),
            at if at.is_multiple_of(self.layout.cluster()) => Ok(Some(at)),
            at => Err(Error::corrupt(format!("entry {t} of the refcount table refers to byte {at:#x}"))),
        }
    }

    /// Puts a block into the table. Its contents are zero on disk, or unwritten.
    pub(crate) fn add_block(&mut self, t: usize, at: u64) {
        self.table[t] = at;
        self.dirty_table.insert(t);
    }

    /// The refcount of cluster `index`.
    pub(crate) fn get(&mut self, file: &dyn Storage, index: u64) -> Result<u64> {
        let Some(block) = self.block(index)? else { return Ok(0) };
        let i = index % self.layout.block_entries();
        let (slice, at) = self.cache.get(file, block + (i << self.layout.refcount_order) / 8)?;
        Ok(read(slice, at, i, self.layout.refcount_order))
    }

    /// Sets the refcount of a cluster that has a block.
    pub(crate) fn set(&mut self, file: &dyn Storage, index: u64, value: u64) -> Result<()> {
        if value > self.layout.max_refcount() {
            return Err(Error::new(ErrorKind::OutOfRange, format!("cluster {index} would be shared {value} times")));
        }
        let block = self.block(index)?.ok_or_else(|| Error::corrupt(format!("cluster {index} has no refcount")))?;
        let i = index % self.layout.block_entries();
        let (slice, at) = self.cache.get_mut(file, block + (i << self.layout.refcount_order) / 8)?;
        write(slice, at, i, self.layout.refcount_order, value);
        if value == 0 {
            self.hint = self.hint.min(index);
        }
        Ok(())
    }

    /// Adds one. The cluster must be in use.
    pub(crate) fn raise(&mut self, file: &dyn Storage, index: u64) -> Result<u64> {
        let n = self.get(file, index)?;
        if n == 0 {
            return Err(Error::corrupt(format!("cluster {index} is used but counts as free")));
        }
        self.set(file, index, n.saturating_add(1))?;
        Ok(n + 1)
    }

    /// Subtracts one.
    pub(crate) fn lower(&mut self, file: &dyn Storage, index: u64) -> Result<u64> {
        let n = self.get(file, index)?;
        if n == 0 {
            return Err(Error::corrupt(format!("cluster {index} is used but counts as free")));
        }
        self.set(file, index, n - 1)?;
        Ok(n - 1)
    }

    /// The first free cluster from `from` on. It may lack a block.
    pub(crate) fn find_free(&mut self, file: &dyn Storage, from: u64) -> Result<u64> {
        let (per_block, order) = (self.layout.block_entries(), self.layout.refcount_order);
        let mut index = from;
        loop {
            if index >= MAX_OFFSET >> self.layout.cluster_bits {
                return Err(Error::new(ErrorKind::NoSpace, "the image cannot grow further"));
            }
            let Some(block) = self.block(index)? else { return Ok(index) };
            // Within a slice every refcount is looked at without asking the cache again.
            let i = index % per_block;
            let (slice, _) = self.cache.get(file, block + (i << order) / 8)?;
            let per_slice = (slice.len() as u64 * 8) >> order;
            let (first, left) = (i % per_slice, per_slice - i % per_slice);
            let at = |n: u64| (((first + n) << order) / 8) as usize;
            match (0..left).find(|n| read(slice, at(*n), i + n, order) == 0) {
                Some(n) => return Ok(index + n),
                None => index += left,
            }
        }
    }

    pub(crate) fn table_is_dirty(&self) -> bool {
        !self.dirty_table.is_empty()
    }

    pub(crate) fn blocks_are_dirty(&self) -> bool {
        self.cache.is_dirty()
    }

    pub(crate) fn crowded(&self) -> bool {
        self.cache.crowded()
    }

    /// Writes the blocks.
    pub(crate) fn write_blocks(&mut self, file: &dyn Storage) -> Result<()> {
        self.cache.write(file)
    }

    /// Writes the changed entries of the table that lies at `table_at`; the blocks must be durable.
    pub(crate) fn write_table(&mut self, file: &dyn Storage, table_at: u64) -> Result<()> {
        while let Some(&t) = self.dirty_table.first() {
            let at = table_at + 8 * t as u64;
            file.write_at(&self.table[t].to_be_bytes(), at)
                .map_err(|e| Error::host("cannot write the refcount table", at, e))?;
            self.dirty_table.remove(&t);
        }
        Ok(())
    }

    /// The table was written elsewhere as a whole.
    pub(crate) fn replace_table(&mut self, table: Vec<u64>) {
        self.table = table;
        self.dirty_table.clear();
    }

    /// Forgets cached blocks.
    pub(crate) fn forget(&mut self, at: u64, len: u64) {
        self.cache.forget(at, len);
    }
}

/// Refcount `i` of its block, whose byte is `at` of `slice`.
pub(crate) fn read(slice: &[u8], at: usize, i: u64, order: u32) -> u64 {
    match order {
        3 => u64::from(slice.get(at).copied().unwrap_or(0)),
        4 => u64::from(be16(slice, at)),
        5 => u64::from(be32(slice, at)),
        6 => be64(slice, at),
        _ => {
            let bits = 1u64 << order;
            let byte = u64::from(slice.get(at).copied().unwrap_or(0));
            byte >> (i % (8 / bits) * bits) & ((1 << bits) - 1)
        }
    }
}

/// The opposite of [`read`].
pub(crate) fn write(slice: &mut [u8], at: usize, i: u64, order: u32, value: u64) {
    match order {
        3 => put(slice, at, &[value as u8]),
        4 => put(slice, at, &(value as u16).to_be_bytes()),
        5 => put(slice, at, &(value as u32).to_be_bytes()),
        6 => put(slice, at, &value.to_be_bytes()),
        _ => {
            let bits = 1u64 << order;
            let shift = i % (8 / bits) * bits;
            let mask = ((1u64 << bits) - 1) << shift;
            if let Some(byte) = slice.get_mut(at) {
                *byte = (u64::from(*byte) & !mask | value << shift) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_of_every_width() {
        for order in 0..=6 {
            let mut slice = vec![0; 64];
            let max = if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 };
            for i in 0..8u64 {
                let at = ((i << order) / 8) as usize;
                write(&mut slice, at, i, order, max.min(i + 1));
            }
            for i in 0..8u64 {
                let at = ((i << order) / 8) as usize;
                assert_eq!(read(&slice, at, i, order), max.min(i + 1), "order {order}, refcount {i}");
            }
        }
    }
}
