//! The header of an image and its extensions.
//!
//! ```text
//! 00 magic      04 version      08 backing name at  10 its length   14 cluster bits  18 size
//! 20 encryption 24 L1 entries   28 L1 table at      30 refcount table at             38 its clusters
//! 3C snapshots  40 snapshot table at
//! version 3: 48 incompatible  50 compatible  58 autoclear  60 refcount order  64 header length  68 compression
//! then extensions (type, length, data padded to 8), then the backing file's name
//! ```

use crate::bytes::{be32, be64, put};
use crate::{Error, Result};

pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Refcounts may be wrong: the image was not closed properly.
pub(crate) const INCOMPAT_DIRTY: u64 = 1;
pub(crate) const INCOMPAT_CORRUPT: u64 = 1 << 1;
pub(crate) const INCOMPAT_DATA_FILE: u64 = 1 << 2;
pub(crate) const INCOMPAT_COMPRESSION: u64 = 1 << 3;
pub(crate) const INCOMPAT_EXTENDED_L2: u64 = 1 << 4;
const INCOMPAT_KNOWN: u64 = 0x1f;
pub(crate) const COMPAT_LAZY_REFCOUNTS: u64 = 1;
/// The bitmaps extension is in step with the data.
pub(crate) const AUTOCLEAR_BITMAPS: u64 = 1;
pub(crate) const AUTOCLEAR_RAW_DATA: u64 = 1 << 1;

pub(crate) const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXT_FEATURE_NAMES: u32 = 0x6803_f857;
pub(crate) const EXT_BITMAPS: u32 = 0x2385_2875;
pub(crate) const EXT_DATA_FILE: u32 = 0x4441_5441;

const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 112;
/// Most bytes of an L1 table, of a refcount table, and most snapshots; the limits of the reference implementation.
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
pub(crate) const MAX_REFTABLE_BYTES: u64 = 8 << 20;
pub(crate) const MAX_SNAPSHOTS: u32 = 65536;
const MAX_BACKING_NAME: u32 = 1023;

/// How compressed clusters are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Deflate without a wrapper.
    Zlib,
    /// A zstd frame.
    Zstd,
}

/// A header, as far as this crate knows headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) backing: Option<String>,
    pub(crate) backing_at: u64,
    pub(crate) cluster_bits: u32,
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_at: u64,
    pub(crate) reftable_at: u64,
    pub(crate) reftable_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_at: u64,
    pub(crate) incompatible: u64,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) refcount_order: u32,
    pub(crate) compression: Compression,
    /// Bytes of the header proper, as the image says.
    pub(crate) length: u32,
    /// All extensions, also unknown ones.
    pub(crate) extensions: Vec<(u32, Vec<u8>)>,
}

impl Header {
    /// Whether `start`, the first bytes of a file, are those of an image.
    pub(crate) fn probe(start: &[u8]) -> bool {
        start.len() >= 8 && be32(start, 0) == MAGIC && matches!(be32(start, 4), 2 | 3)
    }

    /// Reads the header from the first cluster of an image, or as much as there is of it (at least 512 bytes).
    pub(crate) fn parse(b: &[u8]) -> Result<Self> {
        if be32(b, 0) != MAGIC || b.len() < 512 {
            return Err(Error::corrupt("not a qcow2 image"));
        }
        let version = be32(b, 4);
        if !matches!(version, 2 | 3) {
            return Err(Error::unsupported(format!("qcow2 version {version}")));
        }
        let v3 = version == 3;
        let mut h = Header {
            version,
            backing: None,
            backing_at: be64(b, 8),
            cluster_bits: be32(b, 0x14),
            size: be64(b, 0x18),
            l1_entries: be32(b, 0x24),
            l1_at: be64(b, 0x28),
            reftable_at: be64(b, 0x30),
            reftable_clusters: be32(b, 0x38),
            snapshots: be32(b, 0x3c),
            snapshots_at: be64(b, 0x40),
            incompatible: if v3 { be64(b, 0x48) } else { 0 },
            compatible: if v3 { be64(b, 0x50) } else { 0 },
            autoclear: if v3 { be64(b, 0x58) } else { 0 },
            refcount_order: if v3 { be32(b, 0x60) } else { 4 },
            compression: Compression::Zlib,
            length: if v3 { be32(b, 0x64) } else { V2_LENGTH as u32 },
            extensions: Vec::new(),
        };
        if be32(b, 0x20) != 0 {
            return Err(Error::unsupported("the image is encrypted within qcow2"));
        }
        h.check_numbers()?;
        h.parse_extensions(b)?;
        h.check_features(b)?;
        if h.backing_at != 0 {
            h.backing = Some(backing_name(b, h.backing_at, be32(b, 0x10))?);
        }
        Ok(h)
    }

    fn check_numbers(&self) -> Result<()> {
        let bad = |what: String| Err(Error::corrupt(what));
        if !(9..=21).contains(&self.cluster_bits) {
            return bad(format!("clusters of 2^{} bytes", self.cluster_bits));
        }
        if self.refcount_order > 6 {
            return bad(format!("refcounts of 2^{} bits", self.refcount_order));
        }
        let cluster = 1u64 << self.cluster_bits;
        if self.version == 3
            && (self.length < 104 || !self.length.is_multiple_of(8) || u64::from(self.length) > cluster)
        {
            return bad(format!("a header of {} bytes", self.length));
        }
        if u64::from(self.l1_entries) * 8 > MAX_L1_BYTES {
            return bad(format!("an L1 table of {} entries", self.l1_entries));
        }
        if u64::from(self.reftable_clusters) << self.cluster_bits > MAX_REFTABLE_BYTES.max(cluster) {
            return bad(format!("a refcount table of {} clusters", self.reftable_clusters));
        }
        if self.reftable_clusters == 0 || self.reftable_at == 0 {
            return bad("no refcount table".into());
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return bad(format!("{} snapshots", self.snapshots));
        }
        for at in [self.l1_at, self.reftable_at, self.snapshots_at] {
            if !at.is_multiple_of(cluster) || at > i64::MAX as u64 / 2 {
                return bad(format!("a table at byte {at:#x}"));
            }
        }
        if i64::try_from(self.size).is_err() {
            return bad(format!("a disk of {} bytes", self.size));
        }
        Ok(())
    }

    fn parse_extensions(&mut self, b: &[u8]) -> Result<()> {
        let end = match self.backing_at {
            0 => b.len(),
            at => b.len().min(usize::try_from(at).unwrap_or(usize::MAX)),
        };
        let mut at = self.length as usize;
        while at + 8 <= end {
            let (kind, len) = (be32(b, at), be32(b, at + 4) as usize);
            if kind == 0 {
                break;
            }
            let data = b.get(at + 8..(at + 8).saturating_add(len)).filter(|_| at + 8 + len <= end);
            let data = data.ok_or_else(|| Error::corrupt(format!("a header extension of {len} bytes")))?;
            self.extensions.push((kind, data.to_vec()));
            at += 8 + len.next_multiple_of(8);
        }
        Ok(())
    }

    fn check_features(&mut self, b: &[u8]) -> Result<()> {
        let unknown = self.incompatible & !INCOMPAT_KNOWN;
        if unknown != 0 {
            let names: Vec<_> =
                (0..64).filter(|bit| unknown >> bit & 1 != 0).map(|bit| self.feature_name(bit)).collect();
            return Err(Error::unsupported(format!("the image needs the feature {}", names.join(", "))));
        }
        // The field is there only where the header is long enough.
        let code = if self.length >= 105 { b.get(0x68).copied().unwrap_or(0) } else { 0 };
        self.compression = match code {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return Err(Error::unsupported(format!("compression type {other}"))),
        };
        if (self.incompatible & INCOMPAT_COMPRESSION != 0) != (self.compression != Compression::Zlib) {
            return Err(Error::corrupt("compression type and its feature bit contradict each other"));
        }
        if self.incompatible & INCOMPAT_EXTENDED_L2 != 0 && self.cluster_bits < 14 {
            return Err(Error::corrupt("subclusters of less than 512 bytes"));
        }
        Ok(())
    }

    fn feature_name(&self, bit: u8) -> String {
        let table = self.extensions.iter().filter(|(kind, _)| *kind == EXT_FEATURE_NAMES);
        let mut rows = table.flat_map(|(_, data)| data.chunks_exact(48));
        match rows.find(|row| row[0] == 0 && row[1] == bit) {
            Some(row) => {
                let name: Vec<u8> = row[2..].iter().copied().take_while(|c| *c != 0).collect();
                format!("`{}`", String::from_utf8_lossy(&name))
            }
            None => format!("number {bit}"),
        }
    }

    /// The header proper, without what follows it: small enough to be written at once.
    pub(crate) fn fixed(&self) -> Vec<u8> {
        let v3 = self.version == 3;
        let mut b = vec![0; if v3 { (self.length as usize).min(V3_LENGTH) } else { V2_LENGTH }];
        put(&mut b, 0, &MAGIC.to_be_bytes());
        put(&mut b, 4, &self.version.to_be_bytes());
        put(&mut b, 8, &self.backing_at.to_be_bytes());
        put(&mut b, 0x10, &(self.backing.as_ref().map_or(0, String::len) as u32).to_be_bytes());
        put(&mut b, 0x14, &self.cluster_bits.to_be_bytes());
        put(&mut b, 0x18, &self.size.to_be_bytes());
        put(&mut b, 0x24, &self.l1_entries.to_be_bytes());
        put(&mut b, 0x28, &self.l1_at.to_be_bytes());
        put(&mut b, 0x30, &self.reftable_at.to_be_bytes());
        put(&mut b, 0x38, &self.reftable_clusters.to_be_bytes());
        put(&mut b, 0x3c, &self.snapshots.to_be_bytes());
        put(&mut b, 0x40, &self.snapshots_at.to_be_bytes());
        if v3 {
            put(&mut b, 0x48, &self.incompatible.to_be_bytes());
            put(&mut b, 0x50, &self.compatible.to_be_bytes());
            put(&mut b, 0x58, &self.autoclear.to_be_bytes());
            put(&mut b, 0x60, &self.refcount_order.to_be_bytes());
            put(&mut b, 0x64, &self.length.to_be_bytes());
            put(&mut b, 0x68, &[u8::from(self.compression == Compression::Zstd)]);
        }
        b
    }

    /// The whole first cluster. Places the backing file's name.
    pub(crate) fn emit(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        for (kind, data) in &self.extensions {
            rest.extend(kind.to_be_bytes());
            rest.extend((data.len() as u32).to_be_bytes());
            rest.extend(data);
            rest.resize(rest.len().next_multiple_of(8), 0);
        }
        rest.extend([0; 8]);
        self.backing_at = 0;
        if let Some(name) = &self.backing {
            self.backing_at = u64::from(self.length) + rest.len() as u64;
            rest.extend(name.as_bytes());
        }
        let mut b = self.fixed();
        b.resize(self.length as usize, 0);
        b.extend(rest);
        let cluster = 1usize << self.cluster_bits;
        if b.len() > cluster || self.backing.as_ref().is_some_and(|n| n.len() > MAX_BACKING_NAME as usize) {
            return Err(Error::new(crate::ErrorKind::OutOfRange, "the header does not fit into a cluster"));
        }
        b.resize(cluster, 0);
        Ok(b)
    }

    /// The data of an extension.
    pub(crate) fn extension(&self, kind: u32) -> Option<&[u8]> {
        self.extensions.iter().find(|(k, _)| *k == kind).map(|(_, data)| data.as_slice())
    }

    /// An extension that is text.
    pub(crate) fn text(&self, kind: u32) -> Option<String> {
        self.extension(kind).map(|data| String::from_utf8_lossy(data).into_owned())
    }

    /// A new version 3 header without tables.
    pub(crate) fn new(version: u32, cluster_bits: u32, refcount_order: u32) -> Self {
        Header {
            version,
            backing: None,
            backing_at: 0,
            cluster_bits,
            size: 0,
            l1_entries: 0,
            l1_at: 0,
            reftable_at: 0,
            reftable_clusters: 0,
            snapshots: 0,
            snapshots_at: 0,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order,
            compression: Compression::Zlib,
            length: if version == 3 { V3_LENGTH } else { V2_LENGTH } as u32,
            extensions: Vec::new(),
        }
    }

    /// The names of the feature bits, for programs that do not know them.
    pub(crate) fn add_feature_names(&mut self) {
        let names = [
            (0u8, 0u8, "dirty bit"),
            (0, 1, "corrupt bit"),
            (0, 2, "external data file"),
            (0, 3, "compression type"),
            (0, 4, "extended L2 entries"),
            (1, 0, "lazy refcounts"),
            (2, 0, "bitmaps"),
            (2, 1, "raw external data"),
        ];
        let mut data = Vec::new();
        for (kind, bit, name) in names {
            let mut row = [0; 48];
            row[0] = kind;
            row[1] = bit;
            row[2..2 + name.len()].copy_from_slice(name.as_bytes());
            data.extend(row);
        }
        self.extensions.push((EXT_FEATURE_NAMES, data));
    }
}

fn backing_name(b: &[u8], at: u64, len: u32) -> Result<String> {
    let bad = || Error::corrupt("the backing file's name lies outside the header");
    if len > MAX_BACKING_NAME {
        return Err(bad());
    }
    let at = usize::try_from(at).map_err(|_| bad())?;
    let name = at.checked_add(len as usize).and_then(|end| b.get(at..end)).ok_or_else(bad)?;
    String::from_utf8(name.to_vec()).map_err(|_| Error::unsupported("the backing file's name is not UTF-8"))
}
