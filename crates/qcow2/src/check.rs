//! Checking an image, and repairing it.
//!
//! Every reference in the image is counted and compared with the refcounts. Too high a refcount is a leak, which wastes space;
//! too low a one is damage, because the cluster would be used twice.

mod count;
mod rebuild;

use crate::entry::{COPIED, OFFSET, Slot};
use crate::header::INCOMPAT_CORRUPT;
use crate::image::Image;
use crate::meta::Meta;
use crate::{Error, ErrorKind, Result};

pub(crate) use count::Counts;

/// Findings that are described in words.
const MAX_FINDINGS: usize = 200;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Things that are wrong and can lose data.
    pub corruptions: u64,
    /// Clusters that nothing refers to but that count as used.
    pub leaks: u64,
    /// Of both, what was repaired.
    pub repaired: u64,
    /// The first of them in words.
    pub findings: Vec<String>,
    /// Clusters with data of the disk as it is now.
    pub allocated_clusters: u64,
    /// Of those, the compressed ones.
    pub compressed_clusters: u64,
    /// Of those, the ones that do not lie behind their predecessor.
    pub fragmented_clusters: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// First byte behind everything in use.
    pub end: u64,
}

impl Report {
    fn corruption(&mut self, what: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.describe(what);
    }

    fn describe(&mut self, what: impl FnOnce() -> String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(what());
        }
    }

    /// Nothing is wrong that was not repaired.
    pub fn is_clean(&self) -> bool {
        self.corruptions + self.leaks == self.repaired
    }
}

/// Told how much of how much is done; returns false to stop.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

impl Image {
    /// Compares the refcounts with the references. Requests wait meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] if `progress` says so, otherwise the host's. Damage is no error but in the report.
    pub fn check(&self, progress: Progress<'_>) -> Result<Report> {
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        if self.writable && meta.is_dirty() {
            meta.sync()?;
        }
        let mut report = Report::default();
        let counts = Counts::of(&mut meta, &mut report, false, progress)?;
        meta.compare(&counts, &mut report)?;
        meta.compare_copied(&mut report)?;
        finish(&meta, &counts, &mut report);
        Ok(report)
    }

    /// Checks, and repairs what is wrong: refcounts and flags are set right; entries that refer to nowhere are emptied, and
    /// the data behind them is lost.
    ///
    /// # Errors
    /// As [`Image::check`]; [`ErrorKind::ReadOnly`].
    pub fn repair(&self, progress: Progress<'_>) -> Result<Report> {
        self.must_write()?;
        let _held = self.ranges.lock_all();
        let mut meta = self.meta();
        if meta.is_dirty() {
            meta.sync()?;
        }
        let mut report = Report::default();
        let counts = Counts::of(&mut meta, &mut report, true, progress)?;
        let emptied = report.corruptions;
        meta.compare(&counts, &mut report)?;
        meta.compare_copied(&mut report)?;
        finish(&meta, &counts, &mut report);
        if report.corruptions > emptied || report.leaks > 0 || !counts.sound_refcounts || emptied > 0 {
            meta.recount(progress)?;
        }
        meta.clear_dirty()?;
        if meta.header.incompatible & INCOMPAT_CORRUPT != 0 {
            meta.switch_header(|h| h.incompatible &= !INCOMPAT_CORRUPT)?;
        }
        report.repaired = report.corruptions + report.leaks;
        Ok(report)
    }
}

fn finish(meta: &Meta, counts: &Counts, report: &mut Report) {
    report.total_clusters = meta.header.size.div_ceil(meta.layout.cluster());
    report.end = counts.end() << meta.layout.cluster_bits;
}

impl Meta {
    /// Compares refcounts with the references counted.
    fn compare(&mut self, counts: &Counts, report: &mut Report) -> Result<()> {
        let file = self.file.clone();
        let per_block = self.layout.block_entries();
        let mut seen = std::collections::HashSet::new();
        for t in 0..self.refs.table.len() as u64 {
            match self.refs.block(t * per_block) {
                Ok(Some(at)) if self.inside(at) && seen.insert(at) => {}
                // The counting has told of blocks that lie nowhere or are there twice.
                _ => continue,
            }
            let range = t * per_block..(t + 1) * per_block;
            let mut used = counts.used_in(range.clone()).peekable();
            for index in range {
                let want = used.next_if(|(c, _)| *c == index).map_or(0, |(_, n)| u64::from(n));
                let have = self.refs.get(&*file, index)?;
                if have > want {
                    report.leaks += 1;
                    report.describe(|| format!("leaked: cluster {index} has refcount {have}, references {want}"));
                } else if have < want {
                    report.corruption(|| format!("cluster {index} has refcount {have}, references {want}"));
                }
            }
        }
        let uncovered = counts.used().filter(|c| matches!(self.refs.block(*c), Ok(None))).count() as u64;
        if uncovered > 0 {
            report.corruptions += uncovered;
            report.describe(|| format!("{uncovered} clusters are in use but have no refcount"));
        }
        Ok(())
    }

    /// Whether a cluster at byte `at` has at least one byte in the file.
    pub(crate) fn inside(&self, at: u64) -> bool {
        at < self.refs.end << self.layout.cluster_bits
    }

    /// Compares the copied flags of the disk's own tables with the refcounts.
    fn compare_copied(&mut self, report: &mut Report) -> Result<()> {
        let file = self.file.clone();
        for i in 0..self.l1.len() {
            let Ok(Some(table)) = self.l2_table(self.l1[i]) else { continue };
            if !self.inside(table) {
                continue;
            }
            let count = self.refs.get(&*file, table >> self.layout.cluster_bits).unwrap_or(0);
            if (count == 1) != (self.l1[i] & COPIED != 0) {
                report.corruption(|| format!("L1 entry {i}: copied flag does not fit refcount {count}"));
            }
            for j in 0..self.layout.l2_entries() {
                let (raw, bits) = self.raw_entry(table, j)?;
                let Ok(Slot::Plain(p)) = Slot::decode(&self.layout, raw, bits) else { continue };
                let Some(host) = p.host.filter(|h| !self.layout.external && self.inside(*h)) else { continue };
                let count = self.refs.get(&*file, host >> self.layout.cluster_bits).unwrap_or(0);
                if (count == 1) != p.copied {
                    report.corruption(|| format!("L2 entry {i}/{j}: copied flag does not fit refcount {count}"));
                }
            }
        }
        Ok(())
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped")
}

/// The table offset in an L1 entry.
fn table_of(entry: u64) -> u64 {
    entry & OFFSET
}
