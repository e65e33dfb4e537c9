//! SET FEATURES and what it changes.

use super::{AtaDisk, Chs, Settings};
use crate::step::{Registers, Step, error};

impl Settings {
    pub(super) fn new(chs: Chs) -> Self {
        Settings {
            multiple: 0,
            chs,
            write_cache: true,
            look_ahead: true,
            smart: true,
            smart_autosave: true,
            transfer: 0,
        }
    }
}

impl AtaDisk {
    /// ATA8-ACS §7.45.
    pub(super) fn set_features(&mut self, r: &Registers) -> Result<Step, u8> {
        let s = &mut self.settings;
        match r.features & 0xff {
            0x02 => s.write_cache = true,
            0x82 => {
                s.write_cache = false;
                // What was written until now becomes durable (§7.45.3).
                return Ok(self.flush_all());
            }
            0x03 => s.transfer = transfer_mode((r.count & 0xff) as u8).ok_or(error::ABRT)?,
            0x55 => s.look_ahead = false,
            0xaa => s.look_ahead = true,
            // Keeping settings over soft resets, or not.
            0x66 | 0xcc => {}
            _ => return Err(error::ABRT),
        }
        Ok(Step::Done(0))
    }

    fn flush_all(&self) -> Step {
        let flush = crate::Job { op: visor_block::BlockOp::Flush, sector: visor_block::Sector(0), len: 0 };
        Step::Jobs(self.backend.clone(), vec![flush])
    }
}

/// A transfer mode of SET FEATURES: PIO 0 to 4, multiword DMA 0 to 2, Ultra DMA 0 to 6 (§7.45.4). Speed means nothing here, but
/// software reads back what it has chosen.
pub(crate) fn transfer_mode(mode: u8) -> Option<u8> {
    match mode {
        0 | 1 | 0x08..=0x0c | 0x20..=0x22 | 0x40..=0x46 => Some(mode),
        _ => None,
    }
}

/// The words 63 and 88 of an identity: modes that exist, and in the high byte the chosen one.
pub(crate) fn dma_words(transfer: u8) -> (u16, u16) {
    let chosen =
        |base: u8, n: u8| if transfer & 0xf8 == base && transfer & 7 <= n { 0x100 << (transfer & 7) } else { 0 };
    (0x0007 | chosen(0x20, 2), 0x007f | chosen(0x40, 6))
}
