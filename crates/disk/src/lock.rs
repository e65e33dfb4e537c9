//! Keeps two users from one image: a lock over the whole file, exclusive for who writes, shared for who reads.
//!
//! The lock belongs to the open file (fcntl(2), "Open file description locks"), so that it ends with it, also when the process
//! dies, and that two disks of one process exclude each other as well. The kernel does not say who holds such a lock; the
//! holder is looked up in `/proc/*/fdinfo` for the message only.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use visor_block::{BlockError, BlockErrorKind};

/// Locks `file`, which is `path`.
///
/// # Errors
/// [`BlockErrorKind::Locked`] if somebody else holds it, [`BlockErrorKind::Io`] where the host cannot lock.
pub(crate) fn lock(file: &File, path: &Path, exclusive: bool) -> Result<(), BlockError> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let by = holder(file).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            Err(BlockError::new(BlockErrorKind::Locked, format!("{} is in use by {by}", path.display())))
        }
        Err(e) => Err(BlockError {
            kind: BlockErrorKind::Io,
            what: format!("cannot lock {}", path.display()),
            source: Some(e.into()),
        }),
    }
}

/// A process that holds a lock on `file`, as far as this process may look.
fn holder(file: &File) -> Option<u32> {
    let inode = format!(":{} ", file.metadata().ok()?.ino());
    let holds = |pid: u32| {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
        infos
            .flatten()
            .filter_map(|info| fs::read_to_string(info.path()).ok())
            .any(|text| text.lines().any(|l| l.starts_with("lock:") && l.contains("OFDLCK") && l.contains(&inode)))
            .then_some(pid)
    };
    fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).find_map(holds)
}
