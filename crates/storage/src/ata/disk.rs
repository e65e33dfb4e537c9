//! The commands.

use std::sync::Arc;

use visor_block::{BlockBackend, BlockOp, Sector};

use super::{AtaDisk, Chs, DiskIdentity, LBA28_LIMIT, Link, MAX_MULTIPLE, SECTOR, Settings};
use crate::step::{Job, Mode, Registers, Step, Transfer, Way, error};

/// Set in the device register where the address is an LBA.
const LBA: u8 = 0x40;
/// Bytes of a block of trim ranges.
const TRIM_BLOCK: usize = 512;
/// Most blocks of ranges in one command, as word 105 of the identity says.
pub(super) const TRIM_BLOCKS: u16 = 8;

/// Widths of addresses and counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits28,
    Bits48,
}
use Width::{Bits28, Bits48};

impl AtaDisk {
    /// A disk that shows `backend`.
    pub fn new(backend: Arc<dyn BlockBackend>, identity: DiskIdentity, link: Link) -> Self {
        let geometry = backend.geometry();
        // 16383 cylinders say "more than CHS can address" (ATA8-ACS §7.12.7.2).
        let cylinders = (geometry.sectors / (16 * 63)).clamp(1, 16383) as u16;
        let native = Chs { cylinders, heads: 16, sectors: 63 };
        AtaDisk { backend, geometry, identity, link, native, settings: Settings::new(native) }
    }

    /// What commands can change goes back to its defaults; all of it after a hard reset, for software may have asked the disk
    /// to keep some over soft ones (this one keeps the transfer mode and the multiple count, as ATA8-ACS §9.16 suggests).
    pub(crate) fn reset(&mut self, hard: bool) {
        let kept = self.settings;
        self.settings = Settings::new(self.native);
        if !hard {
            self.settings.transfer = kept.transfer;
            self.settings.multiple = kept.multiple;
            self.settings.smart = kept.smart;
        }
    }

    /// Sectors of a data block of a PIO command.
    pub(crate) fn block(&self, command: u8) -> usize {
        let multiple = matches!(command, 0xc4 | 0xc5 | 0x29 | 0x39 | 0xce);
        if multiple { usize::from(self.settings.multiple.max(1)) } else { 1 }
    }

    pub(crate) fn command(&mut self, r: &mut Registers) -> (Step, Mode) {
        let mode = match r.command {
            0x06 | 0x25 | 0x35 | 0x3d | 0x47 | 0xc8 | 0xc9 | 0xca | 0xcb => Mode::Dma,
            _ => Mode::Pio,
        };
        let step = self.dispatch(r);
        (step.unwrap_or_else(Step::Done), mode)
    }

    pub(crate) fn data(&mut self, r: &mut Registers, data: &[u8]) -> Step {
        match r.command {
            0x06 => self.trim(data).unwrap_or_else(Step::Done),
            // A log that could be written is claimed nowhere.
            _ => Step::Done(error::ABRT),
        }
    }

    fn dispatch(&mut self, r: &mut Registers) -> Result<Step, u8> {
        match r.command {
            0x20 | 0x21 | 0xc8 | 0xc9 => self.transfer(r, Way::In, Bits28, false),
            0x24 | 0x25 => self.transfer(r, Way::In, Bits48, false),
            0xc4 => self.multiple()?.transfer(r, Way::In, Bits28, false),
            0x29 => self.multiple()?.transfer(r, Way::In, Bits48, false),
            0x30 | 0x31 | 0xca | 0xcb => self.transfer(r, Way::Out, Bits28, false),
            0x34 | 0x35 => self.transfer(r, Way::Out, Bits48, false),
            0x3d => self.transfer(r, Way::Out, Bits48, true),
            0xc5 => self.multiple()?.transfer(r, Way::Out, Bits28, false),
            0x39 => self.multiple()?.transfer(r, Way::Out, Bits48, false),
            0xce => self.multiple()?.transfer(r, Way::Out, Bits48, true),
            0x40 | 0x41 => self.verify(r, Bits28),
            0x42 => self.verify(r, Bits48),
            0x70..=0x7f => self.seek(r),
            0x10..=0x1f => Ok(Step::Done(0)),
            0xe7 | 0xea => Ok(self.jobs(vec![job(BlockOp::Flush, 0, 0)])),
            0x06 => self.data_set_management(r),
            0xec => Ok(Step::DataIn(self.identify())),
            0x2f | 0x47 => self.read_log(r),
            0xb0 => self.smart(r),
            0x91 => self.set_geometry(r),
            0xc6 => self.set_multiple(r),
            0xef => self.set_features(r),
            0xe5 | 0x98 => {
                // Active or idle.
                r.count = 0xff;
                Ok(Step::Done(0))
            }
            // Idle, standby and sleep, at once or later: nothing spins.
            0xe0..=0xe3 | 0xe6 | 0x94..=0x97 | 0x99 => Ok(Step::Done(0)),
            _ => Err(error::ABRT),
        }
    }

    /// READ and WRITE MULTIPLE need a block size (ATA8-ACS §7.30.4).
    fn multiple(&self) -> Result<&Self, u8> {
        if self.settings.multiple == 0 { Err(error::ABRT) } else { Ok(self) }
    }

    fn transfer(&self, r: &Registers, way: Way, width: Width, durable: bool) -> Result<Step, u8> {
        if way == Way::Out && self.geometry.read_only {
            return Err(error::ABRT);
        }
        let (sector, count) = self.range(r, width)?;
        Ok(self.media(way, sector, count, durable))
    }

    /// A transfer of a range that has been checked.
    fn media(&self, way: Way, sector: u64, count: u64, durable: bool) -> Step {
        let durable = way == Way::Out && (durable || !self.settings.write_cache);
        let len = count * SECTOR as u64;
        Step::Transfer(Transfer { backend: self.backend.clone(), way, sector: Sector(sector), len, durable })
    }

    fn verify(&self, r: &Registers, width: Width) -> Result<Step, u8> {
        let (sector, count) = self.range(r, width)?;
        Ok(self.jobs(vec![job(BlockOp::Read, sector, count)]))
    }

    fn seek(&self, r: &Registers) -> Result<Step, u8> {
        self.address(r, Bits28, 1).map(|_| Step::Done(0))
    }

    fn jobs(&self, jobs: Vec<Job>) -> Step {
        Step::Jobs(self.backend.clone(), jobs)
    }

    /// Start and number of sectors that the registers name; 0 stands for the most.
    fn range(&self, r: &Registers, width: Width) -> Result<(u64, u64), u8> {
        let count = match width {
            Bits28 if r.count & 0xff == 0 => 256,
            Bits28 => u64::from(r.count & 0xff),
            Bits48 if r.count == 0 => 65536,
            Bits48 => u64::from(r.count),
        };
        Ok((self.address(r, width, count)?, count))
    }

    /// The first sector of `count` that all exist.
    fn address(&self, r: &Registers, width: Width, count: u64) -> Result<u64, u8> {
        let first = match width {
            Bits48 if r.device & LBA == 0 => return Err(error::ABRT),
            Bits48 => r.lba48(),
            Bits28 if r.device & LBA != 0 => r.lba28(),
            Bits28 => self.sector_of_chs(r)?,
        };
        // Below 2^49, so that it cannot wrap.
        if first + count > self.geometry.sectors { Err(error::IDNF) } else { Ok(first) }
    }

    /// The sector at a cylinder, head and sector; sectors count from 1 (ATA/ATAPI-5 §6.2).
    fn sector_of_chs(&self, r: &Registers) -> Result<u64, u8> {
        let g = &self.settings.chs;
        let (cylinder, head) = ((r.mid & 0xff) | r.high << 8, r.device & 15);
        let sector = (r.low & 0xff) as u8;
        if sector == 0 || sector > g.sectors || head >= g.heads {
            return Err(error::IDNF);
        }
        let track = u64::from(cylinder) * u64::from(g.heads) + u64::from(head);
        Ok(track * u64::from(g.sectors) + u64::from(sector) - 1)
    }

    /// DATA SET MANAGEMENT: trimming is its only function (ACS-2 §7.10).
    fn data_set_management(&self, r: &Registers) -> Result<Step, u8> {
        let blocks = r.count;
        let known = r.features & 0xff == 1 && (1..=TRIM_BLOCKS).contains(&blocks);
        if !known || self.geometry.read_only {
            return Err(error::ABRT);
        }
        Ok(Step::DataOut(usize::from(blocks) * TRIM_BLOCK))
    }

    /// Ranges of 8 bytes: 48 bits of address, 16 of length; those of length 0 mean nothing.
    fn trim(&self, data: &[u8]) -> Result<Step, u8> {
        let mut jobs = Vec::new();
        for entry in data.chunks_exact(8) {
            let value = u64::from_le_bytes(entry.try_into().unwrap_or_default());
            let (sector, count) = (value & 0xffff_ffff_ffff, value >> 48);
            if count == 0 {
                continue;
            }
            if sector + count > self.geometry.sectors {
                return Err(error::IDNF);
            }
            jobs.push(job(BlockOp::Discard, sector, count));
        }
        Ok(if jobs.is_empty() { Step::Done(0) } else { self.jobs(jobs) })
    }

    /// READ LOG: the directory of logs, which lists itself alone (ATA8-ACS §7.27, Annex A).
    fn read_log(&self, r: &Registers) -> Result<Step, u8> {
        let (log, page, pages) = (r.low & 0xff, r.mid, r.count);
        if log != 0 || page != 0 || pages != 1 {
            return Err(error::ABRT);
        }
        let mut directory = vec![0; SECTOR];
        directory[0] = 1; // version
        Ok(Step::DataIn(directory))
    }

    /// INITIALIZE DEVICE PARAMETERS: the geometry of CHS addresses (ATA/ATAPI-5 §8.16).
    fn set_geometry(&mut self, r: &Registers) -> Result<Step, u8> {
        let (sectors, heads) = ((r.count & 0xff) as u8, (r.device & 15) + 1);
        if sectors == 0 || sectors > 63 {
            return Err(error::ABRT);
        }
        let cylinders = self.geometry.sectors / (u64::from(sectors) * u64::from(heads));
        self.settings.chs = Chs { cylinders: cylinders.clamp(1, 65535) as u16, heads, sectors };
        Ok(Step::Done(0))
    }

    fn set_multiple(&mut self, r: &Registers) -> Result<Step, u8> {
        let n = (r.count & 0xff) as u8;
        if n > MAX_MULTIPLE || n != 0 && !n.is_power_of_two() {
            return Err(error::ABRT);
        }
        self.settings.multiple = n;
        Ok(Step::Done(0))
    }

    /// Whether 48-bit commands are needed to reach all of the disk.
    pub(super) fn lba28_sectors(&self) -> u32 {
        self.geometry.sectors.min(LBA28_LIMIT) as u32
    }

    pub(super) fn is_serial(&self) -> bool {
        self.link == Link::Serial
    }
}

fn job(op: BlockOp, sector: u64, count: u64) -> Job {
    Job { op, sector: Sector(sector), len: count * SECTOR as u64 }
}
