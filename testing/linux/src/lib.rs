//! Linux guests that tests and measurements are made with: Debian's unmodified kernel, and an initial ramfs with busybox and
//! programs in C that are compiled on the spot.
//!
//! - `bench/`: the guest benchmark, whose rows `cargo xtask bench guest` compares; [`mod@bench`] makes its guest, and that of `disk/`, the disk benchmark of `cargo xtask bench disk`;
//! - `stress/`: programs that try what CPU engines get wrong - changing code, faults, signals, debuggers, memory order, translations
//!   that change, the kernel's own patching; [`stress`] makes and runs their guest;
//! - `net/`: what `cargo xtask bench net` does in a guest; [`mod@net`] makes it;
//! - [`debian`]: Debian with systemd, whole and in memory;
//! - [`ramfs`]: an initial ramfs; [`cc`]: the C compiler.
//!
//! The kernel and busybox are Debian packages, fetched by name into visor's cache. The compiler is the host's.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bench;
pub mod cc;
pub mod debian;
pub mod net;
pub mod ramfs;
pub mod stress;

use std::path::PathBuf;

use visor_image::{ImageError, ImageStore, Silent, Unpacked};

/// Debian's kernel for virtual machines.
pub const KERNEL: &str = "linux-image-cloud-amd64";
/// The shell and tools of every guest.
pub const BUSYBOX: &str = "busybox-static";

/// The packages `names`, unpacked in visor's cache.
///
/// # Errors
/// See [`visor_image::ImageErrorKind`].
pub fn packages(names: &[&str]) -> Result<Unpacked, ImageError> {
    let store = ImageStore::open(&ImageStore::default_directory());
    Unpacked::get(&store, names, &mut Silent)
}

/// Sources that come with this crate.
pub(crate) fn sources(part: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(part)
}
