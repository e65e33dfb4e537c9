//! Volume descriptors: blocks 16 and on, up to a terminator (ECMA-119 §8).
//!
//! ```text
//! 0 type: 0 boot record, 1 primary, 2 supplementary, 255 terminator   1 "CD001"   6 version
//! primary, supplementary   8 system id  28h volume id  50h blocks  80h block size  88h escapes(58h)  9Ch root  13Eh publisher  32Dh date
//! boot record              7 "EL TORITO SPECIFICATION"  47h block of the catalogue
//! ```

use std::io::{Read, Seek};

use crate::directory::record;
use crate::error::{IsoError, IsoErrorKind};
use crate::reader::{Source, le32};
use crate::{BLOCK, Entry};

/// First descriptor.
const FIRST: u64 = 16;
/// Most descriptors that are looked at.
const LIMIT: u64 = 64;

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Label.
    pub label: String,
    /// System identifier.
    pub system: String,
    /// Publisher.
    pub publisher: String,
    /// Application that made it.
    pub application: String,
    /// Blocks of 2048 bytes that it says it has.
    pub blocks: u32,
    /// When it was made, as `YYYY-MM-DD hh:mm:ss`, if it says so.
    pub created: Option<String>,
    /// It has names in Joliet's way.
    pub joliet: bool,
    /// It has names, modes and links in Rock Ridge's way.
    pub rock_ridge: bool,
}

/// Which names are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Those of a POSIX file system.
    RockRidge,
    /// Those of Windows.
    Joliet,
    /// Those of ISO 9660: upper case, short.
    Plain,
}

/// All descriptors that matter.
pub(crate) struct Descriptors {
    pub(crate) volume: Volume,
    pub(crate) root: Entry,
    pub(crate) joliet_root: Option<Entry>,
    /// Block of the boot catalogue.
    pub(crate) catalog: Option<u32>,
}

impl Descriptors {
    pub(crate) fn read<R: Read + Seek>(source: &mut Source<R>) -> Result<Self, IsoError> {
        let (mut primary, mut joliet_root, mut catalog) = (None, None, None);
        for n in 0..LIMIT {
            let at = (FIRST + n) * BLOCK;
            if at + BLOCK > source.size() {
                let (kind, what) = match n {
                    0 => (
                        IsoErrorKind::NotIso,
                        "it is too short for an ISO 9660 image, which has its descriptor at 32 KiB",
                    ),
                    _ => (IsoErrorKind::Truncated, "it ends within its volume descriptors"),
                };
                return Err(IsoError::new(kind, what));
            }
            let d = source.bytes(at, BLOCK as usize)?;
            if &d[1..6] != b"CD001" {
                if n == 0 {
                    return Err(IsoError::new(
                        IsoErrorKind::NotIso,
                        "it is no ISO 9660 image: no volume descriptor at 32 KiB",
                    ));
                }
                return Err(IsoError::corrupt(format!("volume descriptor {n} is damaged")));
            }
            match d[0] {
                0 if d[7..].starts_with(b"EL TORITO SPECIFICATION") => catalog = catalog.or(Some(le32(&d, 0x47))),
                1 if primary.is_none() => primary = Some(d),
                2 if is_joliet(&d) && joliet_root.is_none() => joliet_root = Some(root(&d, source)?),
                255 => break,
                _ => {}
            }
        }
        let d = primary.ok_or_else(|| IsoError::corrupt("it has no primary volume descriptor"))?;
        let block_size = u16::from_le_bytes([d[0x80], d[0x81]]);
        if u64::from(block_size) != BLOCK {
            return Err(IsoError::corrupt(format!("its blocks have {block_size} bytes instead of 2048")));
        }
        let root = root(&d, source)?;
        let volume = Volume {
            label: text(&d[0x28..0x48]),
            system: text(&d[0x08..0x28]),
            publisher: text(&d[0x13e..0x1be]),
            application: text(&d[0x23e..0x2be]),
            blocks: le32(&d, 0x50),
            created: date(&d[0x32d..0x33e]),
            joliet: joliet_root.is_some(),
            rock_ridge: false,
        };
        Ok(Descriptors { volume, root, joliet_root, catalog })
    }
}

/// The escape sequences of UCS-2 levels 1 to 3 (Joliet Specification).
fn is_joliet(d: &[u8]) -> bool {
    [b"%/@", b"%/C", b"%/E"].iter().any(|e| d[0x58..].starts_with(*e))
}

fn root<R: Read + Seek>(d: &[u8], source: &Source<R>) -> Result<Entry, IsoError> {
    let root = record(&d[0x9c..0xbe], source)?.ok_or_else(|| IsoError::corrupt("its root directory has no record"))?;
    if root.entry.is_directory() { Ok(root.entry) } else { Err(IsoError::corrupt("its root is no directory")) }
}

/// Text of a descriptor: padded with spaces, meant to be ASCII.
fn text(bytes: &[u8]) -> String {
    let text: String = bytes
        .iter()
        .take_while(|b| **b != 0)
        .map(|b| if b.is_ascii_control() { '?' } else { char::from(*b) })
        .collect();
    text.trim_end().to_owned()
}

/// 16 digits and a time zone (§8.4.26.1).
fn date(bytes: &[u8]) -> Option<String> {
    let digits = std::str::from_utf8(bytes.get(..14)?).ok()?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) || digits.starts_with("0000") {
        return None;
    }
    let part = |from: usize, to: usize| &digits[from..to];
    Some(format!("{}-{}-{} {}:{}:{}", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14)))
}
