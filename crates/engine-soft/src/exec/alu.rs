//! Addition, subtraction, logic, comparison, and the one-operand arithmetic.

use crate::cpu::Cpu;
use crate::exec::fast::two_paths;
use crate::exec::int::{CF, Int};
use crate::op::{Flow, Op};

/// A two-operand operation: result and new status flags from operands and old ones.
pub(crate) trait Binary {
    /// The result goes to the first operand (CMP and TEST have none).
    const WRITES: bool = true;
    /// Computes.
    fn apply<T: Int>(a: T, b: T, status: u64) -> (T, u64);
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = |$a:ident, $b:ident, $s:ident| $e:expr, $writes:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: Int>($a: T, $b: T, $s: u64) -> (T, u64) {
                $e
            }
        }
    )*};
}

binary! {
    /// ADD.
    Add = |a, b, _s| T::add(a, b), true;
    /// OR.
    Or = |a, b, _s| T::or(a, b), true;
    /// ADC.
    Adc = |a, b, s| T::adc(a, b, s), true;
    /// SBB.
    Sbb = |a, b, s| T::sbb(a, b, s), true;
    /// AND.
    And = |a, b, _s| T::and(a, b), true;
    /// SUB.
    Sub = |a, b, _s| T::sub(a, b), true;
    /// XOR.
    Xor = |a, b, _s| T::xor(a, b), true;
    /// CMP.
    Cmp = |a, b, _s| T::sub(a, b), false;
    /// TEST.
    Test = |a, b, _s| T::and(a, b), false;
}

/// `op reg, reg`.
pub(crate) fn rr<O: Binary, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r0), cpu.reg::<T>(op.r1), cpu.status);
    if O::WRITES {
        cpu.set_reg(op.r0, v);
    }
    cpu.status = status;
    Flow::Next
}

/// `op reg, imm`.
pub(crate) fn ri<O: Binary, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r0), T::from_u64(op.imm), cpu.status);
    if O::WRITES {
        cpu.set_reg(op.r0, v);
    }
    cpu.status = status;
    Flow::Next
}

two_paths! {
    /// `op reg, [mem]`.
    rm [O: Binary, T: Int] [O, T] |cpu, op| {
        let b = cpu.operand::<T, FAST>(op)?;
        let (v, status) = O::apply(cpu.reg::<T>(op.r0), b, cpu.status);
        if O::WRITES {
            cpu.set_reg(op.r0, v);
        }
        cpu.status = status;
        Some(Flow::Next)
    }

    /// `op [mem], reg`.
    mr [O: Binary, T: Int, const LOCK: bool] [O, T, LOCK] |cpu, op| {
        let b = cpu.reg::<T>(op.r0);
        memory::<O, T, LOCK, FAST>(cpu, op, b)
    }

    /// `op [mem], imm`.
    mi [O: Binary, T: Int, const LOCK: bool] [O, T, LOCK] |cpu, op| {
        memory::<O, T, LOCK, FAST>(cpu, op, T::from_u64(op.imm))
    }
}

#[inline(always)]
fn memory<O: Binary, T: Int, const LOCK: bool, const FAST: bool>(cpu: &mut Cpu, op: &Op, b: T) -> Option<Flow> {
    if !O::WRITES {
        let a = cpu.operand::<T, FAST>(op)?;
        cpu.status = O::apply(a, b, cpu.status).1;
        return Some(Flow::Next);
    }
    cpu.modify_operand::<T, LOCK, FAST>(op, |a, s| O::apply(a, b, s), |_, _| ())
}

/// A one-operand operation.
pub(crate) trait Unary {
    /// Computes.
    fn apply<T: Int>(a: T, status: u64) -> (T, u64);
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = |$a:ident, $s:ident| $e:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Int>($a: T, $s: u64) -> (T, u64) {
                $e
            }
        }
    )*};
}

unary! {
    /// INC.
    Inc = |a, s| T::inc(a, s);
    /// DEC.
    Dec = |a, s| T::dec(a, s);
    /// NEG.
    Neg = |a, _s| T::neg(a);
    /// NOT, which leaves the flags alone.
    Not = |a, s| (T::not(a), s);
}

/// `op reg`.
pub(crate) fn r<O: Unary, T: Int>(cpu: &mut Cpu, op: &Op) -> Flow {
    let (v, status) = O::apply(cpu.reg::<T>(op.r0), cpu.status);
    cpu.set_reg(op.r0, v);
    cpu.status = status;
    Flow::Next
}

two_paths! {
    /// `op [mem]`.
    m [O: Unary, T: Int, const LOCK: bool] [O, T, LOCK] |cpu, op| {
        cpu.modify_operand::<T, LOCK, FAST>(op, |a, s| O::apply(a, s), |_, _| ())
    }
}

/// ADCX (`FLAG` = CF) and ADOX (`FLAG` = OF), `reg, reg`: only that flag is read and written.
pub(crate) fn adx_rr<T: Int, const FLAG: u64>(cpu: &mut Cpu, op: &Op) -> Flow {
    let b = cpu.reg::<T>(op.r1);
    adx::<T, FLAG>(cpu, op, b)
}

/// As [`adx_rr`], `reg, [mem]`.
pub(crate) fn adx_rm<T: Int, const FLAG: u64>(cpu: &mut Cpu, op: &Op) -> Flow {
    let Ok(b) = cpu.load::<T>(op) else { return Flow::Fault };
    adx::<T, FLAG>(cpu, op, b)
}

#[inline(always)]
fn adx<T: Int, const FLAG: u64>(cpu: &mut Cpu, op: &Op, b: T) -> Flow {
    let (v, out) = T::adc(cpu.reg::<T>(op.r0), b, u64::from(cpu.status & FLAG != 0));
    cpu.set_reg(op.r0, v);
    cpu.status = (cpu.status & !FLAG) | (if out & CF != 0 { FLAG } else { 0 });
    Flow::Next
}
