//! Disks and CD-ROM drives as unmodified systems know them, over any [`visor_block::BlockBackend`].
//!
//! Three layers, each of which knows only the one below it:
//!
//! - **controllers** move bytes between a drive and the guest: [`ide`] (PIIX, two channels, PIO and bus-master DMA);
//! - **drives** execute the ATA command set: `ata` for disks, `packet` for drives that take SCSI command packets;
//! - **SCSI units** execute what is in such packets: `scsi` has the disk and the CD-ROM drive; [`ScsiUnit`] is either, for
//!   host adapters that carry whole commands (virtio-scsi).
//!
//! A drive never waits: for each command it names the next [`Step`], and the controller carries it out - at once, when the guest moves the
//! data, or when the back end completes. Requests go to the back end with no lock held, so that it may complete them at once.
//!
//! **Lock order.** Bus device or PCI function → controller → [`Tray`] → interrupt line. Completions take the controller's lock.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ata;
mod buffer;
pub mod ide;
mod packet;
mod scsi;
mod step;
#[cfg(test)]
mod testing;
mod unit;

pub use ata::{AtaDisk, DiskIdentity, Link};
pub use packet::PacketDrive;
pub use scsi::cdrom::{Cdrom, EjectOutcome, Tray, TrayError, TrayState};
pub use scsi::disk::ScsiDisk;
pub use scsi::unit::{ScsiUnit, no_such_unit};
pub use step::{Job, Mode, Registers, Step, Transfer, Way};
pub use unit::Unit;
