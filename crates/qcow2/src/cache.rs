//! A bounded cache of slices of metadata tables.
//!
//! Tables are cached in slices of at most 4 KiB rather than whole, because a table can be as large as 2 MiB of which one
//! entry is wanted. The cache never writes on its own: the order of writes is the caller's business.

use std::collections::HashMap;

use crate::storage::Storage;
use crate::{Error, Result};

/// Bytes of a slice, or a cluster's where that is less.
pub(crate) const SLICE: u64 = 4096;

pub(crate) struct SliceCache {
    slices: HashMap<u64, Slice>,
    slice_len: usize,
    /// Slices kept.
    limit: usize,
    dirty: usize,
    clock: u64,
    what: &'static str,
}

struct Slice {
    data: Box<[u8]>,
    dirty: bool,
    used: u64,
}

impl SliceCache {
    /// A cache of at most about `bytes`.
    pub(crate) fn new(what: &'static str, cluster: u64, bytes: u64) -> Self {
        let slice_len = cluster.min(SLICE) as usize;
        let limit = (bytes as usize / slice_len).max(8);
        SliceCache { slices: HashMap::new(), slice_len, limit, dirty: 0, clock: 0, what }
    }

    /// The slice that holds byte `at` of the file, and where in it that byte is.
    pub(crate) fn get(&mut self, file: &dyn Storage, at: u64) -> Result<(&[u8], usize)> {
        let (key, within) = self.load(file, at)?;
        Ok((&self.slices[&key].data, within))
    }

    /// Whether the slice with byte `at` of the file is in memory.
    pub(crate) fn has(&self, at: u64) -> bool {
        self.slices.contains_key(&(at & !(self.slice_len as u64 - 1)))
    }

    /// As [`SliceCache::get`], for changing it.
    pub(crate) fn get_mut(&mut self, file: &dyn Storage, at: u64) -> Result<(&mut [u8], usize)> {
        let (key, within) = self.load(file, at)?;
        // `load` has put it there.
        let slice = self.slices.entry(key).or_insert_with(|| Slice { data: Box::default(), dirty: false, used: 0 });
        self.dirty += usize::from(!std::mem::replace(&mut slice.dirty, true));
        Ok((&mut slice.data, within))
    }

    fn load(&mut self, file: &dyn Storage, at: u64) -> Result<(u64, usize)> {
        let len = self.slice_len as u64;
        let key = at & !(len - 1);
        self.clock += 1;
        if let Some(slice) = self.slices.get_mut(&key) {
            slice.used = self.clock;
        } else {
            self.make_room();
            let mut data = vec![0; self.slice_len].into_boxed_slice();
            file.read_at(&mut data, key).map_err(|e| Error::host(&format!("cannot read the {}", self.what), key, e))?;
            self.slices.insert(key, Slice { data, dirty: false, used: self.clock });
        }
        Ok((key, (at - key) as usize))
    }

    /// Forgets the quarter that was not used for longest, if the cache is full.
    fn make_room(&mut self) {
        if self.slices.len() < self.limit {
            return;
        }
        let mut used: Vec<u64> = self.slices.values().filter(|s| !s.dirty).map(|s| s.used).collect();
        used.sort_unstable();
        let Some(&border) = used.get(used.len() / 4) else { return };
        self.slices.retain(|_, s| s.dirty || s.used > border);
    }

    /// So much is dirty that it should be written.
    pub(crate) fn crowded(&self) -> bool {
        self.dirty > self.limit / 2
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// Writes what is dirty, neighbours together.
    pub(crate) fn write(&mut self, file: &dyn Storage) -> Result<()> {
        if self.dirty == 0 {
            return Ok(());
        }
        let mut keys: Vec<u64> = self.slices.iter().filter(|(_, s)| s.dirty).map(|(k, _)| *k).collect();
        keys.sort_unstable();
        let mut rest = keys.as_slice();
        while let Some(&first) = rest.first() {
            let len = self.slice_len as u64;
            let run = rest.iter().enumerate().take_while(|(i, k)| **k == first + *i as u64 * len).count().min(256);
            let mut data = Vec::with_capacity(run * self.slice_len);
            rest[..run].iter().for_each(|k| data.extend_from_slice(&self.slices[k].data));
            file.write_at(&data, first)
                .map_err(|e| Error::host(&format!("cannot write the {}", self.what), first, e))?;
            for k in &rest[..run] {
                if let Some(s) = self.slices.get_mut(k) {
                    s.dirty = false;
                    self.dirty -= 1;
                }
            }
            rest = &rest[run..];
        }
        Ok(())
    }

    /// Forgets what it has of the range, which means something else from now on.
    pub(crate) fn forget(&mut self, at: u64, len: u64) {
        let step = self.slice_len as u64;
        if len / step > self.slices.len() as u64 {
            self.slices.retain(|k, _| *k < at || *k >= at + len);
            self.dirty = self.slices.values().filter(|s| s.dirty).count();
            return;
        }
        for key in (at & !(step - 1)..at + len).step_by(self.slice_len) {
            if self.slices.remove(&key).is_some_and(|s| s.dirty) {
                self.dirty -= 1;
            }
        }
    }
}
