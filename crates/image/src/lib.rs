//! Guest images built from Debian packages.
//!
//! [`ImageBuilder`] makes the image `tiny`: an unmodified Debian kernel, an initial ramfs with visor's own PID 1, and a
//! root disk with the tools a tour of virtual machines needs. [`ImageStore`] finds images that are there. [`FirmwareStore`] finds
//! the firmware of machines that boot as a PC does. [`Unpacked`] are packages for guests that others put together.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod apt;
mod archive;
mod builder;
mod content;
mod disk;
mod elf;
mod error;
mod firmware;
mod modules;
mod program;
mod progress;
mod recipe;
mod store;
mod tree;
mod unpacked;

pub use builder::ImageBuilder;
pub use error::{ImageError, ImageErrorKind};
pub use firmware::{FirmwareFile, FirmwareStore};
pub use progress::{Phase, Progress, Silent};
pub use recipe::{Recipe, RecipePackage};
pub use store::{Image, ImageStore, Manifest, ManifestFile, ManifestPackage};
pub use unpacked::Unpacked;

/// The program that runs as PID 1 in guests, static, for x86-64 Linux.
pub const GUEST_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/visor-guest-init"));
