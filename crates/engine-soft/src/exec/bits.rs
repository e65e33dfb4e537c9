//! Bit instructions: BT, BTS, BTR, BTC, bit scans and counts.

use crate::cpu::Cpu;
use crate::exec::int::WideInt;
use crate::op::{Faulted, Flow, Op};

/// BT, BTS, BTR or BTC.
pub(crate) trait BitTest {
    /// The operand is written.
    const WRITES: bool = true;
    /// Computes; the host masks the bit number.
    fn apply<T: WideInt>(a: T, bit: T, status: u64) -> (T, u64);
}

macro_rules! bit_tests {
    ($($name:ident $method:ident $writes:literal)*) => {$(
        /// The instruction of this name.
        pub(crate) struct $name;
        impl BitTest for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: WideInt>(a: T, bit: T, status: u64) -> (T, u64) {
                T::$method(a, bit, status)
            }
        }
    )*};
}
bit_tests! { Bt bt false Bts bts true Btr btr true Btc btc true }

#[inline(always)]
fn register<O: BitTest, T: WideInt>(cpu: &mut Cpu, op: &Op, bit: T) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r0), bit, cpu.status);
    if O::WRITES {
        cpu.set_reg(op.r0, v);
    }
    cpu.status = status;
    Flow::Next
}

/// `bt reg, reg`.
pub(crate) fn test_rr<O: BitTest, T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let bit = cpu.reg::<T>(op.r1);
    register::<O, T>(cpu, op, bit)
}

/// `bt reg, imm`.
pub(crate) fn test_ri<O: BitTest, T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    register::<O, T>(cpu, op, T::from_u64(op.imm))
}

/// `bt [mem], reg`: the bit number is signed and reaches beyond the operand (SDM 2A §3.1.1.9, figure 3-2).
pub(crate) fn test_mr<O: BitTest, T: WideInt, const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let bit = cpu.reg::<T>(op.r0);
    let units = (bit.to_i64() >> T::BITS.trailing_zeros()) as u64;
    let ea = cpu.ea(&op.mem).wrapping_add(units.wrapping_mul(T::SIZE)) & op.mem.mask;
    memory::<O, T, LOCK>(cpu, op, ea, bit)
}

/// `bt [mem], imm`: the bit number is taken modulo the operand size.
pub(crate) fn test_mi<O: BitTest, T: WideInt, const LOCK: bool>(cpu: &mut Cpu, op: &Op) -> Flow {
    let ea = cpu.ea(&op.mem);
    memory::<O, T, LOCK>(cpu, op, ea, T::from_u64(op.imm))
}

#[inline(always)]
fn memory<O: BitTest, T: WideInt, const LOCK: bool>(cpu: &mut Cpu, op: &Op, ea: u64, bit: T) -> Flow {
    let Ok(lin) = cpu.linear_at(op, ea, T::SIZE, O::WRITES) else { return Flow::Fault };
    if !O::WRITES {
        let Ok(a) = cpu.read::<T>(lin, op.mem.seg) else { return Flow::Fault };
        cpu.status = O::apply(a, bit, cpu.status).1;
        return Flow::Next;
    }
    match cpu.modify_at::<T, LOCK>(op, lin, |a, s| O::apply(a, bit, s)) {
        Ok(_) => Flow::Next,
        Err(Faulted) => Flow::Fault,
    }
}

/// A scan or count: new destination and status from the old ones and the source.
pub(crate) trait Scan {
    /// A zero source leaves the destination alone, its upper half included (BSF, BSR).
    const KEEPS: bool = false;
    /// Computes.
    fn apply<T: WideInt>(old: T, a: T, status: u64) -> (T, u64);
}

macro_rules! scans {
    ($($name:ident $keeps:literal |$old:ident, $a:ident, $s:ident| $e:expr;)*) => {$(
        /// The instruction of this name.
        pub(crate) struct $name;
        impl Scan for $name {
            const KEEPS: bool = $keeps;
            #[inline(always)]
            fn apply<T: WideInt>($old: T, $a: T, $s: u64) -> (T, u64) {
                $e
            }
        }
    )*};
}
scans! {
    Bsf true |old, a, s| T::bsf(old, a, s);
    Bsr true |old, a, s| T::bsr(old, a, s);
    Tzcnt false |_old, a, s| T::tzcnt(a, s);
    Lzcnt false |_old, a, s| T::lzcnt(a, s);
    Popcnt false |_old, a, s| T::popcnt(a, s);
}

#[inline(always)]
fn scan<O: Scan, T: WideInt>(cpu: &mut Cpu, op: &Op, a: T) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r0), a, cpu.status);
    if !O::KEEPS || a != T::default() {
        cpu.set_reg(op.r0, v);
    }
    cpu.status = status;
    Flow::Next
}

/// `op reg, reg`.
pub(crate) fn scan_rr<O: Scan, T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.reg::<T>(op.r1);
    scan::<O, T>(cpu, op, a)
}

/// `op reg, [mem]`.
pub(crate) fn scan_rm<O: Scan, T: WideInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(a) = cpu.load::<T>(op) else { return Flow::Fault };
    scan::<O, T>(cpu, op, a)
}
