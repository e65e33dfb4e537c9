//! Debian's unmodified kernel with a script of ours as its first program, for the tests of disks and discs.
//!
//! The kernel, its modules and busybox come from Debian packages by way of `visor-image`. The script talks to the test over the
//! serial line: it prints lines, and reads lines with `read`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod installer;
mod linux;
mod session;

pub use installer::Installer;
pub use linux::Linux;
pub use session::Session;

use sha2::{Digest, Sha256};
use visor_image::{FirmwareFile, FirmwareStore, ImageError, ImageStore, Silent};
use visor_machine::{FileSource, FirmwareKind, FirmwareSpec, VarsSpec};

/// SeaBIOS, or OVMF with variables of its own, of Debian's packages; it speaks on the serial line.
///
/// # Errors
/// See [`visor_image::ImageErrorKind`].
pub fn firmware(kind: FirmwareKind) -> Result<FirmwareSpec, ImageError> {
    let store = FirmwareStore::open(&ImageStore::default_directory());
    let find = |file| store.find(file, &mut Silent).map(FileSource::Path);
    let (code, vars) = match kind {
        FirmwareKind::Bios => (find(FirmwareFile::Bios)?, None),
        FirmwareKind::Uefi => {
            let vars = VarsSpec { template: find(FirmwareFile::UefiVars)?, file: None };
            (find(FirmwareFile::UefiCode)?, Some(vars))
        }
    };
    Ok(FirmwareSpec { kind, code, vars, boot_order: Vec::new(), boot_menu: false, serial_console: true })
}

/// The SHA-256 of `bytes` as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// `len` bytes that differ from sector to sector and from `seed` to `seed`.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend(x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
