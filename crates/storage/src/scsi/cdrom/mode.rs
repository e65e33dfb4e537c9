//! Mode pages (MMC-6 §7): read errors, caching, power, timeouts, capabilities.

use super::{Answer, Cdrom};
use crate::scsi::{Sense, be16, byte, cut, sense};
use crate::step::Step;

/// Bits 7:6 of the page control: values in force, changeable bits, defaults, saved.
const CHANGEABLE: u8 = 1;
const SAVED: u8 = 3;

/// Most bytes of a parameter list that is taken.
const LIST_LIMIT: usize = 512;

impl Cdrom {
    /// MODE SENSE, 6 or 10 bytes.
    pub(super) fn mode_sense(&self, cdb: &[u8]) -> Answer {
        let long = byte(cdb, 0) == 0x5a;
        let (control, wanted) = (byte(cdb, 2) >> 6, byte(cdb, 2) & 0x3f);
        if control == SAVED {
            return Err(sense::NO_SAVED_PAGES);
        }
        let pages = self.pages();
        let mut body = Vec::new();
        for mut page in pages.into_iter().filter(|p| wanted == 0x3f || p[0] == wanted) {
            if control == CHANGEABLE {
                // Nothing can be changed.
                page[2..].fill(0);
            }
            body.extend(page);
        }
        if body.is_empty() {
            return Err(sense::BAD_FIELD);
        }
        let (mut data, allocation) = if long {
            (vec![0, 0, self.medium_type(), 0, 0, 0, 0, 0], usize::from(be16(cdb, 7)))
        } else {
            (vec![0, self.medium_type(), 0, 0], usize::from(byte(cdb, 4)))
        };
        data.extend(body);
        if long {
            let len = (data.len() - 2) as u16;
            data[..2].copy_from_slice(&len.to_be_bytes());
        } else {
            data[0] = (data.len() - 1) as u8;
        }
        Ok(Step::DataIn(cut(data, allocation)))
    }

    /// MODE SELECT, first half: how many bytes will come.
    pub(super) fn mode_select_length(&self, cdb: &[u8]) -> Answer {
        let len = if byte(cdb, 0) == 0x55 { usize::from(be16(cdb, 7)) } else { usize::from(byte(cdb, 4)) };
        // Pages of vendors' own layout, or saving.
        if byte(cdb, 1) & 0x11 != 0x10 {
            return Err(sense::BAD_FIELD);
        }
        match len {
            0 => Ok(Step::Done(0)),
            1..=LIST_LIMIT => Ok(Step::DataOut(len)),
            _ => Err(sense::BAD_FIELD),
        }
    }

    /// MODE SELECT, second half: pages must exist and have their length; what they say is what is in force already, as nothing
    /// can be changed, or is rounded to it (SPC-4 §5.10).
    pub(super) fn mode_select(&self, cdb: &[u8], data: &[u8]) -> Answer {
        let header = if byte(cdb, 0) == 0x55 { 8 } else { 4 };
        let descriptors = if header == 8 { usize::from(be16(data, 6)) } else { usize::from(byte(data, 3)) };
        let mut rest = data.get(header + descriptors..).ok_or(sense::BAD_LENGTH)?;
        while let [code, len, ..] = *rest {
            let size = usize::from(len) + 2;
            if rest.len() < size {
                return Err(sense::BAD_LENGTH);
            }
            self.check_page(code & 0x3f, size)?;
            rest = &rest[size..];
        }
        if rest.is_empty() { Ok(Step::Done(0)) } else { Err(sense::BAD_LENGTH) }
    }

    fn check_page(&self, code: u8, size: usize) -> Result<(), Sense> {
        match self.pages().iter().find(|p| p[0] == code) {
            Some(page) if page.len() == size => Ok(()),
            _ => Err(sense::BAD_PARAMETER),
        }
    }

    /// SFF-8020: 1 for a data disc of 120 mm, 70h for none, 71h for an open door.
    fn medium_type(&self) -> u8 {
        match self.disc() {
            Ok(_) => 0x01,
            Err(_) if self.tray.is_open() => 0x71,
            Err(_) => 0x70,
        }
    }

    fn pages(&self) -> Vec<Vec<u8>> {
        let mut capabilities = vec![0; 22];
        capabilities[0] = 0x2a;
        capabilities[1] = 20;
        capabilities[2] = 0x08; // reads DVD-ROM
        capabilities[4] = 0x00; // no audio
        // Tray, eject by command, lock; bit 1 says whether it is locked now.
        capabilities[6] = 0x29 | u8::from(self.tray.is_locked()) << 1;
        capabilities[8..10].copy_from_slice(&5632u16.to_be_bytes()); // most kB/s: 32 times
        capabilities[12..14].copy_from_slice(&512u16.to_be_bytes()); // kB of buffer
        capabilities[14..16].copy_from_slice(&5632u16.to_be_bytes()); // kB/s now
        vec![
            vec![0x01, 10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0], // errors: five retries
            vec![0x08, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // no write cache
            vec![0x1a, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // never goes to sleep by itself
            vec![0x1d, 8, 0, 0, 0, 0, 0, 5, 0, 15],       // timeouts in seconds
            capabilities,
        ]
    }
}
