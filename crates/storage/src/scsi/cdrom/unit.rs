//! The drive: which command does what, and the sense data between commands.

use visor_block::{BlockErrorKind, BlockOp, Sector};

use super::tray::Disc;
use super::{Answer, BLOCK, SECTORS_PER_BLOCK, Tray};
use crate::scsi::{Sense, be16, be24, be32, byte, cut, padded, sense};
use crate::step::{Job, Step};

/// Peripheral type of a CD-ROM drive, and the bit of removable media (SPC-4 §6.4.2).
const TYPE: u8 = 0x05;
const REMOVABLE: u8 = 0x80;

/// A CD-ROM drive as a SCSI unit.
pub struct Cdrom {
    pub(super) tray: Tray,
    model: String,
    sense: Sense,
    /// The command in hand, for those that take data.
    pub(super) command: [u8; 16],
}

impl Cdrom {
    /// A drive with an empty, closed tray. Models have up to 16 characters.
    pub fn new(model: &str) -> Self {
        Cdrom { tray: Tray::default(), model: model.into(), sense: sense::NONE, command: [0; 16] }
    }

    /// The host's hand on its tray.
    pub fn tray(&self) -> Tray {
        self.tray.clone()
    }

    pub(crate) fn reset(&mut self, hard: bool) {
        self.tray.reset(hard);
        self.sense = sense::NONE;
    }

    /// Begins a command. [`Step::Done`] carries 0 for success and the sense key otherwise.
    pub(crate) fn execute(&mut self, cdb: &[u8]) -> Step {
        for (i, b) in self.command.iter_mut().enumerate() {
            *b = byte(cdb, i);
        }
        let answer = self.dispatch(cdb);
        self.answer(cdb, answer)
    }

    /// Takes the data of a command that asked for some.
    pub(crate) fn data(&mut self, data: &[u8]) -> Step {
        let cdb = self.command;
        let answer = self.mode_select(&cdb, data);
        self.answer(&cdb, answer)
    }

    /// The medium has failed under the command in hand.
    pub(crate) fn failed(&mut self, kind: BlockErrorKind) -> Sense {
        self.sense = match kind {
            BlockErrorKind::BadBuffer => sense::TRANSPORT,
            BlockErrorKind::OutOfRange => sense::BAD_ADDRESS,
            _ => sense::READ_ERROR,
        };
        self.sense
    }

    /// Why the last command failed, for adapters that deliver it at once; nothing is left of it then.
    pub(crate) fn take_sense(&mut self) -> Sense {
        std::mem::take(&mut self.sense)
    }

    fn answer(&mut self, cdb: &[u8], answer: Answer) -> Step {
        match answer {
            Ok(step) => {
                // REQUEST SENSE has delivered what it found; any other command starts anew.
                if byte(cdb, 0) != 0x03 {
                    self.sense = sense::NONE;
                }
                step
            }
            Err(s) => {
                self.sense = s;
                Step::Done(s.key)
            }
        }
    }

    fn dispatch(&mut self, cdb: &[u8]) -> Answer {
        let op = byte(cdb, 0);
        // These pass a pending condition by.
        match op {
            0x12 => return self.inquiry(cdb),
            0x03 => return self.request_sense(cdb),
            0x46 => return self.configuration(cdb),
            0x4a => return self.event_status(cdb),
            _ => {}
        }
        if let Some(attention) = self.tray.take_attention() {
            return Err(attention);
        }
        match op {
            0x00 => self.disc().map(|_| Step::Done(0)),
            0x1b => self.start_stop(cdb),
            0x1e => self.prevent_allow(cdb),
            0x25 => self.capacity(),
            0x28 => self.read(u64::from(be32(cdb, 2)), u64::from(be16(cdb, 7))),
            0xa8 => self.read(u64::from(be32(cdb, 2)), u64::from(be32(cdb, 6))),
            0xbe => self.read_cd(u64::from(be32(cdb, 2)), u64::from(be24(cdb, 6)), cdb),
            0xb9 => self.read_cd_msf(cdb),
            0x2f => self.verify(cdb),
            0x2b => self.seek(cdb),
            0x42 => self.sub_channel(cdb),
            0x43 => self.toc(cdb),
            0x51 => self.disc_information(cdb),
            0x52 => self.track_information(cdb),
            0xad => self.structure(cdb),
            0xa4 => self.report_key(cdb),
            0xac => self.performance(cdb),
            0x1a | 0x5a => self.mode_sense(cdb),
            0x15 | 0x55 => self.mode_select_length(cdb),
            0xbd => self.mechanism(cdb),
            // SET CD SPEED, SET READ AHEAD, STOP PLAY/SCAN, SYNCHRONIZE CACHE: nothing to do, and nothing wrong with asking.
            0xbb | 0xa7 | 0x4e => Ok(Step::Done(0)),
            _ => Err(sense::BAD_COMMAND),
        }
    }

    /// The disc, or why there is none.
    pub(super) fn disc(&self) -> Result<Disc, Sense> {
        self.tray.disc().ok_or(if self.tray.is_open() { sense::NO_MEDIUM_OPEN } else { sense::NO_MEDIUM_CLOSED })
    }

    /// SPC-4 §6.4.
    fn inquiry(&self, cdb: &[u8]) -> Answer {
        if byte(cdb, 1) & 3 != 0 {
            return self.vital(cdb);
        }
        if byte(cdb, 2) != 0 {
            return Err(sense::BAD_FIELD);
        }
        let mut data = vec![TYPE, REMOVABLE, 0x05, 0x02, 31, 0, 0, 0];
        data.extend(padded::<8>("VISOR"));
        data.extend(padded::<16>(&self.model));
        data.extend(padded::<4>(env!("CARGO_PKG_VERSION")));
        Ok(Step::DataIn(cut(data, usize::from(be16(cdb, 3)))))
    }

    /// Vital product data: the list of pages, and the names of the drive (SPC-4 §7.8).
    fn vital(&self, cdb: &[u8]) -> Answer {
        if byte(cdb, 1) & 1 == 0 {
            return Err(sense::BAD_FIELD);
        }
        let mut page = match byte(cdb, 2) {
            0x00 => vec![TYPE, 0, 0, 0, 0x00, 0x83],
            0x83 => {
                let mut id = vec![TYPE, 0x83, 0, 0, 0x02, 0x01, 0, 24]; // ASCII, vendor and name
                id.extend(padded::<8>("VISOR"));
                id.extend(padded::<16>(&self.model));
                id
            }
            _ => return Err(sense::BAD_FIELD),
        };
        page[3] = (page.len() - 4) as u8;
        Ok(Step::DataIn(cut(page, usize::from(be16(cdb, 3)))))
    }

    /// Delivers what is pending, or what the last command left (SPC-4 §6.32).
    fn request_sense(&mut self, cdb: &[u8]) -> Answer {
        let s = if self.sense == sense::NONE { self.pending() } else { self.sense };
        self.sense = sense::NONE;
        let data = if byte(cdb, 1) & 1 != 0 { s.descriptor() } else { s.fixed() };
        Ok(Step::DataIn(cut(data, usize::from(byte(cdb, 4)))))
    }

    fn pending(&self) -> Sense {
        self.tray.take_attention().or_else(|| self.disc().err()).unwrap_or(sense::NONE)
    }

    /// MMC-6 §6.42: bit 0 start (close, with bit 1), bit 1 eject or load.
    fn start_stop(&self, cdb: &[u8]) -> Answer {
        // Power conditions: nothing to save.
        if byte(cdb, 4) >> 4 != 0 {
            return Ok(Step::Done(0));
        }
        match byte(cdb, 4) & 3 {
            0b10 if !self.tray.open() => Err(sense::LOCKED),
            0b11 => {
                self.tray.close();
                Ok(Step::Done(0))
            }
            0b01 => self.disc().map(|_| Step::Done(0)),
            _ => Ok(Step::Done(0)),
        }
    }

    /// MMC-6 §6.18. The persistent lock (bit 1) is not claimed in the configuration; it counts as a lock of the usual kind.
    fn prevent_allow(&self, cdb: &[u8]) -> Answer {
        self.tray.set_locked(byte(cdb, 4) & 1 != 0);
        Ok(Step::Done(0))
    }

    fn capacity(&self) -> Answer {
        let disc = self.disc()?;
        let mut data = (disc.blocks - 1).to_be_bytes().to_vec();
        data.extend((BLOCK as u32).to_be_bytes());
        Ok(Step::DataIn(data))
    }

    /// Reads and forgets.
    fn verify(&self, cdb: &[u8]) -> Answer {
        let (first, count) = (u64::from(be32(cdb, 2)), u64::from(be16(cdb, 7)));
        let disc = self.range(first, count)?;
        if count == 0 {
            return Ok(Step::Done(0));
        }
        let sector = Sector(first * SECTORS_PER_BLOCK);
        Ok(Step::Jobs(disc.backend, vec![Job { op: BlockOp::Read, sector, len: count * BLOCK }]))
    }

    fn seek(&self, cdb: &[u8]) -> Answer {
        self.range(u64::from(be32(cdb, 2)), 1).map(|_| Step::Done(0))
    }

    /// The disc, if it has all these blocks.
    pub(super) fn range(&self, first: u64, count: u64) -> Result<Disc, Sense> {
        let disc = self.disc()?;
        if first + count > u64::from(disc.blocks) || first >= u64::from(disc.blocks) {
            return Err(sense::BAD_ADDRESS);
        }
        Ok(disc)
    }
}
