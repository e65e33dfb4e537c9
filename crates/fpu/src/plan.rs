//! From one vector instruction to the code of its thunk.
//!
//! Vector and MMX registers keep their numbers, general-purpose operands and the memory operand are
//! renamed ([`crate::emit`] has the register conventions).

use iced_x86::{
    Code, CodeSize, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use crate::emit::{BUFFER, Emitter, GPRS, STATE, at};
use crate::state::{MXCSR_DEFAULT, OFFSET_MXCSR, OFFSET_ST, OFFSET_XMM, OFFSET_YMM_HI};
use crate::vector::{Access, MXCSR_CONTROL};

/// Where renamed general-purpose operands go.
const RENAMED: [Register; 3] = [Register::R8, Register::R9, Register::R10];

/// Everything the code generator needs to know of one instruction.
pub(crate) struct Plan {
    /// The instruction with its operands renamed.
    host: Instruction,
    pub(crate) vex: bool,
    wide: bool,
    pub(crate) flags: bool,
    pub(crate) float: bool,
    pub(crate) memory: (Access, u8),
    pub(crate) vectors: Vec<Used>,
    pub(crate) mmx: Vec<Used>,
    gprs: Vec<UsedGpr>,
}

pub(crate) struct Used {
    number: usize,
    read: bool,
    written: bool,
}

pub(crate) struct UsedGpr {
    guest: usize,
    host: Register,
    read: bool,
    written: bool,
}

impl Plan {
    pub(crate) fn new(ins: &Instruction) -> Option<Self> {
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
        (!plan.vectors.is_empty() || !plan.mmx.is_empty() || plan.float).then_some(plan)
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

    /// The general thunk: MXCSR is switched to the guest's and back.
    pub(crate) fn generate(&self) -> Option<Vec<u8>> {
        let mut out = Emitter::new();
        self.load_operands(&mut out);
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
        self.store_results(&mut out);
        out.finish()
    }

    /// The quick thunk of a floating-point instruction, for a guest with default control bits: it
    /// runs under the host's MXCSR, and returns [`crate::emit::GAVE_UP`] with nothing stored when a flag is set
    /// there that the guest does not have (then raised now, or left over; the general thunk
    /// knows). Reading MXCSR is what costs, so this reads it once.
    pub(crate) fn generate_quick(&self) -> Option<Vec<u8>> {
        if !self.float || !self.mmx.is_empty() {
            return None;
        }
        let mut good = Emitter::new();
        self.store_results(&mut good);
        if !self.flags {
            good.registers(Code::Xor_r32_rm32, Register::EAX, Register::EAX);
        }
        let good = good.finish()?;
        let mut out = Emitter::new();
        self.load_operands(&mut out);
        out.push(&self.host);
        if self.flags {
            out.capture_flags();
        }
        let scratch = 0_usize.wrapping_sub(8);
        out.memory(Code::Stmxcsr_m32, Register::RSP, scratch);
        out.load(Code::Mov_r32_rm32, Register::EDX, STATE, OFFSET_MXCSR);
        out.raw(&[0xF7, 0xD2]); // not edx
        out.load(Code::And_r32_rm32, Register::EDX, Register::RSP, scratch);
        out.raw(&[0xF6, 0xC2, 0x3F]); // test dl, 0x3F
        out.jump_if_not_zero_over(&good);
        if self.wide {
            out.plain(Code::VEX_Vzeroupper);
        }
        let target = at(Register::RSP, scratch);
        out.push_result(Instruction::with2(Code::Mov_rm32_imm32, target, MXCSR_DEFAULT));
        out.memory(Code::Ldmxcsr_m32, Register::RSP, scratch);
        out.give_up();
        out.finish()
    }

    fn load_operands(&self, out: &mut Emitter) {
        if !self.gprs.is_empty() {
            out.registers(Code::Mov_r64_rm64, GPRS, Register::RDX);
        }
        for gpr in self.gprs.iter().filter(|g| g.read) {
            out.load(Code::Mov_r64_rm64, gpr.host, GPRS, 8 * gpr.guest);
        }
        self.load_vectors(out);
    }

    fn store_results(&self, out: &mut Emitter) {
        for gpr in self.gprs.iter().filter(|g| g.written) {
            out.store(Code::Mov_rm64_r64, GPRS, 8 * gpr.guest, gpr.host);
        }
        self.store_vectors(out);
        if !self.mmx.is_empty() {
            out.plain(Code::Emms);
        }
        if self.wide {
            out.plain(Code::VEX_Vzeroupper);
        }
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
