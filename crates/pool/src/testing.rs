//! For tests of what lies on volumes: a volume on parts that the test made, without members and a registry around them.

use std::collections::BTreeMap;
use std::sync::Arc;

use visor_qcow2::Storage;

use crate::layout::Layout;
use crate::record;
use crate::volume::{DATA_AT, OpenVolume, Replica, VolumeRecord};
use crate::{PoolError, Result, Volume};

/// Writes the first record of a volume of `size` bytes, in chunks of `chunk`, onto its parts: groups of `copies`, one after the other.
///
/// # Errors
/// [`crate::PoolErrorKind::Corrupt`] for a layout that cannot be, otherwise the parts'.
pub fn format(parts: &[Arc<dyn Storage>], size: u64, chunk: u64, copies: usize) -> Result<()> {
    let layout = layout(parts.len(), size, chunk, copies);
    layout.check()?;
    let (id, name, event) = ("v".to_owned(), "test".to_owned(), "made".to_owned());
    let record = VolumeRecord { id, name, layout, event, previous: String::new(), stale: BTreeMap::new(), open: false };
    let payload = serde_json::to_vec(&record).map_err(|e| PoolError::host("cannot write a record", e.into()))?;
    for part in parts {
        record::store(&**part, 0, 1, &payload).map_err(|e| PoolError::host("cannot write a record", e))?;
    }
    Ok(())
}

/// Bytes of each of the parts of such a volume.
pub fn part_len(parts: usize, size: u64, chunk: u64, copies: usize) -> u64 {
    DATA_AT + layout(parts, size, chunk, copies).part_len()
}

/// Opens the volume for writing, on a host that has never seen it.
///
/// # Errors
/// As volumes of pools.
pub fn open(parts: &[Arc<dyn Storage>]) -> Result<Volume> {
    let replica =
        |(i, part): (usize, &Arc<dyn Storage>)| Replica { member: name(i), place: name(i), part: part.clone() };
    let options = OpenVolume {
        read_only: false,
        known: 0,
        tell: Arc::new(|_| {}),
        remember: Arc::new(|_| Ok(())),
        watch: Box::new(|| {}),
    };
    Volume::open("test", parts.iter().enumerate().map(replica).collect(), options)
}

fn layout(parts: usize, size: u64, chunk: u64, copies: usize) -> Layout {
    let members: Vec<String> = (0..parts).map(name).collect();
    Layout { size, chunk, groups: members.chunks(copies.max(1)).map(<[String]>::to_vec).collect() }
}

fn name(i: usize) -> String {
    format!("m{i}")
}
