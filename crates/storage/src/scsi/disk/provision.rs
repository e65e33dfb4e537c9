//! Giving space back, and zeroing (SBC-4 §5.35 UNMAP, §5.50 WRITE SAME).

use visor_block::{BlockOp, Sector};

use super::{Answer, BLOCK, MAX_RANGE, MAX_RANGES, ScsiDisk};
use crate::scsi::{be16, be32, be64, byte, sense};
use crate::step::{Job, Step};

/// Bytes of UNMAP's header, and of a range.
const HEADER: usize = 8;
const RANGE: usize = 16;
/// WRITE SAME: may unmap; (16 bytes only) no data, the block is zeroes.
const UNMAP: u8 = 1 << 3;
const NDOB: u8 = 1;

impl ScsiDisk {
    /// UNMAP, first half.
    pub(super) fn unmap_length(&self, cdb: &[u8]) -> Answer {
        self.writable()?;
        // What is to stay together when it is unmapped (anchor) is not claimed.
        if byte(cdb, 1) & 1 != 0 {
            return Err(sense::BAD_FIELD);
        }
        match usize::from(be16(cdb, 7)) {
            0 => Ok(Step::Done(0)),
            len if len < HEADER => Err(sense::BAD_LENGTH),
            len if len > HEADER + MAX_RANGES * RANGE => Err(sense::BAD_FIELD),
            len => Ok(Step::DataOut(len)),
        }
    }

    /// UNMAP, second half.
    pub(super) fn unmap(&self, data: &[u8]) -> Answer {
        let len = usize::from(be16(data, 2));
        let ranges = data.get(HEADER..).and_then(|d| d.get(..len)).ok_or(sense::BAD_LENGTH)?;
        if !len.is_multiple_of(RANGE) || len / RANGE > MAX_RANGES {
            return Err(sense::BAD_PARAMETER);
        }
        let mut jobs = Vec::with_capacity(ranges.len() / RANGE);
        for range in ranges.chunks_exact(RANGE) {
            let (first, count) = (be64(range, 0), be32(range, 8));
            if count > MAX_RANGE {
                return Err(sense::BAD_PARAMETER);
            }
            self.range(first, count.into())?;
            if count > 0 {
                jobs.push(Job { op: BlockOp::Discard, sector: Sector(first), len: u64::from(count) * BLOCK });
            }
        }
        Ok(self.jobs(jobs))
    }

    /// WRITE SAME, first half.
    pub(super) fn write_same_length(&self, cdb: &[u8]) -> Answer {
        self.writable()?;
        // Protection information, and anchors.
        if byte(cdb, 1) & 0xf0 != 0 {
            return Err(sense::BAD_FIELD);
        }
        let long = byte(cdb, 0) == 0x93;
        if long && byte(cdb, 1) & NDOB != 0 {
            return self.write_same(cdb, None);
        }
        Ok(Step::DataOut(BLOCK as usize))
    }

    /// WRITE SAME, second half: `block` is what is to be written everywhere.
    pub(super) fn write_same(&self, cdb: &[u8], block: Option<&[u8]>) -> Answer {
        let (first, count) = Self::extent(cdb);
        // No count: to the end of the disk; the limits page says that this does not go beyond the most blocks.
        let count = if count == 0 { self.geometry.sectors.saturating_sub(first) } else { count };
        self.range(first, count)?;
        if count > u64::from(MAX_RANGE) {
            return Err(sense::BAD_FIELD);
        }
        // Systems zero by this; patterns would have to be written block by block.
        if block.is_some_and(|b| b.iter().any(|b| *b != 0)) {
            return Err(sense::BAD_FIELD);
        }
        if count == 0 {
            return Ok(Step::Done(0));
        }
        let op = BlockOp::WriteZeroes { may_unmap: byte(cdb, 1) & UNMAP != 0 };
        let mut jobs = vec![Job { op, sector: Sector(first), len: count * BLOCK }];
        if !self.write_cache {
            jobs.push(Job { op: BlockOp::Flush, sector: Sector(0), len: 0 });
        }
        Ok(self.jobs(jobs))
    }
}
