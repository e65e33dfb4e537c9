//! Writing all refcounts anew, behind everything else, so that the old ones stay valid until the header names the new ones.

use std::collections::BTreeSet;

use super::*;
use crate::bytes::table_bytes;
use crate::header::MAX_REFTABLE_BYTES;

impl Meta {
    /// Counts all references anew and sets refcounts and flags by that.
    pub(crate) fn recount(&mut self, progress: Progress<'_>) -> Result<()> {
        self.rebuild_refcounts(progress)?;
        self.fix_copied()?;
        self.clear_dirty()
    }

    /// Replaces refcount table and blocks by ones that say what is referred to.
    fn rebuild_refcounts(&mut self, progress: Progress<'_>) -> Result<()> {
        // Entries that were emptied go to disk first: they are what the new refcounts describe.
        self.write_tables_only()?;
        let mut counts = Counts::of_all_but_refcounts(self, progress)?;
        let (bits, per_block) = (self.layout.cluster_bits, self.layout.block_entries());
        let start = self.refs.end.max(counts.end());
        let mut blocks: BTreeSet<u64> = counts.used().map(|c| c / per_block).collect();
        let mut table_clusters = 1;
        loop {
            let end = start + blocks.len() as u64 + table_clusters;
            let before = (blocks.len(), table_clusters);
            blocks.extend(start / per_block..=(end - 1) / per_block);
            let entries = blocks.last().map_or(1, |t| t + 1);
            table_clusters = table_clusters.max((entries * 8).div_ceil(self.layout.cluster()));
            if before == (blocks.len(), table_clusters) {
                break;
            }
        }
        if table_clusters << bits > MAX_REFTABLE_BYTES.max(self.layout.cluster()) {
            return Err(Error::new(ErrorKind::NoSpace, "the image is too large for its refcounts"));
        }
        let end = start + blocks.len() as u64 + table_clusters;
        (start..end).for_each(|c| _ = counts.add(c, 1));
        let mut table = vec![0; ((table_clusters << bits) / 8) as usize];
        for (i, t) in blocks.iter().enumerate() {
            let at = (start + i as u64) << bits;
            table[*t as usize] = at;
            self.write_block(&counts, *t, at)?;
        }
        let at = (start + blocks.len() as u64) << bits;
        let host = |e| Error::host("cannot write the refcount table", at, e);
        self.file.write_at(&table_bytes(&table), at).map_err(host)?;
        self.file.set_size(self.file.size().map_err(host)?.max(end << bits)).map_err(host)?;
        self.flush()?;
        let mut header = self.header.clone();
        (header.reftable_at, header.reftable_clusters) = (at, table_clusters as u32);
        self.write_header(header)?;
        self.flush()?;
        self.adopt_refcounts(table, end);
        Ok(())
    }

    fn write_block(&self, counts: &Counts, t: u64, at: u64) -> Result<()> {
        let (per_block, order) = (self.layout.block_entries(), self.layout.refcount_order);
        let mut block = vec![0; self.layout.cluster() as usize];
        for (cluster, n) in counts.used_in(t * per_block..(t + 1) * per_block) {
            let (i, n) = (cluster - t * per_block, u64::from(n));
            if n > self.layout.max_refcount() {
                let what = format!("cluster {cluster} is shared {n} times, more than a refcount can say");
                return Err(Error::corrupt(what));
            }
            crate::refs::write(&mut block, ((i << order) / 8) as usize, i, order, n);
        }
        self.file.write_at(&block, at).map_err(|e| Error::host("cannot write the refcounts", at, e))
    }
}

impl Counts {
    /// References of everything but the refcounts themselves.
    fn of_all_but_refcounts(meta: &mut Meta, progress: Progress<'_>) -> Result<Counts> {
        let table = std::mem::take(&mut meta.refs.table);
        let header = (meta.header.reftable_at, meta.header.reftable_clusters);
        (meta.header.reftable_at, meta.header.reftable_clusters) = (0, 0);
        let counts = Counts::of(meta, &mut Report::default(), false, progress);
        meta.refs.table = table;
        (meta.header.reftable_at, meta.header.reftable_clusters) = header;
        counts
    }
}
