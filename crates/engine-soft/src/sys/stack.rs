//! Frames on the stack, as far transfers and interrupts push and pop them.

use visor_x86::exception::Exception;
use visor_x86::paging::is_canonical;
use visor_x86::segment::Segment;

use crate::cpu::Cpu;
use crate::mmu::{Privilege, poke};
use crate::op::Guest;
use crate::sys::descriptor::SS;
use crate::sys::segment::within;

/// A stack that is pushed to before it becomes the current one. Nothing of the CPU changes until the caller commits.
pub(super) struct NewStack {
    /// The stack segment; its base and limit do not count if `flat`.
    pub(super) ss: Segment,
    /// The stack pointer.
    pub(super) rsp: u64,
    /// Ones where it has bits.
    pub(super) mask: u64,
    /// 64-bit mode: no base, no limit, canonical addresses.
    pub(super) flat: bool,
    /// Rights of the pushes.
    pub(super) who: Privilege,
    /// Error code of the #SS for a push beyond the limit.
    pub(super) error: u32,
}

impl NewStack {
    /// Pushes `value`, `size` bytes.
    pub(super) fn push(&mut self, cpu: &mut Cpu, size: u8, value: u64) -> Guest<()> {
        let rsp = self.rsp.wrapping_sub(u64::from(size)) & self.mask;
        let lin = self.linear(cpu, rsp, u64::from(size))?;
        cpu.store_as(lin, size, value, self.who)?;
        self.rsp = rsp;
        Ok(())
    }

    /// Pushes `values` in order.
    pub(super) fn push_all(&mut self, cpu: &mut Cpu, size: u8, values: &[u64]) -> Guest<()> {
        values.iter().try_for_each(|v| self.push(cpu, size, *v))
    }

    fn linear(&self, cpu: &mut Cpu, rsp: u64, size: u64) -> Guest<u64> {
        if self.flat {
            if !is_canonical(rsp) || !is_canonical(rsp.wrapping_add(size - 1)) {
                return cpu.fail(Exception::ss(self.error));
            }
            return Ok(rsp);
        }
        if !within(&self.ss, rsp, size) {
            return cpu.fail(Exception::ss(self.error));
        }
        Ok(self.ss.base.wrapping_add(rsp) & 0xffff_ffff)
    }
}

impl Cpu {
    /// The current stack, to push to; limit violations give #SS with `error`.
    pub(super) fn current_stack(&self, error: u32) -> NewStack {
        NewStack {
            ss: self.seg[SS],
            rsp: self.gpr[4] & self.stack_mask,
            mask: self.stack_mask,
            flat: self.is_64(),
            who: self.rights_of(self.cpl),
            error,
        }
    }

    /// Reads `N` values of `size` bytes from the top of the current stack, `skip` bytes in, without moving the pointer.
    pub(super) fn peek_stack<const N: usize>(&mut self, skip: u64, size: u8) -> Guest<[u64; N]> {
        let mut values = [0; N];
        let mut rsp = self.gpr[4].wrapping_add(skip);
        for v in &mut values {
            let lin = self.stack_linear(rsp & self.stack_mask, u64::from(size), false)?;
            *v = self.read_sized(lin, SS as u8, size)?;
            rsp = rsp.wrapping_add(u64::from(size));
        }
        Ok(values)
    }

    /// Moves the stack pointer up.
    pub(super) fn drop_stack(&mut self, bytes: u64) {
        self.set_sp(self.gpr[4].wrapping_add(bytes));
    }

    /// Stores `size` bytes with the rights of `who`.
    pub(super) fn store_as(&mut self, lin: u64, size: u8, value: u64, who: Privilege) -> Guest<()> {
        if let Some(host) = self.mmu.store(who).lookup(lin, u64::from(size)) {
            // SAFETY: a TLB hit is `size` bytes of writable guest RAM.
            unsafe {
                match size {
                    1 => poke(host, value as u8),
                    2 => poke(host, value as u16),
                    4 => poke(host, value as u32),
                    _ => poke(host, value),
                }
            }
            self.after_store(host, u64::from(size), None);
            return Ok(());
        }
        self.store_slow(lin, &value.to_le_bytes()[..usize::from(size.min(8))], who, None)
    }

    /// A linear address after arithmetic: 32 bits outside 64-bit mode.
    pub(crate) fn wrap(&self, lin: u64) -> u64 {
        if self.is_64() { lin } else { lin & 0xffff_ffff }
    }
}
