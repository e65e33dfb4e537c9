//! Where the host's file system has put a file: the pieces of it that do not lie behind one another on the device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Extents asked for at a time.
const BATCH: usize = 256;
/// `FIEMAP_FLAG_SYNC`: what is not written yet gets its place first.
const SYNC: u32 = 1;
/// `FIEMAP_EXTENT_LAST`.
const LAST: u32 = 1;
/// `_IOWR('f', 11, struct fiemap)`, whose size is that of the head.
const FS_IOC_FIEMAP: libc::Ioctl = nix::request_code_readwrite!(b'f', 11, 32) as libc::Ioctl;

/// `struct fiemap_extent` (linux/fiemap.h).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; BATCH],
}

/// Pieces of the file on its device.
///
/// # Errors
/// The host's: not every file system tells.
pub(super) fn pieces(file: &File) -> io::Result<u64> {
    let (mut pieces, mut end) = (0, None);
    let mut map = Fiemap {
        start: 0,
        length: u64::MAX,
        flags: SYNC,
        mapped: 0,
        count: BATCH as u32,
        reserved: 0,
        extents: [Extent::default(); BATCH],
    };
    loop {
        // SAFETY: the structure is that of the call, which writes at most `count` extents behind the head; all of them are there.
        if unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let found = map.extents.get(..map.mapped as usize).unwrap_or_default();
        for e in found {
            pieces += u64::from(end != Some(e.physical));
            end = Some(e.physical.wrapping_add(e.length));
        }
        match found.last() {
            Some(last) if last.flags & LAST == 0 && last.length > 0 => {
                map.start = last.logical.saturating_add(last.length)
            }
            _ => return Ok(pieces),
        }
        map.length = u64::MAX - map.start;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_has_pieces_once_it_has_data() {
        let path = std::env::temp_dir().join(format!("visor-extents-{}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let Ok(none) = pieces(&file) else { return };
        assert_eq!(none, 0);
        file.write_all_at(&[1; 4096], 0).unwrap();
        assert_eq!(pieces(&file).unwrap(), 1);
        // More than are asked for at a time, holes between them.
        (0..600u64).for_each(|i| file.write_all_at(&[1; 4096], i << 20).unwrap());
        assert!(pieces(&file).unwrap() >= 1);
    }
}
