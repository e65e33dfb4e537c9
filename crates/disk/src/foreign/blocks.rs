//! A disk that consists of blocks of one size, each somewhere in a file, zero, or the parent's.

use std::fs::File;
use std::sync::Arc;

use visor_qcow2::{Result, Source};

use super::bytes::read_at;

/// Where a block, or a sector of it, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// At this byte of the file.
    At(u64),
    /// It reads as zeroes.
    Zero,
    /// In the parent; without one it reads as zeroes.
    Parent,
}

/// Says where the bytes of a disk are.
pub(super) trait Table: Send + Sync {
    /// Where byte `at` of the disk is, and for how many bytes from there that holds, at least one.
    ///
    /// # Errors
    /// Where the table is damaged or cannot be read.
    fn place(&self, file: &File, at: u64) -> Result<(Place, u64)>;
}

/// The disk.
pub(super) struct Blocks<T> {
    pub(super) file: File,
    pub(super) size: u64,
    pub(super) table: T,
    pub(super) parent: Option<Arc<dyn Source>>,
}

impl<T: Table> Source for Blocks<T> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < data.len() {
            let pos = at + done as u64;
            let (place, len) = self.table.place(&self.file, pos)?;
            let n = (data.len() - done).min(usize::try_from(len).unwrap_or(usize::MAX)).max(1);
            let part = &mut data[done..done + n];
            match (place, &self.parent) {
                (Place::At(host), _) => read_at(&self.file, part, host)?,
                (Place::Parent, Some(parent)) => {
                    let have = parent.size().saturating_sub(pos).min(n as u64) as usize;
                    part[have..].fill(0);
                    if have > 0 {
                        parent.read(pos, &mut part[..have])?;
                    }
                }
                _ => part.fill(0),
            }
            done += n;
        }
        Ok(())
    }

    fn is_zero(&self, at: u64, len: u64) -> Result<(bool, u64)> {
        let (place, n) = self.table.place(&self.file, at)?;
        let n = n.clamp(1, len);
        match (place, &self.parent) {
            (Place::At(_), _) => Ok((false, n)),
            (Place::Parent, Some(p)) if at < p.size() => p.is_zero(at, n.min(p.size() - at)),
            _ => Ok((true, n)),
        }
    }
}
