//! File descriptors: non-blocking mode and `poll`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::check;

/// Makes reads and writes of `fd` return `WouldBlock` instead of waiting.
///
/// # Errors
/// The error of `fcntl`.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: F_GETFL and F_SETFL take and return plain integers, and `fd` is open for the whole call.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Opens a device for reading and writing, non-blocking and without becoming its controlling process.
///
/// # Errors
/// The error of `open`.
pub fn open_rw_nonblocking(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

/// A socket that receives the kernel's device events ("uevents").
///
/// # Errors
/// The error of `socket` or `bind`.
pub fn uevent_socket() -> io::Result<OwnedFd> {
    const KERNEL_GROUP: u32 = 1;
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `sockaddr_nl` is plain data for which zero is valid; the socket is fresh and owned by nobody else, and
    // the address pointer is valid for the length given.
    unsafe {
        let fd = check(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT))?;
        let fd = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = KERNEL_GROUP;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length))?;
        Ok(fd)
    }
}

/// What to wait for on a descriptor, and afterwards what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Poll {
    /// Readable (or at its end, or failed).
    pub read: bool,
    /// Writable (or failed).
    pub write: bool,
    /// The other end is gone. Reported whether asked for or not.
    pub hangup: bool,
}

/// A set of descriptors to wait on; one `poll` call.
#[derive(Default)]
pub struct PollSet {
    entries: Vec<libc::pollfd>,
}

impl PollSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a descriptor and returns its place for [`Self::result`]. It must stay open until the wait is over; a
    /// descriptor closed before is reported as readable, which its owner finds out by reading.
    pub fn add(&mut self, fd: &impl AsFd, read: bool, write: bool) -> usize {
        let mut events = 0;
        if read {
            events |= libc::POLLIN;
        }
        if write {
            events |= libc::POLLOUT;
        }
        self.entries.push(libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 });
        self.entries.len() - 1
    }

    /// Waits until something happens or `timeout` passes (`None`: for ever). Being interrupted counts as nothing.
    ///
    /// # Errors
    /// The error of `poll`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up, or a wait of half a millisecond would spin.
        let ms = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        // SAFETY: the pointer and length describe the vector's initialised elements.
        let done = unsafe { check(libc::poll(self.entries.as_mut_ptr(), self.entries.len() as libc::nfds_t, ms)) };
        match done {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.entries.iter_mut().for_each(|e| e.revents = 0);
                Ok(())
            }
            other => other.map(drop),
        }
    }

    /// What happened at the place `at`.
    pub fn result(&self, at: usize) -> Poll {
        let events = self.entries.get(at).map_or(0, |e| e.revents);
        let failed = events & (libc::POLLERR | libc::POLLNVAL) != 0;
        let hangup = events & libc::POLLHUP != 0;
        Poll { read: events & libc::POLLIN != 0 || failed, write: events & libc::POLLOUT != 0 || failed, hangup }
    }
}

/// Asks for SIGIO when the state of `fd` changes. A virtio-console port sends it when the host opens or closes its end
/// (Linux drivers/char/virtio_console.c, `send_sigio_to_port`), which `poll` alone cannot wait for.
///
/// # Errors
/// The error of `fcntl`.
pub fn request_sigio(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: these commands take and return plain integers, and `fd` is open for the whole call.
    unsafe {
        check(libc::fcntl(fd, libc::F_SETOWN, libc::getpid()))?;
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_ASYNC))?;
    }
    Ok(())
}
