//! The stack: PUSH, POP and what is made of them.

use crate::cpu::Cpu;
use crate::exec::fast::two_paths;
use crate::exec::int::Int;
use crate::op::{Faulted, Flow, Guest, Op};

const RSP: usize = 4;
const RBP: usize = 5;
const SS: u8 = 2;

impl Cpu {
    /// Pops a value from the current stack, with its checks. Nothing changes on a fault.
    #[inline]
    pub(crate) fn pop<T: Int>(&mut self) -> Guest<T> {
        let v = self.stack_read::<T>(0)?;
        self.stack_add(T::SIZE);
        Ok(v)
    }

    /// Pushes `value` on the current stack, with its checks, for the instruction `op`: if it overwrites code, the block ends
    /// after it. Nothing changes on a fault.
    #[inline(always)]
    pub(crate) fn push_by<T: Int>(&mut self, value: T, op: Option<&Op>) -> Guest<()> {
        let sp = self.gpr[RSP].wrapping_sub(T::SIZE) & self.stack_mask;
        let lin = self.stack_linear(sp, T::SIZE, true)?;
        self.write(lin, SS, value, op)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Reads the value `offset` bytes above the stack pointer.
    #[inline(always)]
    pub(crate) fn stack_read<T: Int>(&mut self, offset: u64) -> Guest<T> {
        let sp = self.gpr[RSP].wrapping_add(offset) & self.stack_mask;
        let lin = self.stack_linear(sp, T::SIZE, false)?;
        self.read(lin, SS)
    }

    /// Moves the stack pointer up by `n` bytes (wrapping within its width).
    #[inline(always)]
    pub(crate) fn stack_add(&mut self, n: u64) {
        self.set_sp(self.gpr[RSP].wrapping_add(n));
    }

    /// Replaces the bits of RSP that the stack width covers. A 32-bit stack outside 64-bit mode clears the others, as any
    /// write of ESP does.
    #[inline(always)]
    pub(crate) fn set_sp(&mut self, sp: u64) {
        let mask = self.stack_mask;
        self.gpr[RSP] = if mask == 0xffff { (self.gpr[RSP] & !mask) | (sp & mask) } else { sp & mask };
    }

    /// Linear address of `size` bytes at `sp` of the stack segment.
    #[inline(always)]
    pub(crate) fn stack_linear(&mut self, sp: u64, size: u64, write: bool) -> Guest<u64> {
        if self.is_64() { Ok(sp) } else { self.checked_linear(SS, sp, size, write) }
    }
}

two_paths! {
    /// `push reg`.
    push_r [T: Int] [T] |cpu, op| {
        let v = cpu.reg::<T>(op.r0);
        push::<T, FAST>(cpu, op, v)
    }

    /// `push imm`.
    push_i [T: Int] [T] |cpu, op| {
        push::<T, FAST>(cpu, op, T::from_u64(op.imm))
    }

    /// `push [mem]`.
    push_m [T: Int] [T] |cpu, op| {
        let v = cpu.operand::<T, FAST>(op)?;
        push::<T, FAST>(cpu, op, v)
    }

    /// `pop reg`; POP rSP ends with the popped value.
    pop_r [T: Int] [T] |cpu, op| {
        let v = cpu.top_of_stack::<T, FAST>()?;
        cpu.drop_from_stack::<FAST>(T::SIZE);
        cpu.set_reg(op.r0, v);
        Some(Flow::Next)
    }
}

#[inline(always)]
fn push<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op, value: T) -> Option<Flow> {
    match cpu.push_operand::<T, FAST>(op, value)? {
        Some(stored) => Some(cpu.stored::<T>(op, stored, Flow::Next)),
        None => Some(Flow::Next),
    }
}

/// `pop [mem]`: an address made from rSP uses the incremented value (SDM 2B, POP).
pub(crate) fn pop_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(v) = cpu.stack_read::<T>(0) else { return Flow::Fault };
    let before = cpu.gpr[RSP];
    cpu.stack_add(T::SIZE);
    if cpu.store(op, v).is_err() {
        cpu.gpr[RSP] = before;
        return Flow::Fault;
    }
    Flow::Next
}

/// PUSHA: everything is checked before anything is written, so that a fault leaves memory alone.
pub(crate) fn pusha<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let before = cpu.gpr[RSP];
    let mut probe = || -> Guest<()> {
        for i in 1..=8 {
            let sp = before.wrapping_sub(i * T::SIZE) & cpu.stack_mask;
            let lin = cpu.stack_linear(sp, T::SIZE, true)?;
            cpu.probe_store(lin, T::SIZE, SS)?;
        }
        Ok(())
    };
    if probe().is_err() {
        return Flow::Fault;
    }
    for r in 0..8 {
        let v = if r == RSP { T::from_u64(before) } else { cpu.reg::<T>((r * 8) as u8) };
        if cpu.push_by(v, Some(op)).is_err() {
            return Flow::Fault;
        }
    }
    Flow::Next
}

/// POPA: the saved rSP is skipped.
pub(crate) fn popa<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let mut values = [T::default(); 8];
    for (i, v) in values.iter_mut().enumerate() {
        match cpu.stack_read::<T>(i as u64 * T::SIZE) {
            Ok(read) => *v = read,
            Err(Faulted) => return Flow::Fault,
        }
    }
    cpu.stack_add(8 * T::SIZE);
    for (i, v) in values.iter().enumerate() {
        let r = 7 - i;
        if r != RSP {
            cpu.set_reg((r * 8) as u8, *v);
        }
    }
    Flow::Next
}

/// ENTER (SDM 2A): frame of `imm` bytes, nesting level in `aux`.
pub(crate) fn enter<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (sp, bp) = (cpu.gpr[RSP], cpu.gpr[RBP]);
    match enter_frame::<T>(cpu, op) {
        Ok(()) => Flow::Next,
        Err(Faulted) => {
            (cpu.gpr[RSP], cpu.gpr[RBP]) = (sp, bp);
            Flow::Fault
        }
    }
}

fn enter_frame<T: Int>(cpu: &mut Cpu, op: &Op) -> Guest<()> {
    let level = op.aux & 31;
    let mut bp = cpu.gpr[RBP];
    cpu.push_by(T::from_u64(bp), Some(op))?;
    let frame = cpu.gpr[RSP];
    if level > 0 {
        for _ in 1..level {
            bp = bp.wrapping_sub(T::SIZE);
            let lin = cpu.stack_linear(bp & cpu.stack_mask, T::SIZE, false)?;
            let v = cpu.read::<T>(lin, SS)?;
            cpu.push_by(v, Some(op))?;
        }
        cpu.push_by(T::from_u64(frame), Some(op))?;
    }
    let sp = cpu.gpr[RSP].wrapping_sub(op.imm) & cpu.stack_mask;
    // The new top of the stack must be writable (SDM 2A, ENTER).
    let lin = cpu.stack_linear(sp, T::SIZE, true)?;
    cpu.probe_store(lin, T::SIZE, SS)?;
    cpu.set_sp(sp);
    cpu.set_reg(RBP as u8 * 8, T::from_u64(frame));
    Ok(())
}

/// LEAVE.
pub(crate) fn leave<T: Int>(cpu: &mut Cpu, _op: &Op) -> Flow {
    let before = cpu.gpr[RSP];
    cpu.set_sp(cpu.gpr[RBP]);
    match cpu.pop::<T>() {
        Ok(v) => {
            cpu.set_reg(RBP as u8 * 8, v);
            Flow::Next
        }
        Err(Faulted) => {
            cpu.gpr[RSP] = before;
            Flow::Fault
        }
    }
}
