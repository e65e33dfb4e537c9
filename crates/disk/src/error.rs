//! Errors of formats as block errors.

use std::io;
use std::path::Path;

use visor_block::{BlockError, BlockErrorKind};
use visor_qcow2::{Error, ErrorKind};

/// An error of an image as one of its requests.
pub(crate) fn block_error(e: Error) -> BlockError {
    let kind = match e.kind {
        ErrorKind::Io | ErrorKind::NotFound | ErrorKind::Exists | ErrorKind::Cancelled => BlockErrorKind::Io,
        ErrorKind::NoSpace => BlockErrorKind::NoSpace,
        ErrorKind::Corrupt => BlockErrorKind::Corrupt,
        ErrorKind::Unsupported => BlockErrorKind::Unsupported,
        ErrorKind::OutOfRange => BlockErrorKind::OutOfRange,
        ErrorKind::ReadOnly => BlockErrorKind::ReadOnly,
    };
    BlockError { kind, what: e.what, source: e.source }
}

/// The same, saying which image.
pub(crate) fn in_image(path: &Path) -> impl Fn(Error) -> BlockError {
    move |e| {
        let e = block_error(e);
        BlockError { what: format!("{}: {}", path.display(), e.what), ..e }
    }
}

/// The host failed while `doing` something with `path`.
pub(crate) fn host_error(doing: &str, path: &Path, e: io::Error) -> BlockError {
    BlockError { kind: crate::raw::classify(&e), what: format!("{doing} {}", path.display()), source: Some(e) }
}
