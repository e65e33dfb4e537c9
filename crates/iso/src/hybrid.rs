//! What a disk drive, or a USB stick with the image on it, would boot: the system area of the first 32 KiB may hold an MBR and a GPT.

use std::io::{Read, Seek};

use crate::error::IsoError;
use crate::reader::{Source, le32};

const SECTOR: u64 = 512;
const TABLE: usize = 446;

/// What is in the system area.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hybrid {
    /// It has the signature of a boot sector.
    pub mbr: bool,
    /// And code before it.
    pub code: bool,
    /// The partitions of its table that are used.
    pub partitions: Vec<Partition>,
    /// It has a GUID partition table.
    pub gpt: bool,
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Marked to be booted.
    pub active: bool,
    /// Type: EFh is an EFI system partition, EEh stands for a GPT.
    pub kind: u8,
    /// First sector of 512 bytes.
    pub start: u32,
    /// Sectors.
    pub sectors: u32,
}

impl Hybrid {
    pub(crate) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<Self, IsoError> {
        let area = source.bytes(0, 2 * SECTOR as usize)?;
        let (sector, next) = area.split_at(SECTOR as usize);
        let gpt = next.starts_with(b"EFI PART");
        if sector[510..] != [0x55, 0xaa] {
            return Ok(Hybrid { gpt, ..Hybrid::default() });
        }
        let partition =
            |e: &[u8]| Partition { active: e[0] == 0x80, kind: e[4], start: le32(e, 8), sectors: le32(e, 12) };
        let partitions = sector[TABLE..510].chunks_exact(16).map(partition).filter(|p| p.kind != 0).collect();
        Ok(Hybrid { mbr: true, code: sector[..TABLE].iter().any(|b| *b != 0), partitions, gpt })
    }

    /// Whether a disk drive would boot it, one way or the other.
    pub fn boots(&self) -> bool {
        self.mbr && self.code || self.gpt || self.partitions.iter().any(|p| p.kind == 0xef)
    }
}
