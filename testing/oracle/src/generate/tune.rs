//! What single instructions need to do more than fault: divisors that fit, counts that end, pointers to code, valid control
//! words. Each rule applies most of the time, not always.

use super::build::operand_gpr;
use super::draft::Draft;
use super::{policy, values};
use crate::case::Mode;
use crate::layout::{DATA, DATA_LEN, STACK, selector};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic as M, OpKind};

const RCX: usize = 1;
const RDX: usize = 2;
const RSP: usize = 4;
const RBP: usize = 5;

/// Bytes that an instruction whose table entry names no size accesses.
pub(super) fn unsized_memory(code: Code) -> u64 {
    match code.mnemonic() {
        m if policy::is_xsave(m) => 832,
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => 512,
        M::Fnsave | M::Frstor => 108,
        M::Fnstenv | M::Fldenv => 28,
        _ => 1,
    }
}

/// Values that must be in place before operands are chosen.
pub(super) fn before(draft: &mut Draft, code: Code) {
    let often = draft.rng.chance(85);
    match code.mnemonic() {
        M::Div | M::Idiv if often => {
            let high = draft.rng.pick(&[0, 0, 1, u64::MAX, 3]);
            draft.pin(RDX, high);
        }
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz if often => {
            let count = draft.rng.pick(&[0, 1, 2, 3, 1 << 32, 0x1_0000]);
            draft.pin(RCX, count);
        }
        M::Shl | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd if often => {
            let count = draft.rng.below(70);
            draft.pin(RCX, count);
        }
        m if policy::is_xsave(m) => {
            // Only components that the virtual CPU has: hosts have more.
            let mask = draft.rng.below(8);
            draft.pin(0, mask);
            draft.pin(RDX, 0);
        }
        M::Leave => {
            let at = STACK + 0x400 + 8 * draft.rng.below(128);
            draft.pin(RBP, if often { at } else { at + 0x1_0000 });
        }
        _ if code.is_string_instruction() => {
            // Counts stay within the pages even where REP applies.
            let count = draft.rng.below(20);
            draft.pin(RCX, if often { count } else { 1 << 32 | count });
        }
        _ => {}
    }
    if uses_stack(code) && !draft.sequence && draft.rng.chance(15) {
        draft.case.regs.gpr[RSP] = match draft.rng.below(5) {
            0 => STACK + draft.rng.below(16),
            1 => STACK + 0x1000 - draft.rng.below(16),
            2 => DATA + DATA_LEN + 8 * draft.rng.below(8),
            3 if draft.mode == Mode::Long => 0x0000_8000_0000_0000 + draft.rng.below(16),
            _ => STACK + 0x800 + draft.rng.below(64),
        };
    }
}

fn uses_stack(code: Code) -> bool {
    code.op_code().is_stack_instruction()
}

/// Adjusts registers and memory to the finished instruction; `address` is its memory operand's.
pub(super) fn after(draft: &mut Draft, i: &mut Instruction, address: Option<u64>) {
    if !draft.rng.chance(88) {
        return;
    }
    branches(draft, i, address);
    integers(draft, i, address);
    if let Some(at) = address {
        control_words(draft, i.mnemonic(), at);
    }
    if matches!(i.mnemonic(), M::Mov | M::Pop)
        && i.op0_kind() == OpKind::Register
        && i.op0_register().is_segment_register()
    {
        segment_load(draft, i, address);
    }
}

fn branches(draft: &mut Draft, i: &Instruction, address: Option<u64>) {
    let word = draft.word() as usize;
    let stack = draft.case.regs.gpr[RSP];
    let target = draft.code_target();
    match i.flow_control() {
        FlowControl::IndirectBranch | FlowControl::IndirectCall => match (operand_gpr(i, 0), address) {
            (Some(gpr), _) => {
                draft.pin(gpr, target);
            }
            (None, Some(at)) => {
                let far = i.is_jmp_far_indirect() || i.is_call_far_indirect();
                let offset_len = if i.memory_size().size() == 4 && far {
                    2
                } else if far {
                    4
                } else {
                    word
                };
                draft.poke(at, &target.to_le_bytes()[..offset_len]);
                if far {
                    let sel = selector(draft, true);
                    draft.poke(at.wrapping_add(offset_len as u64), &sel.to_le_bytes());
                }
            }
            _ => {}
        },
        FlowControl::Return => {
            let slot = match i.code() {
                Code::Retfw | Code::Retfw_imm16 | Code::Iretw | Code::Retnw | Code::Retnw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 | Code::Iretd => 4,
                Code::Retfq | Code::Retfq_imm16 | Code::Iretq => 8,
                _ => word,
            };
            return_frame(draft, i.mnemonic(), stack, slot, target);
        }
        _ => {}
    }
}

fn return_frame(draft: &mut Draft, mnemonic: M, stack: u64, slot: usize, target: u64) {
    let cs = selector(draft, true);
    let ss = if draft.rng.chance(80) { selector::USER_DS } else { selector(draft, false) };
    let flags = 0x202 | draft.rng.u64() & 0x24_cdd5;
    let frame = [target, u64::from(cs), flags, stack.wrapping_add(0x40), u64::from(ss)];
    let used = match mnemonic {
        M::Ret => 1,
        M::Retf => 2,
        _ => 5,
    };
    for (n, value) in frame.iter().take(used).enumerate() {
        draft.poke(stack.wrapping_add((n * slot) as u64), &value.to_le_bytes()[..slot]);
    }
}

/// A selector: mostly one that works.
pub(super) fn selector(draft: &mut Draft, code: bool) -> u16 {
    let good = match (code, draft.mode) {
        (true, Mode::Long) => [0x33, 0x33, 0x33, 0x23],
        (true, Mode::Compat) => [0x23, 0x23, 0x23, 0x33],
        (false, Mode::Long) => [0x2b, 0x2b, 0, 3],
        (false, Mode::Compat) => [0x2b, 0x2b, 0x07, 0x0f],
    };
    if draft.rng.chance(75) {
        draft.rng.pick(&good)
    } else {
        draft.rng.pick(&[0, 1, 3, 0x10, 0x13, 0x18, 0x1b, 0x23, 0x28, 0x2a, 0x2b, 0x30, 0x33, 0x08, 0x80, 0xfff8, 0x17])
    }
}

fn segment_load(draft: &mut Draft, i: &Instruction, address: Option<u64>) {
    let sel = selector(draft, false);
    let at = if i.mnemonic() == M::Pop { Some(draft.case.regs.gpr[RSP]) } else { address };
    match (operand_gpr(i, 1), at) {
        (Some(gpr), _) => {
            draft.pin(gpr, u64::from(sel));
        }
        (None, Some(at)) => draft.poke(at, &sel.to_le_bytes()),
        _ => {}
    }
}

fn integers(draft: &mut Draft, i: &Instruction, address: Option<u64>) {
    match i.mnemonic() {
        // A register bit index reaches far from the operand.
        M::Bt | M::Bts | M::Btr | M::Btc => {
            if let Some(gpr) = operand_gpr(i, 1) {
                let index = draft.rng.below(2048).wrapping_sub(1024);
                draft.pin(gpr, index);
            }
        }
        M::Popf | M::Popfd | M::Popfq => {
            let mut flags = draft.rng.u64() & 0x24_ced5;
            if draft.rng.chance(5) {
                flags |= 0x100 | draft.rng.u64() & 0x3_0000;
            }
            let at = draft.case.regs.gpr[RSP];
            draft.poke(at, &flags.to_le_bytes());
        }
        M::Cmpxchg if draft.rng.chance(50) => {
            let len = if i.op0_kind() == OpKind::Memory { i.memory_size().size() } else { i.op0_register().size() };
            let rax = draft.case.regs.gpr[0].to_le_bytes();
            match (operand_gpr(i, 0), address) {
                (Some(gpr), _) => {
                    draft.pin(gpr, u64::from_le_bytes(rax));
                }
                (None, Some(at)) => draft.poke(at, &rax[..len.clamp(1, 8)]),
                _ => {}
            }
        }
        M::Cmpxchg8b | M::Cmpxchg16b if draft.rng.chance(50) => {
            let half = if i.mnemonic() == M::Cmpxchg8b { 4 } else { 8 };
            if let Some(at) = address {
                let [low, _, high, ..] = draft.case.regs.gpr;
                draft.poke(at, &low.to_le_bytes()[..half]);
                draft.poke(at.wrapping_add(half as u64), &high.to_le_bytes()[..half]);
            }
        }
        M::Bound => {
            if let (Some(at), Some(gpr)) = (address, operand_gpr(i, 0)) {
                let len = i.op0_register().size();
                let value = draft.case.regs.gpr[gpr];
                let (low, high) = (value.wrapping_sub(draft.rng.below(3)), value.wrapping_add(draft.rng.below(3)));
                draft.poke(at, &low.to_le_bytes()[..len]);
                draft.poke(at.wrapping_add(len as u64), &high.to_le_bytes()[..len]);
            }
        }
        _ => {}
    }
}

/// Control and status images that load without a general-protection exception.
fn control_words(draft: &mut Draft, mnemonic: M, at: u64) {
    let rng = &mut draft.rng;
    let fcw = if rng.chance(60) { 0x37f } else { 0x40 | rng.u32() as u16 & 0x1f3f };
    let fsw = if rng.chance(80) { rng.u32() as u16 & 0x7f00 } else { rng.u32() as u16 };
    // Bit 17 is defined on AMD processors only (misaligned SSE).
    let reserved = if rng.chance(10) { rng.u32() & 0xfffd_0000 } else { 0 };
    let mxcsr = if rng.chance(50) { 0x1f80 } else { rng.u32() & 0xffff } | reserved;
    let tag = rng.u32() as u16;
    match mnemonic {
        M::Fldcw => draft.poke(at, &fcw.to_le_bytes()),
        M::Ldmxcsr | M::Vldmxcsr => draft.poke(at, &mxcsr.to_le_bytes()),
        M::Fldenv | M::Frstor => {
            let step = if draft.rng.chance(50) { 2 } else { 4 };
            for (n, word) in [fcw, fsw, tag].iter().enumerate() {
                draft.poke(at.wrapping_add(step * n as u64), &word.to_le_bytes());
            }
        }
        M::Fxrstor | M::Fxrstor64 => {
            let at = at & !15;
            draft.poke(at, &fcw.to_le_bytes());
            draft.poke(at.wrapping_add(2), &fsw.to_le_bytes());
            draft.poke(at.wrapping_add(24), &mxcsr.to_le_bytes());
        }
        m if policy::is_xsave(m) => {
            let components = draft.rng.below(8);
            let header = if draft.rng.chance(90) { [components, 0, 0, 0] } else { [components, draft.rng.u64(), 0, 0] };
            let header: Vec<u8> = header.iter().flat_map(|v| v.to_le_bytes()).collect();
            draft.poke(at.wrapping_add(512), &header);
            draft.poke(at.wrapping_add(544), &[0; 32]);
            draft.poke(at, &fcw.to_le_bytes());
            draft.poke(at.wrapping_add(2), &fsw.to_le_bytes());
            draft.poke(at.wrapping_add(24), &mxcsr.to_le_bytes());
        }
        M::Fbld => {
            let v = values::bcd80(&mut draft.rng);
            draft.poke(at, &v);
        }
        _ => {}
    }
}
