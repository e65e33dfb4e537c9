//! x87 instructions.
//!
//! Arithmetic runs on the host's x87 unit with the guest's own control word, unmasked exceptions
//! included: the host only raises a signal at the *next* waiting instruction, and the thunk has
//! none before it saves the state and reinitialises the unit. Control instructions and
//! environments are done in Rust ([`control`], [`mod@env`]). Intel SDM 1 chapter 8.

mod control;
mod env;
mod fast;
mod moves;
mod native;

use iced_x86::{Code, Instruction};

use self::control::Control;
use self::native::Native;
use crate::op::{FpuClass, FpuFault, OpRegs, OperandMemory};
use crate::state::FpuState;
use crate::unit::FpuUnit;

/// A prepared x87 instruction.
#[derive(Debug)]
pub(crate) enum X87Op {
    Control(Control),
    Native(Native),
}

impl X87Op {
    pub(crate) fn prepare(unit: &FpuUnit, ins: &Instruction, bitness: u32) -> Option<Self> {
        if let Some(control) = Control::prepare(ins.code()) {
            return Some(Self::Control(control));
        }
        Native::prepare(unit, ins, bitness).map(Self::Native)
    }

    pub(crate) fn class(&self) -> FpuClass {
        match self {
            Self::Control(Control::Wait) => FpuClass::Wait,
            _ => FpuClass::X87,
        }
    }

    #[inline]
    pub(crate) fn execute(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        match self {
            Self::Native(op) => op.execute(state, regs, mem),
            Self::Control(op) => op.execute(state, regs, mem),
        }
    }
}

/// Codes with opcode bytes D8 to DF and an assigned meaning on current processors.
fn is_arithmetic(code: Code) -> bool {
    use iced_x86::CpuidFeature as F;
    let features = code.cpuid_features();
    let x87 = features.iter().any(|f| matches!(f, F::FPU | F::FPU287 | F::FPU387));
    let opcode = code.op_code().op_code();
    let escape = if opcode > 0xFF { opcode >> 8 } else { opcode };
    x87 && (0xD8..=0xDF).contains(&escape) && !code.op_code().fwait()
}
