//! The owner of generated code: deduplicates thunks and reclaims unused ones.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::arena::{Arena, Slot};
use crate::state::FpuState;

/// Number of thunks before unused ones are looked for.
const SWEEP_AT: usize = 1 << 15;

/// Thunk memory shared by all vCPUs. Code is written through one mapping and executed through
/// another, so that no address is ever both writable and executable. Memory use is bounded by
/// the number of live [`crate::FpuOp`]s: thunks no operation uses are reclaimed.
pub struct FpuUnit {
    inner: Mutex<Inner>,
}

struct Inner {
    arena: Arena,
    thunks: HashMap<Box<[u8]>, Arc<Thunk>>,
    sweep_at: usize,
}

/// One piece of host code, kept alive by the operations that use it.
pub(crate) struct Thunk {
    function: ThunkFn,
    slot: Slot,
}

/// `(state, operand buffer, general-purpose registers, RFLAGS)`; returns captured flags for
/// instructions that define them (see [`crate::op::merge_flags`]).
pub(crate) type ThunkFn = unsafe extern "sysv64" fn(*mut FpuState, *mut u8, *mut [u64; 16], u64) -> u32;

impl FpuUnit {
    /// Allocates the first chunk of code memory.
    ///
    /// # Errors
    /// When the host refuses anonymous files or executable mappings of them.
    pub fn new() -> io::Result<Self> {
        Ok(Self { inner: Mutex::new(Inner { arena: Arena::new()?, thunks: HashMap::new(), sweep_at: SWEEP_AT }) })
    }

    /// Number of distinct thunks in memory.
    pub fn thunk_count(&self) -> usize {
        self.lock().thunks.len()
    }

    /// The thunk with exactly this code, which must be a function of type [`ThunkFn`].
    pub(crate) fn thunk(&self, code: &[u8]) -> io::Result<Arc<Thunk>> {
        let mut inner = self.lock();
        if let Some(thunk) = inner.thunks.get(code) {
            return Ok(Arc::clone(thunk));
        }
        if inner.thunks.len() >= inner.sweep_at {
            inner.sweep();
        }
        let slot = inner.arena.place(code)?;
        // SAFETY: the emitter produced a complete function of this type at the entry; the slot
        // inside the thunk keeps the code mapped as long as the pointer exists.
        let function = unsafe { std::mem::transmute::<*const u8, ThunkFn>(slot.entry()) };
        let thunk = Arc::new(Thunk { function, slot });
        inner.thunks.insert(code.into(), Arc::clone(&thunk));
        Ok(thunk)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Frees thunks that only the table refers to. New references are made only under the lock,
    /// and an executing thread holds one, so nobody is inside the code that is released.
    fn sweep(&mut self) {
        let arena = &mut self.arena;
        self.thunks.retain(|_, thunk| {
            let used = Arc::strong_count(thunk) > 1;
            if !used {
                arena.release(thunk.slot.clone());
            }
            used
        });
        self.sweep_at = (self.thunks.len() * 2).max(SWEEP_AT);
    }
}

impl Thunk {
    #[inline]
    pub(crate) fn function(&self) -> ThunkFn {
        self.function
    }
}

impl fmt::Debug for FpuUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FpuUnit").field("thunks", &self.thunk_count()).finish()
    }
}

impl fmt::Debug for Thunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thunk({:p})", self.slot.entry())
    }
}
