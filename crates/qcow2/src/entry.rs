//! The geometry of tables, and L2 entries.
//!
//! An ordinary cluster is treated as one with a single subcluster, so that all code knows one shape of entry only.
//!
//! ```text
//! standard    63 copied  62 compressed  55..9 host offset  0 reads as zeroes
//! extended    the same without bit 0, then 64 bits: 32 zero bits, 32 allocation bits (subcluster n is bit n)
//! compressed  x = 62 - (cluster bits - 8):  61..x further sectors  x-1..0 host offset
//! ```

use crate::header::{Header, INCOMPAT_DATA_FILE, INCOMPAT_EXTENDED_L2};
use crate::{Error, Result};

/// This entry's cluster or table has a refcount of exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
pub(crate) const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Sizes that follow from the header and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) extended: bool,
    /// Data lies in another file, at the place where the guest sees it.
    pub(crate) external: bool,
    pub(crate) refcount_order: u32,
}

impl Layout {
    pub(crate) fn of(h: &Header) -> Self {
        Layout {
            version: h.version,
            cluster_bits: h.cluster_bits,
            extended: h.incompatible & INCOMPAT_EXTENDED_L2 != 0,
            external: h.incompatible & INCOMPAT_DATA_FILE != 0,
            refcount_order: h.refcount_order,
        }
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Subclusters of a cluster.
    pub(crate) fn subs(&self) -> u32 {
        if self.extended { 32 } else { 1 }
    }

    /// Bytes of a subcluster.
    pub(crate) fn sub(&self) -> u64 {
        self.cluster() / u64::from(self.subs())
    }

    /// The bits of all subclusters.
    pub(crate) fn all(&self) -> u32 {
        if self.extended { u32::MAX } else { 1 }
    }

    /// The bits of the subclusters that `len` bytes from `within` a cluster touch.
    pub(crate) fn mask(&self, within: u64, len: u64) -> u32 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (within / self.sub(), (within + len - 1) / self.sub());
        let upto = |n: u64| if n >= 31 { u32::MAX } else { (1u32 << (n + 1)) - 1 };
        upto(last) & !if first == 0 { 0 } else { upto(first - 1) }
    }

    /// Bytes of an L2 entry.
    pub(crate) fn entry_bytes(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Entries of an L2 table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster() / self.entry_bytes()
    }

    /// Bytes of the disk behind an L1 entry.
    pub(crate) fn l2_span(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// L1 entries for a disk of `size` bytes.
    pub(crate) fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_span())
    }

    /// Refcounts in a refcount block.
    pub(crate) fn block_entries(&self) -> u64 {
        (self.cluster() * 8) >> self.refcount_order
    }

    /// Largest refcount.
    pub(crate) fn max_refcount(&self) -> u64 {
        if self.refcount_order == 6 { u64::MAX } else { (1 << (1 << self.refcount_order)) - 1 }
    }

    fn compressed_shift(&self) -> u32 {
        62 - (self.cluster_bits - 8)
    }

    /// Bytes that can lie before a compressed cluster.
    pub(crate) fn compressed_limit(&self) -> u64 {
        (1u64 << self.compressed_shift()).min(OFFSET)
    }
}

/// Where a cluster's contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Plain(Plain),
    /// Compressed, in `len` bytes of the host file from `at`, the last of which may belong to others.
    Compressed {
        at: u64,
        len: u64,
    },
}

/// A cluster that is not compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Plain {
    /// The host cluster.
    pub(crate) host: Option<u64>,
    /// Nobody else refers to the host cluster.
    pub(crate) copied: bool,
    /// Subclusters whose contents are in the host cluster.
    pub(crate) alloc: u32,
    /// Subclusters that read as zeroes. The others, in neither set, are the backing file's.
    pub(crate) zero: u32,
}

impl Slot {
    pub(crate) const EMPTY: Slot = Slot::Plain(Plain { host: None, copied: false, alloc: 0, zero: 0 });

    /// Reads an entry.
    pub(crate) fn decode(l: &Layout, raw: u64, bits: u64) -> Result<Self> {
        if raw & COMPRESSED != 0 {
            let shift = l.compressed_shift();
            let at = raw & ((1 << shift) - 1);
            let sectors = (raw & (COMPRESSED - 1)) >> shift;
            return Ok(Slot::Compressed { at, len: (sectors + 1) * 512 - (at & 511) });
        }
        let at = raw & OFFSET;
        if !at.is_multiple_of(l.cluster()) {
            return Err(Error::corrupt(format!("an L2 entry refers to byte {at:#x}, which is not a cluster's")));
        }
        let copied = raw & COPIED != 0;
        let host = (at != 0 || l.external && copied).then_some(at);
        let (alloc, zero) = if l.extended {
            (bits as u32, (bits >> 32) as u32)
        } else {
            let zero = u32::from(raw & ZERO != 0);
            (u32::from(host.is_some()) & !zero, zero)
        };
        if alloc & zero != 0 || alloc != 0 && host.is_none() || l.version == 2 && zero != 0 {
            return Err(Error::corrupt(format!("the L2 entry {raw:#x} {bits:#x} contradicts itself")));
        }
        Ok(Slot::Plain(Plain { host, copied, alloc, zero }))
    }

    /// The entry as it lies on disk.
    pub(crate) fn encode(&self, l: &Layout) -> (u64, u64) {
        match *self {
            Slot::Compressed { at, len } => {
                let sectors = ((at & 511) + len - 1) >> 9;
                (COMPRESSED | sectors << l.compressed_shift() | at, 0)
            }
            Slot::Plain(p) => {
                let raw = p.host.unwrap_or(0) | if p.copied && p.host.is_some() { COPIED } else { 0 };
                if l.extended {
                    (raw, u64::from(p.zero) << 32 | u64::from(p.alloc))
                } else {
                    (raw | if p.zero != 0 { ZERO } else { 0 }, 0)
                }
            }
        }
    }

    /// The host clusters that the entry refers to: index of the first, and how many.
    pub(crate) fn clusters(&self, l: &Layout) -> (u64, u64) {
        match *self {
            Slot::Plain(Plain { host: Some(at), .. }) if !l.external => (at >> l.cluster_bits, 1),
            Slot::Plain(_) => (0, 0),
            Slot::Compressed { at, len } => {
                let (first, last) = (at >> l.cluster_bits, (at + len - 1) >> l.cluster_bits);
                (first, last - first + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(cluster_bits: u32, extended: bool) -> Layout {
        Layout { version: 3, cluster_bits, extended, external: false, refcount_order: 4 }
    }

    #[test]
    fn entries_survive_the_way_through_bytes() {
        let (std, ext) = (layout(16, false), layout(16, true));
        let plain = |host, copied, alloc, zero| Slot::Plain(Plain { host, copied, alloc, zero });
        for slot in [
            Slot::EMPTY,
            plain(Some(0x50000), true, 1, 0),
            plain(Some(0x50000), false, 0, 1),
            plain(None, false, 0, 1),
            Slot::Compressed { at: 0x12345, len: 0x4bb },
        ] {
            let (raw, bits) = slot.encode(&std);
            assert_eq!(Slot::decode(&std, raw, bits).unwrap(), slot);
        }
        let slot = plain(Some(0x70000), true, 0xff00_0001, 0x00ff_0000);
        let (raw, bits) = slot.encode(&ext);
        assert_eq!(Slot::decode(&ext, raw, bits).unwrap(), slot);
        assert!(Slot::decode(&ext, 0x70000, 0x1_0000_0001).is_err(), "allocated and zero at once");
        assert!(Slot::decode(&std, 0x50200, 0).is_err(), "between clusters");
        let v2 = Layout { version: 2, ..std };
        assert!(Slot::decode(&v2, 1, 0).is_err(), "version 2 has no zero clusters");
    }

    #[test]
    fn masks_cover_the_subclusters_touched() {
        let l = layout(16, true);
        assert_eq!(l.mask(0, 1), 1);
        assert_eq!(l.mask(2047, 2), 3);
        assert_eq!(l.mask(0, 65536), u32::MAX);
        assert_eq!(l.mask(63488, 2048), 1 << 31);
        assert_eq!(layout(16, false).mask(5, 65000), 1);
        assert_eq!(l.mask(7, 0), 0);
    }
}
