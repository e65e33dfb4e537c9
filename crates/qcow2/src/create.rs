//! Making an image.

use std::sync::Arc;

use crate::bytes::put;
use crate::entry::{Layout, Plain, Slot};
use crate::header::{
    AUTOCLEAR_RAW_DATA, COMPAT_LAZY_REFCOUNTS, Compression, EXT_BACKING_FORMAT, EXT_DATA_FILE, Header,
    INCOMPAT_COMPRESSION, INCOMPAT_DATA_FILE, INCOMPAT_EXTENDED_L2, MAX_L1_BYTES,
};
use crate::image::{Image, OpenOptions};
use crate::storage::{Source, Storage};
use crate::{Error, ErrorKind, Progress, Result};

/// Clusters preallocated at a time.
const BATCH: u64 = 1024;

/// What space a new image takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// Only what is written.
    #[default]
    Off,
    /// All tables; data space is a hole of the file.
    Metadata,
    /// All tables, and the host's space for all data.
    Falloc,
    /// The same, and the data is written as zeroes.
    Full,
}

/// How a new image is.
#[derive(Clone)]
pub struct CreateOptions {
    /// Bytes of the disk, a multiple of 512.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Bits of a refcount: a power of two from 1 to 64; 16 in version 2.
    pub refcount_bits: u32,
    /// Clusters have 32 subclusters; version 3 with clusters of at least 16 KiB.
    pub extended_l2: bool,
    /// How clusters are compressed; zlib in version 2.
    pub compression: Compression,
    /// Allow others to write refcounts late; version 3.
    pub lazy_refcounts: bool,
    /// Name and format of the backing file as stored in the image.
    pub backing: Option<(String, Option<String>)>,
    /// What the backing file shows, if it shows something already.
    pub backing_source: Option<Arc<dyn Source>>,
    /// Name of the external data file, the file, and whether it shall be a raw image of the disk.
    pub data_file: Option<(String, Arc<dyn Storage>, bool)>,
    /// What space is taken.
    pub preallocation: Preallocation,
}

impl CreateOptions {
    /// An image of `size` bytes with the usual values.
    pub fn new(size: u64) -> Self {
        CreateOptions {
            size,
            version: 3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            extended_l2: false,
            compression: Compression::Zlib,
            lazy_refcounts: false,
            backing: None,
            backing_source: None,
            data_file: None,
            preallocation: Preallocation::Off,
        }
    }

    fn header(&self) -> Result<Header> {
        let bad = |what: &str| Err(Error::new(ErrorKind::OutOfRange, what));
        if self.size == 0 || !self.size.is_multiple_of(512) || self.size > i64::MAX as u64 / 2 {
            return bad("the size must be a multiple of 512 bytes");
        }
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return bad("the cluster size must be a power of two from 512 bytes to 2 MiB");
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return bad("the refcount bits must be a power of two from 1 to 64");
        }
        let plain = self.refcount_bits == 16 && !self.extended_l2 && !self.lazy_refcounts && self.data_file.is_none();
        match self.version {
            2 if !plain || self.compression != Compression::Zlib => return bad("version 2 has none of these features"),
            2 | 3 => {}
            _ => return bad("the version must be 2 or 3"),
        }
        if self.extended_l2 && self.cluster_size < 16 << 10 {
            return bad("subclusters need clusters of at least 16 KiB");
        }
        if self.backing.is_some() && self.preallocation != Preallocation::Off {
            return bad("an image with a backing file cannot be preallocated");
        }
        let bits = self.cluster_size.trailing_zeros();
        let mut h = Header::new(self.version, bits, self.refcount_bits.trailing_zeros());
        h.compression = self.compression;
        h.compatible = if self.lazy_refcounts { COMPAT_LAZY_REFCOUNTS } else { 0 };
        let flag = |on: bool, bit: u64| if on { bit } else { 0 };
        h.incompatible = flag(self.extended_l2, INCOMPAT_EXTENDED_L2)
            | flag(self.compression != Compression::Zlib, INCOMPAT_COMPRESSION)
            | flag(self.data_file.is_some(), INCOMPAT_DATA_FILE);
        if let Some((name, format)) = &self.backing {
            h.backing = Some(name.clone());
            h.extensions.extend(format.iter().map(|f| (EXT_BACKING_FORMAT, f.clone().into_bytes())));
        }
        if let Some((name, _, raw)) = &self.data_file {
            h.extensions.push((EXT_DATA_FILE, name.clone().into_bytes()));
            h.autoclear |= flag(*raw, AUTOCLEAR_RAW_DATA);
        }
        if self.version == 3 && self.cluster_size >= 1024 {
            h.add_feature_names();
        }
        if Layout::of(&h).l1_entries(self.size) * 8 > MAX_L1_BYTES {
            return bad("the disk is too large for clusters of this size");
        }
        Ok(h)
    }
}

impl Image {
    /// Makes an image in the empty `file`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] for values that do not fit together, [`ErrorKind::Cancelled`] if `progress`, which is told of
    /// bytes preallocated, says so, otherwise the host's. The file is worthless then.
    pub fn create(file: Arc<dyn Storage>, options: &CreateOptions, progress: Progress<'_>) -> Result<Image> {
        let mut header = options.header()?;
        let layout = Layout::of(&header);
        let cluster = layout.cluster();
        (header.reftable_at, header.reftable_clusters) = (cluster, 1);
        header.l1_at = 0;
        let mut start = header.emit()?;
        start.resize(3 * cluster as usize, 0);
        put(&mut start, cluster as usize, &(2 * cluster).to_be_bytes());
        let block = &mut start[2 * cluster as usize..];
        for i in 0..3u64 {
            crate::refs::write(block, ((i << layout.refcount_order) / 8) as usize, i, layout.refcount_order, 1);
        }
        file.write_at(&start, 0).map_err(|e| Error::host("cannot write the image", 0, e))?;
        let data_file = options.data_file.as_ref().map(|(_, f, _)| f.clone());
        if let Some(data) = &data_file {
            data.set_size(options.size).map_err(|e| Error::host("cannot size the data file", options.size, e))?;
        }
        let open = OpenOptions { writable: true, backing: options.backing_source.clone(), data_file, repair: true };
        let image = Image::open(file, open)?;
        image.grow_to(options.size, false)?;
        image.preallocate(0, options.size, options.preallocation, progress)?;
        image.flush()?;
        Ok(image)
    }

    /// Takes space for a range of the disk that has none yet.
    pub(crate) fn preallocate(&self, at: u64, end: u64, mode: Preallocation, progress: Progress<'_>) -> Result<()> {
        if mode == Preallocation::Off {
            return Ok(());
        }
        let cluster = self.layout.cluster();
        let mut index = at.div_ceil(cluster);
        let stop = end.div_ceil(cluster);
        while index < stop {
            if !progress(index * cluster - at, end - at) {
                return Err(Error::new(ErrorKind::Cancelled, "stopped"));
            }
            let mut meta = self.meta();
            meta.relieve()?;
            let want = (stop - index).min(BATCH);
            let (host, count, fresh) = if self.layout.external {
                (index * cluster, want, true)
            } else {
                let run = meta.allocate(want)?;
                (run.first * cluster, run.count, run.fresh)
            };
            drop(meta);
            let (len, failed) = (count * cluster, |e| Error::host("cannot take space", host, e));
            match mode {
                Preallocation::Full => self.write_zeroes_raw(host, len)?,
                Preallocation::Falloc => self.data.allocate(host, len).map_err(failed)?,
                _ => {}
            }
            if !fresh && mode != Preallocation::Full {
                self.data.zero_at(host, len).map_err(failed)?;
            }
            let mut meta = self.meta();
            for i in 0..count {
                let slot = Plain { host: Some(host + i * cluster), copied: true, alloc: self.layout.all(), zero: 0 };
                meta.store(index + i, Slot::Plain(slot))?;
            }
            index += count;
        }
        self.flush()
    }

    fn write_zeroes_raw(&self, at: u64, len: u64) -> Result<()> {
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(zeroes.len() as u64);
            self.data
                .write_at(&zeroes[..n as usize], at + done)
                .map_err(|e| Error::host("cannot take space", at + done, e))?;
            done += n;
        }
        Ok(())
    }
}
