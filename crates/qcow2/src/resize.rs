//! Changing the size of the disk, and the name of its backing file.

use crate::create::Preallocation;
use crate::header::{EXT_BACKING_FORMAT, MAX_L1_BYTES};
use crate::image::{ExtentKind, Image};
use crate::{Error, ErrorKind, Progress, Result};

impl Image {
    /// Gives the disk `size` bytes, also while it is in use. What is new reads as zeroes.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] for a size below [`Image::data_end`] or above what the cluster size allows, otherwise the
    /// host's.
    pub fn resize(&self, size: u64, mode: Preallocation, progress: Progress<'_>) -> Result<()> {
        self.must_write()?;
        let old = self.size();
        if size == 0 || !size.is_multiple_of(512) || i64::try_from(size).is_err() {
            return Err(Error::new(ErrorKind::OutOfRange, "the size must be a multiple of 512 bytes"));
        }
        if size < old {
            return self.shrink(size);
        }
        self.abandon_bitmaps();
        self.grow_to(size, true)?;
        self.preallocate(old, size, mode, progress)
    }

    /// The first byte behind all data that the disk itself holds. It may be more than what a file system needs.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn data_end(&self) -> Result<u64> {
        let (mut at, mut end) = (0, 0);
        while at < self.size() {
            let e = self.extent(at, self.size() - at)?;
            at += e.len;
            if matches!(e.kind, ExtentKind::Data { .. } | ExtentKind::Compressed { .. }) {
                end = at;
            }
        }
        Ok(end)
    }

    pub(crate) fn grow_to(&self, size: u64, hide: bool) -> Result<()> {
        let old = self.size();
        let held = self.ranges.lock_all();
        let mut meta = self.meta();
        let entries = meta.layout.l1_entries(size);
        if entries * 8 > MAX_L1_BYTES {
            return Err(Error::new(ErrorKind::OutOfRange, "the disk would be too large for clusters of this size"));
        }
        if self.layout.external && self.data.size().map_err(|e| Error::host("cannot measure", 0, e))? < size {
            self.data.set_size(size).map_err(|e| Error::host("cannot grow the data file", size, e))?;
        }
        if entries > meta.l1.len() as u64 {
            let mut l1 = meta.l1.clone();
            l1.resize(entries as usize, 0);
            // The old one goes to disk first, where it is, so that both are the same.
            meta.sync()?;
            let at = meta.write_l1_copy(&l1)?;
            let was = (meta.header.l1_at, u64::from(meta.header.l1_entries) * 8);
            meta.switch_header(|h| (h.l1_at, h.l1_entries) = (at, entries as u32))?;
            meta.l1 = l1;
            meta.free_bytes(was.0, was.1);
        }
        drop(meta);
        drop(held);
        // A longer backing file must not show through where there was nothing before.
        let hidden = self.backing.as_ref().filter(|_| hide).map_or(0, |b| b.size()).min(size);
        self.set_size(size);
        if hidden > old {
            self.write_zeroes(old, hidden - old, true).inspect_err(|_| self.set_size(old))?;
        }
        self.meta().switch_header(|h| h.size = size).inspect_err(|_| self.set_size(old))
    }

    fn shrink(&self, size: u64) -> Result<()> {
        let needed = self.data_end()?;
        if size < needed {
            let what = format!("the disk holds data up to byte {needed}, so that it cannot shrink to {size} bytes");
            return Err(Error::new(ErrorKind::OutOfRange, what));
        }
        self.abandon_bitmaps();
        // What lies behind the new end must not come back when the disk grows again.
        self.write_zeroes(size, self.size() - size, true)?;
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        meta.switch_header(|h| h.size = size)?;
        self.set_size(size);
        Ok(())
    }

    /// Cuts off what the file has behind the last cluster in use.
    ///
    /// # Errors
    /// The host's.
    pub fn trim(&self) -> Result<()> {
        self.must_write()?;
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        meta.sync()?;
        meta.trim()
    }

    /// Stores another name (and format) of the backing file, or none. The contents of the disk change with it: that is the
    /// caller's business.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] if it does not fit, otherwise the host's.
    pub fn set_backing_name(&self, name: Option<&str>, format: Option<&str>) -> Result<()> {
        self.must_write()?;
        let mut meta = self.meta();
        let mut header = meta.header.clone();
        header.backing = name.map(str::to_owned);
        header.extensions.retain(|(kind, _)| *kind != EXT_BACKING_FORMAT);
        header
            .extensions
            .extend(format.filter(|_| name.is_some()).map(|f| (EXT_BACKING_FORMAT, f.as_bytes().to_vec())));
        meta.rewrite_header(header)
    }
}
