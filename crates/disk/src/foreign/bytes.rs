//! Numbers in byte slices, which read as zero where the slice ends, and bounded reading of files.

use std::fs::File;
use std::os::unix::fs::FileExt;

use visor_qcow2::{Error, Result};

pub(super) fn le16(b: &[u8], at: usize) -> u16 {
    b.get(at..at + 2).map_or(0, |s| u16::from_le_bytes([s[0], s[1]]))
}

pub(super) fn le32(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |s| u32::from_le_bytes([s[0], s[1], s[2], s[3]]))
}

pub(super) fn le64(b: &[u8], at: usize) -> u64 {
    u64::from(le32(b, at + 4)) << 32 | u64::from(le32(b, at))
}

pub(super) fn be32(b: &[u8], at: usize) -> u32 {
    le32(b, at).swap_bytes()
}

pub(super) fn be64(b: &[u8], at: usize) -> u64 {
    le64(b, at).swap_bytes()
}

/// Fills `data` from the file; what lies behind its end reads as zeroes.
pub(super) fn read_at(file: &File, data: &mut [u8], at: u64) -> Result<()> {
    let mut got = 0;
    while got < data.len() {
        match file.read_at(&mut data[got..], at.saturating_add(got as u64)) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::host("cannot read the image", at, e)),
        }
    }
    data[got..].fill(0);
    Ok(())
}

/// `len` bytes of the file, which must be there.
pub(super) fn read_vec(file: &File, at: u64, len: u64) -> Result<Vec<u8>> {
    if at.checked_add(len).is_none_or(|end| end > size(file).unwrap_or(0)) {
        return Err(super::corrupt(format!("{len} bytes at byte {at} lie outside the file")));
    }
    let mut data = vec![0; len as usize];
    read_at(file, &mut data, at)?;
    Ok(data)
}

pub(super) fn size(file: &File) -> Result<u64> {
    file.metadata().map(|m| m.len()).map_err(|e| Error::host("cannot measure the image", 0, e))
}
