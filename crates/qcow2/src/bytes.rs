//! Big-endian numbers in byte slices; what lies outside reads as zero, so that parsers stay total.

pub(crate) fn be16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |s| u16::from_be_bytes([s[0], s[1]]))
}

pub(crate) fn be32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |s| u32::from_be_bytes([s[0], s[1], s[2], s[3]]))
}

pub(crate) fn be64(b: &[u8], at: usize) -> u64 {
    u64::from(be32(b, at)) << 32 | u64::from(be32(b, at + 4))
}

pub(crate) fn put(b: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = b.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

/// The numbers of a table on disk.
pub(crate) fn table(b: &[u8]) -> Vec<u64> {
    b.chunks_exact(8).map(|c| be64(c, 0)).collect()
}

/// A table as it lies on disk.
pub(crate) fn table_bytes(t: &[u64]) -> Vec<u8> {
    t.iter().flat_map(|v| v.to_be_bytes()).collect()
}
