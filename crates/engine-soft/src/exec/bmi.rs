//! BMI1 and BMI2, executed on the host (the decoder has found it able to).

use std::arch::asm;

use crate::cpu::Cpu;
use crate::exec::int::{Int, pack, unpack};
use crate::op::{Flow, Op};

/// 32- and 64-bit operands with the operations of BMI.
pub(crate) trait BmiInt: Int {
    fn andn(a: Self, b: Self, status: u64) -> (Self, u64);
    fn bextr(a: Self, b: Self, status: u64) -> (Self, u64);
    fn bzhi(a: Self, b: Self, status: u64) -> (Self, u64);
    fn pdep(a: Self, b: Self, status: u64) -> (Self, u64);
    fn pext(a: Self, b: Self, status: u64) -> (Self, u64);
    fn blsi(a: Self, status: u64) -> (Self, u64);
    fn blsmsk(a: Self, status: u64) -> (Self, u64);
    fn blsr(a: Self, status: u64) -> (Self, u64);
    fn shift_left(a: Self, count: Self) -> Self;
    fn shift_right(a: Self, count: Self) -> Self;
    fn shift_signed(a: Self, count: Self) -> Self;
    fn rotate_right(a: Self, count: Self) -> Self;
}

macro_rules! bmi_int {
    ($t:ty, $signed:ty, $m:literal) => {
        impl BmiInt for $t {
            bmi_int!(@three $m andn bextr bzhi pdep pext);
            bmi_int!(@two $m blsi blsmsk blsr);
            #[inline(always)]
            fn shift_left(a: Self, count: Self) -> Self {
                a.wrapping_shl(count as u32)
            }
            #[inline(always)]
            fn shift_right(a: Self, count: Self) -> Self {
                a.wrapping_shr(count as u32)
            }
            #[inline(always)]
            fn shift_signed(a: Self, count: Self) -> Self {
                (a as $signed).wrapping_shr(count as u32) as Self
            }
            #[inline(always)]
            fn rotate_right(a: Self, count: Self) -> Self {
                a.rotate_right(count as u32 % Self::BITS)
            }
        }
    };
    (@three $m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, b: Self, status: u64) -> (Self, u64) {
            let v: u64;
            let f: u64;
            // SAFETY: register arithmetic, which the decoder has found the host able to do.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!(stringify!($name), " {v", $m, "}, {a", $m, "}, {b", $m, "}"),
                    "lahf", "seto al", v = out(reg) v, a = in(reg) u64::from(a), b = in(reg) u64::from(b),
                    inout("rax") unpack(status) => f, options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
    (@two $m:literal $($name:ident)*) => {$(
        #[inline(always)]
        fn $name(a: Self, status: u64) -> (Self, u64) {
            let v: u64;
            let f: u64;
            // SAFETY: register arithmetic, which the decoder has found the host able to do.
            unsafe {
                asm!("add al, 0x7f", "sahf", concat!(stringify!($name), " {v", $m, "}, {a", $m, "}"),
                    "lahf", "seto al", v = out(reg) v, a = in(reg) u64::from(a),
                    inout("rax") unpack(status) => f, options(pure, nomem, nostack));
            }
            (v as Self, pack(f))
        }
    )*};
}
bmi_int!(u32, i32, ":e");
bmi_int!(u64, i64, ":r");

/// Destination from two sources.
pub(crate) trait Three {
    /// Computes.
    fn apply<T: BmiInt>(a: T, b: T, status: u64) -> (T, u64);
}

/// Destination from one source.
pub(crate) trait Two {
    /// Computes.
    fn apply<T: BmiInt>(a: T, status: u64) -> (T, u64);
}

macro_rules! three {
    ($($name:ident |$a:ident, $b:ident, $s:ident| $e:expr;)*) => {$(
        /// The instruction of this name.
        pub(crate) struct $name;
        impl Three for $name {
            #[inline(always)]
            fn apply<T: BmiInt>($a: T, $b: T, $s: u64) -> (T, u64) {
                $e
            }
        }
    )*};
}
three! {
    Andn |a, b, s| T::andn(a, b, s);
    Bextr |a, b, s| T::bextr(a, b, s);
    Bzhi |a, b, s| T::bzhi(a, b, s);
    Pdep |a, b, s| T::pdep(a, b, s);
    Pext |a, b, s| T::pext(a, b, s);
    Shlx |a, b, s| (T::shift_left(a, b), s);
    Shrx |a, b, s| (T::shift_right(a, b), s);
    Sarx |a, b, s| (T::shift_signed(a, b), s);
    Rorx |a, b, s| (T::rotate_right(a, b), s);
}

macro_rules! two {
    ($($name:ident $method:ident)*) => {$(
        /// The instruction of this name.
        pub(crate) struct $name;
        impl Two for $name {
            #[inline(always)]
            fn apply<T: BmiInt>(a: T, status: u64) -> (T, u64) {
                T::$method(a, status)
            }
        }
    )*};
}
two! { Blsi blsi Blsmsk blsmsk Blsr blsr }

#[inline(always)]
fn finish<O: Three, T: BmiInt>(cpu: &mut Cpu, op: &Op, a: T, b: T) -> Flow {
    let (v, status) = O::apply(a, b, cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

/// `op reg, reg, reg`.
pub(crate) fn rrr<O: Three, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (a, b) = (cpu.reg::<T>(op.r1), cpu.reg::<T>(op.r2));
    finish::<O, T>(cpu, op, a, b)
}

/// `op reg, reg, [mem]`.
pub(crate) fn rrm<O: Three, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(b) = cpu.load::<T>(op) else { return Flow::Fault };
    let a = cpu.reg::<T>(op.r1);
    finish::<O, T>(cpu, op, a, b)
}

/// `op reg, [mem], reg`.
pub(crate) fn rmr<O: Three, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(a) = cpu.load::<T>(op) else { return Flow::Fault };
    let b = cpu.reg::<T>(op.r1);
    finish::<O, T>(cpu, op, a, b)
}

/// `op reg, reg, imm`.
pub(crate) fn rri<O: Three, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let a = cpu.reg::<T>(op.r1);
    finish::<O, T>(cpu, op, a, T::from_u64(op.imm))
}

/// `op reg, [mem], imm`.
pub(crate) fn rmi<O: Three, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(a) = cpu.load::<T>(op) else { return Flow::Fault };
    finish::<O, T>(cpu, op, a, T::from_u64(op.imm))
}

/// `op reg, reg`.
pub(crate) fn rr<O: Two, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r1), cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

/// `op reg, [mem]`.
pub(crate) fn rm<O: Two, T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(a) = cpu.load::<T>(op) else { return Flow::Fault };
    let (v, status) = O::apply(a, cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

/// MULX with a register source: low half to the second operand, then the high half to the first.
pub(crate) fn mulx_r<T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.reg::<T>(op.r2);
    mulx(cpu, op, b)
}

/// MULX with a memory source.
pub(crate) fn mulx_m<T: BmiInt>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(b) = cpu.load::<T>(op) else { return Flow::Fault };
    mulx(cpu, op, b)
}

#[inline(always)]
fn mulx<T: BmiInt>(cpu: &mut Cpu, op: &Op, b: T) -> Flow {
    let a = cpu.reg::<T>(2 * 8);
    let product = u128::from(a.to_u64()) * u128::from(b.to_u64());
    cpu.set_reg(op.r1, T::from_u64(product as u64));
    cpu.set_reg(op.r0, T::from_u64((product >> T::BITS) as u64));
    Flow::Next
}
