//! The two paths of handlers with memory operands.
//!
//! Such a handler is written once, over a constant `FAST`. Its fast instance handles what nearly every access is: a plain
//! address ([`crate::op::Mem::plain`]) that hits the soft TLB. It changes nothing before it knows that it can go through with it, and
//! otherwise leaves everything to the slow instance by a jump, so that it needs no stack frame.

use std::sync::atomic::Ordering;

use crate::cpu::Cpu;
use crate::exec::int::Int;
use crate::mmu::{Word, peek, poke};
use crate::op::{Flow, Op};

/// Defines handlers: `name [generic parameters] [generic arguments] |cpu, op| { body }`, where the body is an `Option<Flow>` and
/// `FAST` tells which instance it is. `None` means "take the slow path" in the fast instance, a fault in the slow one.
macro_rules! two_paths {
    ($($(#[$doc:meta])* $name:ident [$($params:tt)*] [$($args:tt)*] |$cpu:ident, $op:ident| $body:block)*) => {$(
        $(#[$doc])*
        pub(crate) fn $name<$($params)*>(cpu: &mut crate::cpu::Cpu, op: &crate::op::Op) -> crate::op::Flow {
            #[inline(always)]
            fn body<const FAST: bool, $($params)*>(
                $cpu: &mut crate::cpu::Cpu,
                $op: &crate::op::Op,
            ) -> Option<crate::op::Flow> {
                $body
            }
            #[inline(never)]
            fn slow<$($params)*>(cpu: &mut crate::cpu::Cpu, op: &crate::op::Op) -> crate::op::Flow {
                body::<false, $($args)*>(cpu, op).unwrap_or(crate::op::Flow::Fault)
            }
            match body::<true, $($args)*>(cpu, op) {
                Some(flow) => flow,
                None => slow::<$($args)*>(cpu, op),
            }
        }
    )*};
}
pub(super) use two_paths;

/// What is left to do after a store: look whether it hit code.
pub(crate) struct Stored(*mut u8);

impl Cpu {
    /// Linear address of a plain memory operand.
    #[inline(always)]
    fn plain_linear(&self, op: &Op) -> Option<u64> {
        let m = &op.mem;
        if !m.plain {
            return None;
        }
        debug_assert!(usize::from(m.base.max(m.index)) < self.gpr.len());
        debug_assert!(usize::from(m.seg_base) < self.seg_base.len());
        // SAFETY: the decoder makes indices within these arrays only.
        unsafe {
            let base = *self.gpr.get_unchecked(usize::from(m.base));
            let index = *self.gpr.get_unchecked(usize::from(m.index)) << m.scale;
            let segment = *self.seg_base.get_unchecked(usize::from(m.seg_base));
            Some(base.wrapping_add(index).wrapping_add(m.disp as u64).wrapping_add(segment))
        }
    }

    /// Host address of `size` bytes at `lin`, from the TLB of loads.
    #[inline(always)]
    fn load_host(&self, lin: u64, size: u64) -> Option<*mut u8> {
        self.mmu.load(self.mmu.privilege).lookup(lin, size)
    }

    /// Host address of `size` bytes at `lin`, from the TLB of stores.
    #[inline(always)]
    fn store_host(&self, lin: u64, size: u64) -> Option<*mut u8> {
        self.mmu.store(self.mmu.privilege).lookup(lin, size)
    }

    /// Loads the memory operand.
    #[inline(always)]
    pub(crate) fn operand<T: Word, const FAST: bool>(&mut self, op: &Op) -> Option<T> {
        if !FAST {
            return self.load(op).ok();
        }
        let host = self.load_host(self.plain_linear(op)?, T::SIZE)?;
        // SAFETY: a TLB hit is `SIZE` bytes of guest RAM.
        Some(unsafe { peek(host) })
    }

    /// Stores to the memory operand, as the last thing the instruction does.
    #[inline(always)]
    pub(crate) fn put_operand<T: Word, const FAST: bool>(&mut self, op: &Op, value: T) -> Option<Flow> {
        if !FAST {
            return self.store(op, value).ok().map(|()| Flow::Next);
        }
        let host = self.store_host(self.plain_linear(op)?, T::SIZE)?;
        // SAFETY: a TLB hit is `SIZE` bytes of writable guest RAM.
        unsafe { poke(host, value) };
        Some(self.stored::<T>(op, Stored(host), Flow::Next))
    }

    /// Replaces the memory operand as [`Cpu::modify`] does, as the last thing the instruction does but for `then`, which is given
    /// the old value.
    #[inline(always)]
    pub(crate) fn modify_operand<T: Int, const LOCK: bool, const FAST: bool>(
        &mut self,
        op: &Op,
        f: impl Fn(T, u64) -> (T, u64),
        then: impl FnOnce(&mut Cpu, T),
    ) -> Option<Flow> {
        if !FAST {
            let old = self.modify::<T, LOCK>(op, f).ok()?;
            then(self, old);
            return Some(Flow::Next);
        }
        let host = self.store_host(self.plain_linear(op)?, T::SIZE)?;
        // SAFETY: a TLB hit is `SIZE` bytes of writable guest RAM.
        let (old, status) = unsafe { super::modify::replace::<T, LOCK>(host, self.status, f) };
        self.status = status;
        then(self, old);
        Some(self.stored::<T>(op, Stored(host), Flow::Next))
    }

    /// Pushes in 64-bit mode if FAST, anywhere otherwise. [`Cpu::stored`] must follow in the first case.
    #[inline(always)]
    pub(crate) fn push_operand<T: Int, const FAST: bool>(&mut self, op: &Op, value: T) -> Option<Option<Stored>> {
        if !FAST {
            return self.push_by(value, Some(op)).ok().map(|()| None);
        }
        if T::SIZE != 8 {
            return None;
        }
        let sp = self.gpr[4].wrapping_sub(T::SIZE);
        let host = self.store_host(sp, T::SIZE)?;
        // SAFETY: a TLB hit is `SIZE` bytes of writable guest RAM.
        unsafe { poke(host, value) };
        self.gpr[4] = sp;
        Some(Some(Stored(host)))
    }

    /// The value on top of the stack, in 64-bit mode if FAST.
    #[inline(always)]
    pub(crate) fn top_of_stack<T: Int, const FAST: bool>(&mut self) -> Option<T> {
        if !FAST {
            return self.stack_read(0).ok();
        }
        if T::SIZE != 8 {
            return None;
        }
        let host = self.load_host(self.gpr[4], T::SIZE)?;
        // SAFETY: a TLB hit is `SIZE` bytes of guest RAM.
        Some(unsafe { peek(host) })
    }

    /// Drops `n` bytes from the stack, in 64-bit mode if FAST.
    #[inline(always)]
    pub(crate) fn drop_from_stack<const FAST: bool>(&mut self, n: u64) {
        if FAST {
            self.gpr[4] = self.gpr[4].wrapping_add(n);
        } else {
            self.stack_add(n);
        }
    }

    /// Looks whether a store of a `T` hit code, and goes on as `flow` says.
    #[inline(always)]
    pub(crate) fn stored<T: Word>(&mut self, op: &Op, at: Stored, flow: Flow) -> Flow {
        let frame = (at.0 as u64).wrapping_sub(self.mmu.ram_base) >> 12;
        // SAFETY: the address is in guest RAM, so `frame` is one of its frames, each of which has a mark.
        if unsafe { (*self.mmu.code_marks.add(frame as usize)).load(Ordering::Relaxed) } != 0 {
            return hit_code::<T>(self, op, at, flow);
        }
        flow
    }
}

#[cold]
#[inline(never)]
fn hit_code<T: Word>(cpu: &mut Cpu, op: &Op, at: Stored, flow: Flow) -> Flow {
    cpu.after_store(at.0, T::SIZE, Some(op));
    flow
}
