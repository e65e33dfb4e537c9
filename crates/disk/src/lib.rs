//! Disk images: raw files and block devices of the host.
//!
//! A back end implements [`visor_block::BlockBackend`]; what every back end must get right is checked by [`testing::block`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod lock;
mod pool;
mod raw;
pub mod testing;
#[cfg(test)]
mod tests;

pub use raw::{Access, Alloc, RawDisk, RawOptions};
