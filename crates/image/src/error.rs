//! Errors: a small kind to act on, words for a person, and what to do.

use std::error::Error;
use std::io;
use std::path::Path;

/// What went wrong, for control flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageErrorKind {
    /// The host has no apt, or no dpkg-deb.
    NoApt,
    /// Packages or package lists cannot be reached.
    Network,
    /// A package does not have the hash its index promises, twice in a row.
    Corrupt,
    /// The disk is full.
    NoSpace,
    /// A package, file, module or library the recipe needs is not there.
    Missing,
    /// A file does not have the format it must have.
    Format,
    /// The operating system refused something.
    Io,
}

/// Why an image could not be built or opened.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct ImageError {
    kind: ImageErrorKind,
    context: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ImageError {
    /// An error with words that say what was attempted and what happened.
    pub(crate) fn new(kind: ImageErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// The error of an operating system call on `path`; `doing` as in "cannot `doing` /a/b".
    pub(crate) fn io(doing: &str, path: &Path, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ImageErrorKind::NoSpace,
            _ => ImageErrorKind::Io,
        };
        Self { kind, context: format!("cannot {doing} {}", path.display()), source: Some(Box::new(error)) }
    }

    /// The kind, for control flow.
    pub fn kind(&self) -> ImageErrorKind {
        self.kind
    }

    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self.kind {
            ImageErrorKind::NoApt => {
                "the image is made of Debian packages: build it on a Debian or Ubuntu host, or copy the directory \
                 visor/images from the cache of one"
            }
            ImageErrorKind::Network => "check the network, and that `apt-get update` works on this host",
            ImageErrorKind::Corrupt => "a mirror or proxy delivers damaged files: try again later, or another mirror",
            ImageErrorKind::NoSpace => "free about 300 MB, or set XDG_CACHE_HOME to a larger disk",
            ImageErrorKind::Missing => {
                "the host's package sources do not fit this recipe: Debian 12 or newer is needed"
            }
            ImageErrorKind::Format => "remove visor's cache directory and build again",
            ImageErrorKind::Io => "check the permissions of visor's cache directory",
        }
    }
}

/// Adds path and operation to an I/O result.
pub(crate) trait IoContext<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T, ImageError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, what: &str, path: &Path) -> Result<T, ImageError> {
        self.map_err(|e| ImageError::io(what, path, e))
    }
}
