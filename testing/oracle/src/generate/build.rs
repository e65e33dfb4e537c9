//! Builds an instruction from its entry in the instruction tables: a value for every operand.

use super::draft::{Draft, gpr_number};
use super::memory::{self, Wanted};
use super::{tune, values};
use crate::case::Mode;
use iced_x86::{Code, Instruction, OpCodeInfo, OpCodeOperandKind as K, OpKind, Register};

/// Builds one instruction of `code` at `ip`, preparing registers and memory for it; `None` when the random choices do not
/// fit together (the caller tries again).
pub(super) fn instruction(draft: &mut Draft, code: Code, ip: u64) -> Option<Instruction> {
    let info = code.op_code();
    let mut i = Instruction::new();
    i.set_code(code);
    tune::before(draft, code);
    let mut address = None;
    for (n, kind) in (0..info.op_count()).map(|n| (n, info.op_kind(n))) {
        operand(draft, &mut i, info, n, kind, ip, &mut address)?;
    }
    prefixes(draft, &mut i, info, address.is_some());
    tune::after(draft, &mut i, address);
    Some(i)
}

fn prefixes(draft: &mut Draft, i: &mut Instruction, info: &OpCodeInfo, memory: bool) {
    let rng = &mut draft.rng;
    if info.can_use_lock_prefix() && memory && rng.chance(25) {
        i.set_has_lock_prefix(true);
    }
    if i.is_string_instruction() {
        match rng.below(3) {
            0 if info.can_use_rep_prefix() => i.set_has_repe_prefix(true),
            1 if info.can_use_repne_prefix() => i.set_has_repne_prefix(true),
            _ => {}
        }
    }
}

fn operand(
    draft: &mut Draft,
    i: &mut Instruction,
    info: &OpCodeInfo,
    n: u32,
    kind: K,
    ip: u64,
    address: &mut Option<u64>,
) -> Option<()> {
    if let Some(register) = fixed_register(kind) {
        i.set_op_kind(n, OpKind::Register);
        i.set_op_register(n, register);
        return Some(());
    }
    if let Some(class) = register_class(kind) {
        let takes_memory = is_register_or_memory(kind);
        if !(takes_memory && draft.rng.chance(50)) {
            let register = class.pick(draft);
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, register);
            return Some(());
        }
    }
    if is_register_or_memory(kind) || is_memory(kind) {
        let size = info.memory_size().size() as u64;
        let size = if size == 0 { tune::unsized_memory(info.code()) } else { size };
        let wanted = Wanted::for_kind(draft, kind, size);
        let at = memory::build(draft, i, n, wanted)?;
        if draft.rng.chance(60) {
            draft.poke_random(at, size as usize);
        }
        *address = Some(at);
        return Some(());
    }
    implicit(draft, i, info, n, kind, address).or_else(|| immediate(draft, i, n, kind, ip))
}

fn is_register_or_memory(kind: K) -> bool {
    use K::*;
    matches!(
        kind,
        r8_or_mem
            | r16_or_mem
            | r32_or_mem
            | r64_or_mem
            | mm_or_mem
            | xmm_or_mem
            | ymm_or_mem
            | r32_or_mem_mpx
            | r64_or_mem_mpx
    )
}

fn is_memory(kind: K) -> bool {
    use K::*;
    matches!(kind, mem | mem_mpx | mem_mib | mem_vsib32x | mem_vsib64x | mem_vsib32y | mem_vsib64y | sibmem)
}

#[derive(Clone, Copy, Debug)]
enum Class {
    Gpr8,
    Gpr16,
    Gpr32,
    Gpr64,
    Mmx,
    Xmm,
    Ymm,
    Seg,
    Cr,
}

impl Class {
    fn pick(self, draft: &mut Draft) -> Register {
        let vectors = draft.register_count() as u32;
        match self {
            Class::Gpr8 => gpr8(draft),
            Class::Gpr16 => Register::AX + draft.any_gpr() as u32,
            Class::Gpr32 => Register::EAX + draft.any_gpr() as u32,
            Class::Gpr64 => Register::RAX + draft.any_gpr() as u32,
            Class::Mmx => Register::MM0 + draft.rng.below(8) as u32,
            Class::Xmm => Register::XMM0 + draft.rng.below(u64::from(vectors)) as u32,
            Class::Ymm => Register::YMM0 + draft.rng.below(u64::from(vectors)) as u32,
            Class::Seg => Register::ES + draft.rng.below(6) as u32,
            Class::Cr => draft.rng.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4]),
        }
    }
}

fn gpr8(draft: &mut Draft) -> Register {
    let number = draft.any_gpr() as u32;
    if number < 4 && draft.rng.chance(30) && !(draft.sequence && draft.is_pinned(number as usize)) {
        return Register::AH + number;
    }
    match (number, draft.mode) {
        (0..=3, _) => Register::AL + number,
        (_, Mode::Compat) => Register::AL + (number & 3),
        _ => Register::SPL + (number - 4),
    }
}

fn register_class(kind: K) -> Option<Class> {
    use K::*;
    Some(match kind {
        r8_or_mem | r8_reg | r8_opcode => Class::Gpr8,
        r16_or_mem | r16_reg | r16_reg_mem | r16_rm | r16_opcode => Class::Gpr16,
        r32_or_mem | r32_or_mem_mpx | r32_reg | r32_reg_mem | r32_rm | r32_opcode | r32_vvvv => Class::Gpr32,
        r64_or_mem | r64_or_mem_mpx | r64_reg | r64_reg_mem | r64_rm | r64_opcode | r64_vvvv => Class::Gpr64,
        mm_or_mem | mm_reg | mm_rm => Class::Mmx,
        xmm_or_mem | xmm_reg | xmm_rm | xmm_vvvv | xmm_is4 | xmm_is5 => Class::Xmm,
        ymm_or_mem | ymm_reg | ymm_rm | ymm_vvvv | ymm_is4 | ymm_is5 => Class::Ymm,
        seg_reg => Class::Seg,
        cr_reg => Class::Cr,
        _ => return Option::None,
    })
}

fn fixed_register(kind: K) -> Option<Register> {
    use K::*;
    Some(match kind {
        al => Register::AL,
        cl => Register::CL,
        ax => Register::AX,
        dx => Register::DX,
        eax => Register::EAX,
        rax => Register::RAX,
        st0 => Register::ST0,
        es => Register::ES,
        cs => Register::CS,
        ss => Register::SS,
        ds => Register::DS,
        fs => Register::FS,
        gs => Register::GS,
        _ => return Option::None,
    })
}

/// Operands whose addresses are implied: strings, XLAT, MASKMOV, moffs.
fn implicit(
    draft: &mut Draft,
    i: &mut Instruction,
    info: &OpCodeInfo,
    n: u32,
    kind: K,
    address: &mut Option<u64>,
) -> Option<()> {
    let wide = draft.mode == Mode::Long;
    let narrow = draft.rng.chance(10) && wide;
    let size = info.memory_size().size().max(1) as u64;
    match kind {
        K::seg_rSI | K::es_rDI | K::seg_rDI => {
            // The second operand of a string instruction must have the address size of the first.
            let narrow = match (n, i.op0_kind()) {
                (0, _) | (_, OpKind::Register) => narrow,
                (_, k) => matches!(k, OpKind::MemorySegESI | OpKind::MemoryESEDI | OpKind::MemorySegEDI),
            };
            let (op, gpr) = match (kind, wide && !narrow) {
                (K::seg_rSI, true) => (OpKind::MemorySegRSI, 6),
                (K::seg_rSI, false) => (OpKind::MemorySegESI, 6),
                (K::es_rDI, true) => (OpKind::MemoryESRDI, 7),
                (K::es_rDI, false) => (OpKind::MemoryESEDI, 7),
                (_, true) => (OpKind::MemorySegRDI, 7),
                (_, false) => (OpKind::MemorySegEDI, 7),
            };
            let at = draft.target(size);
            *address = Some(draft.pin(gpr, at));
            i.set_op_kind(n, op);
        }
        K::seg_rBX_al => {
            let at = draft.target(256);
            *address = Some(draft.pin(3, at));
            i.set_op_kind(n, OpKind::Memory);
            i.set_memory_base(if wide && !narrow { Register::RBX } else { Register::EBX });
            i.set_memory_index(Register::AL);
        }
        K::mem_offs => {
            let at = draft.target(size);
            i.set_op_kind(n, OpKind::Memory);
            i.set_memory_displ_size(if wide && !narrow { 8 } else { 4 });
            i.set_memory_displacement64(if wide && !narrow { at } else { at & 0xffff_ffff });
            *address = Some(at);
        }
        K::sti_opcode => {
            i.set_op_kind(n, OpKind::Register);
            i.set_op_register(n, Register::ST0 + draft.rng.below(8) as u32);
        }
        _ => return Option::None,
    }
    Some(())
}

fn immediate(draft: &mut Draft, i: &mut Instruction, n: u32, kind: K, ip: u64) -> Option<()> {
    use K::*;
    let rng = &mut draft.rng;
    match kind {
        imm8 => {
            let first = (0..n).all(|k| i.op_kind(k) != OpKind::Immediate8 && i.op_kind(k) != OpKind::Immediate16);
            let v = if rng.chance(50) { rng.below(72) as u8 } else { rng.u32() as u8 };
            if first {
                i.set_op_kind(n, OpKind::Immediate8);
                i.set_immediate8(v);
            } else {
                i.set_op_kind(n, OpKind::Immediate8_2nd);
                i.set_immediate8_2nd(v);
            }
        }
        imm4_m2z | imm8_const_1 => {
            i.set_op_kind(n, OpKind::Immediate8);
            i.set_immediate8(1);
        }
        imm8sex16 => {
            i.set_op_kind(n, OpKind::Immediate8to16);
            i.set_immediate8to16(i16::from(rng.u32() as i8));
        }
        imm8sex32 => {
            i.set_op_kind(n, OpKind::Immediate8to32);
            i.set_immediate8to32(i32::from(rng.u32() as i8));
        }
        imm8sex64 => {
            i.set_op_kind(n, OpKind::Immediate8to64);
            i.set_immediate8to64(i64::from(rng.u32() as i8));
        }
        imm16 => {
            i.set_op_kind(n, OpKind::Immediate16);
            i.set_immediate16(values::integer(rng, 16) as u16);
        }
        imm32 => {
            i.set_op_kind(n, OpKind::Immediate32);
            i.set_immediate32(values::integer(rng, 32) as u32);
        }
        imm32sex64 => {
            i.set_op_kind(n, OpKind::Immediate32to64);
            i.set_immediate32to64(i64::from(values::integer(rng, 32) as i32));
        }
        imm64 => {
            i.set_op_kind(n, OpKind::Immediate64);
            i.set_immediate64(values::integer(rng, 64));
        }
        br16_1 | br16_2 | br32_1 | br32_4 | br64_1 | br64_4 => branch(draft, i, n, kind, ip),
        farbr2_2 | farbr4_2 => far_branch(draft, i, n, kind),
        _ => return Option::None,
    }
    Some(())
}

fn branch(draft: &mut Draft, i: &mut Instruction, n: u32, kind: K, ip: u64) {
    let near = matches!(kind, K::br16_1 | K::br32_1 | K::br64_1);
    let distance = if near { draft.rng.below(0x60) } else { draft.rng.below(0x1800) };
    let target = match draft.rng.below(3) {
        0 => ip.wrapping_sub(distance + 1),
        _ => ip + 16 + distance,
    };
    match kind {
        K::br16_1 | K::br16_2 => {
            i.set_op_kind(n, OpKind::NearBranch16);
            i.set_near_branch16(target as u16);
        }
        K::br32_1 | K::br32_4 => {
            i.set_op_kind(n, OpKind::NearBranch32);
            i.set_near_branch32(target as u32);
        }
        _ => {
            i.set_op_kind(n, OpKind::NearBranch64);
            i.set_near_branch64(target);
        }
    }
}

fn far_branch(draft: &mut Draft, i: &mut Instruction, n: u32, kind: K) {
    let target = draft.code_target();
    i.set_far_branch_selector(tune::selector(draft, true));
    if kind == K::farbr2_2 {
        i.set_op_kind(n, OpKind::FarBranch16);
        i.set_far_branch16(target as u16);
    } else {
        i.set_op_kind(n, OpKind::FarBranch32);
        i.set_far_branch32(target as u32);
    }
}

/// The general register operand `n` names, if it is one.
pub(super) fn operand_gpr(i: &Instruction, n: u32) -> Option<usize> {
    (i.op_count() > n && i.op_kind(n) == OpKind::Register).then(|| gpr_number(i.op_register(n))).flatten()
}
