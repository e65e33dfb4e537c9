//! Raw files and devices as something to read from.

use std::fs::File;
use std::os::fd::AsFd;

use nix::unistd::{Whence, lseek64};
use visor_qcow2::{Error, FileStorage, Result, Source, Storage};

/// A raw image for reading. Its length is rounded up to whole sectors.
#[derive(Debug)]
pub struct RawSource {
    storage: FileStorage,
    bytes: u64,
}

impl RawSource {
    /// The image in `file`.
    ///
    /// # Errors
    /// The host's.
    pub fn new(file: File) -> Result<Self> {
        let storage = FileStorage::new(file);
        let bytes = storage.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
        Ok(RawSource { storage, bytes })
    }
}

impl Source for RawSource {
    fn size(&self) -> u64 {
        self.bytes.next_multiple_of(512)
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        self.storage.read_at(data, at).map_err(|e| Error::host("cannot read the image", at, e))
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let file = self.storage.file().as_fd();
        // A host that knows nothing of holes says that all is data.
        let Ok(data) = lseek64(file, at as i64, Whence::SeekData).map(|d| d as u64).or_else(|e| match e {
            nix::errno::Errno::ENXIO => Ok(u64::MAX),
            e => Err(e),
        }) else {
            return Ok((false, len));
        };
        if data > at {
            return Ok((true, (data - at).min(len)));
        }
        let hole = lseek64(file, at as i64, Whence::SeekHole).map_or(at + len, |h| h as u64);
        Ok((false, hole.saturating_sub(at).clamp(1, len)))
    }
}
