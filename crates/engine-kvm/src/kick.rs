//! Getting a vCPU thread out of KVM_RUN from another thread.
//!
//! The kicker sets a flag and `immediate_exit` in the shared `kvm_run` page, then signals the thread: whether the signal comes
//! before, in or after KVM_RUN, the call does not (again) enter the guest.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// The signal that interrupts KVM_RUN; its handler does nothing.
fn signal() -> i32 {
    libc::SIGRTMIN() + 1
}

/// A vCPU as other threads reach it.
#[derive(Debug)]
pub(crate) struct Kick {
    /// Somebody wants `run` to return.
    pub(crate) stop: AtomicBool,
    /// Level of the 8259's INTR line.
    pub(crate) intr: AtomicBool,
    /// An NMI waits.
    pub(crate) nmi: AtomicBool,
    /// The thread inside `run`, or 0.
    thread: AtomicU64,
    /// `immediate_exit` of the vCPU's `kvm_run` page.
    immediate_exit: *const AtomicU8,
}

// SAFETY: the page that `immediate_exit` points into is mapped as long as the vCPU lives.
unsafe impl Send for Kick {}
// SAFETY: as above; the byte is only accessed as an atomic from here.
unsafe impl Sync for Kick {}

impl Kick {
    /// A kick for the vCPU whose `kvm_run` page has `immediate_exit` at the given address.
    ///
    /// # Safety
    /// The page outlives every use of the value between [`Kick::enter`] and [`Kick::leave`].
    pub(crate) unsafe fn new(immediate_exit: *mut u8) -> Self {
        Kick {
            stop: AtomicBool::new(false),
            intr: AtomicBool::new(false),
            nmi: AtomicBool::new(false),
            thread: AtomicU64::new(0),
            immediate_exit: immediate_exit.cast::<AtomicU8>(),
        }
    }

    /// Sets the level of the INTR line; a rise gets the vCPU's attention.
    pub(crate) fn set_intr(&self, level: bool) {
        if !self.intr.swap(level, Ordering::SeqCst) && level {
            self.interrupt();
        }
    }

    /// Raises an NMI.
    pub(crate) fn nmi(&self) {
        self.nmi.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// The calling thread is about to run the vCPU.
    pub(crate) fn enter(&self) {
        // SAFETY: pthread_self has no preconditions.
        self.thread.store(unsafe { libc::pthread_self() } as u64, Ordering::SeqCst);
    }

    /// The calling thread has stopped running the vCPU.
    pub(crate) fn leave(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }

    /// Forgets a request to leave KVM_RUN; to be followed by a look at the flags.
    pub(crate) fn rearm(&self) {
        // SAFETY: called by the vCPU's own thread, so the page is mapped.
        unsafe { (*self.immediate_exit).store(0, Ordering::SeqCst) };
    }

    /// Makes KVM_RUN return on the thread that runs the vCPU, if one does.
    pub(crate) fn interrupt(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: the thread is inside `run`, which holds the vCPU and so the page.
            unsafe { (*self.immediate_exit).store(1, Ordering::SeqCst) };
            // SAFETY: a thread that is inside `run` exists; the handler is installed.
            unsafe { libc::pthread_kill(thread as libc::pthread_t, signal()) };
        }
    }
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Installs the handler, once per process.
pub(crate) fn install_handler() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is valid; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(signal(), &raw const action, std::ptr::null_mut());
        }
    });
}
