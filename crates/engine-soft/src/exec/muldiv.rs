//! Multiplication and division.

use visor_x86::exception::Exception;

use crate::cpu::Cpu;
use crate::exec::int::{Int, WideInt};
use crate::op::{Flow, Op};

/// AH, and rDX, as operand offsets: where the high half of the accumulator pair lies.
#[inline(always)]
fn high<T: Int>() -> u8 {
    if T::SIZE == 1 { 1 } else { 2 * 8 }
}

#[inline(always)]
fn multiply<T: Int, const SIGNED: bool>(cpu: &mut Cpu, b: T) -> Flow {
    let a = cpu.reg::<T>(0);
    let (lo, hi, status) = if SIGNED { T::imul(a, b, cpu.status) } else { T::mul(a, b, cpu.status) };
    cpu.set_reg(0, lo);
    cpu.set_reg(high::<T>(), hi);
    cpu.status = status;
    Flow::Next
}

/// `mul reg` and `imul reg`.
pub(crate) fn mul_r<T: Int, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.reg::<T>(op.r0);
    multiply::<T, SIGNED>(cpu, b)
}

/// `mul [mem]` and `imul [mem]`.
pub(crate) fn mul_m<T: Int, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(b) = cpu.load::<T>(op) else { return Flow::Fault };
    multiply::<T, SIGNED>(cpu, b)
}

#[inline(always)]
fn truncating<T: WideInt>(cpu: &mut Cpu, op: &Op, a: T, b: T) -> Flow {
    let (v, status) = T::imul2(a, b, cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

/// `imul reg, reg`.
pub(crate) fn imul_rr<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.reg::<T>(op.r0), cpu.reg::<T>(op.r1));
    truncating(cpu, op, a, b)
}

/// `imul reg, [mem]`.
pub(crate) fn imul_rm<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(b) = cpu.load::<T>(op) else { return Flow::Fault };
    let a = cpu.reg::<T>(op.r0);
    truncating(cpu, op, a, b)
}

/// `imul reg, reg, imm`.
pub(crate) fn imul_rri<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.reg::<T>(op.r1);
    truncating(cpu, op, a, T::from_u64(op.imm))
}

/// `imul reg, [mem], imm`.
pub(crate) fn imul_rmi<T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(a) = cpu.load::<T>(op) else { return Flow::Fault };
    truncating(cpu, op, a, T::from_u64(op.imm))
}

/// Whether the unsigned quotient of `hi:lo` by `by` fits.
#[inline(always)]
fn unsigned_fits<T: Int>(hi: T, by: T) -> bool {
    hi < by
}

/// Whether the signed quotient of `hi:lo` by `by` fits: −2^(n−1) ≤ q < 2^(n−1), told from magnitudes without dividing.
#[inline(always)]
fn signed_fits<T: Int>(hi: T, lo: T, by: T) -> bool {
    let dividend = (i128::from(hi.to_i64()) << T::BITS) | i128::from(lo.to_u64());
    let divisor = i128::from(by.to_i64());
    let negative = (dividend < 0) != (divisor < 0);
    let (n, d) = (dividend.unsigned_abs(), divisor.unsigned_abs());
    d != 0 && n < (d << (T::BITS - 1)) + if negative { d } else { 0 }
}

#[inline(always)]
fn divide<T: Int, const SIGNED: bool>(cpu: &mut Cpu, by: T) -> Flow {
    let (lo, hi) = (cpu.reg::<T>(0), cpu.reg::<T>(high::<T>()));
    let fits = if SIGNED { signed_fits(hi, lo, by) } else { unsigned_fits(hi, by) };
    if !fits {
        cpu.raise(Exception::DE);
        return Flow::Fault;
    }
    let (quotient, remainder, status) =
        if SIGNED { T::idiv(hi, lo, by, cpu.status) } else { T::div(hi, lo, by, cpu.status) };
    cpu.set_reg(0, quotient);
    cpu.set_reg(high::<T>(), remainder);
    cpu.status = status;
    Flow::Next
}

/// `div reg` and `idiv reg`.
pub(crate) fn div_r<T: Int, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let by = cpu.reg::<T>(op.r0);
    divide::<T, SIGNED>(cpu, by)
}

/// `div [mem]` and `idiv [mem]`.
pub(crate) fn div_m<T: Int, const SIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(by) = cpu.load::<T>(op) else { return Flow::Fault };
    divide::<T, SIGNED>(cpu, by)
}
