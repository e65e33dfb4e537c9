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
