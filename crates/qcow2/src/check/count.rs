//! Counting references.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::*;
use crate::bytes::be64;
use crate::snapshot::Snapshot;

/// Counters kept together; few, so that an image that scatters its references does not make the counters many times larger
/// than itself.
const CHUNK: u64 = 64;

/// References to each cluster.
#[derive(Default)]
pub(crate) struct Counts {
    chunks: HashMap<u64, Box<[u32; CHUNK as usize]>>,
    /// The refcount table refers only to blocks that can be used.
    pub(crate) sound_refcounts: bool,
}

impl Counts {
    pub(crate) fn get(&self, cluster: u64) -> u32 {
        self.chunks.get(&(cluster / CHUNK)).map_or(0, |c| c[(cluster % CHUNK) as usize])
    }

    pub(crate) fn add(&mut self, cluster: u64, n: u32) -> u32 {
        let chunk = self.chunks.entry(cluster / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize]));
        let c = &mut chunk[(cluster % CHUNK) as usize];
        *c = c.saturating_add(n);
        *c
    }

    fn add_bytes(&mut self, at: u64, len: u64, cluster_bits: u32) {
        if len > 0 {
            (at >> cluster_bits..=(at + len - 1) >> cluster_bits).for_each(|c| _ = self.add(c, 1));
        }
    }

    /// Clusters with references.
    pub(crate) fn used(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks
            .iter()
            .flat_map(|(k, c)| c.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, _)| k * CHUNK + i as u64))
    }

    /// Clusters of a range with references, and how many; the range is one of whole chunks, as refcount blocks are.
    pub(crate) fn used_in(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u32)> + '_ {
        let chunks = (range.start / CHUNK..range.end / CHUNK).filter_map(|k| Some((k, self.chunks.get(&k)?)));
        chunks
            .flat_map(|(k, c)| c.iter().enumerate().map(move |(i, n)| (k * CHUNK + i as u64, *n)))
            .filter(|(_, n)| *n > 0)
    }

    /// One past the last cluster with references.
    pub(crate) fn end(&self) -> u64 {
        self.used().max().map_or(0, |c| c + 1)
    }

    /// Counts all references in the image. With `empty`, entries that refer to nowhere are emptied.
    pub(crate) fn of(meta: &mut Meta, report: &mut Report, empty: bool, progress: Progress<'_>) -> Result<Self> {
        let mut counts = Counts { sound_refcounts: true, ..Counts::default() };
        counts.tables(meta, empty);
        counts.refcount_blocks(meta, report);
        counts.bitmaps(meta, report);
        // How often each L2 table is referred to; it is looked into once.
        let mut tables: BTreeMap<u64, u32> = BTreeMap::new();
        counts.active_l1(meta, report, empty, &mut tables)?;
        for s in meta.snapshots.clone() {
            for entry in meta.snapshot_l1(&s)? {
                match meta.l2_table(entry) {
                    Ok(Some(at)) if meta.inside(at) => *tables.entry(at).or_default() += 1,
                    Ok(None) => {}
                    _ => report.corruption(|| format!("snapshot `{}` refers to an L2 table at {entry:#x}", s.name)),
                }
            }
        }
        let total = tables.len() as u64;
        for (done, (table, times)) in tables.into_iter().enumerate() {
            if !progress(done as u64, total) {
                return Err(cancelled());
            }
            counts.add(table >> meta.layout.cluster_bits, times);
            counts.l2_table(meta, report, empty, table, times)?;
        }
        Ok(counts)
    }

    fn tables(&mut self, meta: &Meta, _empty: bool) {
        let (h, bits) = (&meta.header, meta.layout.cluster_bits);
        self.add(0, 1);
        self.add_bytes(h.l1_at, u64::from(h.l1_entries) * 8, bits);
        self.add_bytes(h.reftable_at, u64::from(h.reftable_clusters) << bits, bits);
        self.add_bytes(h.snapshots_at, Snapshot::emit_all(&meta.snapshots).len() as u64, bits);
        for s in &meta.snapshots {
            self.add_bytes(s.l1_at, u64::from(s.l1_entries) * 8, bits);
        }
    }

    fn refcount_blocks(&mut self, meta: &Meta, report: &mut Report) {
        for t in 0..meta.refs.table.len() as u64 {
            match meta.refs.block(t * meta.layout.block_entries()) {
                Ok(None) => {}
                Ok(Some(at)) if meta.inside(at) => {
                    if self.add(at >> meta.layout.cluster_bits, 1) > 1 {
                        self.sound_refcounts = false;
                        report.corruption(|| format!("refcount block {t} lies in a cluster that is used otherwise"));
                    }
                }
                _ => {
                    self.sound_refcounts = false;
                    report.corruption(|| format!("refcount block {t} lies outside the file"));
                }
            }
        }
    }

    fn bitmaps(&mut self, meta: &Meta, report: &mut Report) {
        let bits = meta.layout.cluster_bits;
        let Some((at, len)) = meta.bitmap_directory() else { return };
        match meta.bitmaps() {
            Ok(list) => {
                self.add_bytes(at, len, bits);
                for b in list {
                    self.add_bytes(b.table_at, u64::from(b.table_entries) * 8, bits);
                    match meta.bitmap_table(&b) {
                        Ok(table) => Meta::bitmap_clusters(&table)
                            .filter(|at| meta.inside(*at))
                            .for_each(|at| _ = self.add(at >> bits, 1)),
                        Err(e) => report.corruption(|| format!("bitmap `{}`: {e}", b.name)),
                    }
                }
            }
            Err(e) => report.corruption(|| e.to_string()),
        }
    }

    fn active_l1(
        &mut self,
        meta: &mut Meta,
        report: &mut Report,
        empty: bool,
        tables: &mut BTreeMap<u64, u32>,
    ) -> Result<()> {
        for i in 0..meta.l1.len() {
            let entry = meta.l1[i];
            let usable = match meta.l2_table(entry) {
                Ok(None) => continue,
                Ok(Some(at)) => {
                    meta.inside(at) && !tables.contains_key(&at) && self.get(at >> meta.layout.cluster_bits) == 0
                }
                Err(_) => false,
            };
            if usable {
                tables.insert(table_of(entry), 1);
                continue;
            }
            report.corruption(|| format!("L1 entry {i} refers to {:#x}, where no L2 table can be", table_of(entry)));
            if empty {
                meta.set_l1(i, 0);
            }
        }
        Ok(())
    }

    fn l2_table(&mut self, meta: &mut Meta, report: &mut Report, empty: bool, table: u64, times: u32) -> Result<()> {
        let layout = meta.layout;
        let mut data = vec![0; layout.cluster() as usize];
        meta.file.read_at(&mut data, table).map_err(|e| Error::host("cannot read an L2 table", table, e))?;
        let mut previous = None;
        for (j, e) in data.chunks_exact(layout.entry_bytes() as usize).enumerate() {
            let (raw, bits) = (be64(e, 0), if layout.extended { be64(e, 8) } else { 0 });
            let slot = Slot::decode(&layout, raw, bits);
            let entry = slot.ok().map(|s| (s, s.clusters(&layout)));
            match entry {
                Some((slot, (first, count))) if count == 0 || meta.inside(first << layout.cluster_bits) => {
                    // The rest of a compressed cluster may be said to lie behind the end, because lengths are in sectors.
                    let here = (first..first + count).filter(|c| meta.inside(c << layout.cluster_bits));
                    here.for_each(|c| _ = self.add(c, times));
                    report.note(&slot, first, &mut previous);
                }
                _ => {
                    report.corruption(|| format!("L2 entry {j} of the table at {table:#x} is {raw:#x} {bits:#x}"));
                    if empty {
                        meta.set_raw_entry(table, j as u64, 0, 0)?;
                    }
                }
            }
        }
        meta.relieve_tables()
    }
}

impl Report {
    /// Counts an entry.
    fn note(&mut self, slot: &Slot, first: u64, previous: &mut Option<u64>) {
        match slot {
            Slot::Compressed { .. } => {
                self.allocated_clusters += 1;
                self.compressed_clusters += 1;
                self.fragmented_clusters += 1;
            }
            Slot::Plain(p) if p.host.is_some() => {
                self.allocated_clusters += 1;
                self.fragmented_clusters += u64::from(previous.is_some_and(|p| p + 1 != first));
                *previous = Some(first);
            }
            Slot::Plain(_) => {}
        }
    }
}
