//! Which instructions may be run: those the virtual CPU announces, minus those whose result is the host's own business and
//! those that would leave the sandbox.

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpCodeOperandKind};

use crate::case::Mode;

/// CPUID features of the virtual CPU (x86-64-v3 and the extensions that every host of the last years has), in the names
/// of the instruction tables.
pub const ANNOUNCED: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::MMX,
    CpuidFeature::FXSR,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::POPCNT,
    CpuidFeature::AVX,
    CpuidFeature::AVX2,
    CpuidFeature::FMA,
    CpuidFeature::F16C,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::LZCNT,
    CpuidFeature::MOVBE,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::SHA,
    CpuidFeature::ADX,
    CpuidFeature::FSGSBASE,
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEOPT,
    CpuidFeature::XSAVEC,
    CpuidFeature::GFNI,
    CpuidFeature::VAES,
    CpuidFeature::VPCLMULQDQ,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLWB,
    CpuidFeature::CLFSH,
    CpuidFeature::PAUSE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PREFETCHW,
    // Hints and reserved no-operations where the feature is absent (SDM 1 §18.3).
    CpuidFeature::CET_IBT,
    CpuidFeature::CLDEMOTE,
];

/// Encodings that no announced feature covers and that every host of this project answers with #UD.
const ABSENT: &[CpuidFeature] = &[CpuidFeature::XOP, CpuidFeature::FMA4, CpuidFeature::D3NOW, CpuidFeature::D3NOWEXT];

/// Mnemonics whose effect depends on the host or its kernel, that enter a kernel, or that talk to a hypervisor.
const EXCLUDED: &[Mnemonic] = &[
    Mnemonic::Syscall,
    Mnemonic::Sysenter,
    Mnemonic::Sysret,
    Mnemonic::Sysretq,
    Mnemonic::Sysexit,
    Mnemonic::Sysexitq,
    Mnemonic::Int,
    // Some hypervisors report the instruction itself instead of the next one.
    Mnemonic::Int1,
    Mnemonic::Cpuid,
    Mnemonic::Rdtsc,
    Mnemonic::Rdtscp,
    Mnemonic::Rdpmc,
    Mnemonic::Rdpid,
    Mnemonic::Rdrand,
    Mnemonic::Rdseed,
    Mnemonic::Xgetbv,
    Mnemonic::Sgdt,
    Mnemonic::Sidt,
    Mnemonic::Sldt,
    Mnemonic::Smsw,
    Mnemonic::Str,
    Mnemonic::Rsm,
    Mnemonic::Xbegin,
    // Undocumented and decoded differently by Intel and AMD.
    Mnemonic::Jmpe,
    Mnemonic::Ud0,
    Mnemonic::Ud1,
];

/// Whether `code` is one that the fuzzer may run in `mode`.
pub fn code_allowed(code: Code, mode: Mode) -> bool {
    let info = code.op_code();
    let features = code.cpuid_features();
    let known = features.iter().all(|f| ANNOUNCED.contains(f)) || features.iter().any(|f| ABSENT.contains(f));
    info.is_instruction()
        && info.is_available_in_mode(mode.bits())
        && info.decoder_option() == 0
        // WAIT and the instruction after it are two instructions to the CPU.
        && !info.fwait()
        // The order of checks differs between hosts.
        && !info.op_kinds().iter().any(|k| matches!(k, OpCodeOperandKind::dr_reg | OpCodeOperandKind::tr_reg))
        && known
        && info.encoding() != EncodingKind::EVEX
        && info.encoding() != EncodingKind::MVEX
        && !EXCLUDED.contains(&code.mnemonic())
        && !vendor_specific(code, mode)
}

/// Whether an absent feature makes `code` an invalid opcode.
pub fn is_absent(code: Code) -> bool {
    code.cpuid_features().iter().any(|f| ABSENT.contains(f))
}

/// Encodings on which Intel and AMD differ: far pointers with 64-bit offsets, 16-bit near branches in 64-bit mode.
fn vendor_specific(code: Code, mode: Mode) -> bool {
    let info = code.op_code();
    let wide_far = matches!(
        code,
        Code::Jmp_m1664 | Code::Call_m1664 | Code::Lss_r64_m1664 | Code::Lfs_r64_m1664 | Code::Lgs_r64_m1664
    );
    let near = matches!(
        code.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
    ) || matches!(
        code.flow_control(),
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return
    );
    let far = matches!(code.mnemonic(), Mnemonic::Retf | Mnemonic::Iret)
        || matches!(code, Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Call_m1616 | Code::Call_m1632);
    // Intel writes 16 bits of the stack slot, AMD 32; Intel takes 0F 0D with a register for a no-operation, AMD for invalid.
    let narrow_push = matches!(
        code,
        Code::Pushd_ES | Code::Pushd_CS | Code::Pushd_SS | Code::Pushd_DS | Code::Pushd_FS | Code::Pushd_GS
    );
    let hint = matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    );
    wide_far || narrow_push || hint || (mode == Mode::Long && near && !far && info.operand_size() == 16)
}

/// Whether one decoded instruction, standing in a case's code, may be run. Invalid ones may: both sides must raise #UD.
pub fn instruction_allowed(instruction: &Instruction, bytes: &[u8], mode: Mode) -> bool {
    if instruction.is_invalid() {
        // EVEX space the decoder does not know may be newer than it.
        return !has_host_only_prefix(bytes, mode);
    }
    let narrow_branch = mode == Mode::Long && near_branch_with_prefix66(instruction, bytes);
    let host_specific =
        narrow_branch || loop_with_rep(instruction, bytes, mode) || wide_element(instruction, bytes, mode);
    code_allowed(instruction.code(), mode) && !host_specific
}

/// VEX.W of VPINSRD and VPEXTRD outside 64-bit mode, which Intel ignores and AMD does not know.
fn wide_element(instruction: &Instruction, bytes: &[u8], mode: Mode) -> bool {
    let rest = &bytes[prefixes(bytes, mode == Mode::Long).len()..];
    mode == Mode::Compat
        && matches!(instruction.mnemonic(), Mnemonic::Vpinsrd | Mnemonic::Vpextrd)
        && matches!(rest, [0xc4, _, p, ..] if p & 0x80 != 0)
}

/// A REP prefix before LOOPcc chooses the condition on AMD.
fn loop_with_rep(instruction: &Instruction, bytes: &[u8], mode: Mode) -> bool {
    instruction.is_loopcc() && prefixes(bytes, mode == Mode::Long).iter().any(|p| matches!(p, 0xf2 | 0xf3))
}

fn near_branch_with_prefix66(instruction: &Instruction, bytes: &[u8]) -> bool {
    let near =
        !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception);
    let far = matches!(instruction.mnemonic(), Mnemonic::Retf | Mnemonic::Iretd | Mnemonic::Iretq | Mnemonic::Iret)
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    near && !far && prefixes(bytes, true).contains(&0x66)
}

/// The legacy prefixes, and REX prefixes where they exist, at the start of `bytes`.
pub fn prefixes(bytes: &[u8], long: bool) -> &[u8] {
    let is_prefix = |b: &u8| {
        matches!(b, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || (long && b & 0xf0 == 0x40)
    };
    let n = bytes.iter().take_while(|b| is_prefix(b)).count();
    &bytes[..n]
}

fn has_host_only_prefix(bytes: &[u8], mode: Mode) -> bool {
    let rest = &bytes[prefixes(bytes, mode == Mode::Long).len()..];
    let branch66 = mode == Mode::Long
        && prefixes(bytes, true).contains(&0x66)
        && matches!(rest, [0x70..=0x7f | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb | 0xc2 | 0xc3 | 0xff, ..] | [0x0f, 0x80..=0x8f, ..]);
    if branch66 {
        return true;
    }
    // MOV CR with LOCK names CR8 on AMD.
    if matches!(rest, [0x0f, 0x20 | 0x22, ..]) && prefixes(bytes, mode == Mode::Long).contains(&0xf0) {
        return true;
    }
    match rest {
        // VPERMQ and VPERMPD without W.
        [0xc4, b, p, 0 | 1, ..] if b & 0x1f == 3 && p & 0x80 == 0 => true,
        // EVEX; XOP and 3DNow! as the AMD decoder sees them; the VEX maps that newer extensions fill.
        [0x62, ..] => true,
        [0x8f, b, ..] => b & 0x1f >= 8,
        [0x0f, 0x0f, ..] => true,
        [0xc4, b, ..] => b & 0x1f > 3,
        // Groups with system instructions that only some hosts have, and escape maps with newer opcodes.
        [
            0x0f,
            0x00
            | 0x01
            | 0xc7
            | 0xae
            | 0x1a
            | 0x1b
            | 0x1e
            | 0x04
            | 0x0a
            | 0x0c
            | 0x24..=0x27
            | 0x36..=0x37
            | 0x39
            | 0x3b..=0x3f,
            ..,
        ] => true,
        [0x0f, 0x38, b, ..] => *b >= 0x80,
        [0x0f, 0x78 | 0x79 | 0xa6 | 0xa7 | 0xb8 | 0xff | 0xb9, ..] => true,
        _ => false,
    }
}

/// Instructions whose requested-feature bitmap in EDX:EAX selects the components that they handle.
pub fn is_xsave(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Xrstor, Xrstor64, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64};
    matches!(mnemonic, Xsave | Xsave64 | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64)
}

/// Instructions that store the x87 pointers, which translated code does not keep.
pub fn stores_pointers(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Fnsave, Fnstenv, Fxsave, Fxsave64, Xrstor, Xrstor64};
    let stores_all = is_xsave(mnemonic) && !matches!(mnemonic, Xrstor | Xrstor64);
    stores_all || matches!(mnemonic, Fnsave | Fnstenv | Fxsave | Fxsave64)
}
