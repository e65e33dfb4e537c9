//! MMX, SSE and AVX instructions that run as thunks.
//!
//! Vector registers keep their numbers, because a System V function may clobber all of them;
//! general-purpose operands and the memory operand are renamed. Guest MXCSR is in force only
//! around instructions that depend on it, with all exceptions masked; what an unmasked exception
//! would have done is decided afterwards (Intel SDM 1 §11.5).

use std::sync::Arc;

use iced_x86::{
    Code, CodeSize, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use crate::emit::{BUFFER, Emitter, GPRS, STATE, at};
use crate::op::{FpuClass, FpuFault, OpRegs, OperandMemory, merge_flags};
use crate::state::{FpuState, MXCSR_DEFAULT, OFFSET_MXCSR, OFFSET_ST, OFFSET_XMM, OFFSET_YMM_HI, X87State};
use crate::unit::{FpuUnit, Thunk, ThunkFn};

/// All six SIMD exceptions masked.
const MXCSR_ALL_MASKED: u32 = 0x1F80;
/// Flush to zero.
const MXCSR_FTZ: u32 = 1 << 15;
/// MXCSR without the exception flags.
const MXCSR_CONTROL: u32 = 0xFFC0;
/// Underflow flag.
const FLAG_UE: u32 = 1 << 4;
/// Invalid, denormal and divide-by-zero are detected before the computation.
const FLAGS_PRE_COMPUTATION: u32 = 0x7;
/// Where renamed general-purpose operands go.
const RENAMED: [Register; 3] = [Register::R8, Register::R9, Register::R10];

/// A prepared vector instruction.
#[derive(Debug)]
pub(crate) struct VectorOp {
    function: ThunkFn,
    _thunk: Arc<Thunk>,
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
        let (access, size) = plan.memory;
        let class = match () {
            () if plan.vex => FpuClass::Avx,
            () if !plan.vectors.is_empty() => FpuClass::Sse,
            () => FpuClass::Mmx,
        };
        Some(Self {
            function: thunk.function(),
            _thunk: thunk,
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
        self.compute(state, regs, buffer.0.as_mut_ptr())?;
        if self.access == Access::Write {
            mem.write(0, &buffer.0[..size]).inspect_err(|_| {
                state.x87.mxcsr = mxcsr;
            })?;
        }
        Ok(())
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
        if result.is_err() {
            let mxcsr = state.x87.mxcsr;
            state.x87 = saved;
            state.x87.mxcsr = mxcsr;
            return result;
        }
        if self.access == Access::Write {
            mem.write(0, &buffer.0[..usize::from(self.size)]).inspect_err(|_| state.x87 = saved)?;
        }
        Ok(())
    }

    #[inline]
    fn compute(&self, state: &mut FpuState, regs: &mut OpRegs<'_>, buffer: *mut u8) -> Result<(), FpuFault> {
        if self.float && state.x87.mxcsr & MXCSR_ALL_MASKED != MXCSR_ALL_MASKED {
            return self.compute_unmasked(state, regs, buffer);
        }
        let captured = self.call(state, regs, buffer);
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
        let mut captured = self.call(&mut trial, regs, buffer);
        let mut raised = trial.x87.mxcsr & 0x3F;
        if tiny_is_fault && raised & FLAG_UE != 0 {
            *regs.gpr = registers;
            trial = state.clone();
            trial.x87.mxcsr = masked & !MXCSR_FTZ;
            captured = self.call(&mut trial, regs, buffer);
            raised = (trial.x87.mxcsr & 0x3F) | FLAG_UE;
        }
        if raised & unmasked != 0 {
            *regs.gpr = registers;
            if raised & unmasked & FLAGS_PRE_COMPUTATION != 0 {
                raised &= FLAGS_PRE_COMPUTATION;
            }
            state.x87.mxcsr = guest | raised;
            return Err(if regs.osxmmexcpt { FpuFault::SimdFault } else { FpuFault::Undefined });
        }
        *state = trial;
        state.x87.mxcsr = guest | raised;
        if self.flags {
            merge_flags(regs.rflags, captured);
        }
        Ok(())
    }

    #[inline]
    fn call(&self, state: &mut FpuState, regs: &mut OpRegs<'_>, buffer: *mut u8) -> u32 {
        // SAFETY: the thunk was generated for this operation; it accesses `state`, the 16
        // registers and, when the operation has a memory operand, up to 64 bytes at `buffer`,
        // which is then not null. It preserves what the calling convention demands.
        unsafe { (self.function)(state, buffer, regs.gpr, *regs.rflags) }
    }
}

/// Everything the code generator needs to know of one instruction.
struct Plan {
    /// The instruction with its operands renamed.
    host: Instruction,
    vex: bool,
    wide: bool,
    flags: bool,
    float: bool,
    memory: (Access, u8),
    vectors: Vec<Used>,
    mmx: Vec<Used>,
    gprs: Vec<UsedGpr>,
}

struct Used {
    number: usize,
    read: bool,
    written: bool,
}

struct UsedGpr {
    guest: usize,
    host: Register,
    read: bool,
    written: bool,
}

impl Plan {
    fn new(ins: &Instruction) -> Option<Self> {
        let vex = match ins.encoding() {
            EncodingKind::Legacy => false,
            EncodingKind::VEX => true,
            _ => return None,
        };
        let (host, renamed) = rename(ins)?;
        let mut plan = Self {
            host,
            vex,
            wide: (0..ins.op_count()).any(|i| ins.op_register(i).is_ymm()),
            flags: ins.rflags_modified() != 0,
            float: depends_on_mxcsr(ins.mnemonic()),
            memory: (Access::None, 0),
            vectors: Vec::new(),
            mmx: Vec::new(),
            gprs: Vec::new(),
        };
        plan.collect(&renamed)?;
        // An instruction without vector registers (MOVNTI, fences) belongs to the engine.
        (!plan.vectors.is_empty() || !plan.mmx.is_empty()).then_some(plan)
    }

    fn collect(&mut self, renamed: &[usize]) -> Option<()> {
        let mut factory = InstructionInfoFactory::new();
        let info = factory.info(&self.host);
        for used in info.used_registers() {
            let register = used.register();
            let (read, written) = direction(used.access());
            if register.is_vector_register() {
                merge(&mut self.vectors, register.number(), read, written);
            } else if register.is_mm() {
                merge(&mut self.mmx, register.number(), read, written);
            } else if register.is_gpr() {
                self.use_gpr(register.full_register(), renamed, read, written)?;
            } else if !register.is_segment_register() {
                return None;
            }
        }
        let mut operands = 0;
        for operand in 0..self.host.op_count() {
            if self.host.op_kind(operand) == OpKind::Memory {
                let size = u8::try_from(self.host.memory_size().size()).ok()?;
                let (read, written) = direction(info.op_access(operand));
                self.memory = match (read, written) {
                    (true, false) => (Access::Read, size),
                    (false, true) => (Access::Write, size),
                    _ => return None,
                };
                if !(1..=64).contains(&size) {
                    return None;
                }
                operands += 1;
            }
        }
        (operands <= 1).then_some(())
    }

    fn use_gpr(&mut self, register: Register, renamed: &[usize], read: bool, written: bool) -> Option<()> {
        let guest = match register {
            BUFFER => return Some(()),
            // PCMPESTRI and PCMPESTRM read RAX and RDX, the index forms write RCX.
            Register::RAX | Register::RCX | Register::RDX => register.number(),
            _ => *renamed.get(RENAMED.iter().position(|&r| r == register)?)?,
        };
        self.gprs.push(UsedGpr { guest, host: register, read, written });
        Some(())
    }

    fn generate(&self) -> Option<Vec<u8>> {
        let mut out = Emitter::new();
        if !self.gprs.is_empty() {
            out.registers(Code::Mov_r64_rm64, GPRS, Register::RDX);
        }
        for gpr in self.gprs.iter().filter(|g| g.read) {
            out.load(Code::Mov_r64_rm64, gpr.host, GPRS, 8 * gpr.guest);
        }
        self.load_vectors(&mut out);
        if self.float {
            enter_guest_mxcsr(&mut out);
        }
        out.push(&self.host);
        if self.flags {
            out.capture_flags();
        }
        if self.float {
            leave_guest_mxcsr(&mut out);
        }
        for gpr in self.gprs.iter().filter(|g| g.written) {
            out.store(Code::Mov_rm64_r64, GPRS, 8 * gpr.guest, gpr.host);
        }
        self.store_vectors(&mut out);
        if !self.mmx.is_empty() {
            out.plain(Code::Emms);
        }
        if self.wide {
            out.plain(Code::VEX_Vzeroupper);
        }
        out.finish()
    }

    fn load_vectors(&self, out: &mut Emitter) {
        for used in self.vectors.iter().filter(|v| v.read) {
            let xmm = Register::XMM0 + used.number as u32;
            let ymm = Register::YMM0 + used.number as u32;
            let low = OFFSET_XMM + 16 * used.number;
            let high = OFFSET_YMM_HI + 16 * used.number;
            let code = if self.vex { Code::VEX_Vmovaps_xmm_xmmm128 } else { Code::Movaps_xmm_xmmm128 };
            out.load(code, xmm, STATE, low);
            if self.wide {
                out.push_result(Instruction::with4(
                    Code::VEX_Vinsertf128_ymm_ymm_xmmm128_imm8,
                    ymm,
                    ymm,
                    at(STATE, high),
                    1,
                ));
            }
        }
        for used in self.mmx.iter().filter(|m| m.read) {
            let mm = Register::MM0 + used.number as u32;
            out.load(Code::Movq_mm_mmm64, mm, STATE, OFFSET_ST + 16 * used.number);
        }
    }

    fn store_vectors(&self, out: &mut Emitter) {
        for used in self.vectors.iter().filter(|v| v.written) {
            let xmm = Register::XMM0 + used.number as u32;
            let ymm = Register::YMM0 + used.number as u32;
            let low = OFFSET_XMM + 16 * used.number;
            let high = OFFSET_YMM_HI + 16 * used.number;
            if !self.vex {
                out.store(Code::Movaps_xmmm128_xmm, STATE, low, xmm);
                continue;
            }
            out.store(Code::VEX_Vmovaps_xmmm128_xmm, STATE, low, xmm);
            if self.wide {
                out.push_result(Instruction::with3(Code::VEX_Vextractf128_xmmm128_ymm_imm8, at(STATE, high), ymm, 1));
            } else {
                // VEX.128 zeroes the upper half.
                for offset in [high, high + 8] {
                    let target = at(STATE, offset);
                    out.push_result(Instruction::with2(Code::Mov_rm64_imm32, target, 0));
                }
            }
        }
        for used in self.mmx.iter().filter(|m| m.written) {
            let mm = Register::MM0 + used.number as u32;
            let slot = OFFSET_ST + 16 * used.number;
            out.store(Code::Movq_mmm64_mm, STATE, slot, mm);
            // The sign and exponent of a written register become all ones.
            let upper = at(STATE, slot + 8);
            out.push_result(Instruction::with2(Code::Mov_rm16_imm16, upper, 0xFFFF));
        }
    }
}

/// Redirects the memory operand to the buffer and general-purpose operands to scratch registers.
/// Returns the instruction and the guest numbers of the renamed registers.
fn rename(ins: &Instruction) -> Option<(Instruction, Vec<usize>)> {
    let mut host = *ins;
    let mut renamed = Vec::new();
    clear_prefixes(&mut host);
    for operand in 0..ins.op_count() {
        match ins.op_kind(operand) {
            OpKind::Memory => redirect_memory(&mut host),
            OpKind::Register => {
                let register = ins.op_register(operand);
                if !register.is_gpr() {
                    continue;
                }
                // No instruction of this unit has byte or word register operands.
                let first = if register.is_gpr64() {
                    Register::R8
                } else if register.is_gpr32() {
                    Register::R8D
                } else {
                    return None;
                };
                host.set_op_register(operand, first + renamed.len() as u32);
                renamed.push(register.full_register().number());
            }
            OpKind::Immediate8 | OpKind::Immediate8_2nd => {}
            _ => return None,
        }
    }
    (renamed.len() <= RENAMED.len()).then_some((host, renamed))
}

/// Makes a decoded instruction encodable in 64-bit code without stray prefixes.
pub(crate) fn clear_prefixes(host: &mut Instruction) {
    host.set_code_size(CodeSize::Code64);
    host.set_has_lock_prefix(false);
    host.set_has_rep_prefix(false);
    host.set_has_repne_prefix(false);
    host.set_has_xacquire_prefix(false);
    host.set_has_xrelease_prefix(false);
    host.set_segment_prefix(Register::None);
}

/// Replaces the memory operand by `[BUFFER]`.
pub(crate) fn redirect_memory(host: &mut Instruction) {
    host.set_memory_base(BUFFER);
    host.set_memory_index(Register::None);
    host.set_memory_index_scale(1);
    host.set_memory_displacement64(0);
    host.set_memory_displ_size(0);
    host.set_segment_prefix(Register::None);
}

fn merge(list: &mut Vec<Used>, number: usize, read: bool, written: bool) {
    if let Some(used) = list.iter_mut().find(|u| u.number == number) {
        used.read |= read;
        used.written |= written;
    } else {
        list.push(Used { number, read, written });
    }
}

/// (read, written); a conditional write keeps the old value in the other case, so it reads too.
fn direction(access: OpAccess) -> (bool, bool) {
    match access {
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write => (false, true),
        OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite => (true, true),
        OpAccess::None | OpAccess::NoMemAccess => (false, false),
    }
}

/// Loads guest MXCSR unless the host has that value already: LDMXCSR is slow, and in a run of
/// floating-point instructions the value stays.
fn enter_guest_mxcsr(out: &mut Emitter) {
    out.memory(Code::Stmxcsr_m32, Register::RSP, 0_usize.wrapping_sub(8));
    out.load(Code::Mov_r32_rm32, Register::ECX, Register::RSP, 0_usize.wrapping_sub(8));
    out.load(Code::Cmp_r32_rm32, Register::ECX, STATE, OFFSET_MXCSR);
    out.raw(&[0x74, 4]); // je over the 4-byte ldmxcsr
    out.memory(Code::Ldmxcsr_m32, STATE, OFFSET_MXCSR);
}

/// Stores guest MXCSR and restores the host's control bits if they differ from the default. Sticky
/// flags may remain; nothing in this process reads them.
fn leave_guest_mxcsr(out: &mut Emitter) {
    let scratch = 0_usize.wrapping_sub(8);
    out.memory(Code::Stmxcsr_m32, STATE, OFFSET_MXCSR);
    out.load(Code::Mov_r32_rm32, Register::ECX, STATE, OFFSET_MXCSR);
    out.push_result(Instruction::with2(Code::And_rm32_imm32, Register::ECX, MXCSR_CONTROL));
    out.push_result(Instruction::with2(Code::Cmp_rm32_imm32, Register::ECX, MXCSR_DEFAULT));
    out.raw(&[0x74, 13]); // je over the next two, of 8 and 5 bytes
    let target = at(Register::RSP, scratch);
    out.push_result(Instruction::with2(Code::Mov_rm32_imm32, target, MXCSR_DEFAULT));
    out.memory(Code::Ldmxcsr_m32, Register::RSP, scratch);
}

/// Floating-point arithmetic, comparison and conversion read MXCSR and may raise exceptions; the
/// others (moves, integer, logic, shuffles) neither read nor write it.
fn depends_on_mxcsr(mnemonic: Mnemonic) -> bool {
    const PREFIXES: [&str; 19] = [
        "add", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "comi", "ucomi", "cvt", "round", "dpp", "hadd",
        "hsub", "fm", "fnm", "rcp", "rsqrt",
    ];
    let name = format!("{mnemonic:?}").to_lowercase();
    let name = name.strip_prefix('v').unwrap_or(&name);
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
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
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu | M::Pcmpestri | M::Pcmpestrm | M::Pcmpistri | M::Pcmpistrm
    );
    match access {
        Access::None => 1,
        _ if vex => {
            if aligned_vex {
                size
            } else {
                1
            }
        }
        _ if size == 16 && !unaligned_legacy => 16,
        _ => 1,
    }
}
