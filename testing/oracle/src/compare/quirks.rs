//! What may differ besides undefined flags, and why.

use super::{Tolerance, flags};
use crate::case::{Case, Mode, Outcome};
use crate::layout;
use iced_x86::{
    Code, CpuidFeature, FlowControl, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind, Register,
};
use visor_x86::Rflags;

/// Around guest memory, where the child process has nothing.
const HOLE: u64 = 1 << 20;
/// First address above the canonical lower half.
const CANONICAL_END: u64 = 1 << 47;
/// Bytes of the largest state image.
const IMAGE_LEN: u64 = 840;

/// Condition code C1 of the x87 status word.
const C1: u16 = 0x200;

/// Points where Intel and AMD hosts differ, and what the fuzzer does about each.
pub const HOST_DIFFERENCES: &[(&str, &str)] = &[
    (
        "near branches with operand size 66h in 64-bit mode",
        "not generated: Intel ignores the prefix, AMD cuts RIP to 16 bits",
    ),
    ("LSS, LFS, LGS, far JMP and CALL with REX.W", "not generated: AMD has no 64-bit far offsets"),
    ("FOP, FIP and FDP in FXSAVE, FSAVE and FSTENV images", "ignored: AMD keeps them only after an unmasked exception"),
    ("base of FS and GS after loading a null selector", "ignored: Intel clears it, AMD keeps it"),
    (
        "MXCSR bit 17",
        "not generated, and images from which it would be loaded are not judged: AMD's misaligned-SSE mode",
    ),
    ("UD0 and UD1 length, DR and TR moves", "not generated: decoded or checked in different order"),
    ("SHA instructions with an unaligned 16-byte operand", "a #GP is accepted: Intel raises it, AMD does not"),
    (
        "#AC of vectors, gathers and state images",
        "accepted either way: \"may or may not be generated\" (MOVUPS in SDM 2)",
    ),
    ("#AC or #GP for an unaligned FXSAVE image", "both accepted"),
    (
        "state images and 80-bit operands that run over the end of the address size (64 KiB, 4 GiB, canonical addresses)",
        "not judged: accessed in pieces of the processor's choice, each of which wraps or faults for itself",
    ),
    ("addresses at which the host process has memory of its own", "not judged: the guest has none there"),
    ("LSL of the per-CPU segment whose result is read", "not judged: it is the number of the host's CPU"),
    ("CR2 of a state image that crosses a page", "ignored: some processors probe the last byte first"),
    (
        "XRSTOR of an image without AVX whose AVX part lies in a page that is not there",
        "a page fault is accepted: the same probe, of a part that is not restored from memory",
    ),
    ("MASKMOV with an all-zero mask on an invalid address", "a page fault is accepted either way"),
    ("PUSH of a segment register with 32-bit operands, 0F 0D with a register", "not generated"),
    (
        "far calls and returns that fault",
        "any of #NP, #SS, #GP, #PF, #AC is accepted, at any address: the order of checks differs, and\
         whether a call from 64-bit to compatibility mode pushes with 64 or 32 address bits",
    ),
    (
        "LOOP with a REP prefix (not generated), MOVSXD with 16-bit operands",
        "accepted: AMD lets the prefix choose the condition, and reads 32 bits",
    ),
    ("VPERMQ and VPERMPD with VEX.W = 0", "not generated: #UD by the manual, executed by AMD"),
    ("XSTATE_BV that XSAVE stores", "ignored: processors track initial states differently"),
    (
        "non-canonical offsets in FS and GS",
        "#GP, #PF and #AC are all accepted: AMD checks the offset as well as the linear address",
    ),
    ("LSL of the per-CPU segment", "ignored: its limit is the host's CPU number"),
    ("C1 after FCMOV and FCOMI", "ignored: Intel clears it, AMD leaves it"),
    ("what a faulting PUSHA has pushed and POPA popped", "ignored"),
    ("CALL to a non-canonical address with a bad stack", "#GP and the stack's exception are both accepted"),
    ("RPL of null selectors", "ignored: the host's kernel exit clears it"),
    ("MOV CR with LOCK", "not generated: another way to name CR8 on AMD"),
    ("VPINSRD and VPEXTRD with VEX.W in 32-bit code", "not generated: Intel ignores W, AMD raises #UD"),
    ("INT1", "not generated: some hypervisors report it as a fault"),
    ("BSF and BSR of zero", "compared: both vendors leave the destination unchanged"),
    ("x87 transcendental results", "compared within 2 units in the last place"),
    ("RF in the saved RFLAGS", "ignored: it depends on the host kernel's exception path"),
];

/// What may differ in this case.
pub(super) fn tolerance(case: &Case, instructions: &[Instruction], native: &Outcome) -> Tolerance {
    let undefined = executed(instructions, native).iter().fold(0, |u, part| u | flags::undefined(case, part));
    let mut t = Tolerance { flags: undefined | Rflags::RF.bits(), ..Tolerance::default() };
    // Branches may lead back, so that order says nothing.
    if instructions.iter().any(leaves_c1) {
        t.fsw |= C1;
    }
    for i in instructions {
        instruction(&mut t, case, native, i);
        if i.ip() == native.regs.rip && matches!(i.mnemonic(), M::Pusha | M::Pushad) {
            // Some processors push one by one, others check the whole range first.
            t.memory.push((layout::STACK, layout::STACK_LEN));
        }
        if i.ip() == native.regs.rip && matches!(i.mnemonic(), M::Popa | M::Popad) {
            t.gpr |= 0xef;
        }
    }
    t
}

/// The instructions before the one that faulted, and also with it where it may have run in part; all of them where
/// branches may have skipped it.
fn executed<'a>(instructions: &'a [Instruction], native: &Outcome) -> [&'a [Instruction]; 2] {
    let straight = instructions.iter().all(|i| i.flow_control() == FlowControl::Next);
    let faulted = instructions.iter().position(|i| i.ip() == native.regs.rip);
    match faulted {
        Some(n) if straight => {
            [&instructions[..n], &instructions[..n + usize::from(instructions[n].is_string_instruction())]]
        }
        _ => [instructions, instructions],
    }
}

/// Where the first of two different exceptions was raised: breakpoints end the run and what lies outside the code came
/// after a branch, so the other one was first; within the code, generated branches lead forward.
pub(super) fn raised_at(instructions: &[Instruction], native: &Outcome, subject: &Outcome) -> u64 {
    let (n, s) = (native.regs.rip, subject.regs.rip);
    let inside = |rip: u64| instructions.iter().any(|i| i.ip() == rip);
    match (native.vector, subject.vector) {
        (a, b) if a == b && n == s => 0,
        (3, 3) => 0,
        (3, _) => s,
        (_, 3) => n,
        _ if inside(n) && !inside(s) => n,
        _ if inside(s) && !inside(n) => s,
        _ => n.min(s),
    }
}

/// Whether the two sides raised different exceptions, both of which the manual allows.
pub(super) fn accepted(instructions: &[Instruction], native: &Outcome, subject: &Outcome) -> bool {
    let first = raised_at(instructions, native, subject);
    // With a loop, the exception at the higher address may have been the first; or it is the same one, in another turn.
    let looped = instructions.iter().any(leads_back);
    let turns = native.regs.gpr[1] != subject.regs.gpr[1];
    let other = native.regs.rip.max(subject.regs.rip);
    [Some(first), (looped && (first != 0 || turns)).then_some(other)]
        .into_iter()
        .flatten()
        .filter_map(|at| instructions.iter().find(|i| i.ip() == at))
        .any(|i| accepted_at(i, native, subject))
}

/// A branch to itself or to an earlier instruction.
pub(super) fn leads_back(i: &Instruction) -> bool {
    i.near_branch_target() != 0 && i.flow_control() != FlowControl::Next && i.near_branch_target() <= i.ip()
}

fn accepted_at(i: &Instruction, native: &Outcome, subject: &Outcome) -> bool {
    let raised = |v: u32| native.vector == v || subject.vector == v;
    let wide = !matches!(i.memory_size().size(), 1..=8) || vector_elements(i);
    let sha = i.cpuid_features().contains(&CpuidFeature::SHA);
    let image = is_state_image(i.mnemonic());
    let mask = is_mask_store(i.mnemonic()) || vector_elements(i);
    // Stack, selector and target of a far transfer are checked in different order.
    let far = is_far_return(i.mnemonic()) || i.is_call_far() || i.is_call_far_indirect();
    // Intel checks the target of a call before it pushes, AMD after.
    let call = i.mnemonic() == M::Call && raised(13);
    // AMD also wants the offset in FS or GS to be canonical, not only the linear address.
    let based = matches!(i.segment_prefix(), Register::FS | Register::GS) && raised(13) && (raised(14) || raised(17));
    let short_movsxd = matches!(i.code(), Code::Movsxd_r16_rm16 | Code::Movsxd_r32_rm32);
    (raised(17) && (wide || image))
        || short_movsxd
        || based
        || call
        || (far && [native.vector, subject.vector].iter().all(|v| matches!(v, 11..=14 | 17)))
        || (sha && raised(13))
        || (raised(12) && raised(13) && wide)
        || (image && (raised(12) || raised(13)) && (raised(14) || raised(17)))
        || (mask && (raised(13) || raised(14) || raised(17)))
        || probes_avx(i, native)
}

/// The host faulted at the end of an image whose header lies in the page before.
fn probes_avx(i: &Instruction, native: &Outcome) -> bool {
    const AVX_LEN: u64 = 256;
    matches!(i.mnemonic(), M::Xrstor | M::Xrstor64) && native.vector == 14 && native.cr2 % layout::PAGE < AVX_LEN
}

/// FCMOV and FCOMI.
fn leaves_c1(i: &Instruction) -> bool {
    let features = i.cpuid_features();
    features.contains(&CpuidFeature::FPU) && features.contains(&CpuidFeature::CMOV) || is_fcomi(i.mnemonic())
}

fn is_fcomi(mnemonic: M) -> bool {
    matches!(mnemonic, M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip)
}

fn vector_elements(i: &Instruction) -> bool {
    i.is_vsib() || matches!(i.mnemonic(), M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq)
}

/// Images of 14 bytes and more, which processors access in pieces of their own choice.
fn is_state_image(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64
            | M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Fnsave
            | M::Frstor
            | M::Fnstenv
            | M::Fldenv
    )
}

fn is_mask_store(mnemonic: M) -> bool {
    matches!(mnemonic, M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu)
}

fn is_far_return(mnemonic: M) -> bool {
    matches!(mnemonic, M::Retf | M::Iret | M::Iretd | M::Iretq)
}

fn instruction(t: &mut Tolerance, case: &Case, native: &Outcome, i: &Instruction) {
    let far = is_far_return(i.mnemonic()) || i.is_call_far() || i.is_call_far_indirect();
    t.cr2 |= is_state_image(i.mnemonic()) || is_mask_store(i.mnemonic()) || far;
    match i.mnemonic() {
        M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan | M::F2xm1 | M::Fyl2x | M::Fyl2xp1 => {
            t.ulps = 2;
            t.fsw |= C1 | 0x20; // C1 and PE follow the last bit.
        }
        M::Fnstsw if i.op0_kind() == OpKind::Register => t.gpr |= u16::from(t.fsw & C1 != 0),
        M::Fnstsw => ignore_c1(t, case, native, i, 0),
        M::Fxsave | M::Fxsave64 => {
            ignore(t, case, native, i, &[(6, 18), (28, 4)]);
            ignore_c1(t, case, native, i, 2);
        }
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 => {
            // Which components are in their initial state is the processor's to say.
            ignore(t, case, native, i, &[(6, 18), (28, 4), (512, 8)]);
            ignore_c1(t, case, native, i, 2);
        }
        M::Fnsave | M::Fnstenv => {
            let wide = i.memory_size().size() == 28 || i.memory_size().size() == 108;
            ignore(t, case, native, i, if wide { &[(12, 16)] } else { &[(6, 8)] });
            ignore_c1(t, case, native, i, if wide { 4 } else { 2 });
        }
        M::Mov | M::Pop | M::Lfs | M::Lgs
            if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() =>
        {
            t.bases = true;
        }
        M::Lfs | M::Lgs => t.bases = true,
        M::Lsl => t.segment_limit = Some(i.op0_register().full_register().number()),
        M::Shld | M::Shrd if flags::double_shift_overflows(case, i) => {
            t.flags |= Rflags::STATUS.bits();
            match i.op0_kind() {
                OpKind::Register => t.gpr |= 1 << i.op0_register().full_register().number(),
                _ => ignore(t, case, native, i, &[(0, 2)]),
            }
        }
        _ => {}
    }
}

/// Ignores the byte with C1 of a status word at `offset` of the memory operand, if C1 may differ by then.
fn ignore_c1(t: &mut Tolerance, case: &Case, native: &Outcome, i: &Instruction, offset: u64) {
    if t.fsw & C1 != 0 {
        ignore(t, case, native, i, &[(offset + 1, 1)]);
    }
}

/// Ignores byte ranges of the memory operand.
fn ignore(t: &mut Tolerance, case: &Case, native: &Outcome, i: &Instruction, ranges: &[(u64, u64)]) {
    for at in linear(case, native, i) {
        t.memory.extend(ranges.iter().map(|(offset, len)| (at.wrapping_add(*offset), *len)));
    }
}

/// Linear addresses of the memory operand, which come from registers as they were before the case or as earlier instructions
/// left them.
fn linear<'a>(case: &'a Case, native: &'a Outcome, i: &'a Instruction) -> impl Iterator<Item = u64> + 'a {
    let operand = (0..i.op_count()).find(|n| i.op_kind(*n) == OpKind::Memory).unwrap_or(0);
    [&case.regs, &native.regs].into_iter().filter_map(move |regs| {
        i.virtual_address(operand, 0, |register, _, _| {
            if !register.is_gpr() {
                return Some(segment_base(case, register));
            }
            let value = regs.gpr[register.full_register().number()];
            Some(match register.size() {
                8 => value,
                4 => value & 0xffff_ffff,
                _ => value & 0xffff,
            })
        })
    })
}

/// Whether the host got through an access at which the subject rightly faulted, since the child process has memory there.
pub(super) fn host_memory(case: &Case, native: &Outcome, subject: &Outcome, instructions: &[Instruction]) -> bool {
    let ours = |at: u64| [layout::CODE, layout::DATA, layout::STACK].iter().any(|r| (*r..r + HOLE).contains(&at));
    let alone = subject.vector == 14 && (native.vector != 14 || native.cr2 != subject.cr2);
    // The operand's address as the decoder library computes it: a wrong one of the subject's is no excuse.
    let right = |i: &Instruction| linear(case, subject, i).any(|at| subject.cr2.wrapping_sub(at) < 64);
    let faulting = instructions.iter().find(|i| i.ip() == subject.regs.rip);
    alone && (1 << 32..CANONICAL_END).contains(&subject.cr2) && !ours(subject.cr2) && faulting.is_some_and(right)
}

/// Whether an operand that processors access in pieces runs over the end of the address size in this case.
pub(super) fn piecewise_wrap(case: &Case, native: &Outcome, instructions: &[Instruction]) -> bool {
    instructions.iter().any(|i| {
        let len = match i.memory_size().size() {
            _ if is_state_image(i.mnemonic()) => IMAGE_LEN,
            10 => 10,
            _ => return false,
        };
        let edge = CANONICAL_END..=CANONICAL_END + len;
        if case.mode == Mode::Long && linear(case, native, i).any(|at| edge.contains(&at.wrapping_add(len))) {
            return true;
        }
        let bits = match (i.memory_base().size().max(i.memory_index().size()), i.memory_displ_size()) {
            (2, _) | (0, 2) => 16,
            (4, _) | (0, 4) => 32,
            _ => return false,
        };
        [&case.regs, &native.regs].iter().any(|regs| {
            let at = i.virtual_address(0, 0, |register, _, _| {
                let value =
                    if register.is_gpr() { regs.gpr[register.full_register().number()] } else { return Some(0) };
                Some(value & (u64::MAX >> (64 - 8 * register.size())))
            });
            at.is_some_and(|at| (at & (u64::MAX >> (64 - bits))) + len > 1 << bits)
        })
    })
}

/// Whether an image is loaded whose MXCSR sets bit 17 and nothing else that is reserved.
pub(super) fn misaligned_mode(case: &Case, native: &Outcome, instructions: &[Instruction]) -> bool {
    instructions.iter().any(|i| {
        let offset = match i.mnemonic() {
            M::Ldmxcsr | M::Vldmxcsr => 0,
            M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 => 24,
            _ => return false,
        };
        // Upper half of the register.
        let high = |at: u64| Some([case.byte(at.wrapping_add(offset + 2))?, case.byte(at.wrapping_add(offset + 3))?]);
        linear(case, native, i).any(|at| high(at) == Some([2, 0]))
    })
}

/// Whether another instruction reads the result of LSL, which may be the number of the host's CPU.
pub(super) fn limit_escapes(instructions: &[Instruction]) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let mut reads = |i: &Instruction, r: Register| {
        let is_read =
            |a: OpAccess| !matches!(a, OpAccess::Write | OpAccess::CondWrite | OpAccess::None | OpAccess::NoMemAccess);
        factory.info(i).used_registers().iter().any(|u| u.register().full_register() == r && is_read(u.access()))
    };
    let results = instructions.iter().enumerate().filter(|(_, i)| i.mnemonic() == M::Lsl);
    // A loop leads back to what stands before it.
    let looped = instructions.iter().any(leads_back);
    results.into_iter().any(|(n, lsl)| {
        let result = lsl.op0_register().full_register();
        let behind = if looped { 0 } else { n + 1 };
        instructions.iter().skip(behind).any(|i| reads(i, result))
    })
}

fn segment_base(case: &Case, register: iced_x86::Register) -> u64 {
    use crate::layout::{LDT_FS_BASE, LDT_GS_BASE};
    match (register, case.mode) {
        (iced_x86::Register::FS, Mode::Long) => case.regs.fs_base,
        (iced_x86::Register::GS, Mode::Long) => case.regs.gs_base,
        (iced_x86::Register::FS, Mode::Compat) => LDT_FS_BASE.into(),
        (iced_x86::Register::GS, Mode::Compat) => LDT_GS_BASE.into(),
        _ => 0,
    }
}
