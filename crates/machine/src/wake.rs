//! Waking the I/O thread from elsewhere.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes the I/O thread; clones wake the same one.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<EventFd>);

impl Waker {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Waker(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)))
    }

    /// Makes the current or next wait end.
    pub(crate) fn wake(&self) {
        // It can fail only by an overflow of the counter, and then the thread is being woken anyway.
        let _ = self.0.write(1);
    }

    /// Forgets wakes until now.
    pub(crate) fn drain(&self) {
        let _ = self.0.read();
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
