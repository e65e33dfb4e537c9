//! Waking the main thread from callbacks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes the main thread out of its poll; clones wake the same one. Callable from any thread, under any lock.
#[derive(Clone, Debug)]
pub(super) struct Wake(Arc<EventFd>);

impl Wake {
    pub(super) fn new() -> anyhow::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Wake(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Makes the current or the next wait end.
    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the thread is being woken anyway.
        let _ = self.0.write(1);
    }

    /// Forgets wakes until now. To be called before looking for what happened, never after.
    pub(super) fn forget(&self) {
        let _ = self.0.read();
    }

    /// For poll, and for whoever needs a copy.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// A descriptor of its own that wakes the same thread when 8 bytes are written to it.
    pub(super) fn descriptor(&self) -> anyhow::Result<OwnedFd> {
        Ok(self.fd().try_clone_to_owned()?)
    }
}
