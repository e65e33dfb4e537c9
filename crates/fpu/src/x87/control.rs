//! x87 control instructions: no arithmetic, no update of the instruction and data pointers
//! (Intel SDM 1 §8.3.11).

use iced_x86::Code;

use super::env::{self, Width};
use crate::op::{FpuFault, OpRegs, OperandMemory};
use crate::state::{FpuState, ST_MASK};

/// A control instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    Wait,
    /// FNINIT
    Init,
    /// FNCLEX
    ClearExceptions,
    /// FNSTSW AX
    StoreSwAx,
    /// FNSTSW m16
    StoreSw,
    /// FNSTCW m16
    StoreCw,
    /// FLDCW m16
    LoadCw,
    /// FNSTENV
    StoreEnvironment(Width),
    /// FLDENV
    LoadEnvironment(Width),
    /// FNSAVE
    Save(Width),
    /// FRSTOR
    Restore(Width),
    /// FNENI, FNDISI, FNSETPM: no operation since the 80387.
    Nothing,
}

impl Control {
    pub(crate) fn prepare(code: Code) -> Option<Self> {
        Some(match code {
            Code::Wait => Self::Wait,
            Code::Fninit => Self::Init,
            Code::Fnclex => Self::ClearExceptions,
            Code::Fnstsw_AX => Self::StoreSwAx,
            Code::Fnstsw_m2byte => Self::StoreSw,
            Code::Fnstcw_m2byte => Self::StoreCw,
            Code::Fldcw_m2byte => Self::LoadCw,
            Code::Fnstenv_m14byte => Self::StoreEnvironment(Width::Bits16),
            Code::Fnstenv_m28byte => Self::StoreEnvironment(Width::Bits32),
            Code::Fldenv_m14byte => Self::LoadEnvironment(Width::Bits16),
            Code::Fldenv_m28byte => Self::LoadEnvironment(Width::Bits32),
            Code::Fnsave_m94byte => Self::Save(Width::Bits16),
            Code::Fnsave_m108byte => Self::Save(Width::Bits32),
            Code::Frstor_m94byte => Self::Restore(Width::Bits16),
            Code::Frstor_m108byte => Self::Restore(Width::Bits32),
            Code::Fneni | Code::Fndisi | Code::Fnsetpm => Self::Nothing,
            _ => return None,
        })
    }

    /// Waiting instructions report a pending exception first.
    fn waits(self) -> bool {
        matches!(self, Self::Wait | Self::LoadCw | Self::LoadEnvironment(_) | Self::Restore(_))
    }

    pub(crate) fn execute(
        self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        if self.waits() && state.math_fault_pending() {
            return Err(FpuFault::MathFault);
        }
        match self {
            Self::Wait | Self::Nothing => {}
            Self::Init => init(state),
            Self::ClearExceptions => state.x87.fsw &= !0x80FF,
            Self::StoreSwAx => {
                regs.gpr[0] = (regs.gpr[0] & !0xFFFF) | u64::from(state.fsw());
            }
            Self::StoreSw => mem.write(0, &state.fsw().to_le_bytes())?,
            Self::StoreCw => mem.write(0, &state.fcw().to_le_bytes())?,
            Self::LoadCw => {
                let mut data = [0; 2];
                mem.read(0, &mut data)?;
                state.set_fcw(u16::from_le_bytes(data));
            }
            Self::StoreEnvironment(width) => {
                let (bytes, length) = env::store(state, width, regs.real_mode);
                mem.write(0, &bytes[..length])?;
                state.set_fcw(state.fcw() | 0x3F);
            }
            Self::LoadEnvironment(width) => {
                let mut bytes = [0; env::MAX];
                mem.read(0, &mut bytes[..width.bytes()])?;
                env::load(state, width, regs.real_mode, &bytes, true);
            }
            Self::Save(width) => save(state, width, regs.real_mode, mem)?,
            Self::Restore(width) => restore(state, width, regs.real_mode, mem)?,
        }
        Ok(())
    }
}

fn init(state: &mut FpuState) {
    state.x87.init();
    (state.fcs, state.fds) = (0, 0);
}

/// FNSAVE: environment and the eight registers in stack order, then FNINIT.
fn save(state: &mut FpuState, width: Width, real_mode: bool, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
    let mut image = [0; env::MAX + 80];
    let (environment, length) = env::store(state, width, real_mode);
    image[..length].copy_from_slice(&environment[..length]);
    for (slot, st) in image[length..].chunks_exact_mut(10).zip(&state.x87.st) {
        slot.copy_from_slice(&st.to_le_bytes()[..10]);
    }
    mem.write(0, &image[..length + 80])?;
    init(state);
    Ok(())
}

fn restore(state: &mut FpuState, width: Width, real_mode: bool, mem: &mut dyn OperandMemory) -> Result<(), FpuFault> {
    let mut image = [0; env::MAX + 80];
    let length = width.bytes();
    mem.read(0, &mut image[..length + 80])?;
    let mut environment = [0; env::MAX];
    environment[..length].copy_from_slice(&image[..length]);
    env::load(state, width, real_mode, &environment, false);
    for (slot, st) in image[length..].chunks_exact(10).zip(&mut state.x87.st) {
        let mut bytes = [0; 16];
        bytes[..10].copy_from_slice(slot);
        *st = u128::from_le_bytes(bytes) & ST_MASK;
    }
    Ok(())
}
