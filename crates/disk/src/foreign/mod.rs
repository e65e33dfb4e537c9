//! Formats of other programs, for reading and converting.
//!
//! Each file reads one format into a table of blocks; what the blocks are read from is the same for all (`Blocks`).

mod blocks;
mod bytes;
mod vdi;
mod vhd;
mod vhdx;
mod vhdx_log;
mod vmdk;
mod vmdk_descriptor;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use visor_block::BlockError;
use visor_qcow2::{Error, ErrorKind, Source};

use crate::format::Format;

/// Opens another file that an image names: an extent, a parent. The caller decides which may be opened.
pub(crate) type Opener<'a> = &'a mut dyn FnMut(&str, Kind) -> std::result::Result<Named, BlockError>;

/// What is wanted of a file that an image names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Its bytes.
    Extent,
    /// The disk in it.
    Parent,
}

/// A file that an image names.
pub(crate) enum Named {
    /// Its bytes.
    Extent(File),
    /// The disk in it.
    Parent(Arc<dyn Source>),
}

/// Whether `file` ends as a fixed VHD disk does, which begins as the disk itself.
pub(crate) fn is_fixed_vhd(file: &File) -> bool {
    vhd::is_fixed(file)
}

/// Opens the image in `file`, which is `path`.
pub(crate) fn open(
    file: File,
    path: &Path,
    format: Format,
    opener: Opener<'_>,
) -> std::result::Result<Arc<dyn Source>, BlockError> {
    let said = crate::error::in_image(path);
    Ok(match format {
        Format::Vdi => Arc::new(vdi::open(file).map_err(said)?),
        Format::Vhd => vhd::open(file, opener)?.map_err(said)?,
        Format::Vhdx => vhdx::open(file, opener)?.map_err(said)?,
        Format::Vmdk => vmdk::open(file, path, opener)?.map_err(said)?,
        Format::Raw | Format::Qcow2 => return Err(said(unsupported("is read elsewhere"))),
    })
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, what)
}
