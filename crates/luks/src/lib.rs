//! LUKS volumes: encrypted disks as `cryptsetup` and the Linux kernel know them.
//!
//! - [`Luks`] is a volume's header: which keys open it, and how. LUKS2 is made, read and changed, LUKS1 is read.
//! - [`VolumeKey`] is what a passphrase opens: the key of the data.
//! - [`LuksDisk`] is the disk inside, over whatever the volume lies in.
//!
//! The cipher is AES in XTS mode with sector numbers as tweak (`aes-xts-plain64`), keys are stretched with Argon2 or PBKDF2; all of
//! them come from libraries. Keys are wiped from memory when they are dropped and have no `Debug`.
//!
//! Formats: "LUKS1 On-Disk Format Specification 1.2.3" and "LUKS2 On-Disk Format Specification 1.1.3" (cryptsetup project).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod af;
mod cipher;
mod disk;
mod error;
mod hash;
mod header;
mod kdf;
mod luks1;
mod luks2;
mod medium;
mod slots;
#[cfg(test)]
mod tests;

pub use disk::LuksDisk;
pub use error::{LuksError, LuksErrorKind};
pub use header::{FormatOptions, Luks, SlotInfo, Version, VolumeKey, is_luks};
pub use kdf::Kdf;
pub use medium::{BackendMedium, Medium};
pub use zeroize::Zeroizing;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, LuksError>;
