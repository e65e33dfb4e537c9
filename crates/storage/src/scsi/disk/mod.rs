//! A disk ("SCSI Block Commands - 4", SBC-4): blocks of 512 bytes, write cache, thin provisioning.
//!
//! ```text
//! data      08 28 A8 88 READ   0A 2A AA 8A WRITE   2F AF 8F VERIFY   35 91 SYNCHRONIZE CACHE   42 UNMAP   41 93 WRITE SAME
//! unit      00 TEST UNIT READY  1B START STOP UNIT  1E PREVENT ALLOW  25 9E/10 READ CAPACITY  2B SEEK
//! itself    12 INQUIRY  03 REQUEST SENSE  1A 5A 15 55 MODE
//! ```

mod inquiry;
mod mode;
mod provision;
#[cfg(test)]
mod tests;
mod unit;

use std::sync::Arc;

use visor_block::{BlockBackend, BlockGeometry};

use crate::DiskIdentity;
use crate::scsi::Sense;
use crate::step::Step;

/// How a command goes on.
type Answer = Result<Step, Sense>;

/// Bytes of a block.
const BLOCK: u64 = visor_block::SECTOR;
/// Blocks of one UNMAP or WRITE SAME.
const MAX_RANGE: u32 = 1 << 21;
/// Ranges of one UNMAP.
const MAX_RANGES: usize = 32;

/// A disk as a SCSI unit.
pub struct ScsiDisk {
    backend: Arc<dyn BlockBackend>,
    geometry: BlockGeometry,
    identity: DiskIdentity,
    sense: Sense,
    /// The condition that the next command must fail with, once.
    attention: Option<Sense>,
    /// Writes may complete before they are durable.
    write_cache: bool,
    /// The command in hand, for those that take data.
    command: [u8; 16],
}
