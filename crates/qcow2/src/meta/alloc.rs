//! Taking host clusters.

use super::*;

/// Host clusters that were taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Index of the first.
    pub(crate) first: u64,
    /// At least one.
    pub(crate) count: u64,
    /// They were never used before and read as zeroes.
    pub(crate) fresh: bool,
}

impl Meta {
    /// Takes at most `want` clusters that lie behind each other; their refcount is one.
    pub(crate) fn allocate(&mut self, want: u64) -> Result<Run> {
        self.alive()?;
        let file = self.file.clone();
        loop {
            let first = self.refs.find_free(&*file, self.refs.hint)?;
            if self.refs.block(first)?.is_none() {
                self.add_block(first)?;
                continue;
            }
            let block_end = (first / self.layout.block_entries() + 1) * self.layout.block_entries();
            let mut count = 1;
            while count < want && first + count < block_end && self.refs.get(&*file, first + count)? == 0 {
                count += 1;
            }
            let run = self.take(first, count)?;
            // Everything before was looked at and is in use.
            self.refs.hint = first + count;
            return Ok(run);
        }
    }

    /// Takes exactly `count` clusters that lie behind each other.
    pub(crate) fn allocate_contiguous(&mut self, count: u64) -> Result<Run> {
        if count == 1 {
            return self.allocate(1);
        }
        self.alive()?;
        let file = self.file.clone();
        let per_block = self.layout.block_entries();
        loop {
            // Behind everything else. Counts beyond the end of the file are leaks, which are stepped over.
            let mut start = self.refs.end;
            let mut seen = start;
            while seen < start + count {
                seen += 1;
                if self.refs.get(&*file, seen - 1)? != 0 {
                    start = seen;
                }
            }
            let mut blocks = 0;
            let missing = loop {
                let span = start / per_block..=(start + blocks + count - 1) / per_block;
                let mut missing = Vec::new();
                for t in span {
                    if self.refs.block(t * per_block)?.is_none() {
                        missing.push(t as usize);
                    }
                }
                if missing.len() as u64 == blocks {
                    break missing;
                }
                blocks = missing.len() as u64;
            };
            if let Some(last) = missing.last().filter(|t| **t >= self.refs.table.len()) {
                self.grow_reftable(*last)?;
                continue;
            }
            for (i, t) in missing.iter().enumerate() {
                self.refs.add_block(*t, (start + i as u64) << self.layout.cluster_bits);
            }
            let run = self.take(start, blocks + count)?;
            self.reserved.extend(start..start + blocks);
            return Ok(Run { first: run.first + blocks, count, fresh: run.fresh });
        }
    }

    /// Counts clusters that are free as taken.
    fn take(&mut self, first: u64, count: u64) -> Result<Run> {
        let file = self.file.clone();
        if let Some(c) = (first..first + count).find(|c| self.reserved.contains(c)) {
            self.set_corrupt();
            return Err(Error::corrupt(format!("cluster {c} holds metadata but counts as free")));
        }
        for c in first..first + count {
            self.refs.set(&*file, c, 1)?;
        }
        let fresh = first >= self.refs.end;
        self.refs.end = self.refs.end.max(first + count);
        Ok(Run { first, count, fresh })
    }

    /// Makes the free cluster `index`, which has no refcount block, the block that covers itself.
    fn add_block(&mut self, index: u64) -> Result<()> {
        let t = usize::try_from(index / self.layout.block_entries()).map_err(|_| too_large())?;
        if t >= self.refs.table.len() {
            return self.grow_reftable(t);
        }
        if self.reserved.contains(&index) {
            self.set_corrupt();
            return Err(Error::corrupt(format!("cluster {index} holds metadata but counts as free")));
        }
        let at = index << self.layout.cluster_bits;
        if index < self.refs.end {
            let file = self.file.clone();
            file.zero_at(at, self.layout.cluster()).map_err(|e| Error::host("cannot write the refcounts", at, e))?;
        }
        self.refs.add_block(t, at);
        self.take_block(index)
    }

    fn take_block(&mut self, index: u64) -> Result<()> {
        let file = self.file.clone();
        self.refs.set(&*file, index, 1)?;
        self.refs.end = self.refs.end.max(index + 1);
        self.reserved.insert(index);
        Ok(())
    }

    /// Cuts off free clusters at the end of the file. Everything must be synced.
    pub(crate) fn trim(&mut self) -> Result<()> {
        let file = self.file.clone();
        let mut end = self.refs.end;
        while end > 0 && self.refs.get(&*file, end - 1)? == 0 {
            end -= 1;
        }
        let size = end << self.layout.cluster_bits;
        if size < self.file_size {
            file.set_size(size).map_err(|e| Error::host("cannot cut the image", size, e))?;
            (self.file_size, self.refs.end) = (size, end);
        }
        Ok(())
    }

    /// Moves the refcount table to a place where it has room for entry `t`, behind everything else.
    fn grow_reftable(&mut self, t: usize) -> Result<()> {
        let (bits, per_block) = (self.layout.cluster_bits, self.layout.block_entries());
        let file = self.file.clone();
        let start = self.refs.end.max(self.refs.table.len() as u64 * per_block);
        let (mut blocks, mut clusters) = (1, 1);
        loop {
            let end = start + blocks + clusters;
            let entries = end.div_ceil(per_block).max(t as u64 + 1);
            // Half as much again, so that growing stays rare.
            let need_clusters = ((entries + entries / 2) * 8).div_ceil(self.layout.cluster());
            let need_blocks = end.div_ceil(per_block) - start / per_block;
            if (need_blocks, need_clusters) == (blocks, clusters) {
                break;
            }
            (blocks, clusters) = (need_blocks.max(blocks), need_clusters.max(clusters));
        }
        if clusters << bits > crate::header::MAX_REFTABLE_BYTES.max(self.layout.cluster()) {
            return Err(too_large());
        }
        let mut table = self.refs.table.clone();
        table.resize(((clusters << bits) / 8) as usize, 0);
        for i in 0..blocks {
            table[(start / per_block + i) as usize] = (start + i) << bits;
        }
        self.write_new_blocks(start, blocks, blocks + clusters)?;
        let at = (start + blocks) << bits;
        file.write_at(&table_bytes(&table), at).map_err(|e| Error::host("cannot write the refcount table", at, e))?;
        self.refs.write_blocks(&*file)?;
        self.flush()?;
        let old = (self.header.reftable_at >> bits, u64::from(self.header.reftable_clusters));
        let mut header = self.header.clone();
        (header.reftable_at, header.reftable_clusters) = (at, clusters as u32);
        self.write_header(header)?;
        self.flush()?;
        self.refs.replace_table(table);
        self.refs.end = start + blocks + clusters;
        self.reserved.extend(start..self.refs.end);
        self.free(old.0, old.1);
        Ok(())
    }

    /// Writes `blocks` refcount blocks at cluster `start`, which count `used` clusters from there as used.
    fn write_new_blocks(&mut self, start: u64, blocks: u64, used: u64) -> Result<()> {
        let (bits, per_block, order) =
            (self.layout.cluster_bits, self.layout.block_entries(), self.layout.refcount_order);
        for i in 0..blocks {
            let first = (start / per_block + i) * per_block;
            let mut block = vec![0; self.layout.cluster() as usize];
            for c in first.max(start)..(first + per_block).min(start + used) {
                crate::refs::write(&mut block, (((c - first) << order) / 8) as usize, c - first, order, 1);
            }
            let at = (start + i) << bits;
            self.file.write_at(&block, at).map_err(|e| Error::host("cannot write the refcounts", at, e))?;
        }
        Ok(())
    }

    /// Room for `len` compressed bytes, packed behind the compressed cluster before: where they go.
    pub(crate) fn allocate_compressed(&mut self, len: u64) -> Result<u64> {
        let (bits, cluster) = (self.layout.cluster_bits, self.layout.cluster());
        let file = self.file.clone();
        if let Some(at) = self.tail {
            let left = cluster - at % cluster;
            let shared = self.refs.get(&*file, at >> bits)? < self.layout.max_refcount();
            if shared && left >= len {
                self.refs.raise(&*file, at >> bits)?;
                self.tail = (left > len).then_some(at + len);
                return Ok(at);
            }
            if shared && self.refs.find_free(&*file, self.refs.hint)? == (at >> bits) + 1 {
                let run = self.allocate(1)?;
                // A refcount block may have taken the neighbour.
                if run.first == (at >> bits) + 1 {
                    self.refs.raise(&*file, at >> bits)?;
                    self.tail = Some(at + len).filter(|t| t % cluster != 0);
                    return self.checked_compressed(at, len);
                }
                self.tail = Some((run.first << bits) + len).filter(|_| len < cluster);
                return self.checked_compressed(run.first << bits, len);
            }
        }
        let at = self.allocate(1)?.first << bits;
        self.tail = (len < cluster).then_some(at + len);
        self.checked_compressed(at, len)
    }

    fn checked_compressed(&self, at: u64, len: u64) -> Result<u64> {
        if at + len > self.layout.compressed_limit() { Err(too_large()) } else { Ok(at) }
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::NoSpace, "the image cannot grow further")
}
