//! The memory that parent and child share: a batch of cases, their outcomes, and the words that say whose turn it is.

use crate::case::{Case, Outcome};
use std::io;
use std::sync::atomic::AtomicU32;

/// Cases in one batch.
pub(super) const SLOTS: usize = 256;

#[repr(C)]
struct Slots {
    cases: [Case; SLOTS],
    outcomes: [Outcome; SLOTS],
}

/// A view of the shared memory. It is never unmapped: at most a few exist in a process.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Shared {
    /// Batches handed to the child; a futex.
    pub(super) submitted: AtomicU32,
    /// Batches it finished; a futex.
    pub(super) completed: AtomicU32,
    /// First slot to run, not 0 after a child was replaced in the middle of a batch.
    pub(super) first: AtomicU32,
    /// End of the slots to run.
    pub(super) count: AtomicU32,
    /// The slot being run.
    pub(super) progress: AtomicU32,
}

const SLOTS_AT: usize = 4096;

impl Shared {
    /// Maps shared memory that a forked child inherits.
    pub(super) fn map() -> io::Result<&'static Shared> {
        let len = SLOTS_AT + size_of::<Slots>();
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping; all-zero bytes are valid atomics, and never unmapped.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            Ok(&*at.cast::<Shared>())
        }
    }

    fn slots(&self) -> *mut Slots {
        // SAFETY: `map` reserved the slots at this offset of the same mapping.
        unsafe { std::ptr::from_ref(self).cast_mut().cast::<u8>().add(SLOTS_AT).cast() }
    }

    /// Slot `i` (taken modulo [`SLOTS`]) of the cases.
    pub(super) fn case(&self, i: usize) -> *mut Case {
        // SAFETY: in bounds of the array.
        unsafe { (&raw mut (*self.slots()).cases).cast::<Case>().add(i % SLOTS) }
    }

    /// Slot `i` (taken modulo [`SLOTS`]) of the outcomes.
    pub(super) fn outcome(&self, i: usize) -> *mut Outcome {
        // SAFETY: in bounds of the array.
        unsafe { (&raw mut (*self.slots()).outcomes).cast::<Outcome>().add(i % SLOTS) }
    }
}
