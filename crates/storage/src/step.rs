//! What passes between a controller and a drive: the register block of a command, and the steps that it takes.

use std::sync::Arc;

use visor_block::{BlockBackend, BlockOp, Sector};

/// Bits of the status register (ATA8-ACS §4.2 and §6).
pub(crate) mod status {
    /// The drive works; nothing else in the register means anything.
    pub(crate) const BSY: u8 = 0x80;
    /// The drive accepts commands.
    pub(crate) const DRDY: u8 = 0x40;
    /// Seek complete, of old; always set with DRDY on disks.
    pub(crate) const DSC: u8 = 0x10;
    /// The data register wants to be read or written.
    pub(crate) const DRQ: u8 = 0x08;
    /// The command failed (CHK for packet commands).
    pub(crate) const ERR: u8 = 0x01;
}

/// Bits of the error register (ATA8-ACS §6.2).
pub(crate) mod error {
    /// The interface's CRC, or DMA as a whole, failed.
    pub(crate) const ICRC: u8 = 0x80;
    /// Data could not be read.
    pub(crate) const UNC: u8 = 0x40;
    /// The address does not exist.
    pub(crate) const IDNF: u8 = 0x10;
    /// The command, or a parameter, is not supported.
    pub(crate) const ABRT: u8 = 0x04;
}

/// The command block of a drive. Two-byte registers hold the value written last in the low byte and the one before it in the
/// high byte, as 48-bit commands want them (ATA8-ACS §4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Features (write).
    pub features: u16,
    /// Sector count.
    pub count: u16,
    /// LBA bits 0 to 7, and 24 to 31.
    pub low: u16,
    /// LBA bits 8 to 15, and 32 to 39.
    pub mid: u16,
    /// LBA bits 16 to 23, and 40 to 47.
    pub high: u16,
    /// Device: LBA mode, drive number, LBA bits 24 to 27.
    pub device: u8,
    /// The command written last.
    pub command: u8,
    /// Status.
    pub status: u8,
    /// Error.
    pub error: u8,
}

impl Registers {
    /// The 48-bit address.
    pub fn lba48(&self) -> u64 {
        let byte = |r: u16, high: bool| u64::from(if high { r >> 8 } else { r & 0xff });
        byte(self.low, false)
            | byte(self.mid, false) << 8
            | byte(self.high, false) << 16
            | byte(self.low, true) << 24
            | byte(self.mid, true) << 32
            | byte(self.high, true) << 40
    }

    /// Sets the 48-bit address.
    pub fn set_lba48(&mut self, lba: u64) {
        let two = |low: u32, high: u32| (lba >> low & 0xff) as u16 | ((lba >> high & 0xff) as u16) << 8;
        (self.low, self.mid, self.high) = (two(0, 24), two(8, 32), two(16, 40));
    }

    /// The 28-bit address, whose top four bits are in the device register.
    pub fn lba28(&self) -> u64 {
        self.lba48() & 0xff_ffff | u64::from(self.device & 15) << 24
    }

    /// Sets low bytes of count and address registers, as signatures do (ATA8-ACS §4.3); the high bytes become zero.
    pub fn set_signature(&mut self, count: u8, low: u8, mid: u8, high: u8) {
        (self.count, self.low) = (u16::from(count), u16::from(low));
        (self.mid, self.high) = (u16::from(mid), u16::from(high));
    }
}

/// How data moves between drive and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Through the data register.
    Pio,
    /// By the controller.
    Dma,
}

/// Which way data moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the host.
    In,
    /// From the host.
    Out,
}

/// A transfer between medium and host.
pub struct Transfer {
    /// The medium.
    pub backend: Arc<dyn BlockBackend>,
    /// Read or write.
    pub way: Way,
    /// First sector.
    pub sector: Sector,
    /// Bytes, a multiple of 512; lies within the medium.
    pub len: u64,
    /// Must be durable when the command ends.
    pub durable: bool,
}

/// Something a medium does without data of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What; [`BlockOp::Read`] reads and forgets, to verify.
    pub op: BlockOp,
    /// Where.
    pub sector: Sector,
    /// Bytes.
    pub len: u64,
}

/// What a drive wants done next for the command in hand.
pub enum Step {
    /// The command has ended with this value of the error register; 0 is success.
    Done(u8),
    /// These bytes go to the host, then the command ends.
    DataIn(Vec<u8>),
    /// The host gives this many bytes, then [`crate::Unit::data`] says how to go on.
    DataOut(usize),
    /// The host gives a command packet, then [`crate::Unit::packet`] says how to go on.
    Packet,
    /// Bytes move between medium and host, then the command ends.
    Transfer(Transfer),
    /// The medium does these things one after the other, then the command ends.
    Jobs(Arc<dyn BlockBackend>, Vec<Job>),
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Done(error) => write!(f, "Done({error:#x})"),
            Step::DataIn(data) => write!(f, "DataIn({} bytes)", data.len()),
            Step::DataOut(len) => write!(f, "DataOut({len} bytes)"),
            Step::Packet => f.write_str("Packet"),
            Step::Transfer(t) => write!(f, "Transfer({:?} {:?}+{})", t.way, t.sector, t.len),
            Step::Jobs(_, jobs) => write!(f, "Jobs({jobs:?})"),
        }
    }
}
