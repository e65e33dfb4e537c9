//! Directory records (ECMA-119 §9.1).
//!
//! ```text
//! 0 length  1 blocks of attributes  2 first block  10 bytes  18 date  25 flags: 1 directory, 7 more extents  32 name  system use
//! ```

use std::io::{Read, Seek};

use crate::BLOCK;
use crate::error::{IsoError, IsoErrorKind};
use crate::reader::{Source, le32};

const FLAG_DIRECTORY: u8 = 0x02;
const FLAG_MORE: u8 = 0x80;

/// A file, directory or link in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name; empty for the root.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes.
    pub size: u64,
    /// POSIX mode with the type's bits, if the image says.
    pub mode: Option<u32>,
    /// When it was changed.
    pub modified: Option<Stamp>,
    /// Where its bytes are, in order.
    pub extents: Vec<Extent>,
}

/// Kinds of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Link(String),
    /// A device, FIFO or socket.
    Special,
}

/// A run of bytes in an image, all of which exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block of 2048 bytes.
    pub block: u32,
    /// Bytes.
    pub len: u32,
}

/// A date and time, in the time zone of whoever made the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Year, month, day.
    pub date: (u16, u8, u8),
    /// Hour, minute, second.
    pub time: (u8, u8, u8),
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ((y, mo, d), (h, mi, _)) = (self.date, self.time);
        write!(f, "{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}")
    }
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == EntryKind::Directory
    }
}

/// A record, its raw name and what follows it.
pub(crate) struct Record {
    pub(crate) entry: Entry,
    pub(crate) name: Vec<u8>,
    pub(crate) system_use: Vec<u8>,
    /// The next record continues the file.
    pub(crate) more: bool,
}

/// The record at the beginning of `bytes`; `None` where there is none.
///
/// # Errors
/// Corrupt for a record that does not fit, truncated for data beyond the end of the image.
pub(crate) fn record<R: Read + Seek>(bytes: &[u8], source: &Source<R>) -> Result<Option<Record>, IsoError> {
    let len = usize::from(*bytes.first().unwrap_or(&0));
    if len == 0 {
        return Ok(None);
    }
    let name_len = usize::from(*bytes.get(32).unwrap_or(&0));
    if len < 34 || len > bytes.len() || 33 + name_len > len {
        return Err(IsoError::corrupt(format!("a directory record of {len} bytes does not fit its place")));
    }
    let bytes = &bytes[..len];
    let directory = bytes[25] & FLAG_DIRECTORY != 0;
    let extent = Extent { block: le32(bytes, 2).saturating_add(bytes[1].into()), len: le32(bytes, 10) };
    let name = bytes[33..33 + name_len].to_vec();
    let end = u64::from(extent.block) * BLOCK + u64::from(extent.len);
    if extent.len > 0 && end > source.size() {
        let shown = String::from_utf8_lossy(&name).into_owned();
        let what = format!("it is truncated: {shown:?} ends at byte {end}, the image at {}", source.size());
        return Err(IsoError::new(IsoErrorKind::Truncated, what));
    }
    let entry = Entry {
        name: String::new(),
        kind: if directory { EntryKind::Directory } else { EntryKind::File },
        size: u64::from(extent.len),
        mode: None,
        modified: stamp(&bytes[18..25]),
        extents: vec![extent],
    };
    // A name of even length is followed by a byte of padding (§9.1.12).
    let after = (33 + name_len + usize::from(name_len % 2 == 0)).min(len);
    Ok(Some(Record { entry, name, system_use: bytes[after..].to_vec(), more: bytes[25] & FLAG_MORE != 0 }))
}

/// Years since 1900, month, day, hour, minute, second, zone; all zero for none (§9.1.5).
fn stamp(b: &[u8]) -> Option<Stamp> {
    let valid = (1..=12).contains(&b[1]) && (1..=31).contains(&b[2]) && b[3] < 24 && b[4] < 60 && b[5] < 60;
    valid.then(|| Stamp { date: (1900 + u16::from(b[0]), b[1], b[2]), time: (b[3], b[4], b[5]) })
}

/// A name of ISO 9660: without version number and a dot at the end.
pub(crate) fn plain_name(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let text = text.split(';').next().unwrap_or_default();
    text.strip_suffix('.').unwrap_or(text).to_owned()
}

/// A name of Joliet: UCS-2, high byte first.
pub(crate) fn joliet_name(raw: &[u8]) -> String {
    let units = raw.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]));
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.split(';').next().unwrap_or_default().to_owned()
}
