//! A disk that executes the ATA command set ("AT Attachment 8 - ATA/ATAPI Command Set", ATA8-ACS; "ACS-2" for trimming).
//!
//! ```text
//! data        20/21 24 25 29 · 30/31 34 35 39 3D C4 C5 C8/C9 CA/CB CE     PIO and DMA, 28 and 48 bits, single and multiple
//! no data     40/41 42 verify · 7x seek · E7 EA flush · 06 trim · C6 set multiple · 91 geometry · EF features · 00 NOP
//! about it    EC identify · B0 SMART · 2F 47 logs · E5 power mode, E0-E3 E6 and 94-99 idle and standby
//! refused     F1-F6 security (also: erase) · F9 37 host protected area · F8 27 · 92 microcode · 08 reset: what the disk does not claim
//! ```

mod disk;
mod identify;
mod settings;
mod smart;
#[cfg(test)]
mod tests;

pub(crate) use identify::{Identity, common};
pub(crate) use settings::transfer_mode;

use std::sync::Arc;

use visor_block::{BlockBackend, BlockGeometry};

/// Most sectors of a data block of READ and WRITE MULTIPLE.
const MAX_MULTIPLE: u8 = 16;
/// Sectors of 512 bytes that 28-bit commands reach.
const LBA28_LIMIT: u64 = 0x0fff_ffff;
/// Bytes of a sector.
const SECTOR: usize = visor_block::SECTOR as usize;

/// How the drive is connected, which decides what it says of its speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A parallel cable.
    Parallel,
    /// Serial ATA, with native command queueing.
    Serial,
}

/// What a drive calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskIdentity {
    /// Serial number; cut at 20 bytes, bytes other than printable ASCII become `?`.
    pub serial: String,
    /// Model; cut at 40 bytes.
    pub model: String,
}

/// The geometry that CHS addresses refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chs {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

/// A disk.
pub struct AtaDisk {
    backend: Arc<dyn BlockBackend>,
    geometry: BlockGeometry,
    identity: DiskIdentity,
    link: Link,
    /// The geometry that the disk prefers.
    native: Chs,
    settings: Settings,
}

/// What commands can change.
#[derive(Clone, Copy, Debug)]
struct Settings {
    /// Sectors of a data block of READ and WRITE MULTIPLE; 0 refuses them.
    multiple: u8,
    chs: Chs,
    write_cache: bool,
    look_ahead: bool,
    smart: bool,
    smart_autosave: bool,
    /// The chosen transfer mode, as SET FEATURES gives it; 0 for none.
    transfer: u8,
}
