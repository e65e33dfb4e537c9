//! Instructions to test: every code of the supported sets, with varied operands.

use iced_x86::Register;
use iced_x86::{Code, Encoder, EncodingKind, Instruction, MemoryOperand, OpCodeOperandKind, OpKind};

use super::random::Random;
use crate::{features, host_features};

/// What to choose for operands that may be register or memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Register,
    Memory,
}

/// All codes of the supported instruction sets that 64-bit code can encode and this unit (rather
/// than the engine) executes.
pub(crate) fn codes_in_scope() -> impl Iterator<Item = Code> {
    Code::values().filter(|&code| {
        let info = code.op_code();
        matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
            && info.is_instruction()
            && info.mode64()
            && !info.fwait()
            && features::required(code).is_some_and(|f| host_features().contains(f))
            && !is_engines(code)
    })
}

/// Codes in the same CPUID groups that touch no x87 or vector register, and combinations with
/// WAIT and codes of the 387SL that no decoder produces for current processors.
pub(crate) fn is_engines(code: Code) -> bool {
    use iced_x86::Mnemonic as M;
    let vectors = (0..code.op_code().op_count()).any(|i| {
        let kind = format!("{:?}", code.op_code().op_kind(i));
        ["mm_", "xmm", "ymm", "vsib"].iter().any(|s| kind.contains(s))
    });
    let sl = code.cpuid_features().contains(&iced_x86::CpuidFeature::FPU387SL_ONLY)
        || code.cpuid_features().contains(&iced_x86::CpuidFeature::FPU287XL_ONLY);
    sl || (!vectors
        && matches!(
            code.mnemonic(),
            M::Movnti
                | M::Lfence
                | M::Mfence
                | M::Sfence
                | M::Prefetcht0
                | M::Prefetcht1
                | M::Prefetcht2
                | M::Prefetchnta
                | M::Crc32
                | M::Pause
                | M::Clflush
        ))
}

/// Builds and encodes one instruction; `None` when `code` has no operand of that form.
pub(crate) fn build(code: Code, form: Form, random: &mut Random) -> Option<Vec<u8>> {
    use Code as C;
    let info = code.op_code();
    let mut ins = match code {
        C::Maskmovq_rDI_mm_mm => {
            let [a, b] = [0; 2].map(|_| Register::MM0 + random.below(8) as u32);
            Instruction::with_maskmovq(64, a, b, Register::None).unwrap()
        }
        C::Maskmovdqu_rDI_xmm_xmm | C::VEX_Vmaskmovdqu_rDI_xmm_xmm => {
            let [a, b] = [0; 2].map(|_| Register::XMM0 + random.below(16) as u32);
            let make = if code == C::Maskmovdqu_rDI_xmm_xmm {
                Instruction::with_maskmovdqu
            } else {
                Instruction::with_vmaskmovdqu
            };
            make(64, a, b, Register::None).unwrap()
        }
        _ => operands(code, form, random)?,
    };
    if ins.op_count() == 0 && form == Form::Memory {
        return None;
    }
    if !(0..info.op_count()).any(|i| ins.op_kind(i) != OpKind::Register) && form == Form::Memory {
        return None;
    }
    ins.set_code(code);
    let mut encoder = Encoder::new(64);
    match encoder.encode(&ins, 0) {
        Ok(_) => Some(encoder.take_buffer()),
        Err(error) => panic!("{code:?}: {error}"),
    }
}

fn operands(code: Code, form: Form, random: &mut Random) -> Option<Instruction> {
    use OpCodeOperandKind as K;
    let info = code.op_code();
    let mut ins = Instruction::new();
    ins.set_code(code);
    let mut has_form = form == Form::Register;
    let mut vectors: Vec<usize> = Vec::new();
    let mut vector = |random: &mut Random| loop {
        let n = random.below(16);
        // Gathers need three different registers; for others repetition is welcome.
        if !vectors.contains(&n) || (!is_gather(code) && random.one_in(4)) {
            vectors.push(n);
            return n as u32;
        }
    };
    for i in 0..info.op_count() {
        let kind = info.op_kind(i);
        let gpr = |random: &mut Random| [0, 1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15][random.below(13)];
        let memory = |ins: &mut Instruction| {
            let operand = MemoryOperand::with_base(Register::RBX);
            ins.set_op_kind(i, OpKind::Memory);
            ins.set_memory_base(operand.base);
        };
        let register = match kind {
            K::mem => {
                has_form |= true;
                if form == Form::Register {
                    return None;
                }
                memory(&mut ins);
                continue;
            }
            K::mem_vsib32x | K::mem_vsib64x | K::mem_vsib32y | K::mem_vsib64y => {
                if form == Form::Register {
                    return None;
                }
                has_form = true;
                memory(&mut ins);
                let wide = matches!(kind, K::mem_vsib32y | K::mem_vsib64y);
                let base = if wide { Register::YMM0 } else { Register::XMM0 };
                ins.set_memory_index(base + vector(random));
                ins.set_memory_index_scale(1 << random.below(4));
                continue;
            }
            K::r32_or_mem | K::r64_or_mem | K::mm_or_mem | K::xmm_or_mem | K::ymm_or_mem if form == Form::Memory => {
                has_form = true;
                memory(&mut ins);
                continue;
            }
            K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => {
                Register::XMM0 + vector(random)
            }
            K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => {
                Register::YMM0 + vector(random)
            }
            K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + random.below(8) as u32,
            K::r32_or_mem | K::r32_reg | K::r32_rm => Register::EAX + gpr(random),
            K::r64_or_mem | K::r64_reg | K::r64_rm => Register::RAX + gpr(random),
            K::st0 => Register::ST0,
            K::sti_opcode => Register::ST0 + random.below(8) as u32,
            K::ax => Register::AX,
            K::imm8 => {
                let kind = if (0..i).any(|j| ins.op_kind(j) == OpKind::Immediate8) {
                    ins.set_immediate8_2nd(random.next() as u8);
                    OpKind::Immediate8_2nd
                } else {
                    ins.set_immediate8(random.next() as u8);
                    OpKind::Immediate8
                };
                ins.set_op_kind(i, kind);
                continue;
            }
            other => panic!("{code:?}: operand kind {other:?}"),
        };
        ins.set_op_kind(i, OpKind::Register);
        ins.set_op_register(i, register);
    }
    has_form.then_some(ins)
}

pub(crate) fn is_gather(code: Code) -> bool {
    format!("{:?}", code.mnemonic()).contains("gather")
}
