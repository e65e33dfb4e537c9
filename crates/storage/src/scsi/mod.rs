//! SCSI units: what executes command packets, whatever carries them ("SCSI Primary Commands - 4", SPC-4).

pub(crate) mod cdrom;
pub(crate) mod disk;
pub(crate) mod sense;
pub(crate) mod unit;

pub(crate) use sense::Sense;

/// Big-endian fields of command blocks.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from(byte(bytes, at)) << 8 | u16::from(byte(bytes, at + 1))
}

/// As [`be16`].
pub(crate) fn be24(bytes: &[u8], at: usize) -> u32 {
    u32::from(byte(bytes, at)) << 16 | u32::from(be16(bytes, at + 1))
}

/// As [`be16`].
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from(be16(bytes, at)) << 16 | u32::from(be16(bytes, at + 2))
}

/// As [`be16`].
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

/// A byte of a command block; zero beyond its end.
pub(crate) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// An answer, cut at the allocation length of the command.
pub(crate) fn cut(mut answer: Vec<u8>, allocation: usize) -> Vec<u8> {
    answer.truncate(allocation);
    answer
}

/// Text padded with spaces to `N` bytes.
pub(crate) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = if from.is_ascii_graphic() || from == b' ' { from } else { b'?' };
    }
    field
}
