//! The boot catalogue ("El Torito" Bootable CD-ROM Format Specification 1.0, UEFI 2.10 §13.3.2.1).
//!
//! ```text
//! 32 bytes each: validation entry (1, platform, checksum, 55 AA), default entry, sections (90 more follow, 91 the last) of entries
//! entry          88 boots, emulation, load segment, system, -, sectors of 512 (6), block (8)
//! ```

use std::io::{Read, Seek};

use crate::BLOCK;
use crate::error::{IsoError, IsoErrorKind};
use crate::reader::{Source, le32};

const ENTRY: usize = 32;

/// Which firmware an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// PCs' BIOS.
    Bios,
    /// PowerPC.
    PowerPc,
    /// Macintosh.
    Mac,
    /// UEFI.
    Uefi,
    /// Another one.
    Other(u8),
}

/// What the drive pretends to be to the booted program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// Nothing: the program knows CDs.
    None,
    /// A floppy disk.
    Floppy,
    /// A hard disk.
    HardDisk,
    /// Something unknown.
    Other(u8),
}

/// A way to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootEntry {
    /// For this firmware.
    pub platform: Platform,
    /// Firmware may boot it.
    pub bootable: bool,
    /// What is emulated.
    pub emulation: Emulation,
    /// Where it is loaded (BIOS); 0 stands for 7C0h.
    pub segment: u16,
    /// Sectors of 512 bytes that are loaded.
    pub sectors: u16,
    /// First block of the boot image.
    pub block: u32,
}

/// All ways to boot, the default first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootCatalog {
    /// Who made it.
    pub maker: String,
    /// The entries.
    pub entries: Vec<BootEntry>,
}

impl BootCatalog {
    pub(crate) fn read<R: Read + Seek>(source: &mut Source<R>, block: u32) -> Result<Self, IsoError> {
        let at = u64::from(block) * BLOCK;
        if at + BLOCK > source.size() {
            let what = format!("its boot catalogue is at byte {at}, beyond its end");
            return Err(IsoError::new(IsoErrorKind::Truncated, what));
        }
        let bytes = source.bytes(at, BLOCK as usize)?;
        let validation = &bytes[..ENTRY];
        let sum = validation.chunks_exact(2).fold(0u16, |s, w| s.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
        if validation[0] != 1 || validation[30..] != [0x55, 0xaa] || sum != 0 {
            return Err(IsoError::corrupt("its boot catalogue is damaged: the validation entry is wrong"));
        }
        let maker = String::from_utf8_lossy(&validation[4..28]).trim_end_matches(['\0', ' ']).to_owned();
        let maker = maker.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let mut entries = vec![entry(&bytes[ENTRY..2 * ENTRY], platform(validation[1]), source)?];
        let mut rest = bytes[2 * ENTRY..].chunks_exact(ENTRY);
        while let Some(header) = rest.next().filter(|h| matches!(h[0], 0x90 | 0x91)) {
            let mut left = u16::from_le_bytes([header[2], header[3]]);
            while left > 0 {
                // A catalogue of more than one block is beyond what firmware reads.
                let Some(e) = rest.next() else { return Err(IsoError::corrupt("its boot catalogue has no end")) };
                // Extensions of the entry before (44h) do not count.
                if e[0] != 0x44 {
                    entries.push(entry(e, platform(header[1]), source)?);
                    left -= 1;
                }
            }
            if header[0] == 0x91 {
                break;
            }
        }
        Ok(BootCatalog { maker, entries })
    }
}

fn platform(code: u8) -> Platform {
    match code {
        0 => Platform::Bios,
        1 => Platform::PowerPc,
        2 => Platform::Mac,
        0xef => Platform::Uefi,
        other => Platform::Other(other),
    }
}

fn entry<R: Read + Seek>(e: &[u8], platform: Platform, source: &Source<R>) -> Result<BootEntry, IsoError> {
    let emulation = match e[1] & 15 {
        0 => Emulation::None,
        1..=3 => Emulation::Floppy,
        4 => Emulation::HardDisk,
        other => Emulation::Other(other),
    };
    let word = |at: usize| u16::from_le_bytes([e[at], e[at + 1]]);
    let found = BootEntry {
        platform,
        bootable: e[0] == 0x88,
        emulation,
        segment: word(2),
        sectors: word(6),
        block: le32(e, 8),
    };
    let at = u64::from(found.block) * BLOCK;
    if found.bootable && at >= source.size() {
        let what = format!("it is truncated: the boot image at byte {at} is beyond its end");
        return Err(IsoError::new(IsoErrorKind::Truncated, what));
    }
    Ok(found)
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Platform::Bios => f.write_str("BIOS"),
            Platform::PowerPc => f.write_str("PowerPC"),
            Platform::Mac => f.write_str("Macintosh"),
            Platform::Uefi => f.write_str("UEFI"),
            Platform::Other(code) => write!(f, "platform {code:#x}"),
        }
    }
}

impl std::fmt::Display for Emulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Emulation::None => f.write_str("no emulation"),
            Emulation::Floppy => f.write_str("floppy emulation"),
            Emulation::HardDisk => f.write_str("hard disk emulation"),
            Emulation::Other(code) => write!(f, "emulation {code}"),
        }
    }
}
