//! Shifts and rotates.

use crate::cpu::Cpu;
use crate::exec::int::{Int, WideInt};
use crate::op::{Faulted, Flow, Op};

/// Register CL as an operand offset.
const CL: u8 = 8;

/// A shift or rotate by a count that the host masks as the guest would.
pub(crate) trait Shift {
    /// Computes.
    fn apply<T: Int>(a: T, count: u8, status: u64) -> (T, u64);
}

macro_rules! shifts {
    ($($name:ident $method:ident)*) => {$(
        /// The instruction of this name.
        pub(crate) struct $name;
        impl Shift for $name {
            #[inline(always)]
            fn apply<T: Int>(a: T, count: u8, status: u64) -> (T, u64) {
                T::$method(a, count, status)
            }
        }
    )*};
}
shifts! { Shl shl Shr shr Sar sar Rol rol Ror ror Rcl rcl Rcr rcr }

#[inline(always)]
fn register<O: Shift, T: Int>(cpu: &mut Cpu, op: &Op, count: u8) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r0), count, cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

#[inline(always)]
fn memory<O: Shift, T: Int>(cpu: &mut Cpu, op: &Op, count: u8) -> Flow {
    match cpu.modify::<T, false>(op, |a, s| O::apply(a, count, s)) {
        Ok(_) => Flow::Next,
        Err(Faulted) => Flow::Fault,
    }
}

/// `op reg, imm`.
pub(crate) fn ri<O: Shift, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    register::<O, T>(cpu, op, op.imm as u8)
}

/// `op reg, cl`.
pub(crate) fn rc<O: Shift, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = cpu.reg::<u8>(CL);
    register::<O, T>(cpu, op, count)
}

/// `op [mem], imm`.
pub(crate) fn mi<O: Shift, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    memory::<O, T>(cpu, op, op.imm as u8)
}

/// `op [mem], cl`.
pub(crate) fn mc<O: Shift, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = cpu.reg::<u8>(CL);
    memory::<O, T>(cpu, op, count)
}

#[inline(always)]
fn double<T: WideInt, const RIGHT: bool>(a: T, b: T, count: u8, status: u64) -> (T, u64) {
    if RIGHT { T::shrd(a, b, count, status) } else { T::shld(a, b, count, status) }
}

/// The count of a double shift: CL if `aux` says so, else the immediate.
#[inline(always)]
fn double_count(cpu: &Cpu, op: &Op) -> u8 {
    if op.aux != 0 { cpu.reg::<u8>(CL) } else { op.imm as u8 }
}

/// SHLD and SHRD `reg, reg, count`.
pub(crate) fn double_r<T: WideInt, const RIGHT: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = double_count(cpu, op);
    let (v, status) = double::<T, RIGHT>(cpu.reg(op.r0), cpu.reg(op.r1), count, cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

/// SHLD and SHRD `[mem], reg, count`.
pub(crate) fn double_m<T: WideInt, const RIGHT: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let count = double_count(cpu, op);
    let b = cpu.reg::<T>(op.r0);
    match cpu.modify::<T, false>(op, |a, s| double::<T, RIGHT>(a, b, count, s)) {
        Ok(_) => Flow::Next,
        Err(Faulted) => Flow::Fault,
    }
}
