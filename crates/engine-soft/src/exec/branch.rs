//! Near branches: JMP, Jcc, CALL, RET, LOOP and JCXZ.
//!
//! Relative targets are kept relative to the block's start. 66h-prefixed near branches in 64-bit mode keep their 64-bit operand
//! size, as on Intel processors (AMD's truncate RIP to 16 bits). A target beyond the CS limit or not canonical
//! raises #GP on the branch itself.

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
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

/// Checks a target outside 64-bit mode, where a block's code lies below the CS limit but a target may not.
#[inline(always)]
fn check_target<T: Int>(cpu: &mut Cpu, target: u64) -> Guest<()> {
    let ok = if T::SIZE == 8 {
        (target as i64) << 16 >> 16 == target as i64
    } else {
        target <= u64::from(cpu.seg[1].limit) || cpu.is_64()
    };
    if ok { Ok(()) } else { cpu.fail(Exception::gp(0)) }
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

/// `jmp [mem]`.
pub(crate) fn jmp_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(target) = cpu.load::<T>(op) else { return Flow::Fault };
    go::<T>(cpu, target.to_u64())
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
fn call_to<T: Int>(cpu: &mut Cpu, op: &Op, target: u64) -> Flow {
    let back = T::from_u64(op.next_rip(cpu));
    if check_target::<T>(cpu, target).is_err() || cpu.push_by(back, Some(op)).is_err() {
        return Flow::Fault;
    }
    cpu.rip = target;
    Flow::End
}

/// `call rel`.
pub(crate) fn call<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = relative::<T>(cpu, op);
    call_to::<T>(cpu, op, target)
}

/// `call reg`.
pub(crate) fn call_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let target = cpu.reg::<T>(op.r0).to_u64();
    call_to::<T>(cpu, op, target)
}

/// `call [mem]`.
pub(crate) fn call_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(target) = cpu.load::<T>(op) else { return Flow::Fault };
    call_to::<T>(cpu, op, target.to_u64())
}

/// RET, releasing `imm` bytes of arguments.
pub(crate) fn ret<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(target) = cpu.stack_read::<T>(0) else { return Flow::Fault };
    let target = target.to_u64();
    if check_target::<T>(cpu, target).is_err() {
        return Flow::Fault;
    }
    cpu.stack_add(T::SIZE + op.imm);
    cpu.rip = target;
    Flow::End
}
