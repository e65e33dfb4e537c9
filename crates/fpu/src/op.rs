//! One prepared instruction: what it needs, how it runs, and how it faults.

use std::sync::Arc;

use iced_x86::Instruction;

use crate::software::SoftwareOp;
use crate::state::FpuState;
use crate::unit::FpuUnit;
use crate::vector::VectorOp;
use crate::x87::X87Op;
use crate::{features, host_features};

/// What the engine must check before [`FpuOp::execute`] (Intel SDM 3A §2.5, §14; 2A §2.4):
///
/// | class | #UD when | #NM when |
/// |---|---|---|
/// | `X87` | - | CR0.EM or CR0.TS |
/// | `Wait` | - | CR0.MP and CR0.TS |
/// | `Mmx` | CR0.EM | CR0.TS |
/// | `Sse` | CR0.EM or not CR4.OSFXSR | CR0.TS |
/// | `Avx` | real or virtual-8086 mode, not CR4.OSXSAVE, or XCR0 bits 1 and 2 not both set | CR0.TS |
///
/// Pending x87 exceptions (#MF), alignment and everything else is checked by `execute`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpuClass {
    /// x87 instructions, FXSAVE and FXRSTOR.
    X87,
    /// WAIT/FWAIT.
    Wait,
    /// Instructions that use MMX registers only.
    Mmx,
    /// Legacy-encoded instructions that use XMM registers or MXCSR.
    Sse,
    /// VEX-encoded instructions.
    Avx,
}

/// A guest memory access failed; the engine has recorded the exception to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest memory access faulted")]
pub struct MemFault;

/// Why an instruction did not complete. Nothing but what the manual says was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FpuFault {
    /// A memory access faulted; the engine holds the details.
    #[error("guest memory access faulted")]
    Memory,
    /// #MF: an earlier x87 instruction left an unmasked exception. (With CR0.NE clear the engine
    /// signals it through the external interrupt instead.)
    #[error("x87 floating-point exception")]
    MathFault,
    /// #XM: unmasked SIMD floating-point exception.
    #[error("SIMD floating-point exception")]
    SimdFault,
    /// #UD, also an unmasked SIMD exception while CR4.OSXMMEXCPT is clear.
    #[error("invalid opcode")]
    Undefined,
    /// #GP(0).
    #[error("general protection")]
    GeneralProtection,
}

impl From<MemFault> for FpuFault {
    fn from(_: MemFault) -> Self {
        Self::Memory
    }
}

/// Guest memory as one instruction sees it. `offset` is relative to the instruction's effective
/// address, which the engine computes (without the index part for VSIB addressing, where the
/// offset is index * scale; for MASKMOVQ/MASKMOVDQU it is DS:rDI). The engine wraps
/// `address + offset` to the instruction's address size.
///
/// Every method reports a fault for the whole range before it changes anything.
pub trait OperandMemory {
    /// Reads `data.len()` bytes (1 to 512).
    fn read(&mut self, offset: i64, data: &mut [u8]) -> Result<(), MemFault>;
    /// Writes `data` (1 to 512 bytes), all or nothing.
    fn write(&mut self, offset: i64, data: &[u8]) -> Result<(), MemFault>;
    /// Faults with #GP (or #SS for the stack segment) unless the effective address is a multiple
    /// of `align`, a power of two.
    fn check_alignment(&mut self, align: u32) -> Result<(), MemFault>;
    /// Checks that all of the range is writable; nothing is written yet.
    fn probe_write(&mut self, offset: i64, len: usize) -> Result<(), MemFault>;
}

/// What an instruction needs of the rest of the vCPU.
#[derive(Debug)]
pub struct OpRegs<'a> {
    /// General-purpose registers in encoding order (RAX, RCX, RDX, RBX, RSP, ...).
    pub gpr: &'a mut [u64; 16],
    /// RFLAGS; only CF, PF, AF, ZF, SF and OF are read or written.
    pub rflags: &'a mut u64,
    /// Offset of the instruction in its code segment (RIP at its first byte, prefixes included).
    pub fip: u64,
    /// Code segment selector, or 0 for a vCPU that deprecates FCS/FDS.
    pub fcs: u16,
    /// Effective address of the memory operand; ignored without one.
    pub fdp: u64,
    /// Selector of the memory operand's segment, or 0 for a vCPU that deprecates FCS/FDS.
    pub fds: u16,
    /// Real or virtual-8086 mode: selects the layout of the x87 environment. There `fip` and `fdp`
    /// should be linear addresses.
    pub real_mode: bool,
    /// CR4.OSXMMEXCPT: unmasked SIMD exceptions are #XM, not #UD.
    pub osxmmexcpt: bool,
    /// CR0.NE: native reporting of x87 exceptions. The unit reports `MathFault` either way.
    pub ne: bool,
}

/// One prepared instruction; cheap to clone.
#[derive(Clone, Debug)]
pub struct FpuOp {
    class: FpuClass,
    body: Arc<Body>,
}

#[derive(Debug)]
enum Body {
    Vector(VectorOp),
    X87(X87Op),
    Software(SoftwareOp),
}

impl FpuOp {
    /// Prepares `ins`, decoded in code of `bitness` 16, 32 or 64. `None` means that it is no
    /// instruction of this unit or the host cannot execute it (#UD, unless the engine itself
    /// implements it). XSAVE and its relatives, fences, MOVNTI and prefetches are the engine's.
    pub fn prepare(unit: &FpuUnit, ins: &Instruction, bitness: u32) -> Option<Self> {
        let code = ins.code();
        let needed = features::required(code)?;
        if !host_features().contains(needed) {
            return None;
        }
        let (class, body) = if let Some(op) = X87Op::prepare(unit, ins, bitness) {
            (op.class(), Body::X87(op))
        } else if let Some(op) = SoftwareOp::prepare(ins, bitness) {
            (op.class(), Body::Software(op))
        } else {
            let op = VectorOp::prepare(unit, ins)?;
            (op.class(), Body::Vector(op))
        };
        Some(Self { class, body: Arc::new(body) })
    }

    /// The checks the engine makes before `execute`.
    #[inline]
    pub fn class(&self) -> FpuClass {
        self.class
    }

    /// Executes the instruction. On an error nothing has changed except what the architecture
    /// defines (MXCSR flags, progress of gathers).
    #[inline]
    pub fn execute(
        &self,
        state: &mut FpuState,
        regs: &mut OpRegs<'_>,
        mem: &mut dyn OperandMemory,
    ) -> Result<(), FpuFault> {
        match &*self.body {
            Body::Vector(op) => op.execute(state, regs, mem),
            Body::X87(op) => op.execute(state, regs, mem),
            Body::Software(op) => op.execute(state, regs, mem),
        }
    }
}

/// The six arithmetic flags of RFLAGS.
pub(crate) const ARITHMETIC_FLAGS: u64 = 0x8D5;

/// Merges flags captured by `lahf; seto al` (AH = low flags, AL = OF) into RFLAGS.
#[inline]
pub(crate) fn merge_flags(rflags: &mut u64, captured: u32) {
    let low = u64::from(captured >> 8) & 0xD5;
    let overflow = u64::from(captured & 1) << 11;
    *rflags = (*rflags & !ARITHMETIC_FLAGS) | low | overflow;
}
