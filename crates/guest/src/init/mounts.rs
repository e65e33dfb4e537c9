//! The file systems of the kernel and of memory.

use std::fs;
use std::io;
use std::path::Path;

use crate::sys;

const NO_EXEC: u64 = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// What the initial ramfs needs.
pub(super) fn early() {
    put("devtmpfs", "/dev", "devtmpfs", libc::MS_NOSUID, "mode=0755");
    put("proc", "/proc", "proc", NO_EXEC, "");
    put("sysfs", "/sys", "sysfs", NO_EXEC, "");
}

/// What the system needs beyond that, once the root is the final one.
pub(super) fn late() {
    put("tmpfs", "/run", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755");
    put("devpts", "/dev/pts", "devpts", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
    put("tmpfs", "/dev/shm", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777");
    put("tmpfs", "/tmp", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777");
    put("cgroup2", "/sys/fs/cgroup", "cgroup2", NO_EXEC, "");
    // Names that scripts expect and devtmpfs does not make.
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let _ = std::os::unix::fs::symlink(target, Path::new("/dev").join(link));
    }
}

/// Carries the kernel's file systems over to the new root.
pub(super) fn move_to(new_root: &Path) -> io::Result<()> {
    for name in ["dev", "proc", "sys"] {
        let target = new_root.join(name);
        fs::create_dir_all(&target).ok();
        sys::mount(&format!("/{name}"), &target, "", libc::MS_MOVE, "")?;
    }
    Ok(())
}

/// Mounts if it can: a guest without one of these still runs, and says in the kernel's log what it lacks.
fn put(source: &str, target: &str, kind: &str, flags: u64, data: &str) {
    let path = Path::new(target);
    // Exists already on a read-only root.
    let _ = fs::create_dir_all(path);
    if let Err(error) = sys::mount(source, path, kind, flags, data) {
        super::console::kernel_log(&format!("cannot mount {target}: {error}"));
    }
}
