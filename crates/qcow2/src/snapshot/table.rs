//! The snapshot table on disk.
//!
//! ```text
//! 00 L1 table at  08 L1 entries  0C id length  0E name length  10 seconds  14 nanoseconds
//! 18 guest clock  20 state size  24 extra length   then extra data, id, name, padded to 8
//! extra: 00 state size (64 bits)  08 disk size  10 instruction count
//! ```

use crate::bytes::{be16, be32, be64};
use crate::header::{Header, MAX_L1_BYTES};
use crate::storage::Storage;
use crate::{Error, Result};

use super::SnapshotInfo;

const FIXED: usize = 40;
/// Most bytes of extra data; the format's reference implementation allows as many.
const MAX_EXTRA: usize = 1024;
/// Most bytes of a table.
const MAX_TABLE: u64 = 64 << 20;

/// An entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) l1_at: u64,
    pub(crate) l1_entries: u32,
    pub(crate) disk_size: Option<u64>,
    /// Times and sizes as they are on disk.
    times: [u8; 20],
    extra: Vec<u8>,
}

impl Snapshot {
    pub(crate) fn new(id: String, name: &str, seconds: u32, l1_at: u64, l1_entries: u32, disk_size: u64) -> Self {
        let mut times = [0; 20];
        times[..4].copy_from_slice(&seconds.to_be_bytes());
        let mut extra = vec![0; 24];
        extra[8..16].copy_from_slice(&disk_size.to_be_bytes());
        extra[16..24].copy_from_slice(&u64::MAX.to_be_bytes());
        Snapshot { id, name: name.into(), l1_at, l1_entries, disk_size: Some(disk_size), times, extra }
    }

    pub(crate) fn info(&self) -> SnapshotInfo {
        let state = if self.extra.len() >= 8 { be64(&self.extra, 0) } else { u64::from(be32(&self.times, 16)) };
        SnapshotInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            seconds: be32(&self.times, 0),
            disk_size: self.disk_size.unwrap_or(0),
            vm_state_size: state,
        }
    }

    /// Reads the table that the header names.
    pub(crate) fn read_all(file: &dyn Storage, h: &Header, file_size: u64) -> Result<Vec<Snapshot>> {
        let mut list = Vec::new();
        let mut at = h.snapshots_at;
        let mut tables = 0;
        for _ in 0..h.snapshots {
            if at.saturating_add(FIXED as u64) > file_size || at - h.snapshots_at > MAX_TABLE {
                return Err(Error::corrupt("the snapshot table lies outside the file"));
            }
            let mut fixed = [0; FIXED];
            read(file, &mut fixed, at)?;
            let (id_len, name_len) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
            let extra_len = be32(&fixed, 36) as usize;
            if extra_len > MAX_EXTRA {
                return Err(Error::corrupt(format!("a snapshot with {extra_len} bytes of extra data")));
            }
            let mut rest = vec![0; extra_len + id_len + name_len];
            read(file, &mut rest, at + FIXED as u64)?;
            let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&rest[range]).into_owned();
            let extra = rest[..extra_len].to_vec();
            let (l1_at, l1_entries) = (be64(&fixed, 0), be32(&fixed, 8));
            if u64::from(l1_entries) * 8 > MAX_L1_BYTES || !l1_at.is_multiple_of(1 << h.cluster_bits) {
                return Err(Error::corrupt(format!("a snapshot with {l1_entries} L1 entries at byte {l1_at:#x}")));
            }
            // Each snapshot has a table of its own, so that a file has no room for more of them.
            tables += u64::from(l1_entries) * 8;
            if tables > file_size {
                return Err(Error::corrupt("the L1 tables of the snapshots are larger than the file"));
            }
            let mut times = [0; 20];
            times.copy_from_slice(&fixed[16..36]);
            list.push(Snapshot {
                id: text(extra_len..extra_len + id_len),
                name: text(extra_len + id_len..rest.len()),
                l1_at,
                l1_entries,
                disk_size: (extra_len >= 16).then(|| be64(&extra, 8)).filter(|s| i64::try_from(*s).is_ok()),
                times,
                extra,
            });
            at += (FIXED + rest.len()).next_multiple_of(8) as u64;
        }
        Ok(list)
    }

    /// The table as it lies on disk.
    pub(crate) fn emit_all(list: &[Snapshot]) -> Vec<u8> {
        let mut out = Vec::new();
        for s in list {
            out.extend(s.l1_at.to_be_bytes());
            out.extend(s.l1_entries.to_be_bytes());
            // Names that are not UTF-8 grow when they are read.
            let cut = |text: &str| text.bytes().take(usize::from(u16::MAX)).collect::<Vec<u8>>();
            let (id, name) = (cut(&s.id), cut(&s.name));
            out.extend((id.len() as u16).to_be_bytes());
            out.extend((name.len() as u16).to_be_bytes());
            out.extend(s.times);
            out.extend((s.extra.len() as u32).to_be_bytes());
            out.extend(&s.extra);
            out.extend(id);
            out.extend(name);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out
    }
}

fn read(file: &dyn Storage, data: &mut [u8], at: u64) -> Result<()> {
    file.read_at(data, at).map_err(|e| Error::host("cannot read the snapshot table", at, e))
}
