//! VMware disks: flat, sparse and stream-optimised, in one file or several. (VMware, "Virtual Disk Format 5.0".)
//!
//! ```text
//! 00 "KDMV"  04 version  08 flags  0C capacity  14 grain size  1C descriptor at  24 its size  2C entries of a table
//! 30 redundant directory  38 directory at  40 overhead  4D compression      (places and sizes in sectors)
//! directory -> tables -> grains; entry 0: not here, 1: zero (if flag 2)
//! compressed grain: sector of the disk (64 bits), length (32 bits), zlib data
//! ```

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::{Decompress, FlushDecompress};
use visor_block::BlockError;
use visor_qcow2::{Result, Source};

use super::bytes::{le16, le32, le64, read_at, read_vec, size};
use super::vmdk_descriptor::{Descriptor, ExtentKind, MAX_BYTES};
use super::{Kind, Named, Opener, corrupt, unsupported};

const FLAG_ZERO_GRAIN: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const AT_END: u64 = u64::MAX;
/// Largest disk, so that no sum of places overflows.
const MAX_SIZE: u64 = 1 << 60;
/// Most entries of a directory: 64 MiB.
const MAX_DIRECTORY: u64 = 1 << 24;
/// Tables and grains that are kept.
const KEPT: usize = 16;

/// A disk.
struct Vmdk {
    /// In the order of the disk: first byte, length.
    extents: Vec<(u64, u64, Extent)>,
    size: u64,
    parent: Option<Arc<dyn Source>>,
}

enum Extent {
    Flat { file: File, offset: u64 },
    Sparse(Sparse),
    Zero,
}

/// An extent in grains.
struct Sparse {
    file: File,
    directory: Vec<u32>,
    grain: u64,
    table_entries: u64,
    zero_grains: bool,
    compressed: bool,
    tables: Mutex<Vec<(u32, Arc<Vec<u32>>)>>,
    grains: Mutex<Vec<(u32, Arc<Vec<u8>>)>>,
}

type Opened = std::result::Result<Result<Arc<dyn Source>>, BlockError>;

pub(super) fn open(file: File, path: &Path, opener: Opener<'_>) -> Opened {
    let mut start = [0; 512];
    if let Err(e) = read_at(&file, &mut start, 0) {
        return Ok(Err(e));
    }
    let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let described = match &start[..4] {
        b"KDMV" => embedded(&file, &start),
        b"COWD" => return Ok(lone(file)),
        _ => text(&file),
    };
    let descriptor = match described {
        Ok(Some(d)) => d,
        Ok(None) => return Ok(lone(file)),
        Err(e) => return Ok(Err(e)),
    };
    let mut extents = Vec::new();
    let mut at = 0u64;
    for e in &descriptor.extents {
        let file = match e.kind {
            ExtentKind::Zero => None,
            // A disk in one file names itself.
            ExtentKind::Sparse if e.name == own || descriptor.extents.len() == 1 && &start[..4] == b"KDMV" => {
                match file.try_clone() {
                    Ok(f) => Some(f),
                    Err(e) => return Ok(Err(visor_qcow2::Error::host("cannot open", 0, e))),
                }
            }
            _ => match opener(&e.name, Kind::Extent)? {
                Named::Extent(f) => Some(f),
                Named::Parent(_) => None,
            },
        };
        let extent = match (e.kind, file) {
            (ExtentKind::Flat, Some(file)) => Ok(Extent::Flat { file, offset: e.offset * 512 }),
            (ExtentKind::Sparse, Some(file)) => Sparse::open(file).map(|(s, _)| Extent::Sparse(s)),
            _ => Ok(Extent::Zero),
        };
        match extent {
            Ok(extent) => extents.push((at, e.sectors * 512, extent)),
            Err(e) => return Ok(Err(e)),
        }
        at = at.saturating_add(e.sectors * 512);
        if at > MAX_SIZE {
            return Ok(Err(corrupt(format!("extents of {at} bytes and more"))));
        }
    }
    let parent = match &descriptor.parent {
        Some(name) => match opener(name, Kind::Parent)? {
            Named::Parent(p) => Some(p),
            Named::Extent(..) => None,
        },
        None => None,
    };
    Ok(Ok(Arc::new(Vmdk { extents, size: at, parent })))
}

/// A sparse file without a descriptor is a disk of its own.
fn lone(file: File) -> Result<Arc<dyn Source>> {
    let (sparse, size) = Sparse::open(file)?;
    Ok(Arc::new(Vmdk { extents: vec![(0, size, Extent::Sparse(sparse))], size, parent: None }))
}

fn embedded(file: &File, header: &[u8]) -> Result<Option<Descriptor>> {
    let (at, len) = (le64(header, 0x1c), le64(header, 0x24));
    if at == 0 || len == 0 {
        return Ok(None);
    }
    if len > MAX_BYTES / 512 || at > 1 << 45 {
        return Err(corrupt("the descriptor lies outside the file"));
    }
    Descriptor::parse(&read_vec(file, at * 512, len * 512)?).map(Some)
}

fn text(file: &File) -> Result<Option<Descriptor>> {
    let len = size(file)?;
    if len > MAX_BYTES {
        return Err(corrupt("the descriptor is too long"));
    }
    Descriptor::parse(&read_vec(file, 0, len)?).map(Some)
}

impl Sparse {
    /// The extent in `file`, and its size in bytes.
    fn open(file: File) -> Result<(Self, u64)> {
        let mut h = read_vec(&file, 0, 512)?;
        if &h[..4] == b"COWD" {
            return Self::open_cowd(file, &h);
        }
        if &h[..4] == b"KDMV" && le64(&h, 0x38) == AT_END {
            // Of a stream, the header that counts is in front of the end marker.
            let at = size(&file)?.checked_sub(1024).ok_or_else(|| corrupt("the file is cut off"))?;
            h = read_vec(&file, at, 512)?;
        }
        if &h[..4] != b"KDMV" || !(1..=3).contains(&le32(&h, 4)) {
            return Err(corrupt("not a VMDK extent"));
        }
        let (flags, capacity, grain) = (le32(&h, 8), le64(&h, 0x0c), le64(&h, 0x14));
        let compressed = flags & FLAG_COMPRESSED != 0;
        if compressed && le16(&h, 0x4d) != 1 {
            return Err(unsupported(format!("VMDK compression {}", le16(&h, 0x4d))));
        }
        let zero_grains = flags & FLAG_ZERO_GRAIN != 0;
        let entries = u64::from(le32(&h, 0x2c));
        Self::with(file, capacity, grain, entries, le64(&h, 0x38), None, zero_grains, compressed)
    }

    /// The extents of ESX: the same with other fields. (Places and sizes of 32 bits; tables of 4096 entries.)
    fn open_cowd(file: File, h: &[u8]) -> Result<(Self, u64)> {
        let (capacity, grain) = (u64::from(le32(h, 12)), u64::from(le32(h, 16)));
        let (at, count) = (u64::from(le32(h, 20)), u64::from(le32(h, 24)));
        Self::with(file, capacity, grain, 4096, at, Some(count), false, false)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a header")]
    fn with(
        file: File,
        capacity: u64,
        grain: u64,
        table_entries: u64,
        directory_at: u64,
        count: Option<u64>,
        zero_grains: bool,
        compressed: bool,
    ) -> Result<(Self, u64)> {
        if capacity == 0 || capacity > 1 << 45 || !grain.is_power_of_two() || !(1..=1 << 15).contains(&grain) {
            return Err(corrupt(format!("{capacity} sectors in grains of {grain}")));
        }
        if !(1..=1 << 16).contains(&table_entries) || directory_at > 1 << 45 {
            return Err(corrupt(format!("tables of {table_entries} entries")));
        }
        let needed = capacity.div_ceil(grain).div_ceil(table_entries);
        if needed > MAX_DIRECTORY || count.is_some_and(|c| c < needed) {
            return Err(corrupt("the directory does not fit the capacity"));
        }
        let directory = read_vec(&file, directory_at * 512, needed * 4)?;
        let directory = directory.chunks_exact(4).map(|b| le32(b, 0)).collect();
        let sparse = Sparse {
            file,
            directory,
            grain: grain * 512,
            table_entries,
            zero_grains,
            compressed,
            tables: Mutex::default(),
            grains: Mutex::default(),
        };
        Ok((sparse, capacity * 512))
    }

    /// The entry of the grain with byte `at`.
    fn entry(&self, at: u64) -> Result<u32> {
        let index = at / self.grain;
        let table = self.directory.get((index / self.table_entries) as usize).copied().unwrap_or(0);
        if table == 0 {
            return Ok(0);
        }
        let entries = kept(&self.tables, table, || {
            let bytes = read_vec(&self.file, u64::from(table) * 512, self.table_entries * 4)?;
            Ok(bytes.chunks_exact(4).map(|b| le32(b, 0)).collect())
        })?;
        Ok(entries.get((index % self.table_entries) as usize).copied().unwrap_or(0))
    }

    /// The contents of a compressed grain.
    fn grain(&self, entry: u32) -> Result<Arc<Vec<u8>>> {
        kept(&self.grains, entry, || {
            let at = u64::from(entry) * 512;
            let len = u64::from(le32(&read_vec(&self.file, at, 12)?, 8));
            if len > 2 * self.grain + 4096 {
                return Err(corrupt(format!("a compressed grain of {len} bytes")));
            }
            let packed = read_vec(&self.file, at + 12, len)?;
            let mut data = vec![0; self.grain as usize];
            let mut z = Decompress::new(true);
            z.decompress(&packed, &mut data, FlushDecompress::Finish)
                .map_err(|e| corrupt(format!("a compressed grain is damaged: {e}")))?;
            // The last grain of a disk may be shorter.
            Ok(data)
        })
    }
}

/// What is kept under `key`, made if it is not there.
fn kept<T>(list: &Mutex<Vec<(u32, Arc<T>)>>, key: u32, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
    let lock = || list.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, value)) = lock().iter().find(|(k, _)| *k == key) {
        return Ok(value.clone());
    }
    let value = Arc::new(make()?);
    let mut list = lock();
    if list.len() >= KEPT {
        list.remove(0);
    }
    list.push((key, value.clone()));
    Ok(value)
}

impl Vmdk {
    /// The extent with byte `at`, and where in it that is.
    fn extent(&self, at: u64) -> Option<(&Extent, u64, u64)> {
        let i = self.extents.partition_point(|(start, ..)| *start <= at).checked_sub(1)?;
        let (start, len, extent) = &self.extents[i];
        (at < start + len).then(|| (extent, at - start, start + len - at))
    }

    fn below(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let have = self.parent.as_ref().map_or(0, |p| p.size().saturating_sub(at).min(data.len() as u64) as usize);
        data[have..].fill(0);
        match &self.parent {
            Some(p) if have > 0 => p.read(at, &mut data[..have]),
            _ => Ok(()),
        }
    }
}

impl Source for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let pos = at + done as u64;
            let Some((extent, within, left)) = self.extent(pos) else { return Err(corrupt("outside the extents")) };
            let left = left.min((data.len() - done) as u64);
            let n = match extent {
                Extent::Sparse(s) => (s.grain - within % s.grain).min(left),
                _ => left,
            } as usize;
            let part = &mut data[done..done + n];
            match extent {
                Extent::Zero => part.fill(0),
                Extent::Flat { file, offset } => read_at(file, part, offset + within)?,
                Extent::Sparse(s) => match s.entry(within)? {
                    0 => self.below(pos, part)?,
                    1 if s.zero_grains => part.fill(0),
                    e if s.compressed => {
                        let from = (within % s.grain) as usize;
                        part.copy_from_slice(&s.grain(e)?[from..from + n]);
                    }
                    e => read_at(&s.file, part, u64::from(e) * 512 + within % s.grain)?,
                },
            }
            done += n;
        }
        Ok(())
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let Some((extent, within, left)) = self.extent(at) else { return Ok((true, len)) };
        let left = left.min(len);
        match extent {
            Extent::Zero => Ok((true, left)),
            Extent::Flat { .. } => Ok((false, left)),
            Extent::Sparse(s) => {
                let n = (s.grain - within % s.grain).min(left);
                match s.entry(within)? {
                    0 => match &self.parent {
                        Some(p) if at < p.size() => p.is_zero(at, n.min(p.size() - at)),
                        _ => Ok((true, n)),
                    },
                    1 if s.zero_grains => Ok((true, n)),
                    _ => Ok((false, n)),
                }
            }
        }
    }
}
