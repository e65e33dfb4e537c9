//! A SCSI unit behind a host adapter that carries whole commands, such as virtio's.

use std::sync::Arc;

use visor_block::{BlockBackend, BlockErrorKind};

use super::disk::ScsiDisk;
use super::{Sense, be32, byte, cut, sense};
use crate::step::Step;
use crate::{Cdrom, DiskIdentity};

/// A unit: what is at one address of a SCSI bus.
pub struct ScsiUnit(Kind);

enum Kind {
    Disk(ScsiDisk),
    Cdrom(Cdrom),
}

impl ScsiUnit {
    /// A disk that shows `backend`.
    pub fn disk(backend: Arc<dyn BlockBackend>, identity: DiskIdentity) -> Self {
        ScsiUnit(Kind::Disk(ScsiDisk::new(backend, identity)))
    }

    /// A CD-ROM drive.
    pub fn cdrom(cdrom: Cdrom) -> Self {
        ScsiUnit(Kind::Cdrom(cdrom))
    }

    /// Begins a command. [`Step::Done`] carries 0 for success; else [`ScsiUnit::sense`] says why it failed. Steps never ask for a
    /// packet.
    pub fn execute(&mut self, cdb: &[u8]) -> Step {
        if byte(cdb, 0) == 0xa0 {
            return report_luns(cdb);
        }
        match &mut self.0 {
            Kind::Disk(d) => d.execute(cdb),
            Kind::Cdrom(c) => c.execute(cdb),
        }
    }

    /// Takes the bytes that [`Step::DataOut`] asked for.
    pub fn data(&mut self, data: &[u8]) -> Step {
        match &mut self.0 {
            Kind::Disk(d) => d.data(data),
            Kind::Cdrom(c) => c.data(data),
        }
    }

    /// Sense data (fixed format) of the command that has just failed; it is void afterwards.
    pub fn sense(&mut self) -> Vec<u8> {
        let sense = match &mut self.0 {
            Kind::Disk(d) => d.take_sense(),
            Kind::Cdrom(c) => c.take_sense(),
        };
        sense.fixed()
    }

    /// Sense data of a command whose medium has failed.
    pub fn failed(&mut self, kind: BlockErrorKind) -> Vec<u8> {
        let sense = match &mut self.0 {
            Kind::Disk(d) => d.failed(kind),
            Kind::Cdrom(c) => {
                let sense = c.failed(kind);
                c.take_sense();
                sense
            }
        };
        sense.fixed()
    }

    /// The back end of a disk has another size now, which the next command is told of.
    pub fn resized(&mut self) {
        match &mut self.0 {
            Kind::Disk(d) => d.resized(),
            // Discs are changed, not their sizes.
            Kind::Cdrom(_) => {}
        }
    }

    /// Back to the state after power-on, which the next command is told of.
    pub fn reset(&mut self) {
        match &mut self.0 {
            Kind::Disk(d) => d.reset(),
            Kind::Cdrom(c) => c.reset(true),
        }
    }
}

/// What a logical unit that does not exist answers, on a bus address that does (SPC-4 §5.3 and §6.6.2): data, or sense data.
pub fn no_such_unit(cdb: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
    let absent: Sense = sense::NO_UNIT;
    match byte(cdb, 0) {
        0xa0 => match report_luns(cdb) {
            Step::DataIn(data) => Ok(data),
            _ => Err(sense::BAD_FIELD.fixed()),
        },
        // No device can be here.
        0x12 if byte(cdb, 1) & 3 == 0 => {
            let mut data = vec![0; 36];
            data[0] = 0x7f;
            data[4] = 31;
            Ok(cut(data, usize::from(super::be16(cdb, 3))))
        }
        0x03 => Ok(cut(absent.fixed(), usize::from(byte(cdb, 4)))),
        _ => Err(absent.fixed()),
    }
}

/// The only unit of its address is number 0 (SPC-4 §6.33).
fn report_luns(cdb: &[u8]) -> Step {
    let mut data = vec![0; 16];
    match byte(cdb, 2) {
        0 | 2 => data[3] = 8,
        // Well-known units: there are none.
        1 => data.truncate(8),
        _ => return Step::DataIn(Vec::new()),
    }
    Step::DataIn(cut(data, be32(cdb, 6) as usize))
}
