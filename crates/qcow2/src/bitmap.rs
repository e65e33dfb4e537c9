//! Persistent bitmaps: which parts of the disk changed since somebody's backup.
//!
//! Bitmaps are never made or read here, but kept right: those that record are marked as in use while the image is open for
//! writing, and what was written meanwhile is added to them when it is closed. A crash in between leaves the mark, by which
//! their owner knows that they are incomplete.
//!
//! ```text
//! directory entry  00 table at  08 table entries  0C flags  10 type  11 granularity bits  12 name length
//!                  14 extra length   then extra data and name, padded to 8
//! table entry      55..9 offset of a cluster of bits;  without one, bit 0: all ones
//! ```

use std::sync::PoisonError;

use crate::bytes::{be16, be32, be64, table};
use crate::header::{AUTOCLEAR_BITMAPS, EXT_BITMAPS};
use crate::image::Image;
use crate::meta::Meta;
use crate::{Error, Result};

const IN_USE: u32 = 1;
const AUTO: u32 = 1 << 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;
const ENTRY: usize = 24;
/// Limits of the reference implementation.
const MAX_BITMAPS: u32 = 65535;
const MAX_DIRECTORY: u64 = 64 << 20;
const MAX_TABLE_ENTRIES: u32 = 0x800_0000 / 8;
/// Most bits that are tracked for a bitmap; a larger one stays marked as incomplete.
const MAX_BITS: u64 = 1 << 28;

/// An entry of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    /// Byte of the file where the entry is.
    at: u64,
    pub(crate) table_at: u64,
    pub(crate) table_entries: u32,
    flags: u32,
    granularity_bits: u32,
    pub(crate) name: String,
}

/// What was written since the image was opened, for one bitmap that records.
pub(crate) struct Recorder {
    bitmap: Bitmap,
    bits: Vec<u64>,
}

impl Recorder {
    fn mark(&mut self, at: u64, len: u64) {
        let g = self.bitmap.granularity_bits;
        for bit in at >> g..=(at + len - 1) >> g {
            if let Some(word) = self.bits.get_mut((bit / 64) as usize) {
                *word |= 1 << (bit % 64);
            }
        }
    }

    fn touched(&self, first_bit: u64, bits: u64) -> bool {
        let words = (first_bit / 64) as usize..(first_bit + bits).div_ceil(64) as usize;
        self.bits.get(words.start..words.end.min(self.bits.len())).is_some_and(|w| w.iter().any(|w| *w != 0))
    }
}

impl Meta {
    /// Where the directory is, and its length, if the bitmaps are valid.
    pub(crate) fn bitmap_directory(&self) -> Option<(u64, u64)> {
        let ext = self.header.extension(EXT_BITMAPS).filter(|e| e.len() >= 24)?;
        (self.header.autoclear & AUTOCLEAR_BITMAPS != 0).then(|| (be64(ext, 16), be64(ext, 8)))
    }

    /// The entries of the directory.
    pub(crate) fn bitmaps(&self) -> Result<Vec<Bitmap>> {
        let Some((at, len)) = self.bitmap_directory() else { return Ok(Vec::new()) };
        let count = self.header.extension(EXT_BITMAPS).map_or(0, |e| be32(e, 0));
        let size = self.file.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
        if count > MAX_BITMAPS || len > MAX_DIRECTORY || at.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::corrupt("the bitmap directory lies outside the file"));
        }
        let mut data = vec![0; len as usize];
        self.file.read_at(&mut data, at).map_err(|e| Error::host("cannot read the bitmap directory", at, e))?;
        let mut list = Vec::new();
        let mut pos = 0;
        for _ in 0..count {
            let e = data.get(pos..).filter(|e| e.len() >= ENTRY).ok_or_else(|| bad("is cut off"))?;
            let (name_len, extra) = (usize::from(be16(e, 18)), be32(e, 20) as usize);
            let name = e.get(ENTRY..).and_then(|e| e.get(extra..)?.get(..name_len)).ok_or_else(|| bad("is cut off"))?;
            let bitmap = Bitmap {
                at: at + pos as u64,
                table_at: be64(e, 0),
                table_entries: be32(e, 8),
                flags: be32(e, 12),
                granularity_bits: u32::from(e[17]),
                name: String::from_utf8_lossy(name).into_owned(),
            };
            if bitmap.table_entries > MAX_TABLE_ENTRIES || !(9..=31).contains(&bitmap.granularity_bits) {
                return Err(bad("has an entry out of range"));
            }
            list.push(bitmap);
            pos += (ENTRY + extra + name_len).next_multiple_of(8);
        }
        Ok(list)
    }

    /// The table of a bitmap.
    pub(crate) fn bitmap_table(&self, b: &Bitmap) -> Result<Vec<u64>> {
        let size = self.file.size().map_err(|e| Error::host("cannot measure the image", 0, e))?;
        let len = u64::from(b.table_entries) * 8;
        if b.table_at.checked_add(len).is_none_or(|end| end > size.next_multiple_of(self.layout.cluster())) {
            return Err(bad("has a table outside the file"));
        }
        let mut data = vec![0; len as usize];
        self.file.read_at(&mut data, b.table_at).map_err(|e| Error::host("cannot read a bitmap", b.table_at, e))?;
        Ok(table(&data))
    }

    /// The clusters of bits that a table refers to.
    pub(crate) fn bitmap_clusters(table: &[u64]) -> impl Iterator<Item = u64> + '_ {
        table.iter().map(|e| e & OFFSET).filter(|at| *at != 0)
    }

    fn set_bitmap_flags(&mut self, b: &mut Bitmap, flags: u32) -> Result<()> {
        let at = b.at + 12;
        self.file.write_at(&flags.to_be_bytes(), at).map_err(|e| Error::host("cannot write a bitmap", at, e))?;
        b.flags = flags;
        Ok(())
    }

    /// Adds what `r` recorded to its bitmap.
    fn merge_bitmap(&mut self, r: &Recorder) -> Result<()> {
        let cluster = self.layout.cluster();
        let mut entries = self.bitmap_table(&r.bitmap)?;
        let per_cluster = cluster * 8;
        for (i, entry) in entries.iter_mut().enumerate() {
            let first = i as u64 * per_cluster;
            if !r.touched(first, per_cluster) || *entry == ALL_ONES {
                continue;
            }
            let mut data = vec![0; cluster as usize];
            let old = *entry & OFFSET;
            if old != 0 {
                self.file.read_at(&mut data, old).map_err(|e| Error::host("cannot read a bitmap", old, e))?;
            }
            let words = (first / 64) as usize..;
            for (bytes, word) in data.chunks_exact_mut(8).zip(r.bits.get(words).unwrap_or(&[])) {
                for (b, w) in bytes.iter_mut().zip(word.to_le_bytes()) {
                    *b |= w;
                }
            }
            if old == 0 {
                *entry = self.write_to_new_clusters(data)?;
                let at = r.bitmap.table_at + 8 * i as u64;
                // The new cluster must count as used before the table refers to it.
                self.sync()?;
                self.file
                    .write_at(&entry.to_be_bytes(), at)
                    .map_err(|e| Error::host("cannot write a bitmap", at, e))?;
            } else {
                self.file.write_at(&data, old).map_err(|e| Error::host("cannot write a bitmap", old, e))?;
            }
        }
        Ok(())
    }
}

impl Image {
    /// Names of the bitmaps.
    ///
    /// # Errors
    /// Where the directory is damaged or cannot be read.
    pub fn bitmaps(&self) -> Result<Vec<String>> {
        Ok(self.meta().bitmaps()?.into_iter().map(|b| b.name).collect())
    }

    /// From now on, bitmaps that record are in use.
    pub(crate) fn start_bitmaps(&self) -> Result<()> {
        let mut meta = self.meta();
        let size = self.size();
        let mut recorders = Vec::new();
        for mut b in meta.bitmaps()? {
            if b.flags & AUTO == 0 || b.flags & IN_USE != 0 {
                continue;
            }
            let flags = b.flags | IN_USE;
            meta.set_bitmap_flags(&mut b, flags)?;
            let bits = size.div_ceil(1 << b.granularity_bits);
            if bits <= MAX_BITS {
                recorders.push(Recorder { bitmap: b, bits: vec![0; bits.div_ceil(64) as usize] });
            }
        }
        if !recorders.is_empty() {
            meta.flush()?;
        }
        *self.recorders.lock().unwrap_or_else(PoisonError::into_inner) = recorders;
        Ok(())
    }

    /// A range is about to change.
    pub(crate) fn touch_bitmaps(&self, at: u64, len: u64) {
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        if len > 0 {
            recorders.iter_mut().for_each(|r| r.mark(at, len));
        }
    }

    /// The whole disk has changed.
    pub(crate) fn all_bitmaps_dirty(&self) {
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        recorders.iter_mut().for_each(|r| r.bits.fill(u64::MAX));
    }

    /// Bitmaps of a disk that changes its size are left to their owner: they stay marked as incomplete.
    pub(crate) fn abandon_bitmaps(&self) {
        self.recorders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds what was written to the bitmaps that record.
    pub(crate) fn finish_bitmaps(&self) -> Result<()> {
        let recorders = std::mem::take(&mut *self.recorders.lock().unwrap_or_else(PoisonError::into_inner));
        if recorders.is_empty() {
            return Ok(());
        }
        let mut meta = self.meta();
        for r in &recorders {
            meta.merge_bitmap(r)?;
        }
        meta.sync()?;
        for mut r in recorders {
            let flags = r.bitmap.flags & !IN_USE;
            meta.set_bitmap_flags(&mut r.bitmap, flags)?;
        }
        meta.flush()
    }
}

fn bad(what: &str) -> Error {
    Error::corrupt(format!("the bitmap directory {what}"))
}
