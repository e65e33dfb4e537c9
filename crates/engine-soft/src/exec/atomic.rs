//! XADD, CMPXCHG, CMPXCHG8B and CMPXCHG16B.

use std::arch::asm;

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::exec::int::{Int, ZF};
use crate::op::{Faulted, Flow, Guest, Op};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;

/// `xadd reg, reg`: with the same register twice the sum stays.
pub(crate) fn xadd_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.reg::<T>(op.r0);
    let (sum, status) = T::add(a, cpu.reg::<T>(op.r1));
    cpu.set_reg(op.r1, a);
    cpu.set_reg(op.r0, sum);
    cpu.status = status;
    Flow::Next
}

/// `xadd [mem], reg`.
pub(crate) fn xadd_mr<T: Int, const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.reg::<T>(op.r0);
    match cpu.modify::<T, LOCK>(op, |a, _| T::add(a, b)) {
        Ok(old) => {
            cpu.set_reg(op.r0, old);
            Flow::Next
        }
        Err(Faulted) => Flow::Fault,
    }
}

/// `cmpxchg reg, reg`.
pub(crate) fn cmpxchg_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let old = cpu.reg::<T>(op.r0);
    let acc = cpu.reg::<T>(0);
    cpu.status = T::sub(acc, old).1;
    if old == acc {
        let new = cpu.reg::<T>(op.r1);
        cpu.set_reg(op.r0, new);
    } else {
        cpu.set_reg(0, old);
    }
    Flow::Next
}

/// `cmpxchg [mem], reg`: without a match the old value is written back, as processors do.
pub(crate) fn cmpxchg_mr<T: Int, const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let acc = cpu.reg::<T>(0);
    let new = cpu.reg::<T>(op.r0);
    match cpu.modify::<T, LOCK>(op, |old, _| (if old == acc { new } else { old }, T::sub(acc, old).1)) {
        Ok(old) => {
            if old != acc {
                cpu.set_reg(0, old);
            }
            Flow::Next
        }
        Err(Faulted) => Flow::Fault,
    }
}

/// `hi:lo` of two 32-bit registers.
#[inline(always)]
fn pair(cpu: &Cpu, hi: usize, lo: usize) -> u64 {
    (cpu.gpr[hi] << 32) | (cpu.gpr[lo] & 0xffff_ffff)
}

/// CMPXCHG8B.
pub(crate) fn cmpxchg8b<const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let expected = pair(cpu, RDX, RAX);
    let new = pair(cpu, RCX, RBX);
    let compare = |old: u64, s: u64| if old == expected { (new, s | ZF) } else { (old, s & !ZF) };
    match cpu.modify::<u64, LOCK>(op, compare) {
        Ok(old) => {
            if old != expected {
                cpu.gpr[RAX] = old & 0xffff_ffff;
                cpu.gpr[RDX] = old >> 32;
            }
            Flow::Next
        }
        Err(Faulted) => Flow::Fault,
    }
}

/// CMPXCHG16B, always locked: #GP for an operand that is not aligned, so it never crosses a page.
pub(crate) fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Flow {
    let wide = |cpu: &Cpu, hi: usize, lo: usize| (u128::from(cpu.gpr[hi]) << 64) | u128::from(cpu.gpr[lo]);
    let expected = wide(cpu, RDX, RAX);
    let new = wide(cpu, RCX, RBX);
    let Ok(old) = exchange_16(cpu, op, expected, new) else { return Flow::Fault };
    if old == expected {
        cpu.status |= ZF;
    } else {
        cpu.status &= !ZF;
        cpu.gpr[RAX] = old as u64;
        cpu.gpr[RDX] = (old >> 64) as u64;
    }
    Flow::Next
}

fn exchange_16(cpu: &mut Cpu, op: &Op, expected: u128, new: u128) -> Guest<u128> {
    let lin = cpu.linear(op, 16, true)?;
    cpu.check_canonical(lin, 16, op.mem.seg)?;
    if lin % 16 != 0 {
        return cpu.fail(Exception::gp(0));
    }
    let who = cpu.mmu.privilege;
    let Some(host) = cpu.rmw_host(lin, 16, who)? else {
        let fabric = cpu.fabric.clone();
        let _guard = fabric.lock_bus();
        let old = cpu.read::<u128>(lin, op.mem.seg)?;
        cpu.write(lin, op.mem.seg, if old == expected { new } else { old }, Some(op))?;
        return Ok(old);
    };
    // SAFETY: 16 aligned bytes of writable guest RAM; the decoder has found CMPXCHG16B on this host.
    let old = unsafe { cas_16(host, expected, new) };
    cpu.after_store(host, 16, Some(op));
    Ok(old)
}

/// Replaces 16 bytes at `host` by `new` if they are `expected`, atomically, and returns what was there.
///
/// # Safety
/// `host` is 16 aligned bytes of mapped, writable guest RAM, and the host has CMPXCHG16B.
unsafe fn cas_16(host: *mut u8, expected: u128, new: u128) -> u128 {
    let (lo, hi): (u64, u64);
    // SAFETY: as the caller promises; RBX, which the compiler keeps for itself, is put back.
    unsafe {
        asm!("xchg rsi, rbx", "lock cmpxchg16b [rdi]", "mov rbx, rsi",
            in("rdi") host, inout("rsi") new as u64 => _, in("rcx") (new >> 64) as u64,
            inout("rax") expected as u64 => lo, inout("rdx") (expected >> 64) as u64 => hi, options(nostack));
    }
    u128::from(hi) << 64 | u128::from(lo)
}
