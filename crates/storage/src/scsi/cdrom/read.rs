//! Reading data.

use visor_block::Sector;

use super::{Answer, BLOCK, Cdrom, SECTORS_PER_BLOCK};
use crate::scsi::{byte, sense};
use crate::step::{Step, Transfer, Way};

/// Blocks before the first addressable one: two seconds (MMC-6 §4.2.4).
const LEAD_IN: u32 = 150;

impl Cdrom {
    pub(super) fn read(&self, first: u64, count: u64) -> Answer {
        let disc = self.range(first, count)?;
        if count == 0 {
            return Ok(Step::Done(0));
        }
        let (sector, len) = (Sector(first * SECTORS_PER_BLOCK), count * BLOCK);
        Ok(Step::Transfer(Transfer { backend: disc.backend, way: Way::In, sector, len, durable: false }))
    }

    /// READ CD (MMC-6 §6.19): byte 9 says which parts of the raw block to give. There are only those that an image has, the user's
    /// data of a block in mode 1.
    pub(super) fn read_cd(&self, first: u64, count: u64, cdb: &[u8]) -> Answer {
        // Expected type: any, or mode 1.
        if !matches!(byte(cdb, 1) >> 2 & 7, 0 | 2) {
            return Err(sense::WRONG_TRACK);
        }
        match (byte(cdb, 9) & 0xf8, byte(cdb, 10) & 7) {
            (0x00, 0) => self.range(first, count).map(|_| Step::Done(0)),
            (0x10, 0) => self.read(first, count),
            _ => Err(sense::BAD_FIELD),
        }
    }

    /// The same with times for addresses.
    pub(super) fn read_cd_msf(&self, cdb: &[u8]) -> Answer {
        let at = |i| from_msf(byte(cdb, i), byte(cdb, i + 1), byte(cdb, i + 2));
        let (Some(first), Some(end)) = (at(3), at(6)) else { return Err(sense::BAD_ADDRESS) };
        let count = end.checked_sub(first).ok_or(sense::BAD_FIELD)?;
        self.read_cd(u64::from(first), u64::from(count), cdb)
    }
}

/// The block at a time of the disc.
fn from_msf(minute: u8, second: u8, frame: u8) -> Option<u32> {
    let valid = second < 60 && frame < 75;
    let at = (u32::from(minute) * 60 + u32::from(second)) * 75 + u32::from(frame);
    if valid { at.checked_sub(LEAD_IN) } else { None }
}

/// The time of a block, after a zero byte, as tables of contents have it; the largest time for blocks beyond it.
pub(super) fn to_msf(block: u32) -> [u8; 4] {
    let at = block.saturating_add(LEAD_IN);
    let minute = (at / (60 * 75)).min(255);
    if minute == 255 {
        return [0, 255, 59, 74];
    }
    [0, minute as u8, (at / 75 % 60) as u8, (at % 75) as u8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(to_msf(0), [0, 0, 2, 0]);
        assert_eq!(to_msf(16), [0, 0, 2, 16]);
        assert_eq!(from_msf(0, 2, 16), Some(16));
        assert_eq!(from_msf(0, 1, 0), None);
        assert_eq!(to_msf(u32::MAX), [0, 255, 59, 74]);
    }
}
