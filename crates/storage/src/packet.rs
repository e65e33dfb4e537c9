//! A drive that takes SCSI commands in packets, as its controller sees it (ATA8-ACS §4.4 and "ATA Packet Interface", SFF-8020i).

use visor_block::BlockErrorKind;

use crate::ata::{Identity, common, transfer_mode};
use crate::step::{Mode, Registers, Step, error};
use crate::{Cdrom, DiskIdentity, Link};

/// The interrupt reason in the count register (ATA8-ACS §7.21): bit 0 a command packet, bit 1 towards the host.
pub(crate) mod reason {
    pub(crate) const COMMAND: u16 = 1;
    pub(crate) const TO_HOST: u16 = 2;
    /// The command has ended.
    pub(crate) const STATUS: u16 = 3;
}

/// A CD-ROM drive on a cable.
pub struct PacketDrive {
    cdrom: Cdrom,
    identity: DiskIdentity,
    link: Link,
    transfer: u8,
    mode: Mode,
}

impl PacketDrive {
    /// A drive around `cdrom`.
    pub fn new(cdrom: Cdrom, identity: DiskIdentity, link: Link) -> Self {
        PacketDrive { cdrom, identity, link, transfer: 0, mode: Mode::Pio }
    }

    /// The drive's mechanism.
    pub fn cdrom(&self) -> &Cdrom {
        &self.cdrom
    }

    pub(crate) fn reset(&mut self, hard: bool) {
        self.cdrom.reset(hard);
        if hard {
            self.transfer = 0;
        }
        self.mode = Mode::Pio;
    }

    pub(crate) fn command(&mut self, r: &mut Registers) -> (Step, Mode) {
        let step = match r.command {
            0xa0 => {
                // Overlapped commands are not claimed; bit 0 wishes for DMA.
                if r.features & 2 != 0 {
                    return (Step::Done(error::ABRT), Mode::Pio);
                }
                self.mode = if r.features & 1 != 0 { Mode::Dma } else { Mode::Pio };
                return (Step::Packet, self.mode);
            }
            0xa1 => Step::DataIn(self.identify()),
            0xec | 0x20 => {
                // This is how disk drivers learn that it is no disk (ATA8-ACS §7.16.5).
                r.set_signature(1, 1, 0x14, 0xeb);
                Step::Done(error::ABRT)
            }
            0xef => self.set_features(r),
            0xe5 => {
                r.count = 0xff;
                Step::Done(0)
            }
            0xe0..=0xe3 | 0xe6 | 0xe7 => Step::Done(0),
            _ => Step::Done(error::ABRT),
        };
        (step, Mode::Pio)
    }

    pub(crate) fn packet(&mut self, r: &mut Registers, packet: &[u8]) -> Step {
        let step = self.cdrom.execute(packet);
        finish(r, step)
    }

    pub(crate) fn data(&mut self, r: &mut Registers, data: &[u8]) -> Step {
        let step = self.cdrom.data(data);
        finish(r, step)
    }

    pub(crate) fn failed(&mut self, kind: BlockErrorKind) -> u8 {
        error_register(self.cdrom.failed(kind).key)
    }

    /// Transfer mode, and what all drives grant.
    fn set_features(&mut self, r: &Registers) -> Step {
        match r.features & 0xff {
            0x03 => match transfer_mode((r.count & 0xff) as u8) {
                Some(mode) => self.transfer = mode,
                None => return Step::Done(error::ABRT),
            },
            0x66 | 0xcc => {}
            _ => return Step::Done(error::ABRT),
        }
        Step::Done(0)
    }

    /// IDENTIFY PACKET DEVICE (ATA8-ACS §7.17).
    fn identify(&self) -> Vec<u8> {
        let mut id = Identity::new();
        let i = &self.identity;
        common(&mut id, &i.serial, &i.model, self.transfer, self.link == Link::Serial);
        // Packets, a CD-ROM drive, removable, DRQ within 50 us, packets of 12 bytes.
        id.set(0, 0x85c0);
        id.set(49, 0x0f00); // IORDY, LBA, DMA
        id.set(82, 0x4210); // NOP, DEVICE RESET, packets
        id.set(83, 0x4000);
        id.set(84, 0x4000);
        id.set(85, 0x4210);
        id.set(87, 0x4000);
        id.finish()
    }
}

/// The sense key goes into the error register's high half (SFF-8020i §5.9).
fn error_register(key: u8) -> u8 {
    if key == 0 { 0 } else { key << 4 | error::ABRT }
}

fn finish(r: &mut Registers, step: Step) -> Step {
    // High halves serve 48-bit commands only.
    r.count &= 0xff;
    match step {
        Step::Done(key) => Step::Done(error_register(key)),
        other => other,
    }
}
