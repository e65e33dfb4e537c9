//! What the disk says it is (SPC-4 §6.6 and §7.8, SBC-4 §6.6).

use super::{Answer, BLOCK, MAX_RANGE, MAX_RANGES, ScsiDisk};
use crate::scsi::{Sense, be16, byte, cut, padded, sense};
use crate::step::Step;

impl ScsiDisk {
    pub(super) fn inquiry(&self, cdb: &[u8]) -> Answer {
        let allocation = usize::from(be16(cdb, 3));
        if byte(cdb, 1) & 1 != 0 {
            return Ok(Step::DataIn(cut(self.vital(byte(cdb, 2))?, allocation)));
        }
        if byte(cdb, 1) & 2 != 0 || byte(cdb, 2) != 0 {
            return Err(sense::BAD_FIELD);
        }
        // SPC-3; fixed; answers in the usual format; commands are queued.
        let mut data = vec![0, 0, 0x05, 0x02, 31, 0, 0, 0x02];
        data.extend(padded::<8>("VISOR"));
        data.extend(padded::<16>(&self.identity.model));
        data.extend(padded::<4>(env!("CARGO_PKG_VERSION")));
        Ok(Step::DataIn(cut(data, allocation)))
    }

    /// A page of vital product data.
    fn vital(&self, code: u8) -> Result<Vec<u8>, Sense> {
        let body = match code {
            0x00 => vec![0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2],
            0x80 => self.serial(),
            0x83 => self.names(),
            0xb0 => self.limits(),
            0xb1 => {
                let mut page = vec![0; 60];
                page[1] = 1; // does not rotate
                page
            }
            0xb2 => {
                // UNMAP and both kinds of WRITE SAME unmap; thin.
                if self.geometry.read_only { vec![0, 0, 0, 0] } else { vec![0, 0xe0, 2, 0] }
            }
            _ => return Err(sense::BAD_FIELD),
        };
        Ok([&[0, code][..], &(body.len() as u16).to_be_bytes(), &body].concat())
    }

    fn serial(&self) -> Vec<u8> {
        padded::<20>(&self.identity.serial).trim_ascii_end().to_vec()
    }

    /// Device identification: vendor, model and serial number (SPC-4 §7.8.6.4).
    fn names(&self) -> Vec<u8> {
        let name = [&padded::<8>("VISOR")[..], &padded::<16>(&self.identity.model), &self.serial()].concat();
        [&[0x02, 0x01, 0, name.len() as u8][..], &name].concat()
    }

    /// Block limits (SBC-4 §6.6.4).
    fn limits(&self) -> Vec<u8> {
        let mut page = vec![0; 60];
        let granularity = (u64::from(self.geometry.physical_block) / BLOCK).max(1) as u32;
        let mut put = |at: usize, value: &[u8]| page[at - 4..at - 4 + value.len()].copy_from_slice(value);
        put(6, &(granularity as u16).to_be_bytes()); // transfers: best a multiple of this
        if !self.geometry.read_only {
            put(20, &MAX_RANGE.to_be_bytes());
            put(24, &(MAX_RANGES as u32).to_be_bytes());
            put(28, &granularity.to_be_bytes());
            put(36, &u64::from(MAX_RANGE).to_be_bytes()); // WRITE SAME
        }
        page
    }
}
