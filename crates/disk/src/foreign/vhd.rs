//! Virtual PC disks: fixed, dynamic and differencing. (Microsoft, "Virtual Hard Disk Image Format Specification" 1.0.)
//!
//! ```text
//! footer (at the end, and a copy at the start unless fixed)
//!   00 "conectix"  10 header at  28 original size  30 current size  3C type (2 fixed, 3 dynamic, 4 differencing)  40 checksum
//! header 00 "cxsparse"  10 block table at  1C blocks  20 block size  24 checksum  28 parent id
//!   40 parent name (UTF-16)  240 parent locators: 8 of platform, space, length, 0, at
//! block: a bitmap of its sectors, padded to sectors, then the sectors
//! ```

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use visor_block::BlockError;
use visor_qcow2::{Result, Source};

use super::blocks::{Blocks, Place, Table};
use super::bytes::{be32, be64, read_at, read_vec, size};
use super::{Kind, Named, Opener, corrupt, unsupported};

const FREE: u32 = 0xffff_ffff;
/// Type of a disk without blocks.
const FIXED: u32 = 2;
/// Most blocks: 2 TiB of the usual 2 MiB are one million.
const MAX_BLOCKS: u32 = 1 << 24;

struct Footer {
    kind: u32,
    header_at: u64,
    size: u64,
}

impl Footer {
    fn parse(b: &[u8]) -> Result<Self> {
        if b.get(..8) != Some(b"conectix") || checksum(b, 0x40) != be32(b, 0x40) {
            return Err(corrupt("not a VHD image, or its footer is damaged"));
        }
        let size = footer_size(b);
        if size == 0 || !size.is_multiple_of(512) || size > 1 << 50 {
            return Err(corrupt(format!("a disk of {size} bytes")));
        }
        Ok(Footer { kind: be32(b, 0x3c), header_at: be64(b, 0x10), size })
    }
}

/// The disk's size. Programs that think in cylinders make the file larger than their geometry says; they are known by name.
fn footer_size(b: &[u8]) -> u64 {
    let current = be64(b, 0x30);
    let (cylinders, heads, sectors) = (u64::from(be32(b, 0x38) >> 16), u64::from(b[0x3a]), u64::from(b[0x3b]));
    let geometry = cylinders * heads * sectors * 512;
    // Virtual PC and QEMU (unless told `force_size`) mean the geometry, up to its limit.
    let by_geometry = matches!(&b[0x1c..0x20], b"vpc " | b"vs  " | b"qemu");
    if by_geometry && geometry != 0 && cylinders < 65535 { geometry } else { current }
}

/// Ones' complement of the sum of all bytes but those at `at`, where the checksum itself is.
fn checksum(b: &[u8], at: usize) -> u32 {
    let sum = b.iter().enumerate().filter(|(i, _)| !(at..at + 4).contains(i));
    !sum.fold(0u32, |s, (_, b)| s.wrapping_add(u32::from(*b)))
}

pub(super) struct Bat {
    blocks: Vec<u32>,
    block: u64,
    /// Bytes of the bitmap before each block.
    bitmap: u64,
    differencing: bool,
    /// The bitmap that was looked at last.
    last: Mutex<Option<(u32, Vec<u8>)>>,
}

type Opened = std::result::Result<Result<Arc<dyn Source>>, BlockError>;

pub(super) fn open(file: File, opener: Opener<'_>) -> Opened {
    let (footer, header) = match parse(&file) {
        Ok(parsed) => parsed,
        Err(e) => return Ok(Err(e)),
    };
    let Some(header) = header else {
        return Ok(Ok(Arc::new(Blocks { file, size: footer.size, table: Fixed, parent: None })));
    };
    let bat = match read_bat(&file, &footer, &header) {
        Ok(bat) => bat,
        Err(e) => return Ok(Err(e)),
    };
    let parent = if bat.differencing { Some(open_parent(&file, &header, opener)?) } else { None };
    Ok(match parent {
        Some(Err(e)) => Err(e),
        Some(Ok(p)) => Ok(Arc::new(Blocks { file, size: footer.size, table: bat, parent: Some(p) })),
        None => Ok(Arc::new(Blocks { file, size: footer.size, table: bat, parent: None })),
    })
}

pub(super) fn is_fixed(file: &File) -> bool {
    parse(file).is_ok_and(|(footer, _)| footer.kind == FIXED)
}

fn parse(file: &File) -> Result<(Footer, Option<Vec<u8>>)> {
    let len = size(file)?;
    // Old files have a footer of 511 bytes; the copy at the start serves where the one at the end is lost.
    let at_end = read_vec(file, len.saturating_sub(512), 512.min(len)).and_then(|b| Footer::parse(&b));
    let footer = match at_end {
        Ok(footer) => footer,
        Err(_) => read_vec(file, 0, 512).and_then(|b| Footer::parse(&b))?,
    };
    match footer.kind {
        FIXED => Ok((footer, None)),
        3 | 4 => {
            let header = read_vec(file, footer.header_at, 1024)?;
            if &header[..8] != b"cxsparse" || checksum(&header, 0x24) != be32(&header, 0x24) {
                return Err(corrupt("the header is damaged"));
            }
            Ok((footer, Some(header)))
        }
        other => Err(unsupported(format!("a VHD image of type {other}"))),
    }
}

fn read_bat(file: &File, footer: &Footer, header: &[u8]) -> Result<Bat> {
    let (count, block) = (be32(header, 0x1c), u64::from(be32(header, 0x20)));
    if !block.is_power_of_two() || !(4096..=1 << 28).contains(&block) || count > MAX_BLOCKS {
        return Err(corrupt(format!("{count} blocks of {block} bytes")));
    }
    if footer.size.div_ceil(block) > u64::from(count) {
        return Err(corrupt("fewer blocks than the disk needs"));
    }
    let table = read_vec(file, be64(header, 0x10), u64::from(count) * 4)?;
    let blocks = table.chunks_exact(4).map(|b| be32(b, 0)).collect();
    let bitmap = (block / 512 / 8).next_multiple_of(512);
    Ok(Bat { blocks, block, bitmap, differencing: footer.kind == 4, last: Mutex::new(None) })
}

/// The parent, by the name in the header or by a relative locator.
fn open_parent(
    file: &File,
    header: &[u8],
    opener: Opener<'_>,
) -> std::result::Result<Result<Arc<dyn Source>>, BlockError> {
    let mut names = Vec::new();
    for i in 0..8 {
        let at = 0x240 + i * 24;
        // "W2ru": a relative Windows path in UTF-16, little-endian.
        if header.get(at..at + 4) == Some(b"W2ru") && be32(header, at + 8) <= 4096 {
            let mut data = vec![0; be32(header, at + 8) as usize];
            if read_at(file, &mut data, be64(header, at + 16)).is_ok() {
                names.push(utf16(&data, u16::from_le_bytes).trim_start_matches(".\\").replace('\\', "/"));
            }
        }
    }
    names.push(utf16(&header[0x40..0x240], u16::from_be_bytes).replace('\\', "/"));
    let mut last = None;
    for name in names.iter().filter(|n| !n.is_empty()) {
        match opener(name, Kind::Parent) {
            Ok(Named::Parent(p)) => return Ok(Ok(p)),
            Ok(Named::Extent(..)) => {}
            Err(e) => last = Some(e),
        }
    }
    match last {
        Some(e) => Err(e),
        None => Ok(Err(corrupt("a differencing image without the name of its parent"))),
    }
}

fn utf16(b: &[u8], number: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = b.chunks_exact(2).map(|c| number([c[0], c[1]])).take_while(|u| *u != 0).collect();
    String::from_utf16_lossy(&units)
}

/// All of the disk is at the start of the file.
struct Fixed;

impl Table for Fixed {
    fn place(&self, _file: &File, at: u64) -> Result<(Place, u64)> {
        Ok((Place::At(at), u64::MAX - at))
    }
}

impl Table for Bat {
    fn place(&self, file: &File, at: u64) -> Result<(Place, u64)> {
        let (index, within) = (at / self.block, at % self.block);
        let sector = self.blocks.get(index as usize).copied().unwrap_or(FREE);
        if sector == FREE {
            let place = if self.differencing { Place::Parent } else { Place::Zero };
            return Ok((place, self.block - within));
        }
        let start = u64::from(sector) * 512;
        let data = start + self.bitmap + within;
        if !self.differencing {
            return Ok((Place::At(data), self.block - within));
        }
        // Of a differencing image, each sector is here or in the parent.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(s, _)| *s != sector) {
            let mut bitmap = vec![0; self.bitmap as usize];
            read_at(file, &mut bitmap, start)?;
            *last = Some((sector, bitmap));
        }
        let Some((_, bitmap)) = &*last else { return Ok((Place::Parent, 512)) };
        let here = |s: u64| bitmap.get((s / 8) as usize).is_some_and(|b| b >> (7 - s % 8) & 1 != 0);
        let first = within / 512;
        let run = (first..self.block / 512).take_while(|s| here(*s) == here(first)).count() as u64;
        let place = if here(first) { Place::At(data) } else { Place::Parent };
        Ok((place, run * 512 - within % 512))
    }
}
