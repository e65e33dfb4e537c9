//! Which command does what.

use std::sync::Arc;

use visor_block::{BlockBackend, BlockErrorKind, BlockOp, Sector};

use super::{Answer, BLOCK, ScsiDisk};
use crate::DiskIdentity;
use crate::scsi::{Sense, be16, be24, be32, be64, byte, cut, sense};
use crate::step::{Job, Step, Transfer, Way};

/// Force unit access: durable when the command ends.
const FUA: u8 = 1 << 3;
/// Most blocks that a disk is asked to verify at once: it reads them into nothing, one after the other.
const MAX_VERIFY: u64 = 1 << 16;

impl ScsiDisk {
    /// A disk that shows `backend`.
    pub fn new(backend: Arc<dyn BlockBackend>, identity: DiskIdentity) -> Self {
        ScsiDisk {
            geometry: backend.geometry(),
            backend,
            identity,
            sense: sense::NONE,
            attention: Some(sense::POWER_ON),
            write_cache: true,
            command: [0; 16],
        }
    }

    /// The back end has another size now.
    pub(crate) fn resized(&mut self) {
        self.geometry = self.backend.geometry();
        // What is pending says more: a host adapter that hears of a reset looks at everything anew.
        self.attention.get_or_insert(sense::CAPACITY_CHANGED);
    }

    pub(crate) fn reset(&mut self) {
        self.sense = sense::NONE;
        self.attention = Some(sense::POWER_ON);
        self.write_cache = true;
    }

    /// Begins a command. [`Step::Done`] carries 0 for success and the sense key otherwise.
    pub(crate) fn execute(&mut self, cdb: &[u8]) -> Step {
        for (i, b) in self.command.iter_mut().enumerate() {
            *b = byte(cdb, i);
        }
        let answer = self.dispatch(cdb);
        self.answer(answer)
    }

    /// Takes the data of a command that asked for some.
    pub(crate) fn data(&mut self, data: &[u8]) -> Step {
        let cdb = self.command;
        let answer = match cdb[0] {
            0x15 | 0x55 => self.mode_select(&cdb, data),
            0x42 => self.unmap(data),
            0x41 | 0x93 => self.write_same(&cdb, Some(data)),
            _ => Err(sense::BAD_COMMAND),
        };
        self.answer(answer)
    }

    /// The medium has failed under a command.
    pub(crate) fn failed(&mut self, kind: BlockErrorKind) -> Sense {
        match kind {
            BlockErrorKind::BadBuffer => sense::TRANSPORT,
            BlockErrorKind::OutOfRange => sense::BAD_ADDRESS,
            BlockErrorKind::ReadOnly => sense::WRITE_PROTECTED,
            BlockErrorKind::NoSpace => sense::NO_SPACE,
            BlockErrorKind::Unsupported => sense::BAD_COMMAND,
            _ => sense::READ_ERROR,
        }
    }

    /// Why the last command failed; nothing is left of it then.
    pub(crate) fn take_sense(&mut self) -> Sense {
        std::mem::take(&mut self.sense)
    }

    fn answer(&mut self, answer: Answer) -> Step {
        answer.unwrap_or_else(|s| {
            self.sense = s;
            Step::Done(s.key)
        })
    }

    fn dispatch(&mut self, cdb: &[u8]) -> Answer {
        let op = byte(cdb, 0);
        // These pass a pending condition by (SPC-4 §5.14).
        match op {
            0x12 => return self.inquiry(cdb),
            0x03 => return self.request_sense(cdb),
            _ => {}
        }
        if let Some(attention) = self.attention.take() {
            return Err(attention);
        }
        match op {
            // Nothing spins, and nobody takes it out.
            0x00 | 0x1b | 0x1e => Ok(Step::Done(0)),
            0x08 | 0x28 | 0xa8 | 0x88 => self.transfer(cdb, Way::In),
            0x0a | 0x2a | 0xaa | 0x8a => self.transfer(cdb, Way::Out),
            0x2f | 0xaf | 0x8f => self.verify(cdb),
            0x2b => self.range(u64::from(be32(cdb, 2)), 1).map(|_| Step::Done(0)),
            0x35 | 0x91 => Ok(self.jobs(vec![Job { op: BlockOp::Flush, sector: Sector(0), len: 0 }])),
            0x25 => self.capacity(cdb),
            0x9e if byte(cdb, 1) & 0x1f == 0x10 => self.capacity_16(cdb),
            0x41 | 0x93 => self.write_same_length(cdb),
            0x42 => self.unmap_length(cdb),
            0x1a | 0x5a => self.mode_sense(cdb),
            0x15 | 0x55 => self.mode_select_length(cdb),
            _ => Err(sense::BAD_COMMAND),
        }
    }

    pub(super) fn jobs(&self, jobs: Vec<Job>) -> Step {
        Step::Jobs(self.backend.clone(), jobs)
    }

    /// First block and number of blocks of a command, by its length.
    pub(super) fn extent(cdb: &[u8]) -> (u64, u64) {
        match byte(cdb, 0) >> 5 {
            // Six bytes: a count of 0 stands for 256 (SBC-4 §5.13).
            0 => {
                let count = u64::from(byte(cdb, 4));
                (u64::from(be24(cdb, 1) & 0x1f_ffff), if count == 0 { 256 } else { count })
            }
            4 => (be64(cdb, 2), u64::from(be32(cdb, 10))),
            5 => (u64::from(be32(cdb, 2)), u64::from(be32(cdb, 6))),
            _ => (u64::from(be32(cdb, 2)), u64::from(be16(cdb, 7))),
        }
    }

    /// Fails unless the disk has all these blocks.
    pub(super) fn range(&self, first: u64, count: u64) -> Result<(), Sense> {
        match first.checked_add(count) {
            Some(end) if end <= self.geometry.sectors && first <= self.geometry.sectors => Ok(()),
            _ => Err(sense::BAD_ADDRESS),
        }
    }

    /// Fails for disks that cannot be written.
    pub(super) fn writable(&self) -> Result<(), Sense> {
        if self.geometry.read_only { Err(sense::WRITE_PROTECTED) } else { Ok(()) }
    }

    fn transfer(&self, cdb: &[u8], way: Way) -> Answer {
        let short = byte(cdb, 0) >> 5 == 0;
        // Protection information is not claimed; commands of six bytes have no flags.
        if !short && byte(cdb, 1) >> 5 != 0 {
            return Err(sense::BAD_FIELD);
        }
        if way == Way::Out {
            self.writable()?;
        }
        let (first, count) = Self::extent(cdb);
        self.range(first, count)?;
        if count == 0 {
            return Ok(Step::Done(0));
        }
        let forced = !short && byte(cdb, 1) & FUA != 0;
        let durable = way == Way::Out && (forced || !self.write_cache);
        let (backend, len) = (self.backend.clone(), count * BLOCK);
        Ok(Step::Transfer(Transfer { backend, way, sector: Sector(first), len, durable }))
    }

    /// Reads and forgets; comparing with bytes of the host is not supported.
    fn verify(&self, cdb: &[u8]) -> Answer {
        let (first, count) = Self::extent(cdb);
        if byte(cdb, 1) & 0xe6 != 0 {
            return Err(sense::BAD_FIELD);
        }
        self.range(first, count)?;
        let pieces = (first..first + count).step_by(MAX_VERIFY as usize);
        let job = |at: u64| {
            let len = (first + count - at).min(MAX_VERIFY) * BLOCK;
            Job { op: BlockOp::Read, sector: Sector(at), len }
        };
        Ok(self.jobs(pieces.map(job).collect()))
    }

    /// SPC-4 §6.39.
    fn request_sense(&mut self, cdb: &[u8]) -> Answer {
        let pending = self.attention.take().unwrap_or(sense::NONE);
        let data = if byte(cdb, 1) & 1 != 0 { pending.descriptor() } else { pending.fixed() };
        Ok(Step::DataIn(cut(data, usize::from(byte(cdb, 4)))))
    }

    /// READ CAPACITY (10): all ones say "ask with 16 bytes" (SBC-4 §5.20).
    fn capacity(&self, cdb: &[u8]) -> Answer {
        if be32(cdb, 2) != 0 || byte(cdb, 8) & 1 != 0 {
            return Err(sense::BAD_FIELD);
        }
        let last = u32::try_from(self.last()).unwrap_or(u32::MAX);
        Ok(Step::DataIn([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat()))
    }

    /// READ CAPACITY (16), SBC-4 §5.21.
    fn capacity_16(&self, cdb: &[u8]) -> Answer {
        let mut data = vec![0; 32];
        data[..8].copy_from_slice(&self.last().to_be_bytes());
        data[8..12].copy_from_slice(&(BLOCK as u32).to_be_bytes());
        data[13] = (u64::from(self.geometry.physical_block) / BLOCK).max(1).ilog2() as u8;
        if !self.geometry.read_only {
            data[14] = 0x80; // provisioned thinly; what is unmapped reads as anything
        }
        Ok(Step::DataIn(cut(data, be32(cdb, 10) as usize)))
    }

    fn last(&self) -> u64 {
        self.geometry.sectors.saturating_sub(1)
    }
}
