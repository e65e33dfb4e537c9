//! MMX, SSE and AVX instructions that run as thunks.
//!
//! Vector registers keep their numbers, because a System V function may clobber all of them;
//! general-purpose operands and the memory operand are renamed. Guest MXCSR is in force only
//! around instructions that depend on it, with all exceptions masked; what an unmasked exception
//! would have done is decided afterwards (Intel SDM 1 §11.5).

use std::sync::Arc;

use iced_x86::{Instruction, Mnemonic};

use crate::emit::GAVE_UP;
use crate::observe::observe;
use crate::op::{FpuClass, FpuFault, OpRegs, OperandMemory, merge_flags};
use crate::plan::Plan;
use crate::state::{FpuState, MXCSR_DEFAULT, X87State};
use crate::unit::{FpuUnit, Thunk, ThunkFn};

/// All six SIMD exceptions masked.
pub(crate) const MXCSR_ALL_MASKED: u32 = 0x1F80;
/// Flush to zero.
const MXCSR_FTZ: u32 = 1 << 15;
/// MXCSR without the exception flags.
pub(crate) const MXCSR_CONTROL: u32 = 0xFFC0;
/// Underflow flag.
const FLAG_UE: u32 = 1 << 4;
/// Invalid, denormal and divide-by-zero are detected before the computation.
const FLAGS_PRE_COMPUTATION: u32 = 0x7;

/// A prepared vector instruction.
#[derive(Debug)]
pub(crate) struct VectorOp {
    function: ThunkFn,
    /// For default control bits of MXCSR; see [`Plan::generate_quick`].
    quick: Option<ThunkFn>,
    /// Keeps the functions alive.
    _thunks: (Arc<Thunk>, Option<Arc<Thunk>>),
    class: FpuClass,
    access: Access,
    /// Bytes of the memory operand.
    size: u8,
    /// Alignment the instruction demands of it, or 1.
    align: u8,
    flags: bool,
    float: bool,
    mmx: bool,
}

/// Direction of the memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    None,
    Read,
    Write,
}

/// Bounce buffer for the memory operand.
#[repr(align(64))]
struct Buffer([u8; 64]);

impl VectorOp {
    pub(crate) fn prepare(unit: &FpuUnit, ins: &Instruction) -> Option<Self> {
        let plan = Plan::new(ins)?;
        let code = plan.generate()?;
        let thunk = unit.thunk(&code).ok()?;
        let quick = match plan.generate_quick() {
            Some(code) => Some(unit.thunk(&code).ok()?),
            None => None,
        };
        let (access, size) = plan.memory;
        let class = match () {
            () if plan.vex => FpuClass::Avx,
            () if plan.float || !plan.vectors.is_empty() => FpuClass::Sse,
            () => FpuClass::Mmx,
        };
        Some(Self {
            function: thunk.function(),
            quick: quick.as_ref().map(|q| q.function()),
            _thunks: (thunk, quick),
            class,
            access,
            size,
            align: required_alignment(ins, plan.vex, access, size),
            flags: plan.flags,
            float: plan.float,
            mmx: !plan.mmx.is_empty(),
        })
    }

    pub(crate) fn class(&self) -> FpuClass {
        self.class
    }

    #[inline]
    pub(crate) fn execute(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        if self.access == Access::None && !self.mmx {
            return self.compute(state, regs, std::ptr::null_mut());
        }
        self.execute_with_operand(state, regs, mem)
    }

    fn execute_with_operand(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        if self.mmx && state.math_fault_pending() {
            return Err(FpuFault::MathFault);
        }
        let mut buffer = Buffer([0; 64]);
        let size = usize::from(self.size);
        if self.align > 1 {
            mem.check_alignment(u32::from(self.align))?;
        }
        if self.access == Access::Read {
            mem.read(0, &mut buffer.0[..size])?;
        }
        if self.mmx {
            return self.execute_mmx(state, regs, mem, &mut buffer);
        }
        let mxcsr = state.x87.mxcsr;
        let computed = self.compute(state, regs, buffer.0.as_mut_ptr());
        if self.access == Access::Write {
            let stored = match computed {
                Ok(()) => mem.write(0, &buffer.0[..size]),
                // Faults of the access come before the SIMD exception.
                Err(_) => mem.probe_write(0, size),
            };
            stored.inspect_err(|_| state.x87.mxcsr = mxcsr)?;
        }
        computed
    }

    /// MMX instructions set the top of stack to 0 and all tags to valid (Intel SDM 1 §9.5.1).
    fn execute_mmx(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
        buffer: &mut Buffer,
    ) -> Result<(), FpuFault> {
        let saved: X87State = state.x87;
        state.x87.rotate_top_to_zero();
        state.x87.ftw = 0xFF;
        let result = self.compute(state, regs, buffer.0.as_mut_ptr());
        // A SIMD exception leaves the transition done, as processors do.
        result?;
        if self.access == Access::Write {
            mem.write(0, &buffer.0[..usize::from(self.size)]).inspect_err(|_| state.x87 = saved)?;
        }
        Ok(())
    }

    #[inline]
    fn compute(&self, state: &mut FpuState, regs: &mut OpRegs<'_>, buffer: *mut u8) -> Result<(), FpuFault> {
        if self.float {
            let mxcsr = state.x87.mxcsr;
            if let Some(quick) = self.quick
                && mxcsr & MXCSR_CONTROL == MXCSR_DEFAULT
            {
                let captured = self.call(quick, state, regs, buffer);
                if captured != GAVE_UP {
                    if self.flags {
                        merge_flags(regs.rflags, captured);
                    }
                    return Ok(());
                }
            } else if mxcsr & MXCSR_ALL_MASKED != MXCSR_ALL_MASKED {
                return self.compute_unmasked(state, regs, buffer);
            }
        }
        let captured = self.call(self.function, state, regs, buffer);
        if self.flags {
            merge_flags(regs.rflags, captured);
        }
        Ok(())
    }

    /// Runs with all exceptions masked on a copy and commits only if none is unmasked.
    #[cold]
    fn compute_unmasked(&self, state: &mut FpuState, regs: &mut OpRegs<'_>, buffer: *mut u8) -> Result<(), FpuFault> {
        let guest = state.x87.mxcsr;
        let unmasked = !(guest >> 7) & 0x3F;
        let masked = (guest & MXCSR_CONTROL) | MXCSR_ALL_MASKED;
        let registers = *regs.gpr;
        let mut trial = state.clone();
        // Unmasked underflow is tininess alone; masked, it is tininess and loss of accuracy. Flush
        // to zero reports every tiny result and changes nothing else.
        let tiny_is_fault = unmasked & FLAG_UE != 0;
        trial.x87.mxcsr = masked | if tiny_is_fault { MXCSR_FTZ } else { 0 };
        let mut captured = self.call(self.function, &mut trial, regs, buffer);
        let mut raised = trial.x87.mxcsr & 0x3F;
        if tiny_is_fault && raised & FLAG_UE != 0 {
            *regs.gpr = registers;
            trial = state.clone();
            trial.x87.mxcsr = masked & !MXCSR_FTZ;
            captured = self.call(self.function, &mut trial, regs, buffer);
            raised = (trial.x87.mxcsr & 0x3F) | FLAG_UE;
        }
        if raised & unmasked != 0 {
            *regs.gpr = registers;
            state.x87.mxcsr = self.flags_of_fault(state, regs, buffer).unwrap_or_else(|| {
                if raised & unmasked & FLAGS_PRE_COMPUTATION != 0 {
                    raised &= FLAGS_PRE_COMPUTATION;
                }
                guest | raised
            });
            return Err(if regs.osxmmexcpt { FpuFault::SimdFault } else { FpuFault::Undefined });
        }
        *state = trial;
        state.x87.mxcsr = guest | raised;
        if self.flags {
            merge_flags(regs.rflags, captured);
        }
        Ok(())
    }

    /// MXCSR after the exception that the instruction raises, as the host says; nothing else changes.
    fn flags_of_fault(&self, state: &FpuState, regs: &mut OpRegs<'_>, buffer: *mut u8) -> Option<u32> {
        let registers = *regs.gpr;
        let mut trial = state.clone();
        let mxcsr = observe(|| {
            self.call(self.function, &mut trial, regs, buffer);
        });
        *regs.gpr = registers;
        mxcsr
    }

    #[inline]
    fn call(&self, function: ThunkFn, state: &mut FpuState, regs: &mut OpRegs<'_>, buffer: *mut u8) -> u32 {
        // SAFETY: the thunk was generated for this operation; it accesses `state`, the 16
        // registers and, when the operation has a memory operand, up to 64 bytes at `buffer`,
        // which is then not null. It preserves what the calling convention demands.
        unsafe { function(state, buffer, regs.gpr, *regs.rflags) }
    }
}

/// Alignment in bytes that the memory operand of a vector instruction must have.
pub fn operand_alignment(ins: &Instruction) -> u8 {
    let size = u8::try_from(ins.memory_size().size()).unwrap_or(1);
    required_alignment(ins, ins.encoding() == iced_x86::EncodingKind::VEX, Access::Read, size)
}

/// Alignment the memory operand must have: all 16-byte operands of legacy instructions except the
/// unaligned moves and string comparisons; of VEX instructions only the aligned moves
/// (Intel SDM 2A §2.4, tables 2-14 to 2-22).
fn required_alignment(ins: &Instruction, vex: bool, access: Access, size: u8) -> u8 {
    use Mnemonic as M;
    let aligned_vex = matches!(
        ins.mnemonic(),
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa
    );
    let unaligned_legacy = matches!(
        ins.mnemonic(),
        M::Movups
            | M::Movupd
            | M::Movdqu
            | M::Lddqu
            | M::Pcmpestri
            | M::Pcmpestri64
            | M::Pcmpestrm
            | M::Pcmpestrm64
            | M::Pcmpistri
            | M::Pcmpistrm
    );
    match access {
        Access::None => 1,
        _ if vex && aligned_vex => size,
        _ if !vex && size == 16 && !unaligned_legacy => 16,
        _ => 1,
    }
}
