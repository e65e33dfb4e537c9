//! A CD-ROM and DVD-ROM drive ("Multi-Media Commands - 6", MMC-6): one data track, read only, 2048 bytes a block.
//!
//! ```text
//! medium    25 READ CAPACITY  28 A8 READ  BE B9 READ CD  2F VERIFY  2B SEEK  43 READ TOC  51 DISC  52 TRACK  AD DVD STRUCTURE  42
//! tray      00 TEST UNIT READY  1B START STOP UNIT  1E PREVENT ALLOW  4A EVENT STATUS  BD MECHANISM STATUS
//! drive     12 INQUIRY  03 REQUEST SENSE  46 CONFIGURATION  1A 5A 15 55 MODE  BB SPEED  AC PERFORMANCE  A0 LUNS  4E STOP  A4 KEY
//! ```
//! A condition that concerns a command before it is even looked at (the drive was reset, the medium may have changed) fails the next
//! command once; INQUIRY, REQUEST SENSE, GET CONFIGURATION and GET EVENT STATUS NOTIFICATION pass it by (SPC-4 §5.14, MMC-6 §4.1.6).

mod config;
mod disc;
mod mode;
mod read;
#[cfg(test)]
mod tests;
mod tray;
mod unit;

pub use tray::{EjectOutcome, Tray, TrayError, TrayState};
pub use unit::Cdrom;

/// Bytes of a block.
const BLOCK: u64 = 2048;
/// Sectors of 512 bytes in a block.
const SECTORS_PER_BLOCK: u64 = BLOCK / visor_block::SECTOR;
/// Blocks of the largest CD (80 minutes of 60 seconds of 75 blocks); larger discs are DVDs.
const CD_BLOCKS: u32 = 80 * 60 * 75;

/// How a packet command goes on.
pub(crate) type Answer = Result<crate::Step, crate::scsi::Sense>;
