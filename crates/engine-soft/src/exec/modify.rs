//! Read-modify-write of memory operands, plain and locked.

use visor_memory::PAGE;

use crate::cpu::Cpu;
use crate::exec::int::Int;
use crate::mmu::{Access, peek, poke};
use crate::op::{Guest, Op};

impl Cpu {
    /// Replaces the memory operand by what `f` makes of it and of the status flags, and returns the old value. With `LOCK`
    /// no other CPU sees or makes a change in between, and `f` may run several times.
    #[inline(always)]
    pub(crate) fn modify<T: Int, const LOCK: bool>(&mut self, op: &Op, f: impl Fn(T, u64) -> (T, u64)) -> Guest<T> {
        let lin = self.linear(op, T::SIZE, true)?;
        self.modify_at::<T, LOCK>(op, lin, f)
    }

    /// As [`Cpu::modify`], at linear address `lin`.
    #[inline(always)]
    pub(crate) fn modify_at<T: Int, const LOCK: bool>(
        &mut self,
        op: &Op,
        lin: u64,
        f: impl Fn(T, u64) -> (T, u64),
    ) -> Guest<T> {
        match self.mmu.store(self.mmu.privilege).lookup(lin, T::SIZE) {
            Some(host) => Ok(self.modify_host::<T, LOCK>(op, host, f)),
            None => self.modify_slow::<T, LOCK>(op, lin, &f),
        }
    }

    #[inline(always)]
    fn modify_host<T: Int, const LOCK: bool>(&mut self, op: &Op, host: *mut u8, f: impl Fn(T, u64) -> (T, u64)) -> T {
        // SAFETY: `host` is `SIZE` bytes of writable guest RAM.
        let (old, status) = unsafe { replace::<T, LOCK>(host, self.status, f) };
        self.status = status;
        self.after_store(host, T::SIZE, Some(op));
        old
    }

    #[cold]
    #[inline(never)]
    fn modify_slow<T: Int, const LOCK: bool>(&mut self, op: &Op, lin: u64, f: &dyn Fn(T, u64) -> (T, u64)) -> Guest<T> {
        self.check_canonical(lin, T::SIZE, op.mem.seg)?;
        if let Some(host) = self.rmw_host(lin, T::SIZE, self.mmu.privilege)? {
            return Ok(self.modify_host::<T, LOCK>(op, host, f));
        }
        let fabric = self.fabric.clone();
        let _guard = LOCK.then(|| fabric.lock_bus());
        self.probe_store(lin, T::SIZE, op.mem.seg)?;
        let old = self.read(lin, op.mem.seg)?;
        let (new, status) = f(old, self.status);
        self.write(lin, op.mem.seg, new, Some(op))?;
        self.status = status;
        Ok(old)
    }

    /// Faults as a store of `size` bytes (at most a page) at `lin` would; writes nothing.
    pub(crate) fn probe_store(&mut self, lin: u64, size: u64, seg: u8) -> Guest<()> {
        if self.mmu.store(self.mmu.privilege).lookup(lin, size).is_some() {
            return Ok(());
        }
        self.check_canonical(lin, size, seg)?;
        let who = self.mmu.privilege;
        self.check_alignment(lin, size as usize, who)?;
        self.place(lin, Access::Store, who)?;
        if lin % PAGE + size > PAGE {
            self.place((lin | (PAGE - 1)).wrapping_add(1), Access::Store, who)?;
        }
        Ok(())
    }
}

/// Replaces the value at `host` by what `f` makes of it and of `status`; with `LOCK` atomically, and `f` may run several
/// times. Returns the old value and the new status.
///
/// # Safety
/// `host` is `T::SIZE` bytes of mapped, writable guest RAM; any alignment.
#[inline(always)]
pub(super) unsafe fn replace<T: Int, const LOCK: bool>(
    host: *mut u8,
    status: u64,
    f: impl Fn(T, u64) -> (T, u64),
) -> (T, u64) {
    // SAFETY: as the caller promises.
    let mut old: T = unsafe { peek(host) };
    let (mut new, mut after) = f(old, status);
    if LOCK {
        // SAFETY: as above.
        while let Err(seen) = unsafe { T::cas(host, old, new) } {
            old = seen;
            (new, after) = f(old, status);
        }
    } else {
        // SAFETY: as above.
        unsafe { poke(host, new) };
    }
    (old, after)
}
