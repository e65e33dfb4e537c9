//! Disk images: raw files and block devices of the host, qcow2 with its backing files, and foreign formats for reading.
//!
//! - [`open_disk`] opens an image for a machine, as a [`visor_block::BlockBackend`];
//! - [`open_image`] opens one for work on the image itself: checking, converting, snapshots;
//! - [`Format`] says which format a file has, and how that is decided;
//! - [`NbdDisk`] and [`NbdServer`] take disks over the network;
//! - [`convert`](convert()) copies between formats.
//!
//! What every back end must get right is checked by [`testing::block`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod convert;
mod error;
mod fault;
mod flush;
mod foreign;
mod format;
mod lock;
mod nbd;
mod newfile;
mod open;
mod pool;
mod qcow2;
mod raw;
mod request;
mod source;
pub mod testing;
#[cfg(test)]
mod tests;
mod throttle;

pub use convert::{ConvertOptions, Copied, Target, convert};
pub use fault::{FaultPlan, FaultyDisk};
pub use format::Format;
pub use nbd::{NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer, TlsClient, TlsFiles, TlsServer};
pub use newfile::{NewFile, Published};
pub use open::{
    ImageOptions, Opened, Policy, RemoteFile, RemoteOpen, RemoteOpener, is_remote, open_disk, open_image, open_remote,
};
pub use pool::Pool as Workers;
pub use qcow2::Qcow2Disk;
pub use raw::{Access, Alloc, Io, RawDisk, RawOptions};
pub use source::{DiskSource, RawSource, SourceDisk};
pub use throttle::{Limits, Throttle};
/// Whether [`Io::Auto`] uses io_uring on this host; the reason, if not.
pub use visor_uring::probe as ring_available;
