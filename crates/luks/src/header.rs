//! A volume's header, whichever version it has.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::hash::Hash;
use crate::kdf::{Derivation, Kdf};
use crate::luks2::Document;
use crate::{LuksError, LuksErrorKind, Medium, Result, luks1, luks2};

/// The first bytes of a volume.
pub(crate) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";

/// Whether the first bytes of something say that it is a volume.
pub fn is_luks(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// Version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// LUKS1.
    One,
    /// LUKS2.
    Two,
}

/// A volume's header.
pub struct Luks {
    pub(crate) version: Version,
    pub(crate) uuid: String,
    pub(crate) segment: Segment,
    pub(crate) slots: BTreeMap<u32, Slot>,
    pub(crate) digest: KeyDigest,
    /// Of LUKS2, what is written back.
    pub(crate) document: Option<Document>,
    /// A copy of the header is damaged.
    pub(crate) warning: Option<String>,
}

/// How a new volume is made.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    /// How the first key is stretched.
    pub kdf: Kdf,
    /// Bytes of a sector of the cipher: 512, 1024, 2048 or 4096.
    pub sector_size: u32,
    /// A name in the header, at most 47 bytes; anybody can read it.
    pub label: String,
}

impl Default for FormatOptions {
    fn default() -> Self {
        FormatOptions { kdf: Kdf::default(), sector_size: 512, label: String::new() }
    }
}

/// What is shown of a key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its number.
    pub id: u32,
    /// How its key is stretched, in words.
    pub kdf: String,
}

/// The key of a volume's data, and which slot gave it.
pub struct VolumeKey {
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// The slot.
    pub slot: u32,
}

/// Where the data is and how it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bytes from the start of the volume.
    pub(crate) offset: u64,
    /// Bytes; up to the end of the medium if not said.
    pub(crate) size: Option<u64>,
    /// Bytes of a sector of the cipher.
    pub(crate) sector: u32,
    /// Number of the first sector.
    pub(crate) tweak: u64,
}

/// A key slot.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) key_len: usize,
    pub(crate) derivation: Derivation,
    pub(crate) stripes: usize,
    pub(crate) hash: Hash,
    /// Where the key's stripes are.
    pub(crate) at: u64,
    pub(crate) area_len: u64,
    pub(crate) area_key_len: usize,
}

/// By what the key of the data is known.
#[derive(Clone, Debug)]
pub(crate) struct KeyDigest {
    pub(crate) hash: Hash,
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) digest: Vec<u8>,
}

impl Luks {
    /// Makes a LUKS2 volume of `medium`, whose contents are lost, with `secret` as its first key. Nothing of the data is
    /// overwritten: what was there is still there, but reads as noise.
    ///
    /// # Errors
    /// [`LuksErrorKind::Unsupported`] where the medium has no room for data behind the header (16 MiB), otherwise the host's.
    pub fn format(medium: &dyn Medium, secret: &[u8], options: &FormatOptions) -> Result<Self> {
        luks2::format(medium, secret, options)
    }

    /// Bytes in front of the data of a new volume.
    pub const DATA_OFFSET: u64 = luks2::DATA_OFFSET;

    /// Reads and checks the header of the volume in `medium`.
    ///
    /// # Errors
    /// [`LuksErrorKind::NotLuks`], [`LuksErrorKind::Damaged`], [`LuksErrorKind::Unsupported`], [`LuksErrorKind::Io`].
    pub fn read(medium: &dyn Medium) -> Result<Self> {
        if medium.size() < 8192 {
            return Err(LuksError::new(LuksErrorKind::NotLuks, "too small for a LUKS volume"));
        }
        let mut start = [0; 1024];
        medium.read_at(&mut start, 0).map_err(|e| LuksError::host("read the LUKS header", e))?;
        let luks = match (is_luks(&start), u16::from_be_bytes([start[6], start[7]])) {
            (true, 1) => luks1::parse(&start)?,
            // Also where the first copy is gone: there is a second one.
            _ => luks2::read(medium)?,
        };
        luks.check(medium.size())?;
        Ok(luks)
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The volume's UUID as text.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The cipher as `cryptsetup` calls it, with the length of its key in bits.
    pub fn cipher(&self) -> (&'static str, usize) {
        ("aes-xts-plain64", self.slots.values().map(|s| s.key_len * 8).max().unwrap_or(0))
    }

    /// Bytes of a sector of the cipher.
    pub fn sector_size(&self) -> u32 {
        self.segment.sector
    }

    /// Where the data starts in the medium, in bytes.
    pub fn data_offset(&self) -> u64 {
        self.segment.offset
    }

    /// A copy of the header that is damaged; it is mended when a key is added or removed.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The key slots in use.
    pub fn slots(&self) -> Vec<SlotInfo> {
        self.slots.iter().map(|(id, s)| SlotInfo { id: *id, kdf: s.derivation.describe() }).collect()
    }

    /// Bytes of data in a medium of `size` bytes.
    pub(crate) fn data_len(&self, size: u64) -> u64 {
        let room = size.saturating_sub(self.segment.offset);
        let len = self.segment.size.unwrap_or(room).min(room);
        len / u64::from(self.segment.sector) * u64::from(self.segment.sector)
    }

    /// What both versions must fulfil before anything is done with a header. `size` is that of the medium.
    fn check(&self, size: u64) -> Result<()> {
        let s = &self.segment;
        if !s.offset.is_multiple_of(512) || s.offset >= size || self.data_len(size) == 0 {
            return Err(LuksError::damaged(format!("its data starts at byte {} of {size}", s.offset)));
        }
        if s.size.is_some_and(|len| s.offset.checked_add(len).is_none_or(|end| end > size)) {
            return Err(LuksError::damaged("its data is longer than the volume"));
        }
        if ![512, 1024, 2048, 4096].contains(&s.sector) {
            return Err(LuksError::unsupported(format!("sectors of {} bytes", s.sector)));
        }
        for (id, slot) in &self.slots {
            slot.check(s.offset).map_err(|e| LuksError { what: format!("{} (key slot {id})", e.what), ..e })?;
        }
        let d = &self.digest;
        if d.iterations == 0 || d.digest.len() < 16 || d.digest.len() > 64 || d.salt.is_empty() {
            return Err(LuksError::damaged("its key's digest cannot be one"));
        }
        Ok(())
    }
}

impl Slot {
    /// Bytes of the key's stripes.
    pub(crate) fn material_len(&self) -> usize {
        self.key_len * self.stripes
    }

    fn check(&self, data: u64) -> Result<()> {
        if ![32, 64].contains(&self.key_len) || ![32, 64].contains(&self.area_key_len) {
            let what = format!("keys of {} and {} bytes", self.key_len, self.area_key_len);
            return Err(LuksError::unsupported(what));
        }
        if self.stripes == 0 || self.stripes > 16384 {
            return Err(LuksError::damaged(format!("{} stripes", self.stripes)));
        }
        let len = (self.material_len() as u64).next_multiple_of(512);
        let end = self.at.checked_add(self.area_len.max(len));
        if !self.at.is_multiple_of(512) || self.area_len < len || self.at < 1024 || end.is_none_or(|end| end > data) {
            return Err(LuksError::damaged("the key lies outside the header"));
        }
        Ok(())
    }
}
