//! ISO 9660 images (ECMA-119) with Rock Ridge, Joliet and El Torito: reading them, and making them of a directory.
//!
//! [`Iso`] reads any image, trusted or not: every number in it is checked against the image's size, directories are visited once,
//! and depth, counts and name lengths have limits. [`make()`] writes one, by way of the `hadris-iso` library.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod boot;
mod directory;
mod error;
mod hybrid;
mod make;
mod reader;
mod rockridge;
#[cfg(test)]
mod tests;
mod volume;

pub use boot::{BootCatalog, BootEntry, Emulation, Platform};
pub use directory::{Entry, EntryKind, Extent, Stamp};
pub use error::{IsoError, IsoErrorKind};
pub use hybrid::{Hybrid, Partition};
pub use make::{Made, MakeOptions, make};
pub use reader::Iso;
pub use volume::{Names, Volume};

/// Bytes of a block, and of a sector of a disc.
pub const BLOCK: u64 = 2048;
