//! Keeps two users from one image, with the locks that QEMU's tools use.
//!
//! Each permission has two bytes of the file: byte 100 + n is locked (shared) by who uses permission n, byte 200 + n by who
//! suffers no other user of it. Having locked its own, a user looks for conflicting locks of others.
//! Permissions here: 0 read what is consistent, 1 write, 3 resize.
//!
//! The locks belong to the open file (fcntl(2), "Open file description locks"), so that they end with it, also when the process
//! dies, and that two disks of one process exclude each other as well. The kernel does not say who holds such a lock; the
//! holder is looked up in `/proc/*/fdinfo` for the message only.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use visor_block::{BlockError, BlockErrorKind};

const USED: i64 = 100;
const UNSHARED: i64 = 200;
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// Locks `file`, which is `path`: for writing if `exclusive`, otherwise against writers.
///
/// # Errors
/// [`BlockErrorKind::Locked`] if somebody else holds it, [`BlockErrorKind::Io`] where the host cannot lock.
pub(crate) fn lock(file: &File, path: &Path, exclusive: bool) -> Result<(), BlockError> {
    let failed = |e: Errno| BlockError {
        kind: BlockErrorKind::Io,
        what: format!("cannot lock {}", path.display()),
        source: Some(e.into()),
    };
    let used: &[i64] = if exclusive { &[READ, WRITE, RESIZE] } else { &[READ] };
    let unshared = [WRITE, RESIZE];
    let own = used.iter().map(|p| USED + p).chain(unshared.iter().map(|p| UNSHARED + p));
    for byte in own {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte))) {
            Ok(_) => {}
            // Somebody locks in another way.
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(in_use(file, path)),
            Err(e) => return Err(failed(e)),
        }
    }
    let conflicting = used.iter().map(|p| UNSHARED + p).chain(unshared.iter().map(|p| USED + p));
    for byte in conflicting {
        let mut found = range(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(failed)?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            let error = in_use(file, path);
            let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, 0)));
            return Err(error);
        }
    }
    Ok(())
}

/// One byte, or with F_UNLCK all of them.
fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: i64::from(kind != libc::F_UNLCK),
        l_pid: 0,
    }
}

fn in_use(file: &File, path: &Path) -> BlockError {
    let own = std::process::id();
    let by = match holder(file) {
        Some((pid, _)) if pid == own => "this process already".to_owned(),
        Some((pid, name)) => format!("process {pid} ({name})"),
        None => "another process".to_owned(),
    };
    BlockError::new(BlockErrorKind::Locked, format!("{} is in use by {by}", path.display()))
}

/// A process that holds a lock on `file`, as far as this process may look, and its name. Others come before this one.
fn holder(file: &File) -> Option<(u32, String)> {
    use std::os::fd::AsRawFd;
    let inode = format!(":{} ", file.metadata().ok()?.ino());
    let own = std::process::id();
    let holds = |pid: u32| {
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
        infos
            .flatten()
            .filter(|info| pid != own || info.file_name().to_str() != Some(&file.as_raw_fd().to_string()))
            .filter_map(|info| fs::read_to_string(info.path()).ok())
            .any(|text| text.lines().any(|l| l.starts_with("lock:") && l.contains(&inode)))
            .then_some(pid)
    };
    let mut pids: Vec<u32> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    pids.sort_by_key(|pid| *pid == own);
    let pid = pids.into_iter().find_map(holds)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some((pid, name.trim().to_owned()))
}
