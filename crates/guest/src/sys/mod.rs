//! Safe wrappers around the few system calls that `std` does not offer. The only unsafe code of this crate.

mod fd;
mod kernel;
mod process;
mod tty;

pub use fd::{Poll, PollSet, open_rw_nonblocking, request_sigio, set_nonblocking, uevent_socket};
pub use kernel::{
    Power, add_default_route, block_device_size, finit_module, grow_ext4, link_up, mount, move_mount_to_root, power,
    set_address, set_clock, set_hostname, statfs_info, sync, umount, uname_release, uptime_ms,
};
pub use process::{
    Reaped, SignalFd, become_session_leader, ignore_sigpipe, kill, kill_everyone, kill_group, pidfd_open, reap, umask,
    unblock_signals_for,
};
pub use tty::{acquire_tty_for, open_pty, open_tty, resize_tty, sane_tty};

use std::io;

/// The result of a call that returns -1 and sets `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn c_string(path: impl AsRef<std::ffi::OsStr>) -> io::Result<std::ffi::CString> {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_ref().as_bytes()).map_err(io::Error::from)
}
