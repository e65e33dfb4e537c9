//! A record that is replaced as a whole or not at all, whatever is cut off.
//!
//! There are two places for it; a new one goes to the place that does not hold the newest. All numbers are little-endian.
//!
//! ```text
//! 0        8        12       16           24        28
//! | magic  | version| length | generation | CRC-32C | payload ...
//! ```

use std::io;

use visor_qcow2::Storage;

/// Bytes of one place.
pub(crate) const PLACE: u64 = 128 << 10;
/// Bytes of both.
pub(crate) const BOTH: u64 = 2 * PLACE;
const MAGIC: &[u8; 8] = b"VISRPOOL";
const VERSION: u32 = 1;
const HEAD: usize = 28;

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) generation: u64,
    pub(crate) payload: Vec<u8>,
    /// Which place it was in.
    place: u64,
}

/// The newest record at `at` that is whole.
///
/// # Errors
/// The host's; `InvalidData` if a record is of a newer version of the format.
pub(crate) fn load(storage: &dyn Storage, at: u64) -> io::Result<Option<Found>> {
    let mut newest: Option<Found> = None;
    for place in 0..2 {
        if let Some(found) = load_place(storage, at, place)?
            && newest.as_ref().is_none_or(|n| n.generation < found.generation)
        {
            newest = Some(found);
        }
    }
    Ok(newest)
}

fn load_place(storage: &dyn Storage, at: u64, place: u64) -> io::Result<Option<Found>> {
    let mut bytes = vec![0; 512];
    storage.read_at(&mut bytes, at + place * PLACE)?;
    let word = |b: &[u8], at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let len = word(&bytes, 12) as usize;
    if &bytes[..8] != MAGIC || len > PLACE as usize - HEAD {
        return Ok(None);
    }
    let version = word(&bytes, 8);
    bytes.resize((HEAD + len).next_multiple_of(512), 0);
    storage.read_at(&mut bytes, at + place * PLACE)?;
    let sum = word(&bytes, 24);
    if checksum(&bytes[..HEAD + len]) != sum {
        return Ok(None);
    }
    if version != VERSION {
        let what = format!("the pool is of version {version}, which is newer than this program");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let generation = u64::from(word(&bytes, 16)) | u64::from(word(&bytes, 20)) << 32;
    Ok(Some(Found { generation, payload: bytes[HEAD..HEAD + len].to_vec(), place }))
}

/// Writes a record and makes it durable. The one before stays until then.
///
/// # Errors
/// The host's; `FileTooLarge` for a payload that does not fit.
pub(crate) fn store(storage: &dyn Storage, at: u64, generation: u64, payload: &[u8]) -> io::Result<()> {
    if payload.len() > PLACE as usize - HEAD {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let place = load(storage, at)?.map_or(0, |f| 1 - f.place);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(generation.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    let sum = checksum(&bytes);
    bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    storage.write_at(&bytes, at + place * PLACE)?;
    storage.flush()
}

/// Of everything but the checksum itself.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..24]), &bytes[HEAD..])
}
