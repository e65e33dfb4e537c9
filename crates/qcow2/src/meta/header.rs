//! Changing the header, always by one small write.

use super::*;
use crate::header::{INCOMPAT_CORRUPT, INCOMPAT_DIRTY};

impl Meta {
    /// Writes `header` in place of the one there is. What it refers to must be durable.
    pub(crate) fn write_header(&mut self, header: Header) -> Result<()> {
        self.alive()?;
        self.file.write_at(&header.fixed(), 0).map_err(|e| Error::host("cannot write the header", 0, e))?;
        self.header = header;
        Ok(())
    }

    /// Says in the header that refcounts may be wrong until [`Meta::clear_dirty`]. Version 2 has no such bit; there an
    /// interruption leaves leaked clusters and needless or missing copied flags, which a check mends.
    pub(crate) fn set_dirty(&mut self) -> Result<()> {
        if self.layout.version == 2 || self.header.incompatible & INCOMPAT_DIRTY != 0 {
            return Ok(());
        }
        let mut header = self.header.clone();
        header.incompatible |= INCOMPAT_DIRTY;
        self.write_header(header)?;
        self.flush()
    }

    /// All metadata is written and right.
    pub(crate) fn clear_dirty(&mut self) -> Result<()> {
        self.sync()?;
        if self.header.incompatible & INCOMPAT_DIRTY != 0 {
            let mut header = self.header.clone();
            header.incompatible &= !INCOMPAT_DIRTY;
            self.write_header(header)?;
            self.flush()?;
        }
        Ok(())
    }

    /// Says in the header that the image is damaged, so that nobody writes to it before a repair.
    pub(crate) fn set_corrupt(&mut self) {
        if self.layout.version > 2 && self.header.incompatible & INCOMPAT_CORRUPT == 0 {
            let mut header = self.header.clone();
            header.incompatible |= INCOMPAT_CORRUPT;
            // What failed already is reported; this is a courtesy to the next user.
            let _ = self.write_header(header);
        }
        self.failed = true;
    }

    /// A change of the header that refers to new tables: everything before it durable, then itself.
    pub(crate) fn switch_header(&mut self, change: impl FnOnce(&mut Header)) -> Result<()> {
        self.sync()?;
        let mut header = self.header.clone();
        change(&mut header);
        self.write_header(header)?;
        self.flush()
    }

    /// Writes the whole first cluster, extensions and backing name included.
    pub(crate) fn rewrite_header(&mut self, mut header: Header) -> Result<()> {
        self.sync()?;
        let bytes = header.emit()?;
        self.file.write_at(&bytes, 0).map_err(|e| Error::host("cannot write the header", 0, e))?;
        self.header = header;
        self.flush()
    }
}
