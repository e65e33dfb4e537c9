//! What lies where: for maps, for copies that leave holes out, and for whatever asks whether something is there.

use super::*;
use crate::entry::{Plain, Slot};

/// Clusters looked at in one call.
const MOST: u64 = 1 << 16;

/// A stretch of the disk of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, at least one.
    pub len: u64,
    /// What it is.
    pub kind: ExtentKind,
}

/// Where a stretch's contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// In the file.
    Data {
        /// Byte of the (data) file.
        host: u64,
        /// A snapshot needs the same clusters.
        shared: bool,
    },
    /// In the file, compressed.
    Compressed {
        /// Byte of the file.
        host: u64,
        /// Bytes it takes there at most.
        len: u64,
    },
    /// Nowhere; it reads as zeroes.
    Zero,
    /// In the backing file if there is one; else it reads as zeroes.
    Hole,
}

impl Image {
    /// The stretch that starts at `at`, of at most `len` bytes.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn extent(&self, at: u64, len: u64) -> Result<Extent> {
        self.span(at, len)?;
        let (cluster, sub, end) = (self.layout.cluster(), self.layout.sub(), at + len);
        let mut meta = self.meta();
        let mut found: Option<Extent> = None;
        let mut pos = at;
        let mut seen = 0;
        while pos < end && seen < MOST {
            seen += 1;
            let index = pos / cluster;
            // A table that is not there is skipped at once.
            let l1 = meta.l1.get((index / self.layout.l2_entries()) as usize).copied().unwrap_or(0);
            let (kind, step) = if l1 & crate::entry::OFFSET == 0 {
                (ExtentKind::Hole, self.layout.l2_span() - pos % self.layout.l2_span())
            } else {
                match meta.lookup(index)? {
                    Slot::Compressed { at, len } => (ExtentKind::Compressed { host: at, len }, cluster - pos % cluster),
                    Slot::Plain(p) => (kind_of(&p, pos % cluster, sub), sub - pos % sub),
                }
            };
            let step = step.min(end - pos);
            match &mut found {
                None => found = Some(Extent { len: step, kind }),
                Some(e) if continues(e, kind) => e.len += step,
                Some(_) => break,
            }
            pos += step;
        }
        Ok(found.unwrap_or(Extent { len, kind: ExtentKind::Hole }))
    }

    /// Bytes of the file that are in use by the disk, snapshots and tables.
    ///
    /// # Errors
    /// As [`Image::read`].
    pub fn used_clusters(&self) -> Result<u64> {
        let mut meta = self.meta();
        let file = meta.file.clone();
        let mut used = 0;
        for index in 0..meta.refs.end {
            used += u64::from(meta.refs.get(&*file, index)? != 0);
        }
        Ok(used)
    }
}

fn kind_of(p: &Plain, within: u64, sub: u64) -> ExtentKind {
    let bit = 1u32 << (within / sub);
    match p.host {
        Some(host) if p.alloc & bit != 0 => ExtentKind::Data { host: host + within, shared: !p.copied },
        _ if p.zero & bit != 0 => ExtentKind::Zero,
        _ => ExtentKind::Hole,
    }
}

fn continues(e: &Extent, next: ExtentKind) -> bool {
    match (e.kind, next) {
        (ExtentKind::Data { host: a, shared: s }, ExtentKind::Data { host: b, shared: t }) => a + e.len == b && s == t,
        (ExtentKind::Compressed { .. }, _) => false,
        (a, b) => a == b,
    }
}
