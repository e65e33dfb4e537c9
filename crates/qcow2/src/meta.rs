//! The one owner of an image's metadata, and the order in which it is written.
//!
//! Changes stay in memory until [`Meta::sync`], which writes them so that the file is sound after every single write, whatever
//! order the host keeps between two flushes:
//!
//! 1. refcounts that were raised (and, being outside, the data itself); flush;
//! 2. L2 tables that refer to what step 1 counted; flush;
//! 3. L1 entries that refer to tables of step 2; flush;
//! 4. refcounts that are lowered, because now nothing refers to those clusters any more; only then they may be used again.
//!
//! A flush between steps is left out where the step before had nothing to write.

mod alloc;
mod header;
mod tables;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::bytes::{table, table_bytes};
use crate::cache::SliceCache;
use crate::entry::{Layout, OFFSET};
use crate::header::Header;
use crate::refs::Refs;
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::{Error, ErrorKind, Result};

/// L1 entries written at a time: a sector of them.
const L1_CHUNK: usize = 64;
/// Freed ranges that are kept before a sync.
const MAX_PENDING: usize = 4096;

pub(crate) struct Meta {
    pub(crate) file: Arc<dyn Storage>,
    /// The external data file, if there is one.
    pub(crate) data: Option<Arc<dyn Storage>>,
    pub(crate) header: Header,
    pub(crate) layout: Layout,
    pub(crate) l1: Vec<u64>,
    l1_dirty: BTreeSet<usize>,
    pub(crate) l2: SliceCache,
    pub(crate) refs: Refs,
    /// References dropped from tables that are not written yet: first cluster, how many.
    pending: Vec<(u64, u64)>,
    pub(crate) snapshots: Vec<Snapshot>,
    /// Clusters that hold metadata and that no guest may write, whatever an L2 entry says.
    reserved: HashSet<u64>,
    /// Where the next compressed cluster goes: byte of the file.
    tail: Option<u64>,
    /// Bytes that the file has.
    file_size: u64,
    /// A flush failed, so that nobody knows what the medium holds.
    failed: bool,
}

impl Meta {
    /// Reads the tables that `header` names.
    pub(crate) fn load(file: Arc<dyn Storage>, data: Option<Arc<dyn Storage>>, header: Header) -> Result<Self> {
        let layout = Layout::of(&header);
        let file_size = file.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
        let l1_bytes = u64::from(header.l1_entries) * 8;
        let l1 = read_file_table(&*file, header.l1_at, l1_bytes, file_size, "L1 table")?;
        let reftable_bytes = u64::from(header.reftable_clusters) << layout.cluster_bits;
        let reftable = read_file_table(&*file, header.reftable_at, reftable_bytes, file_size, "refcount table")?;
        if layout.l1_entries(header.size) > l1.len() as u64 {
            return Err(Error::corrupt("the L1 table is too small for the disk"));
        }
        let snapshots = Snapshot::read_all(&*file, &header, file_size)?;
        let l2 = SliceCache::new("L2 tables", layout.cluster(), l2_cache(header.size, &layout));
        let end = file_size.div_ceil(layout.cluster());
        let mut meta = Meta {
            file,
            data,
            layout,
            l1,
            l1_dirty: BTreeSet::new(),
            l2,
            refs: Refs::new(layout, reftable, end),
            pending: Vec::new(),
            snapshots,
            reserved: HashSet::new(),
            tail: None,
            file_size,
            failed: false,
            header,
        };
        meta.reserve_tables();
        Ok(meta)
    }

    fn reserve_tables(&mut self) {
        let bits = self.layout.cluster_bits;
        let h = &self.header;
        let mut ranges = vec![(0, 1), (h.l1_at, u64::from(h.l1_entries) * 8), (h.snapshots_at, 1)];
        ranges.push((h.reftable_at, u64::from(h.reftable_clusters) << bits));
        ranges.extend(self.snapshots.iter().map(|s| (s.l1_at, u64::from(s.l1_entries) * 8)));
        for (at, len) in ranges.into_iter().filter(|(at, len)| *len > 0 && (*at > 0 || *len == 1)) {
            self.reserved.extend(at >> bits..=(at + len - 1) >> bits);
        }
        let tables = self.l1.iter().map(|e| e & OFFSET).chain(self.refs.table.iter().copied());
        self.reserved.extend(tables.filter(|at| *at != 0).map(|at| at >> bits));
    }

    /// Marks clusters as metadata.
    pub(crate) fn reserve(&mut self, first: u64, count: u64) {
        self.reserved.extend(first..first + count);
    }

    /// Marks the L1 table and what it refers to as metadata.
    pub(crate) fn reserve_l1(&mut self) {
        let bits = self.layout.cluster_bits;
        self.reserved.extend(self.l1.iter().map(|e| e & OFFSET).filter(|at| *at != 0).map(|at| at >> bits));
    }

    /// Whether the host cluster holds metadata.
    pub(crate) fn is_reserved(&self, cluster: u64) -> bool {
        self.reserved.contains(&cluster)
    }

    /// Fails once a flush has failed.
    pub(crate) fn alive(&self) -> Result<()> {
        if self.failed {
            let what = "a flush failed earlier, so that it is unknown what the medium holds; open the image again";
            return Err(Error::new(ErrorKind::Io, what));
        }
        Ok(())
    }

    /// Makes everything durable that was changed.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.alive()?;
        if self.is_dirty() {
            self.write_in_order()?;
        }
        self.flush()
    }

    /// Writes if there is so much to write that memory should not hold more.
    pub(crate) fn relieve(&mut self) -> Result<()> {
        if self.l2.crowded() || self.refs.crowded() || self.pending.len() > MAX_PENDING {
            self.write_in_order()?;
        }
        Ok(())
    }

    /// Something is not written yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.refs.blocks_are_dirty()
            || self.refs.table_is_dirty()
            || self.l2.is_dirty()
            || !self.l1_dirty.is_empty()
            || !self.pending.is_empty()
            || self.refs.end > self.file_size.div_ceil(self.layout.cluster())
    }

    fn write_in_order(&mut self) -> Result<()> {
        self.alive()?;
        let file = self.file.clone();
        self.grow_file()?;
        self.refs.write_blocks(&*file)?;
        if self.refs.table_is_dirty() {
            self.flush()?;
            self.refs.write_table(&*file, self.header.reftable_at)?;
        }
        if self.l2.is_dirty() {
            self.flush()?;
            self.l2.write(&*file)?;
        }
        if !self.l1_dirty.is_empty() {
            self.flush()?;
            self.write_l1()?;
        }
        if !self.pending.is_empty() {
            self.flush()?;
            self.drop_pending()?;
            self.refs.write_blocks(&*file)?;
        }
        Ok(())
    }

    /// The file covers all of its clusters, so that tools which read the last one find it whole.
    fn grow_file(&mut self) -> Result<()> {
        let want = self.refs.end << self.layout.cluster_bits;
        if want > self.file_size {
            let now = self.file.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
            if want > now {
                self.file.set_size(want).map_err(|e| Error::host("cannot grow the image", want, e))?;
            }
            self.file_size = want.max(now);
        }
        Ok(())
    }

    /// Writes L2 and L1 tables as they are, for a repair, which orders its writes itself.
    pub(crate) fn write_tables_only(&mut self) -> Result<()> {
        let file = self.file.clone();
        self.l2.write(&*file)?;
        self.write_l1()
    }

    /// During a repair: keeps memory bounded.
    pub(crate) fn relieve_tables(&mut self) -> Result<()> {
        if self.l2.crowded() { self.write_tables_only() } else { Ok(()) }
    }

    /// New refcounts were written and the header names them; `end` is the first cluster behind everything.
    pub(crate) fn adopt_refcounts(&mut self, table: Vec<u64>, end: u64) {
        self.refs = Refs::new(self.layout, table, end);
        self.pending.clear();
        self.tail = None;
        self.file_size = self.file_size.max(end << self.layout.cluster_bits);
        self.reserved.clear();
        self.reserve_tables();
    }

    fn write_l1(&mut self) -> Result<()> {
        while let Some(&chunk) = self.l1_dirty.first() {
            let first = chunk * L1_CHUNK;
            let end = (first + L1_CHUNK).min(self.l1.len());
            let at = self.header.l1_at + 8 * first as u64;
            self.file
                .write_at(&table_bytes(&self.l1[first..end]), at)
                .map_err(|e| Error::host("cannot write the L1 table", at, e))?;
            self.l1_dirty.remove(&chunk);
        }
        Ok(())
    }

    pub(crate) fn set_l1(&mut self, index: usize, entry: u64) {
        self.l1[index] = entry;
        self.l1_dirty.insert(index / L1_CHUNK);
    }

    /// Makes durable what was written, data and metadata.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.alive()?;
        let data = self.data.as_ref().map_or(Ok(()), |d| d.flush());
        data.and_then(|()| self.file.flush()).map_err(|e| {
            self.failed = true;
            Error::host("cannot flush the image", 0, e)
        })
    }

    /// A flush outside of this lock failed.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }

    /// A range of clusters lost a reference, once the tables are written.
    pub(crate) fn free(&mut self, first: u64, count: u64) {
        match self.pending.last_mut() {
            Some((f, n)) if *f + *n == first => *n += count,
            _ if count > 0 => self.pending.push((first, count)),
            _ => {}
        }
    }

    /// Lowers the refcounts of what was freed and gives the space back. Nothing durable refers to it any more.
    fn drop_pending(&mut self) -> Result<()> {
        let file = self.file.clone();
        let mut unused = Vec::new();
        let mut result = Ok(());
        while let Some((first, count)) = self.pending.pop() {
            let last = first + count - 1;
            match self.refs.lower(&*file, last) {
                Ok(0) => unused.push(last),
                Ok(_) => {}
                Err(e) if e.kind == ErrorKind::Corrupt => {
                    self.set_corrupt();
                    result = Err(e);
                    break;
                }
                Err(e) => {
                    self.pending.push((first, count));
                    result = Err(e);
                    break;
                }
            }
            if count > 1 {
                self.pending.push((first, count - 1));
            }
        }
        unused.sort_unstable();
        for run in unused.chunk_by(|a, b| a + 1 == *b) {
            self.release(run[0], run.len() as u64);
        }
        result
    }

    /// Clusters became free: forgets what was known of them, and gives their space to the host.
    fn release(&mut self, first: u64, count: u64) {
        let (at, len) = (first << self.layout.cluster_bits, count << self.layout.cluster_bits);
        self.l2.forget(at, len);
        self.refs.forget(at, len);
        (first..first + count).for_each(|c| _ = self.reserved.remove(&c));
        if self.tail.is_some_and(|t| (at..at + len).contains(&t)) {
            self.tail = None;
        }
        // A host that cannot take space back keeps it; the cluster is free all the same.
        let _ = self.file.release(at, len);
    }
}

/// L2 cache: enough for the whole disk, up to 32 MiB (256 GiB of disk with clusters of 64 KiB).
fn l2_cache(size: u64, layout: &Layout) -> u64 {
    let all = layout.l1_entries(size).saturating_mul(layout.cluster());
    all.clamp(1 << 20, 32 << 20)
}

/// A table of the file, which has to lie inside of it.
pub(crate) fn read_file_table(file: &dyn Storage, at: u64, len: u64, file_size: u64, what: &str) -> Result<Vec<u64>> {
    if at.saturating_add(len) > file_size.next_multiple_of(1 << 21) || at >= file_size && len > 0 {
        return Err(Error::corrupt(format!("the {what} lies outside the file")));
    }
    let mut data = vec![0; len as usize];
    file.read_at(&mut data, at).map_err(|e| Error::host(&format!("cannot read the {what}"), at, e))?;
    Ok(table(&data))
}
