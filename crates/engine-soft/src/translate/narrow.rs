//! What is different in 32-bit code: protected and compatibility mode with flat segments (`Context` says which those are).
//!
//! Addresses, the stack pointer and branch targets have 32 bits; the upper halves of the registers mean nothing, and no
//! instruction here relies on them. What cannot be encoded in 64-bit mode is encoded otherwise, or interpreted.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::classify::Kind;
use super::context::Context;

/// Branches and stack instructions of 32-bit code.
pub(super) fn classify(ins: &Instruction) -> Option<Kind> {
    use Code::*;
    if ins.is_jcc_short_or_near() && ins.op0_kind() == OpKind::NearBranch32 {
        return Some(Kind::Jcc);
    }
    Some(match ins.code() {
        Jmp_rel8_32 | Jmp_rel32_32 => Kind::Jmp,
        Call_rel32_32 => Kind::Call,
        Jmp_rm32 if reaches_operand(ins) => Kind::Indirect,
        Call_rm32 if reaches_operand(ins) => Kind::CallIndirect,
        Retnd | Retnd_imm16 => Kind::Return,
        Jecxz_rel8_32 | Loop_rel8_32_ECX => Kind::Counted,
        Push_r32 | Pushd_imm8 | Pushd_imm32 => Kind::Push,
        Push_rm32 if reaches_operand(ins) => Kind::Push,
        Pop_r32 => Kind::Pop,
        Leaved => Kind::Leave,
        _ if loads_segment(ins) => Kind::Interpret { ends: true },
        _ => return None,
    })
}

/// The memory operand, if any, is in DS or SS, at an address of 32 bits.
fn reaches_operand(ins: &Instruction) -> bool {
    ins.op0_kind() != OpKind::Memory
        || (matches!(ins.memory_segment(), Register::DS | Register::SS) && !has_address_of_16(ins))
}

/// `ins` does something else than the same instruction of 64-bit code, or its memory operand cannot be reached by adding a segment's
/// base to an address of 32 bits.
pub(super) fn is_different(ins: &Instruction, context: Context) -> bool {
    let memory = (0..ins.op_count()).any(|i| ins.op_kind(i) == OpKind::Memory);
    let address = ins.mnemonic() == Mnemonic::Lea;
    // These know only eight registers here.
    if matches!(ins.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall) {
        return true;
    }
    memory && (has_address_of_16(ins) || (!address && !reaches(ins, context)))
}

/// The segment of the memory operand ends behind it, whatever the registers hold. A segment that begins at 0 ends where a page does; of one with a base
/// that is known only of constant offsets.
fn reaches(ins: &Instruction, context: Context) -> bool {
    let seg = ins.memory_segment();
    let constant = ins.memory_base() == Register::None && ins.memory_index() == Register::None;
    let end = ins.memory_displacement64().wrapping_add(ins.memory_size().size() as u64);
    context.reaches(seg) && (matches!(seg, Register::DS | Register::SS) || (constant && end <= 1 << 32))
}

fn has_address_of_16(ins: &Instruction) -> bool {
    let (base, index) = (ins.memory_base(), ins.memory_index());
    let none = base == Register::None && index == Register::None;
    base.is_gpr16() || index.is_gpr16() || (none && ins.memory_displ_size() == 2)
}

/// Behind it another layout may be in force.
fn loads_segment(ins: &Instruction) -> bool {
    use Mnemonic::*;
    let first = ins.op_count() > 0 && ins.op0_kind() == OpKind::Register && ins.op0_register().is_segment_register();
    match ins.mnemonic() {
        Mov | Pop => first,
        Lds | Les | Lfs | Lgs | Lss => true,
        _ => false,
    }
}

/// Gives `ins` an encoding that 64-bit code has: INC and DEC with the register in the opcode, and MOV with nothing but an offset.
pub(super) fn recode(ins: &mut Instruction) {
    use Code::*;
    let code = match ins.code() {
        Inc_r32 => Inc_rm32,
        Dec_r32 => Dec_rm32,
        Inc_r16 => Inc_rm16,
        Dec_r16 => Dec_rm16,
        Mov_AL_moffs8 => Mov_r8_rm8,
        Mov_AX_moffs16 => Mov_r16_rm16,
        Mov_EAX_moffs32 => Mov_r32_rm32,
        Mov_RAX_moffs64 => Mov_r64_rm64,
        Mov_moffs8_AL => Mov_rm8_r8,
        Mov_moffs16_AX => Mov_rm16_r16,
        Mov_moffs32_EAX => Mov_rm32_r32,
        Mov_moffs64_RAX => Mov_rm64_r64,
        _ => return,
    };
    ins.set_code(code);
}
