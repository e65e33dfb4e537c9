//! Internal snapshots: copies of the L1 table whose clusters are shared until one side writes.
//!
//! While references are counted anew the image is marked dirty, so that after an interruption the next user counts them
//! again; the step that makes a change visible is a single write of the header.

mod table;

use crate::entry::{COPIED, OFFSET, Slot};
use crate::header::MAX_SNAPSHOTS;
use crate::image::Image;
use crate::meta::{Meta, read_file_table};
use crate::{Error, ErrorKind, Result};

pub(crate) use table::Snapshot;

/// A snapshot as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its number, which is a text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u32,
    /// Bytes of the disk at that time.
    pub disk_size: u64,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
}

impl Image {
    /// The snapshots, in the order of the table.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.meta().snapshots.iter().map(Snapshot::info).collect()
    }

    /// Keeps the disk as it is now under `name`. `seconds` is the time since 1970.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if the name is taken, [`ErrorKind::Unsupported`] with an external data file, otherwise the host's.
    pub fn create_snapshot(&self, name: &str, seconds: u32) -> Result<()> {
        self.must_write()?;
        if self.layout.external {
            return Err(Error::unsupported("an image with an external data file has no snapshots"));
        }
        if name.is_empty() || name.len() > 255 {
            return Err(Error::new(ErrorKind::OutOfRange, "a snapshot's name has 1 to 255 bytes"));
        }
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        if meta.snapshots.len() as u32 >= MAX_SNAPSHOTS {
            return Err(Error::new(ErrorKind::OutOfRange, "no more snapshots fit"));
        }
        if meta.snapshots.iter().any(|s| s.name == name) {
            return Err(Error::new(ErrorKind::Exists, format!("there is a snapshot `{name}` already")));
        }
        meta.sync()?;
        let l1: Vec<u64> = meta.l1.iter().map(|e| e & !COPIED).collect();
        let at = meta.write_l1_copy(&l1)?;
        let id = meta.snapshots.iter().filter_map(|s| s.id.parse::<u64>().ok()).max().unwrap_or(0) + 1;
        let snapshot = Snapshot::new(id.to_string(), name, seconds, at, l1.len() as u32, self.size());
        meta.set_dirty()?;
        if let Err(e) = meta.count_tree(&l1, true) {
            // Some were counted, for nothing.
            meta.recount(&mut |_, _| true)?;
            return Err(e);
        }
        // Before the snapshot is there: afterwards a flag left over would let a write change the snapshot's data.
        meta.fix_copied()?;
        let mut list = meta.snapshots.clone();
        list.push(snapshot);
        meta.replace_snapshots(list)?;
        meta.clear_dirty()
    }

    /// Removes the snapshot with this name or number. What others need stays.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], otherwise the host's.
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        self.must_write()?;
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        let index = meta.find_snapshot(name)?;
        meta.sync()?;
        let gone = meta.snapshots[index].clone();
        let l1 = meta.snapshot_l1(&gone)?;
        meta.set_dirty()?;
        let mut list = meta.snapshots.clone();
        list.remove(index);
        meta.replace_snapshots(list)?;
        meta.count_tree(&l1, false)?;
        meta.free_bytes(gone.l1_at, u64::from(gone.l1_entries) * 8);
        meta.sync()?;
        meta.fix_copied()?;
        meta.clear_dirty()?;
        self.forget_decompressed();
        Ok(())
    }

    /// Makes the disk again what it was when the snapshot with this name or number was made. The snapshot stays; what was
    /// written since is lost.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], otherwise the host's.
    pub fn revert_snapshot(&self, name: &str) -> Result<()> {
        self.must_write()?;
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        let index = meta.find_snapshot(name)?;
        meta.sync()?;
        let wanted = meta.snapshots[index].clone();
        let mut l1 = meta.snapshot_l1(&wanted)?;
        let size = wanted.disk_size.unwrap_or(meta.header.size);
        if meta.layout.l1_entries(size) > l1.len() as u64 {
            l1.resize(meta.layout.l1_entries(size) as usize, 0);
        }
        l1.iter_mut().for_each(|e| *e &= !COPIED);
        let at = meta.write_l1_copy(&l1)?;
        meta.set_dirty()?;
        if let Err(e) = meta.count_tree(&l1, true) {
            meta.recount(&mut |_, _| true)?;
            return Err(e);
        }
        let old = (meta.header.l1_at, std::mem::take(&mut meta.l1));
        meta.l1 = l1.clone();
        let switched = meta.switch_header(|h| {
            (h.l1_at, h.l1_entries, h.size) = (at, l1.len() as u32, size);
        });
        if let Err(e) = switched {
            meta.l1 = old.1;
            return Err(e);
        }
        self.set_size(size);
        meta.reserve_l1();
        meta.count_tree(&old.1, false)?;
        meta.free_bytes(old.0, old.1.len() as u64 * 8);
        meta.sync()?;
        meta.fix_copied()?;
        meta.clear_dirty()?;
        self.forget_decompressed();
        self.all_bitmaps_dirty();
        Ok(())
    }
}

impl Meta {
    fn find_snapshot(&self, name: &str) -> Result<usize> {
        let by_name = self.snapshots.iter().position(|s| s.name == name);
        let found = by_name.or_else(|| self.snapshots.iter().position(|s| s.id == name));
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no snapshot `{name}`")))
    }

    /// The L1 table of a snapshot.
    pub(crate) fn snapshot_l1(&self, s: &Snapshot) -> Result<Vec<u64>> {
        let file_size = self.file.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
        read_file_table(&*self.file, s.l1_at, u64::from(s.l1_entries) * 8, file_size, "L1 table of a snapshot")
    }

    /// Writes an L1 table to new clusters. Returns where.
    pub(crate) fn write_l1_copy(&mut self, l1: &[u64]) -> Result<u64> {
        let bytes = crate::bytes::table_bytes(l1);
        self.write_to_new_clusters(bytes)
    }

    /// Writes `bytes`, filled up with zeroes, to new clusters behind each other. Returns where.
    pub(crate) fn write_to_new_clusters(&mut self, mut bytes: Vec<u8>) -> Result<u64> {
        let cluster = self.layout.cluster();
        let count = (bytes.len() as u64).div_ceil(cluster).max(1);
        bytes.resize((count * cluster) as usize, 0);
        let run = self.allocate_contiguous(count)?;
        let at = run.first << self.layout.cluster_bits;
        if let Err(e) = self.file.write_at(&bytes, at) {
            self.free(run.first, count);
            return Err(Error::host("cannot write a table", at, e));
        }
        self.reserve(run.first, count);
        Ok(at)
    }

    /// Drops the references of a table of `len` bytes at `at`.
    pub(crate) fn free_bytes(&mut self, at: u64, len: u64) {
        if at != 0 && len != 0 {
            self.free(at >> self.layout.cluster_bits, len.div_ceil(self.layout.cluster()));
        }
    }

    /// Adds (or drops, once the tables are written) a reference to everything behind an L1 table.
    fn count_tree(&mut self, l1: &[u64], raise: bool) -> Result<()> {
        let file = self.file.clone();
        for entry in l1 {
            let Some(table) = self.l2_table(*entry)? else { continue };
            for j in 0..self.layout.l2_entries() {
                let (first, count) = self.entry(table, j)?.clusters(&self.layout);
                if raise {
                    for c in first..first + count {
                        self.refs.raise(&*file, c)?;
                    }
                } else {
                    self.free(first, count);
                }
            }
            let cluster = table >> self.layout.cluster_bits;
            if raise {
                self.refs.raise(&*file, cluster)?;
                if self.refs.crowded() {
                    self.refs.write_blocks(&*file)?;
                }
            } else {
                self.free(cluster, 1);
            }
        }
        Ok(())
    }

    /// Writes a new snapshot table and makes it the one.
    fn replace_snapshots(&mut self, list: Vec<Snapshot>) -> Result<()> {
        let old = (self.header.snapshots_at, Snapshot::emit_all(&self.snapshots).len() as u64);
        let bytes = Snapshot::emit_all(&list);
        let at = if list.is_empty() { 0 } else { self.write_to_new_clusters(bytes)? };
        let count = list.len() as u32;
        self.switch_header(|h| (h.snapshots, h.snapshots_at) = (count, at))?;
        self.snapshots = list;
        self.free_bytes(old.0, old.1);
        Ok(())
    }

    /// Sets the copied flags of the disk's own tables by the refcounts.
    pub(crate) fn fix_copied(&mut self) -> Result<()> {
        let file = self.file.clone();
        for i in 0..self.l1.len() {
            let entry = self.l1[i];
            let table = entry & OFFSET;
            if table == 0 {
                continue;
            }
            for j in 0..self.layout.l2_entries() {
                let (raw, bits) = self.raw_entry(table, j)?;
                let Ok(Slot::Plain(p)) = Slot::decode(&self.layout, raw, bits) else { continue };
                let Some(host) = p.host.filter(|_| !self.layout.external) else { continue };
                let alone = self.refs.get(&*file, host >> self.layout.cluster_bits)? == 1;
                if alone != p.copied {
                    let flag = if alone { COPIED } else { 0 };
                    self.set_raw_entry(table, j, raw & !COPIED | flag, bits)?;
                }
            }
            let alone = self.refs.get(&*file, table >> self.layout.cluster_bits)? == 1;
            if alone != (entry & COPIED != 0) {
                self.set_l1(i, table | if alone { COPIED } else { 0 });
            }
            self.relieve()?;
        }
        Ok(())
    }
}
