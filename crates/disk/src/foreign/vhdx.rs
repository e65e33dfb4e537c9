//! Hyper-V disks: fixed, dynamic and differencing, with replay of the log. (\[MS-VHDX\].)
//!
//! ```text
//! 0 "vhdxfile"  64K, 128K headers  192K, 256K region tables -> block table, metadata
//! header 00 "head"  04 CRC-32C  08 sequence  30 log id  42 version  44 log length  48 log at
//! block table: 64 bits each: 2..0 state, 63..20 place in MiB; after each `ratio` blocks, one of a sector bitmap
//! ```

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use visor_block::BlockError;
use visor_qcow2::{Result, Source};

use super::bytes::{le16, le32, le64, read_at, size as file_size};
use super::vhdx_log::{Patches, crc};
use super::{Kind, Named, Opener, corrupt, unsupported};

const BAT: [u8; 16] = id(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const METADATA: [u8; 16] = id(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
const FILE_PARAMETERS: [u8; 16] = id(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const DISK_SIZE: [u8; 16] = id(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const SECTOR_SIZE: [u8; 16] = id(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
const PARENT_LOCATOR: [u8; 16] = id(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);

const STATE_PRESENT: u64 = 6;
const STATE_PARTIAL: u64 = 7;
/// Largest disk of the format.
const MAX_SIZE: u64 = 64 << 40;

/// A GUID as it lies on disk.
const fn id(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

struct Vhdx {
    file: Patched,
    size: u64,
    block: u64,
    /// Blocks between two entries of sector bitmaps.
    ratio: u64,
    sector: u64,
    bat: Vec<u64>,
    parent: Option<Arc<dyn Source>>,
    /// Part of the sector bitmap that was looked at last, and its place.
    bitmap: Mutex<Option<(u64, Vec<u8>)>>,
}

/// The file with the log applied.
struct Patched {
    file: File,
    patches: Patches,
}

impl Patched {
    fn read(&self, data: &mut [u8], at: u64) -> Result<()> {
        read_at(&self.file, data, at)?;
        self.patches.apply(data, at);
        Ok(())
    }

    fn vec(&self, at: u64, len: u64, most: u64) -> Result<Vec<u8>> {
        if len > most {
            return Err(corrupt(format!("a table of {len} bytes")));
        }
        let mut data = vec![0; len as usize];
        self.read(&mut data, at)?;
        Ok(data)
    }
}

type Opened = std::result::Result<Result<Arc<dyn Source>>, BlockError>;

pub(super) fn open(file: File, opener: Opener<'_>) -> Opened {
    let (mut disk, names) = match parse(file) {
        Ok(parsed) => parsed,
        Err(e) => return Ok(Err(e)),
    };
    if let Some(names) = names {
        let mut last = None;
        for name in names {
            match opener(&name, Kind::Parent) {
                Ok(Named::Parent(p)) => disk.parent = Some(p),
                Ok(Named::Extent(..)) => {}
                Err(e) => last = Some(e),
            }
            if disk.parent.is_some() {
                break;
            }
        }
        match (disk.parent.is_some(), last) {
            (false, Some(e)) => return Err(e),
            (false, None) => return Ok(Err(corrupt("a differencing image without the name of its parent"))),
            _ => {}
        }
    }
    Ok(Ok(Arc::new(disk)))
}

/// Reads the tables. With a differencing image, the names under which its parent may be found.
fn parse(file: File) -> Result<(Vhdx, Option<Vec<String>>)> {
    let mut start = [0; 8];
    read_at(&file, &mut start, 0)?;
    if &start != b"vhdxfile" {
        return Err(corrupt("not a VHDX image"));
    }
    let header = newest_header(&file)?;
    let patches = Patches::read(&file, &header)?;
    let file = Patched { file, patches };
    let (bat_at, bat_len, meta_at, meta_len) = regions(&file)?;
    let meta = file.vec(meta_at, meta_len.min(1 << 20), 1 << 20)?;
    let item = |id| item(&file, &meta, meta_at, meta_len, id);
    let parameters = item(FILE_PARAMETERS)?.ok_or_else(|| corrupt("no file parameters"))?;
    let (block, flags) = (u64::from(le32(&parameters, 0)), le32(&parameters, 4));
    let size = item(DISK_SIZE)?.map_or(0, |d| le64(&d, 0));
    let sector = item(SECTOR_SIZE)?.map_or(512, |d| u64::from(le32(&d, 0)));
    if !block.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block) || !matches!(sector, 512 | 4096) {
        return Err(corrupt(format!("blocks of {block} bytes, sectors of {sector}")));
    }
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(512) {
        return Err(corrupt(format!("a disk of {size} bytes")));
    }
    let (ratio, blocks) = ((sector << 23) / block, size.div_ceil(block));
    let entries = blocks + (blocks - 1) / ratio + 1;
    if entries * 8 > bat_len + 8 * (ratio + 1) {
        return Err(corrupt("the block table is too short"));
    }
    let bat_len = (entries * 8).min(bat_len);
    // Before memory is taken for it.
    if bat_at.checked_add(bat_len).is_none_or(|end| end > file_size(&file.file).unwrap_or(0)) {
        return Err(corrupt(format!("a block table of {bat_len} bytes lies outside the file")));
    }
    let bat = file.vec(bat_at, bat_len, 1 << 30)?;
    let bat = bat.chunks_exact(8).map(|b| le64(b, 0)).collect();
    let names = if flags & 2 != 0 {
        Some(parent_names(&item(PARENT_LOCATOR)?.ok_or_else(|| corrupt("no parent locator"))?))
    } else {
        None
    };
    Ok((Vhdx { file, size, block, ratio, sector, bat, parent: None, bitmap: Mutex::default() }, names))
}

/// Of the two headers, the valid one that was written last.
fn newest_header(file: &File) -> Result<Vec<u8>> {
    let mut newest: Option<Vec<u8>> = None;
    for at in [64 << 10, 128 << 10] {
        let mut h = vec![0; 4096];
        read_at(file, &mut h, at)?;
        let valid = &h[..4] == b"head" && crc(&h, 4) == le32(&h, 4) && le16(&h, 0x42) == 1;
        if valid && newest.as_ref().is_none_or(|n| le64(n, 8) < le64(&h, 8)) {
            newest = Some(h);
        }
    }
    newest.ok_or_else(|| corrupt("both headers are damaged"))
}

/// Places and lengths of block table and metadata.
fn regions(file: &Patched) -> Result<(u64, u64, u64, u64)> {
    for at in [192 << 10, 256 << 10] {
        let t = file.vec(at, 64 << 10, 64 << 10)?;
        if &t[..4] != b"regi" || crc(&t, 4) != le32(&t, 4) || le32(&t, 8) > 2047 {
            continue;
        }
        let (mut bat, mut meta) = (None, None);
        for e in t[16..].chunks_exact(32).take(le32(&t, 8) as usize) {
            let region = (le64(e, 16), u64::from(le32(e, 24)));
            match &e[..16] {
                x if x == BAT => bat = Some(region),
                x if x == METADATA => meta = Some(region),
                _ if le32(e, 28) & 1 != 0 => return Err(unsupported("the image needs a region that is unknown here")),
                _ => {}
            }
        }
        if let (Some(b), Some(m)) = (bat, meta) {
            return Ok((b.0, b.1, m.0, m.1));
        }
    }
    Err(corrupt("both region tables are damaged"))
}

/// The data of a metadata item.
fn item(file: &Patched, meta: &[u8], meta_at: u64, meta_len: u64, id: [u8; 16]) -> Result<Option<Vec<u8>>> {
    if meta.get(..8) != Some(b"metadata") {
        return Err(corrupt("the metadata is damaged"));
    }
    let count = usize::from(le16(meta, 10)).min(2047);
    let entry = meta[32..].chunks_exact(32).take(count).find(|e| e[..16] == id);
    let Some(e) = entry else { return Ok(None) };
    let (at, len) = (u64::from(le32(e, 16)), u64::from(le32(e, 20)));
    if at + len > meta_len {
        return Err(corrupt("a metadata item lies outside its region"));
    }
    file.vec(meta_at.saturating_add(at), len, 1 << 20).map(Some)
}

/// The names of the parent: relative before absolute.
fn parent_names(locator: &[u8]) -> Vec<String> {
    let text = |at: u32, len: u16| {
        let bytes = locator.get(at as usize..at as usize + usize::from(len)).unwrap_or(&[]);
        let units: Vec<u16> = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    let pairs = locator.get(20..).unwrap_or(&[]).chunks_exact(12).take(usize::from(le16(locator, 18)));
    let pairs: Vec<(String, String)> =
        pairs.map(|p| (text(le32(p, 0), le16(p, 8)), text(le32(p, 4), le16(p, 10)))).collect();
    ["relative_path", "absolute_win32_path"]
        .iter()
        .filter_map(|key| pairs.iter().find(|(k, _)| k == key))
        .map(|(_, v)| v.trim_start_matches(".\\").replace('\\', "/"))
        .collect()
}

impl Vhdx {
    /// The table entry of block `n`, state and place.
    fn entry(&self, n: u64) -> (u64, u64) {
        let e = self.bat.get((n + n / self.ratio) as usize).copied().unwrap_or(0);
        (e & 7, e >> 20 << 20)
    }

    /// For a partly present block: whether the sector with byte `at` is here, and for how many bytes that holds.
    fn here(&self, at: u64) -> Result<(bool, u64)> {
        let chunk = at / self.block / self.ratio;
        let e = self.bat.get(((chunk + 1) * self.ratio + chunk) as usize).copied().unwrap_or(0);
        if e & 7 != STATE_PRESENT {
            return Ok((false, self.sector));
        }
        // One bit for each sector of the chunk, the lowest first.
        let bit = (at / self.sector) % (1 << 23);
        let place = (e >> 20 << 20).saturating_add(bit / 8 / 4096 * 4096);
        let mut kept = self.bitmap.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|(p, _)| *p != place) {
            let mut bits = vec![0; 4096];
            self.file.read(&mut bits, place)?;
            *kept = Some((place, bits));
        }
        let Some((_, bits)) = &*kept else { return Ok((false, self.sector)) };
        let get = |bit: u64| bits[(bit / 8 % 4096) as usize] >> (bit % 8) & 1 != 0;
        let end = (bit / 32768 + 1) * 32768;
        let run = (bit..end).take_while(|b| get(*b) == get(bit)).count() as u64;
        Ok((get(bit), run * self.sector - at % self.sector))
    }

    /// Where byte `at` of the disk is: in the file, in the parent (`None` and false), or zero; and for how many bytes.
    fn place(&self, at: u64) -> Result<(Option<u64>, bool, u64)> {
        let (n, within) = (at / self.block, at % self.block);
        let left = self.block - within;
        let (state, host) = self.entry(n);
        Ok(match state {
            // Places beyond all files read as zeroes, like others beyond the end.
            STATE_PRESENT => (Some(host.saturating_add(within)), false, left),
            STATE_PARTIAL => {
                let (here, run) = self.here(at)?;
                (here.then_some(host.saturating_add(within)), false, run.min(left))
            }
            // Not present: the parent's. Undefined, zero, unmapped: zeroes.
            0 => (None, false, left),
            _ => (None, true, left),
        })
    }
}

impl Source for Vhdx {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let pos = at + done as u64;
            let (host, zero, len) = self.place(pos)?;
            let n = (data.len() - done).min(len as usize).max(1);
            let part = &mut data[done..done + n];
            match (host, &self.parent) {
                (Some(host), _) => self.file.read(part, host)?,
                (None, Some(p)) if !zero => {
                    let have = p.size().saturating_sub(pos).min(n as u64) as usize;
                    part[have..].fill(0);
                    if have > 0 {
                        p.read(pos, &mut part[..have])?;
                    }
                }
                _ => part.fill(0),
            }
            done += n;
        }
        Ok(())
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let (host, zero, n) = self.place(at)?;
        let n = n.clamp(1, len);
        match (host, &self.parent) {
            (Some(_), _) => Ok((false, n)),
            (None, Some(p)) if !zero && at < p.size() => p.is_zero(at, n.min(p.size() - at)),
            _ => Ok((true, n)),
        }
    }
}
