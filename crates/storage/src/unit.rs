//! A drive on a cable: a disk, or one that takes command packets.

use visor_block::BlockErrorKind;

use crate::step::{Mode, Registers, Step, error};
use crate::{AtaDisk, PacketDrive};

/// A drive.
pub enum Unit {
    /// A disk.
    Disk(AtaDisk),
    /// A CD-ROM drive.
    Packet(PacketDrive),
}

impl Unit {
    /// Whether the drive speaks packets, and so reports the phase of a command in its count register.
    pub fn is_packet(&self) -> bool {
        matches!(self, Unit::Packet(_))
    }

    /// Back to the state after power-on (`hard`) or after a reset of the interface, with the drive's signature in `r`.
    pub fn reset(&mut self, r: &mut Registers, hard: bool) {
        *r = Registers { error: 1, device: 0, ..Registers::default() };
        match self {
            Unit::Disk(d) => d.reset(hard),
            Unit::Packet(d) => d.reset(hard),
        }
        self.signature(r);
    }

    /// The values by which software tells what a drive is (ATA8-ACS §4.3); they are in the registers after resets.
    pub fn signature(&self, r: &mut Registers) {
        match self {
            Unit::Disk(_) => {
                r.set_signature(1, 1, 0, 0);
                r.status = crate::step::status::DRDY | crate::step::status::DSC;
            }
            Unit::Packet(_) => {
                r.set_signature(1, 1, 0x14, 0xeb);
                r.status = 0;
            }
        }
    }

    /// Sectors of a data block of PIO command `command`.
    pub fn block(&self, command: u8) -> usize {
        match self {
            Unit::Disk(d) => d.block(command),
            Unit::Packet(_) => 1,
        }
    }

    /// Begins the command in `r`.
    pub fn command(&mut self, r: &mut Registers) -> (Step, Mode) {
        match self {
            Unit::Disk(d) => d.command(r),
            Unit::Packet(d) => d.command(r),
        }
    }

    /// Takes the command packet that [`Step::Packet`] asked for.
    pub fn packet(&mut self, r: &mut Registers, packet: &[u8]) -> Step {
        match self {
            Unit::Disk(_) => Step::Done(error::ABRT),
            Unit::Packet(d) => d.packet(r, packet),
        }
    }

    /// Takes the bytes that [`Step::DataOut`] asked for.
    pub fn data(&mut self, r: &mut Registers, data: &[u8]) -> Step {
        match self {
            Unit::Disk(d) => d.data(r, data),
            Unit::Packet(d) => d.data(r, data),
        }
    }

    /// The error register after the medium has failed.
    pub fn failed(&mut self, kind: BlockErrorKind) -> u8 {
        match self {
            Unit::Disk(_) => match kind {
                BlockErrorKind::OutOfRange => error::IDNF,
                BlockErrorKind::BadBuffer => error::ICRC | error::ABRT,
                BlockErrorKind::ReadOnly | BlockErrorKind::Unsupported => error::ABRT,
                _ => error::UNC,
            },
            Unit::Packet(d) => d.failed(kind),
        }
    }
}
