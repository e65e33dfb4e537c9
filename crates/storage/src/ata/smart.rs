//! SMART, as far as tools that ask for a disk's health need it (ATA8-ACS §7.52): it is always good.

use super::{AtaDisk, SECTOR};
use crate::step::{Registers, Step, error};

/// Attributes: number, flags, value and worst, raw value. A disk made of a file has little to tell.
const ATTRIBUTES: [(u8, u16, u8, u64); 3] = [
    (5, 0x0003, 100, 0),   // reallocated sectors
    (197, 0x0003, 100, 0), // sectors waiting for reallocation
    (198, 0x0003, 100, 0), // sectors that could not be corrected
];
/// Value below which the disk would be about to fail.
const THRESHOLD: u8 = 36;

impl AtaDisk {
    pub(super) fn smart(&mut self, r: &Registers) -> Result<Step, u8> {
        // The key that keeps stray commands out (§7.52.1).
        if (r.mid & 0xff, r.high & 0xff) != (0x4f, 0xc2) {
            return Err(error::ABRT);
        }
        let function = r.features & 0xff;
        if !self.settings.smart && function != 0xd8 {
            return Err(error::ABRT);
        }
        match function {
            0xd0 => Ok(Step::DataIn(self.smart_data())),
            0xd1 => Ok(Step::DataIn(thresholds())),
            0xd2 => {
                self.settings.smart_autosave = match r.count & 0xff {
                    0 => false,
                    0xf1 => true,
                    _ => return Err(error::ABRT),
                };
                Ok(Step::Done(0))
            }
            // Off-line collection and self-tests end at once, with success.
            0xd4 if matches!(r.low & 0xff, 0 | 1 | 2 | 0x7f) => Ok(Step::Done(0)),
            0xd5 => self.smart_log(r),
            0xd8 => self.smart_enable(true),
            0xd9 => self.smart_enable(false),
            // The key comes back unchanged: no threshold is exceeded (§7.52.8).
            0xda => Ok(Step::Done(0)),
            _ => Err(error::ABRT),
        }
    }

    fn smart_enable(&mut self, on: bool) -> Result<Step, u8> {
        self.settings.smart = on;
        Ok(Step::Done(0))
    }

    fn smart_data(&self) -> Vec<u8> {
        let mut data = vec![0; SECTOR];
        data[0] = 0x10;
        for (i, (number, flags, value, raw)) in ATTRIBUTES.into_iter().enumerate() {
            let at = 2 + 12 * i;
            data[at] = number;
            data[at + 1..at + 3].copy_from_slice(&flags.to_le_bytes());
            data[at + 3] = value;
            data[at + 4] = value;
            data[at + 5..at + 11].copy_from_slice(&raw.to_le_bytes()[..6]);
        }
        // Off-line collection: completed, if it is automatic (§7.52.6.2).
        data[362] = if self.settings.smart_autosave { 0x82 } else { 0x02 };
        data[364..366].copy_from_slice(&1u16.to_le_bytes()); // seconds
        data[367] = 0x11; // off-line immediate and self-tests exist
        data[368..370].copy_from_slice(&3u16.to_le_bytes()); // attributes are saved
        data[370] = 1; // errors are logged
        data[372] = 1; // minutes of a short test
        data[373] = 1; // and of a long one
        checksum(data)
    }

    /// The directory, and the summaries of errors and of self-tests, both empty (§A.5, §A.6).
    fn smart_log(&self, r: &Registers) -> Result<Step, u8> {
        if r.count & 0xff != 1 {
            return Err(error::ABRT);
        }
        let mut log = vec![0; SECTOR];
        match r.low & 0xff {
            0 => {
                (log[0], log[2], log[12]) = (1, 1, 1);
                Ok(Step::DataIn(log))
            }
            1 | 6 => {
                log[0] = 1;
                Ok(Step::DataIn(checksum(log)))
            }
            _ => Err(error::ABRT),
        }
    }
}

fn thresholds() -> Vec<u8> {
    let mut data = vec![0; SECTOR];
    data[0] = 0x10;
    for (i, (number, ..)) in ATTRIBUTES.into_iter().enumerate() {
        data[2 + 12 * i] = number;
        data[3 + 12 * i] = THRESHOLD;
    }
    checksum(data)
}

/// The last byte makes the sum zero.
fn checksum(mut data: Vec<u8>) -> Vec<u8> {
    let sum = data[..SECTOR - 1].iter().fold(0u8, |s, b| s.wrapping_add(*b));
    data[SECTOR - 1] = sum.wrapping_neg();
    data
}
