//! Near branches: JMP, Jcc, CALL, RET, LOOP and JCXZ.
//!
//! Relative targets are kept relative to the block's start. 66h-prefixed near branches in 64-bit mode keep their 64-bit operand
//! size, as on Intel processors (AMD's truncate RIP to 16 bits). A target beyond the CS limit or not canonical
//! raises #GP on the branch itself.

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::exec::fast::two_paths;
use crate::exec::int::{CF, Int, OF, PF, SF, ZF};
use crate::op::{Flow, Guest, Op, REG_BLOCK_RIP};

/// Whether condition `CC` (SDM 2 table B-10) holds under the flags.
#[inline(always)]
pub(crate) fn holds<const CC: u8>(s: u64) -> bool {
    let less = ((s >> 7) ^ (s >> 11)) & 1 != 0;
    let yes = match CC >> 1 {
        0 => s & OF != 0,
        1 => s & CF != 0,
        2 => s & ZF != 0,
        3 => s & (CF | ZF) != 0,
        4 => s & SF != 0,
        5 => s & PF != 0,
        6 => less,
        _ => less || s & ZF != 0,
    };
    yes != (CC & 1 != 0)
}

/// Ones where an instruction pointer of `T`'s size has bits.
#[inline(always)]
fn mask<T: Int>() -> u64 {
    u64::MAX >> (64 - T::BITS)
}

/// A near branch may go to `target`: it is canonical, or outside 64-bit mode below the CS limit.
#[inline(always)]
fn is_valid_target<T: Int>(cpu: &Cpu, target: u64) -> bool {
    if T::SIZE == 8 { (target as i64) << 16 >> 16 == target as i64 } else { target <= u64::from(cpu.seg[1].limit) }
}

#[inline(always)]
fn check_target<T: Int>(cpu: &mut Cpu, target: u64) -> Guest<()> {
    if is_valid_target::<T>(cpu, target) { Ok(()) } else { cpu.fail(Exception::gp(0)) }
}

/// Target of a relative branch with operand size `T`.
#[inline(always)]
fn relative<T: Int>(cpu: &Cpu, op: &Op) -> u64 {
    cpu.gpr[usize::from(REG_BLOCK_RIP)].wrapping_add(op.imm) & mask::<T>()
}

#[inline(always)]
fn go<T: Int>(cpu: &mut Cpu, target: u64) -> Flow {
    if check_target::<T>(cpu, target).is_err() {
        return Flow::Fault;
    }
    cpu.rip = target;
    Flow::End
}

/// `jmp rel`.
pub(crate) fn jmp<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = relative::<T>(cpu, op);
    go::<T>(cpu, target)
}

/// `jmp reg`.
pub(crate) fn jmp_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.reg::<T>(op.r0).to_u64();
    go::<T>(cpu, target)
}

/// `jcc rel`.
pub(crate) fn jcc<T: Int, const CC: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    branch_if::<T>(cpu, op, holds::<CC>(cpu.status))
}

#[inline(always)]
fn branch_if<T: Int>(cpu: &mut Cpu, op: &Op, taken: bool) -> Flow {
    if taken {
        let target = relative::<T>(cpu, op);
        return go::<T>(cpu, target);
    }
    cpu.rip = op.next_rip(cpu);
    Flow::End
}

/// JCXZ, JECXZ, JRCXZ: the address size decides which counter, as `mem.mask`.
pub(crate) fn jcxz<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let taken = cpu.gpr[1] & op.mem.mask == 0;
    branch_if::<T>(cpu, op, taken)
}

/// LOOP (`KIND` 0), LOOPE (1), LOOPNE (2); the counter as in [`jcxz`].
pub(crate) fn looping<T: Int, const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Flow {
    let old = cpu.gpr[1];
    let count = old.wrapping_sub(1) & op.mem.mask;
    let zero = cpu.status & ZF != 0;
    let taken = count != 0 && (KIND == 0 || (KIND == 1) == zero);
    let flow = branch_if::<T>(cpu, op, taken);
    if flow != Flow::Fault {
        cpu.gpr[1] = if op.mem.mask == 0xffff { (old & !0xffff) | count } else { count };
    }
    flow
}

#[inline(always)]
fn call_to<T: Int, const FAST: bool>(cpu: &mut Cpu, op: &Op, target: u64) -> Option<Flow> {
    let back = T::from_u64(op.next_rip(cpu));
    if FAST && !is_valid_target::<T>(cpu, target) {
        return None;
    }
    check_target::<T>(cpu, target).ok()?;
    let stored = cpu.push_operand::<T, FAST>(op, back)?;
    cpu.rip = target;
    match stored {
        Some(stored) => Some(cpu.stored::<T>(op, stored, Flow::End)),
        None => Some(Flow::End),
    }
}

two_paths! {
    /// `jmp [mem]`.
    jmp_m [T: Int] [T] |cpu, op| {
        let target = cpu.operand::<T, FAST>(op)?.to_u64();
        jump::<T, FAST>(cpu, target)
    }

    /// `call rel`.
    call [T: Int] [T] |cpu, op| {
        let target = relative::<T>(cpu, op);
        call_to::<T, FAST>(cpu, op, target)
    }

    /// `call reg`.
    call_r [T: Int] [T] |cpu, op| {
        let target = cpu.reg::<T>(op.r0).to_u64();
        call_to::<T, FAST>(cpu, op, target)
    }

    /// `call [mem]`.
    call_m [T: Int] [T] |cpu, op| {
        let target = cpu.operand::<T, FAST>(op)?.to_u64();
        call_to::<T, FAST>(cpu, op, target)
    }

    /// RET, releasing `imm` bytes of arguments.
    ret [T: Int] [T] |cpu, op| {
        let target = cpu.top_of_stack::<T, FAST>()?.to_u64();
        let flow = jump::<T, FAST>(cpu, target)?;
        cpu.drop_from_stack::<FAST>(T::SIZE + op.imm);
        Some(flow)
    }
}

/// Goes to `target`, unless it is bad.
#[inline(always)]
fn jump<T: Int, const FAST: bool>(cpu: &mut Cpu, target: u64) -> Option<Flow> {
    if FAST && !is_valid_target::<T>(cpu, target) {
        return None;
    }
    check_target::<T>(cpu, target).ok()?;
    cpu.rip = target;
    Some(Flow::End)
}
