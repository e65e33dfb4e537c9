//! From clusters of the disk to L2 entries and back.

use super::*;
use crate::bytes::{be64, put};
use crate::entry::{COPIED, Slot};

impl Meta {
    /// The table behind an L1 entry.
    pub(crate) fn l2_table(&self, entry: u64) -> Result<Option<u64>> {
        match entry & OFFSET {
            0 => Ok(None),
            at if at.is_multiple_of(self.layout.cluster()) => Ok(Some(at)),
            at => Err(Error::corrupt(format!("an L1 entry refers to byte {at:#x}, which is not a cluster's"))),
        }
    }

    /// The entry of cluster `index` of the disk.
    pub(crate) fn lookup(&mut self, index: u64) -> Result<Slot> {
        let (i, j) = (index / self.layout.l2_entries(), index % self.layout.l2_entries());
        let entry = self.l1.get(i as usize).copied().unwrap_or(0);
        match self.l2_table(entry)? {
            Some(table) => self.entry(table, j),
            None => Ok(Slot::EMPTY),
        }
    }

    /// Whether [`Meta::lookup`] of cluster `index` needs nothing of the host.
    pub(crate) fn is_known(&self, index: u64) -> bool {
        let (i, j) = (index / self.layout.l2_entries(), index % self.layout.l2_entries());
        let entry = self.l1.get(i as usize).copied().unwrap_or(0);
        match self.l2_table(entry) {
            Ok(Some(table)) => self.l2.has(table + j * self.layout.entry_bytes()),
            other => other.is_ok(),
        }
    }

    /// Entry `j` of the L2 table at `table`.
    pub(crate) fn entry(&mut self, table: u64, j: u64) -> Result<Slot> {
        let (raw, bits) = self.raw_entry(table, j)?;
        Slot::decode(&self.layout, raw, bits)
    }

    /// The same, as it is on disk.
    pub(crate) fn raw_entry(&mut self, table: u64, j: u64) -> Result<(u64, u64)> {
        let (slice, at) = self.l2.get(&*self.file, table + j * self.layout.entry_bytes())?;
        Ok((be64(slice, at), if self.layout.extended { be64(slice, at + 8) } else { 0 }))
    }

    /// Sets entry `j` of the table at `table`, which is nobody else's.
    pub(crate) fn set_raw_entry(&mut self, table: u64, j: u64, raw: u64, bits: u64) -> Result<()> {
        let (slice, at) = self.l2.get_mut(&*self.file, table + j * self.layout.entry_bytes())?;
        put(slice, at, &raw.to_be_bytes());
        if self.layout.extended {
            put(slice, at + 8, &bits.to_be_bytes());
        }
        Ok(())
    }

    /// Sets the entry of cluster `index` of the disk.
    pub(crate) fn store(&mut self, index: u64, slot: Slot) -> Result<()> {
        let (i, j) = (index / self.layout.l2_entries(), index % self.layout.l2_entries());
        let table = self.own_table(i as usize)?;
        let (raw, bits) = slot.encode(&self.layout);
        self.set_raw_entry(table, j, raw, bits)
    }

    /// The L2 table behind L1 entry `i`, made or copied first if it is not there or not ours alone.
    pub(crate) fn own_table(&mut self, i: usize) -> Result<u64> {
        let Some(&entry) = self.l1.get(i) else {
            return Err(Error::new(ErrorKind::OutOfRange, "outside the disk"));
        };
        let old = self.l2_table(entry)?;
        if let Some(table) = old.filter(|_| entry & COPIED != 0) {
            return Ok(table);
        }
        self.relieve()?;
        let run = self.allocate(1)?;
        let at = run.first << self.layout.cluster_bits;
        if let Err(e) = self.fill_table(at, old, run.fresh) {
            self.free(run.first, 1);
            return Err(e);
        }
        self.reserved.insert(run.first);
        self.set_l1(i, at | COPIED);
        if let Some(old) = old {
            self.free(old >> self.layout.cluster_bits, 1);
        }
        Ok(at)
    }

    /// Fills a new table from `old`, or with zeroes.
    fn fill_table(&mut self, at: u64, old: Option<u64>, fresh: bool) -> Result<()> {
        let len = self.layout.cluster();
        self.l2.forget(at, len);
        let written = match old {
            Some(old) => {
                let mut table = vec![0; len as usize];
                self.file.read_at(&mut table, old).and_then(|()| self.file.write_at(&table, at))
            }
            None if fresh => Ok(()),
            None => self.file.zero_at(at, len),
        };
        written.map_err(|e| Error::host("cannot write an L2 table", at, e))
    }

    /// Drops the references of an entry that is not in a table any more.
    pub(crate) fn free_slot(&mut self, slot: Slot) {
        let (first, count) = slot.clusters(&self.layout);
        self.free(first, count);
    }
}
