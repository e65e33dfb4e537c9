//! qcow2 disk images, versions 2 and 3: reading and writing, all cluster sizes, subclusters, compressed clusters (zlib and zstd),
//! backing files, external data files, internal snapshots, persistent bitmaps, discard and write-zeroes, checking and repairing.
//!
//! - An [`Image`] is the one owner of its metadata. Requests may come from any number of threads; those that touch different
//!   clusters run side by side.
//! - Metadata is written in an order that keeps the image sound at every moment (see `meta`): a crash leaks space at worst.
//! - The file is a [`Storage`], the backing file a [`Source`]; nothing here opens files, so that what a name in an image may
//!   refer to is decided elsewhere.
//! - An image is not trusted: whatever it holds leads to an error, not to a panic, to unbounded memory, or to the guest writing
//!   over the image's own tables.
//!
//! Specification: `docs/interop/qcow2.txt` of QEMU. Not here: encryption within qcow2.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bitmap;
mod bytes;
mod cache;
mod check;
mod compress;
mod create;
mod entry;
mod error;
mod header;
mod image;
mod meta;
mod ranges;
mod refs;
mod resize;
mod snapshot;
mod storage;

pub use check::{Progress, Report};
pub use create::{CreateOptions, Preallocation};
pub use error::{Error, ErrorKind, Result};
pub use header::Compression;
pub use image::{Extent, ExtentKind, Image, Info, OpenOptions};
pub use snapshot::SnapshotInfo;
pub use storage::{FileStorage, Source, Storage};
