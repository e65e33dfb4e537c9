//! The pre-decoded instruction: a handler and the operands it needs, ready to run.

use std::sync::Arc;

use visor_fpu::FpuOp;

use crate::cpu::Cpu;

/// Executes one instruction. `op.off + op.len` bytes after the block's start lies the next one; `cpu.rip` is *not* kept up to
/// date inside a block, so a handler that needs it uses [`Op::rip`] or [`Op::next_rip`].
pub type Handler = fn(&mut Cpu, &Op) -> Flow;

/// What the run loop does after a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[must_use]
pub enum Flow {
    /// Go on with the next instruction of the block.
    Next,
    /// The instruction ends the block and has set `cpu.rip`.
    End,
    /// `cpu.fault` holds an exception; guest-visible state is as before the instruction (faults), or as the exception
    /// class demands. The run loop sets `cpu.rip` to this instruction (to the next one for traps) and delivers it.
    Fault,
    /// A repeated string instruction has more to do: interrupts are looked at, then the same instruction runs again.
    Again,
}

/// Marks the place of a failed access: the exception is in `cpu.fault`.
#[derive(Clone, Copy, Debug)]
pub struct Faulted;

/// Result of whatever can raise a guest exception.
pub type Guest<T> = Result<T, Faulted>;

/// Turns a `Guest<()>` computed by a block of code into a [`Flow`].
#[inline(always)]
pub fn flow(result: Guest<()>) -> Flow {
    match result {
        Ok(()) => Flow::Next,
        Err(Faulted) => Flow::Fault,
    }
}

/// Index into [`Cpu::gpr`] that always reads zero: an absent base or index.
pub const REG_ZERO: u8 = 16;
/// Index into [`Cpu::gpr`] of the RIP of the running block, the base of RIP-relative operands.
pub const REG_BLOCK_RIP: u8 = 17;

/// Index into [`Cpu::seg_base`] that is always zero.
pub const SEG_FLAT: u8 = 6;

/// Address arithmetic and checks of a memory operand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mem {
    /// Index into [`Cpu::gpr`].
    pub base: u8,
    /// Index into [`Cpu::gpr`].
    pub index: u8,
    /// Shift of the index, 0 to 3.
    pub scale: u8,
    /// Index into [`Cpu::seg`]; whether its base is added is the business of [`Mem::seg_base`].
    pub seg: u8,
    /// Index into [`Cpu::seg_base`]: [`SEG_FLAT`] in 64-bit mode except for FS and GS.
    pub seg_base: u8,
    /// Segment limit and rights must be checked: all modes but 64-bit.
    pub checked: bool,
    /// 64-bit addresses without segment checks: nothing but base, index, displacement and segment base is to be added.
    pub plain: bool,
    /// Ones where the effective address has bits: 16, 32 or 64 of them.
    pub mask: u64,
    /// Displacement, sign-extended. RIP-relative: relative to the block's start.
    pub disp: i64,
}

/// One pre-decoded instruction.
#[derive(Clone, Debug)]
pub struct Op {
    /// What executes it.
    pub run: Handler,
    /// Immediate operand (sign-extended as the instruction wants it), branch target relative to the block's start, or
    /// whatever else the handler keeps here.
    pub imm: u64,
    /// The memory operand.
    pub mem: Mem,
    /// First register operand as byte offset into [`Cpu::gpr`] (register × 8, plus 1 for AH, CH, DH, BH).
    pub r0: u8,
    /// Second register operand, likewise.
    pub r1: u8,
    /// Third register operand, or any small number.
    pub r2: u8,
    /// Instruction length in bytes, 1 to 15.
    pub len: u8,
    /// Offset of the instruction from the block's start, in bytes.
    pub off: u16,
    /// LOCK prefix (or XCHG with memory).
    pub lock: bool,
    /// Handler-specific.
    pub aux: u8,
    /// The instruction as the floating-point unit prepared it, where it is one of its own.
    pub fpu: Option<Arc<FpuOp>>,
}

impl Op {
    /// The RIP of this instruction.
    #[inline(always)]
    pub fn rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[REG_BLOCK_RIP as usize].wrapping_add(u64::from(self.off)) & cpu.rip_mask
    }

    /// The RIP of the next instruction.
    #[inline(always)]
    pub fn next_rip(&self, cpu: &Cpu) -> u64 {
        cpu.gpr[REG_BLOCK_RIP as usize].wrapping_add(u64::from(self.off) + u64::from(self.len)) & cpu.rip_mask
    }
}
