//! An open image.

mod discard;
mod extents;
mod read;
mod write;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entry::Layout;
use crate::header::{
    AUTOCLEAR_RAW_DATA, COMPAT_LAZY_REFCOUNTS, Compression, EXT_BACKING_FORMAT, EXT_DATA_FILE, Header,
    INCOMPAT_CORRUPT, INCOMPAT_DATA_FILE, INCOMPAT_DIRTY,
};
use crate::meta::Meta;
use crate::ranges::Ranges;
use crate::storage::{Source, Storage};
use crate::{Error, ErrorKind, Result};

pub use extents::{Extent, ExtentKind};

/// Bytes of a file that hold a header, its extensions and the name of a backing file.
const HEADER_BYTES: usize = 64 << 10;
/// Decompressed clusters that are kept for neighbouring reads.
const DECOMPRESSED: usize = 4;

/// What the header of an image says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// Clusters have 32 subclusters.
    pub extended_l2: bool,
    /// How compressed clusters are stored.
    pub compression: Compression,
    /// Refcounts may be written late by others.
    pub lazy_refcounts: bool,
    /// The image was not closed properly.
    pub dirty: bool,
    /// The image was found to be damaged.
    pub corrupt: bool,
    /// Name of the backing file as stored: relative names are relative to the image's folder.
    pub backing_file: Option<String>,
    /// The backing file's format.
    pub backing_format: Option<String>,
    /// Name of the external data file.
    pub data_file: Option<String>,
    /// The external data file is a raw image of the disk.
    pub data_file_raw: bool,
    /// Number of internal snapshots.
    pub snapshots: u32,
}

/// How to open an image.
#[derive(Default)]
pub struct OpenOptions {
    /// Writing is allowed.
    pub writable: bool,
    /// What shows where the image has nothing; needed if [`Info::backing_file`] is there.
    pub backing: Option<Arc<dyn Source>>,
    /// The external data file; needed if [`Info::data_file`] is there.
    pub data_file: Option<Arc<dyn Storage>>,
    /// Open for writing even an image that is damaged or was not closed, to repair it: only check and repair may follow.
    pub repair: bool,
}

/// An open image. All methods may be called from several threads at once.
pub struct Image {
    pub(crate) meta: Mutex<Meta>,
    pub(crate) ranges: Ranges,
    pub(crate) layout: Layout,
    /// Where the guest's data lies: the image itself, or the external data file.
    pub(crate) data: Arc<dyn Storage>,
    pub(crate) file: Arc<dyn Storage>,
    pub(crate) backing: Option<Arc<dyn Source>>,
    pub(crate) compression: Compression,
    size: AtomicU64,
    pub(crate) writable: bool,
    decompressed: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
    pub(crate) recorders: Mutex<Vec<crate::bitmap::Recorder>>,
}

impl Image {
    /// Whether these first bytes of a file are those of an image.
    pub fn probe(start: &[u8]) -> bool {
        Header::probe(start)
    }

    /// What the header says. Nothing else is read.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is no image, [`ErrorKind::Unsupported`] if it is one of a kind unknown here.
    pub fn info(file: &dyn Storage) -> Result<Info> {
        read_header(file).map(|h| info(&h))
    }

    /// Opens the image in `file`. An image that was not closed properly is repaired first if it is opened for writing.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is damaged, [`ErrorKind::Unsupported`] if it needs what is not there, otherwise the host's.
    pub fn open(file: Arc<dyn Storage>, options: OpenOptions) -> Result<Self> {
        let header = read_header(&*file)?;
        let external = header.incompatible & INCOMPAT_DATA_FILE != 0;
        if external && options.data_file.is_none() {
            return Err(Error::unsupported("the image needs its external data file"));
        }
        if header.backing.is_some() && options.backing.is_none() && !options.repair {
            return Err(Error::unsupported("the image needs its backing file"));
        }
        if options.writable && !options.repair && header.incompatible & INCOMPAT_CORRUPT != 0 {
            return Err(Error::corrupt("the image is marked as damaged; repair it first"));
        }
        let dirty = header.incompatible & INCOMPAT_DIRTY != 0;
        let data = options.data_file.filter(|_| external);
        let (size, compression) = (header.size, header.compression);
        let meta = Meta::load(file.clone(), data.clone(), header)?;
        let image = Image {
            layout: meta.layout,
            meta: Mutex::new(meta),
            ranges: Ranges::default(),
            data: data.unwrap_or_else(|| file.clone()),
            file,
            backing: options.backing,
            compression,
            size: AtomicU64::new(size),
            writable: options.writable,
            decompressed: Mutex::default(),
            recorders: Mutex::default(),
        };
        if options.writable && !options.repair {
            if dirty {
                image.repair(&mut |_, _| true)?;
            }
            image.begin_writing()?;
        }
        Ok(image)
    }

    /// What the header says now.
    pub fn describe(&self) -> Info {
        info(&self.meta().header)
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes of a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.layout.cluster()
    }

    /// Makes all completed writes durable.
    ///
    /// # Errors
    /// The host's. After a flush that failed, all further writes and flushes fail, since it is unknown what the medium holds.
    pub fn flush(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        let mut meta = self.meta();
        if meta.is_dirty() {
            return meta.sync();
        }
        meta.alive()?;
        // Only data: others need not wait for it.
        drop(meta);
        self.data.flush().map_err(|e| {
            self.meta().fail();
            Error::host("cannot flush the image", 0, e)
        })
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }

    pub(crate) fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn must_write(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Error::new(ErrorKind::ReadOnly, "the image is open for reading only")) }
    }

    /// Clusters from `first` to `last` that `len` bytes from `at` touch, if they lie inside the disk.
    fn span(&self, at: u64, len: u64) -> Result<(u64, u64)> {
        match at.checked_add(len) {
            Some(end) if end <= self.size() => {
                Ok((at >> self.layout.cluster_bits, end.saturating_sub(1).max(at) >> self.layout.cluster_bits))
            }
            _ => Err(Error::new(ErrorKind::OutOfRange, format!("{len} bytes at byte {at} lie outside the disk"))),
        }
    }

    /// Clears features that do not survive writing by this crate.
    fn begin_writing(&self) -> Result<()> {
        let mut meta = self.meta();
        let known = crate::header::AUTOCLEAR_BITMAPS | AUTOCLEAR_RAW_DATA;
        let mut header = meta.header.clone();
        header.autoclear &= known;
        if header != meta.header {
            meta.write_header(header)?;
            meta.flush()?;
        }
        drop(meta);
        self.start_bitmaps()
    }

    pub(crate) fn forget_decompressed(&self) {
        self.decompressed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.writable {
            // An owner who needs to know whether this succeeds calls `flush` before.
            let _ = self.finish_bitmaps();
            let _ = self.flush();
        }
    }
}

impl Source for Image {
    fn size(&self) -> u64 {
        Image::size(self)
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        Image::read(self, at, data)
    }

    fn read_now(&self, at: u64, data: &mut [u8]) -> bool {
        Image::read_now(self, at, data)
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let e = self.extent(at, len)?;
        match e.kind {
            ExtentKind::Zero => Ok((true, e.len)),
            ExtentKind::Hole => match &self.backing {
                None => Ok((true, e.len)),
                Some(b) if at >= b.size() => Ok((true, e.len)),
                Some(b) => b.is_zero(at, e.len.min(b.size() - at)),
            },
            ExtentKind::Data { .. } | ExtentKind::Compressed { .. } => Ok((false, e.len)),
        }
    }

    /// By the first extents: images are compressed when they are made, as a whole.
    fn is_packed(&self) -> bool {
        const LOOK: usize = 64;
        let mut at = 0;
        for _ in 0..LOOK {
            match self.extent(at, self.size().saturating_sub(at)) {
                Ok(e) if matches!(e.kind, ExtentKind::Compressed { .. }) => return true,
                Ok(e) if e.len > 0 && at + e.len < self.size() => at += e.len,
                _ => break,
            }
        }
        self.backing.as_ref().is_some_and(|b| b.is_packed())
    }
}

pub(crate) fn read_header(file: &dyn Storage) -> Result<Header> {
    let size = file.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
    let mut start = vec![0; size.clamp(512, HEADER_BYTES as u64) as usize];
    file.read_at(&mut start, 0).map_err(|e| Error::host("cannot read the header", 0, e))?;
    Header::parse(&start)
}

fn info(h: &Header) -> Info {
    Info {
        version: h.version,
        size: h.size,
        cluster_size: 1 << h.cluster_bits,
        refcount_bits: 1 << h.refcount_order,
        extended_l2: Layout::of(h).extended,
        compression: h.compression,
        lazy_refcounts: h.compatible & COMPAT_LAZY_REFCOUNTS != 0,
        dirty: h.incompatible & INCOMPAT_DIRTY != 0,
        corrupt: h.incompatible & INCOMPAT_CORRUPT != 0,
        backing_file: h.backing.clone(),
        backing_format: h.text(EXT_BACKING_FORMAT),
        data_file: h.text(EXT_DATA_FILE),
        data_file_raw: h.autoclear & AUTOCLEAR_RAW_DATA != 0,
        snapshots: h.snapshots,
    }
}
