//! Mode pages (SPC-4 §7.5, SBC-4 §6.5): the write cache, which can be changed, and the control page.

use super::{Answer, ScsiDisk};
use crate::scsi::{be16, byte, cut, sense};
use crate::step::Step;

/// Bits 7:6 of the page control: values in force, changeable bits, defaults, saved.
const CHANGEABLE: u8 = 1;
const DEFAULTS: u8 = 2;
const SAVED: u8 = 3;

const CACHING: u8 = 0x08;
const CONTROL: u8 = 0x0a;
/// Write cache enable, in byte 2 of the caching page.
const WCE: u8 = 1 << 2;
/// Device-specific parameter: write-protected; FUA is known.
const WRITE_PROTECTED: u8 = 0x80;
const DPOFUA: u8 = 0x10;
/// Most bytes of a parameter list.
const LIST_LIMIT: usize = 512;

impl ScsiDisk {
    /// MODE SENSE, 6 or 10 bytes.
    pub(super) fn mode_sense(&self, cdb: &[u8]) -> Answer {
        let long = byte(cdb, 0) == 0x5a;
        let (control, wanted) = (byte(cdb, 2) >> 6, byte(cdb, 2) & 0x3f);
        if control == SAVED {
            return Err(sense::NO_SAVED_PAGES);
        }
        let pages: Vec<u8> = [CACHING, CONTROL]
            .into_iter()
            .filter(|p| wanted == 0x3f || wanted == *p)
            .flat_map(|p| self.page(p, control))
            .collect();
        // Page 0 asks for the header alone, as Windows does.
        if pages.is_empty() && wanted != 0 {
            return Err(sense::BAD_FIELD);
        }
        let specific = DPOFUA | if self.geometry.read_only { WRITE_PROTECTED } else { 0 };
        let descriptor = if byte(cdb, 1) & 8 == 0 { self.descriptor() } else { Vec::new() };
        let (mut data, allocation) = if long {
            (vec![0, 0, 0, specific, 0, 0, 0, descriptor.len() as u8], usize::from(be16(cdb, 7)))
        } else {
            (vec![0, 0, specific, descriptor.len() as u8], usize::from(byte(cdb, 4)))
        };
        data.extend(descriptor);
        data.extend(pages);
        if long {
            let len = (data.len() - 2) as u16;
            data[..2].copy_from_slice(&len.to_be_bytes());
        } else {
            data[0] = (data.len() - 1) as u8;
        }
        Ok(Step::DataIn(cut(data, allocation)))
    }

    /// The short block descriptor: number of blocks, as far as it fits, and their size.
    fn descriptor(&self) -> Vec<u8> {
        let blocks = self.geometry.sectors.min(0xff_ffff) as u32;
        let mut d = blocks.to_be_bytes().to_vec();
        d.extend((super::BLOCK as u32).to_be_bytes());
        d
    }

    fn page(&self, code: u8, control: u8) -> Vec<u8> {
        let mut page = match code {
            CACHING => vec![0; 20],
            _ => vec![0; 12],
        };
        page[0] = code;
        page[1] = (page.len() - 2) as u8;
        let on = match control {
            CHANGEABLE | DEFAULTS => true,
            _ => self.write_cache,
        };
        if code == CACHING && on {
            page[2] = WCE;
        }
        page
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

    /// MODE SELECT, second half. All pages are checked before one takes effect.
    pub(super) fn mode_select(&mut self, cdb: &[u8], data: &[u8]) -> Answer {
        let header = if byte(cdb, 0) == 0x55 { 8 } else { 4 };
        let descriptors = if header == 8 { usize::from(be16(data, 6)) } else { usize::from(byte(data, 3)) };
        let mut rest = data.get(header + descriptors..).ok_or(sense::BAD_LENGTH)?;
        let mut cache = self.write_cache;
        while let [code, len, ..] = *rest {
            let size = usize::from(len) + 2;
            let new = rest.get(..size).ok_or(sense::BAD_LENGTH)?;
            let code = code & 0x3f;
            if !matches!(code, CACHING | CONTROL) {
                return Err(sense::BAD_PARAMETER);
            }
            let (now, can) = (self.page(code, 0), self.page(code, CHANGEABLE));
            let differs = |i: usize| (now[i] ^ new[i]) & !can[i] != 0;
            if now.len() != size || (2..size).any(differs) {
                return Err(sense::BAD_PARAMETER);
            }
            if code == CACHING {
                cache = new[2] & WCE != 0;
            }
            rest = &rest[size..];
        }
        if !rest.is_empty() {
            return Err(sense::BAD_LENGTH);
        }
        self.write_cache = cache;
        Ok(Step::Done(0))
    }
}
