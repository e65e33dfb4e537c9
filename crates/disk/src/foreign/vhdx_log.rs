//! The log of a VHDX image: changes of its tables that may not have reached their places. It is applied to what is read; the
//! file stays as it is. (\[MS-VHDX\] §2.3.)
//!
//! ```text
//! entry 00 "loge"  04 CRC-32C  08 length  0C tail  10 sequence  18 descriptors  20 log id
//! then descriptors of 32 bytes, then a sector of 4 KiB for each data descriptor
//! "zero" 08 length  10 place  18 sequence    "desc" 04 last 4 bytes  08 first 8 bytes  10 place  18 sequence
//! data sector 00 "data"  04 high half of the sequence  08 bytes 8..4092  FFC low half
//! ```

use std::collections::BTreeMap;
use std::fs::File;

use visor_qcow2::Result;

use super::bytes::{le32, le64, read_vec, size};
use super::corrupt;

const SECTOR: u64 = 4096;
/// Longest log that is read.
const MAX_LOG: u64 = 256 << 20;
/// How many times as long as the log the entries may be that are looked at in it: whole ones do not overlap.
const WORK: u64 = 8;

/// Changes in the order in which they were made.
#[derive(Default)]
pub(super) struct Patches(Vec<(u64, Patch)>);

enum Patch {
    Zero(u64),
    Data(Vec<u8>),
}

/// A valid entry: place in the log, length, tail, sequence.
#[derive(Clone, Copy)]
struct Entry {
    at: u64,
    len: u64,
    tail: u64,
    sequence: u64,
}

impl Patches {
    /// Reads the log that `header` names.
    pub(super) fn read(file: &File, header: &[u8]) -> Result<Self> {
        let log_id = &header[0x30..0x40];
        if log_id.iter().all(|b| *b == 0) {
            return Ok(Patches::default());
        }
        let (len, at) = (u64::from(le32(header, 0x44)), le64(header, 0x48));
        if len == 0 || len > MAX_LOG || !len.is_multiple_of(1 << 20) {
            return Err(corrupt(format!("a log of {len} bytes")));
        }
        let log = read_vec(file, at, len)?;
        let Some(sequence) = newest(&log, log_id)? else {
            return Err(corrupt("the log names changes but none of its entries is whole"));
        };
        let mut patches = Patches::default();
        for entry in &sequence {
            patches.add(&wrapped(&log, entry.at, entry.len))?;
        }
        let last = sequence.last().map_or(0, |e| le64(&wrapped(&log, e.at, 64), 48));
        if size(file)? < last {
            return Err(corrupt("the file is shorter than its log says"));
        }
        Ok(patches)
    }

    /// Adds what an entry, which is valid, changes.
    fn add(&mut self, entry: &[u8]) -> Result<()> {
        let count = le32(entry, 24) as usize;
        let mut data = (64 + count * 32).next_multiple_of(SECTOR as usize);
        for d in entry[64..].chunks_exact(32).take(count) {
            let place = le64(d, 16);
            if !place.is_multiple_of(SECTOR) {
                return Err(corrupt("the log changes half a sector"));
            }
            match &d[..4] {
                b"zero" => self.0.push((place, Patch::Zero(le64(d, 8)))),
                b"desc" => {
                    let sector =
                        entry.get(data..data + SECTOR as usize).ok_or_else(|| corrupt("the log is cut off"))?;
                    let mut bytes = sector.to_vec();
                    bytes[..8].copy_from_slice(&d[8..16]);
                    bytes[4092..].copy_from_slice(&d[4..8]);
                    self.0.push((place, Patch::Data(bytes)));
                    data += SECTOR as usize;
                }
                _ => return Err(corrupt("the log has a descriptor that is unknown here")),
            }
        }
        Ok(())
    }

    /// Applies the changes to `data`, which was read from byte `at`.
    pub(super) fn apply(&self, data: &mut [u8], at: u64) {
        let end = at.saturating_add(data.len() as u64);
        for (place, patch) in &self.0 {
            let len = match patch {
                Patch::Zero(len) => *len,
                Patch::Data(d) => d.len() as u64,
            };
            let (from, to) = (at.max(*place), end.min(place.saturating_add(len)));
            if from < to {
                let part = &mut data[(from - at) as usize..(to - at) as usize];
                match patch {
                    Patch::Zero(_) => part.fill(0),
                    Patch::Data(d) => part.copy_from_slice(&d[(from - place) as usize..(to - place) as usize]),
                }
            }
        }
    }
}

/// The entries to be replayed: the run of consecutive valid entries that ends with the highest sequence and goes back to the
/// tail that its last entry names.
fn newest(log: &[u8], log_id: &[u8]) -> Result<Option<Vec<Entry>>> {
    let mut work = WORK * log.len() as u64;
    let mut entries = Vec::new();
    for at in (0..log.len() as u64).step_by(SECTOR as usize) {
        entries.extend(valid(log, at, log_id, &mut work)?);
    }
    entries.sort_by_key(|e| std::cmp::Reverse(e.sequence));
    // By the sequence that follows, and where the entry that has it begins.
    let before: BTreeMap<(u64, u64), Entry> = entries
        .iter()
        .filter_map(|e| Some(((e.sequence.checked_add(1)?, (e.at + e.len) % log.len() as u64), *e)))
        .collect();
    // Runs that lead nowhere: at most as long together as entries could be.
    let mut steps = entries.len() * WORK as usize;
    for head in &entries {
        let mut run = vec![*head];
        while let Some(first) = run.last().filter(|e| e.at != head.tail) {
            steps = steps.checked_sub(1).ok_or_else(|| corrupt("the log's entries lead nowhere"))?;
            match before.get(&(first.sequence, first.at)) {
                Some(e) if run.len() <= entries.len() => run.push(*e),
                _ => break,
            }
        }
        if run.last().is_some_and(|e| e.at == head.tail) {
            run.reverse();
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// The entry at `at`, if there is a whole one. `work` is how many bytes may still be looked at.
fn valid(log: &[u8], at: u64, log_id: &[u8], work: &mut u64) -> Result<Option<Entry>> {
    let Some(head) = log.get(at as usize..at as usize + 64) else { return Ok(None) };
    let (len, tail, sequence) = (u64::from(le32(head, 8)), u64::from(le32(head, 12)), le64(head, 16));
    let count = u64::from(le32(head, 24));
    let plausible = &head[..4] == b"loge"
        && &head[32..48] == log_id
        && sequence != 0
        && len >= SECTOR
        && len.is_multiple_of(SECTOR)
        && len <= log.len() as u64
        && tail.is_multiple_of(SECTOR)
        && tail < log.len() as u64
        && 64 + count * 32 <= len;
    if !plausible {
        return Ok(None);
    }
    *work = work.checked_sub(len).ok_or_else(|| corrupt("the log's entries lie over each other"))?;
    let entry = wrapped(log, at, len);
    let whole = crc(&entry, 4) == le32(&entry, 4) && sectors_match(&entry, count as usize, sequence);
    Ok(whole.then_some(Entry { at, len, tail, sequence }))
}

/// Whether all descriptors and data sectors belong to the entry.
fn sectors_match(entry: &[u8], count: usize, sequence: u64) -> bool {
    let descriptors = || entry[64..].chunks_exact(32).take(count);
    let data = descriptors().filter(|d| &d[..4] == b"desc").count();
    let start = (64 + count * 32).next_multiple_of(SECTOR as usize);
    descriptors().all(|d| le64(d, 24) == sequence)
        && entry.get(start..).is_some_and(|rest| rest.len() >= data * SECTOR as usize)
        && entry[start..]
            .chunks_exact(SECTOR as usize)
            .take(data)
            .all(|s| &s[..4] == b"data" && u64::from(le32(s, 4)) << 32 | u64::from(le32(s, 4092)) == sequence)
}

/// Bytes of the log, which goes on at its start where it ends.
fn wrapped(log: &[u8], at: u64, len: u64) -> Vec<u8> {
    let (at, len) = (at as usize, len as usize);
    let first = len.min(log.len() - at);
    [&log[at..at + first], &log[..len - first]].concat()
}

/// CRC-32C of `b`, where the four bytes at `at` count as zero.
pub(super) fn crc(b: &[u8], at: usize) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&b[..at]), &[0; 4]);
    crc32c::crc32c_append(sum, b.get(at + 4..).unwrap_or(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [7; 16];

    /// Puts an entry without changes into `log`.
    fn put(log: &mut [u8], at: usize, len: usize, tail: u32, sequence: u64) {
        let entry = &mut log[at..at + len];
        entry[..4].copy_from_slice(b"loge");
        entry[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        entry[12..16].copy_from_slice(&tail.to_le_bytes());
        entry[16..24].copy_from_slice(&sequence.to_le_bytes());
        entry[32..48].copy_from_slice(&ID);
        let sum = crc(entry, 4);
        entry[4..8].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn the_last_sequence_has_none_behind_it() {
        let mut log = vec![0; 1 << 20];
        put(&mut log, 0, 4096, 0, 5);
        put(&mut log, 4096, 4096, 0, 6);
        put(&mut log, 8192, 4096, 16384, u64::MAX);
        let run = newest(&log, &ID).unwrap().unwrap();
        assert_eq!(run.iter().map(|e| e.sequence).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn entries_that_lead_nowhere_or_lie_over_each_other_end_the_search() {
        // Each goes back to all before it, and none of them to its tail.
        let mut log = vec![0; 4 << 20];
        for n in 0..1024u32 {
            put(&mut log, n as usize * 4096, 4096, 0x30_0000 + 4096, u64::from(n) + 1);
        }
        put(&mut log, 0x30_1000, 8192, 0, 9999);
        assert!(newest(&log, &ID).is_err());
        let mut log = vec![0; 1 << 20];
        for at in (0..log.len()).step_by(4096) {
            log[at..at + 4].copy_from_slice(b"loge");
            log[at + 8..at + 12].copy_from_slice(&(1u32 << 20).to_le_bytes());
            log[at + 16] = 1;
            log[at + 32..at + 48].copy_from_slice(&ID);
        }
        assert!(newest(&log, &ID).is_err());
    }
}
