//! Which RFLAGS bits the manual leaves undefined after a case's instructions.

use crate::case::Case;
use iced_x86::{FlowControl, Instruction, Mnemonic as M, OpKind, Register, RflagsBits};
use visor_x86::Rflags;

/// The undefined bits at the end of the case. With branches, everything undefined on some path.
pub(super) fn undefined(case: &Case, instructions: &[Instruction]) -> u64 {
    let branches = instructions.iter().any(|i| i.flow_control() != FlowControl::Next);
    let mut tainted = Rflags::empty();
    for (n, i) in instructions.iter().enumerate() {
        let now = if n == 0 { first(case, i) } else { translate(i.rflags_undefined()) | variable_shift(i) };
        let defined = translate(i.rflags_written() | i.rflags_cleared() | i.rflags_set());
        if !branches && n > 0 && !conditional_writer(i) {
            tainted -= defined;
        }
        // A result computed from an undefined flag is as undefined; only flags are followed.
        if translate(i.rflags_read()).intersects(tainted) {
            tainted |= translate(i.rflags_modified());
        }
        tainted |= now;
    }
    tainted.bits()
}

/// Whether a later instruction turns an undefined flag into a register or a branch: such a case proves nothing.
pub(super) fn escapes(case: &Case, instructions: &[Instruction]) -> bool {
    let mut tainted = Rflags::empty();
    // A loop brings what any of its instructions leaves undefined back to its start.
    if instructions.iter().any(super::quirks::leads_back) {
        tainted = instructions.iter().fold(tainted, |t, i| t | translate(i.rflags_undefined()) | variable_shift(i));
        if let [only, ..] = instructions
            && translate(only.rflags_read()).intersects(tainted)
        {
            return true;
        }
    }
    for (n, i) in instructions.iter().enumerate() {
        let reads = translate(i.rflags_read());
        if n > 0 && reads.intersects(tainted) && !matches!(i.mnemonic(), M::Rcl | M::Rcr) {
            return true;
        }
        if matches!(i.mnemonic(), M::Pushf | M::Pushfd | M::Pushfq | M::Lahf) && !tainted.is_empty() {
            return true;
        }
        tainted |= if n == 0 { first(case, i) } else { translate(i.rflags_undefined()) | variable_shift(i) };
    }
    false
}

/// The flags the first instruction leaves undefined, for which the operands are known.
fn first(case: &Case, i: &Instruction) -> Rflags {
    let Some(count) = shift_count(case, i) else { return translate(i.rflags_undefined()) };
    let width = width(i);
    let count = count & if width == 64 { 63 } else { 31 };
    let mut undefined = Rflags::empty();
    match i.mnemonic() {
        _ if count == 0 => return undefined,
        M::Shl | M::Shr | M::Sal => {
            undefined |= Rflags::AF;
            undefined.set(Rflags::CF, count >= width);
            undefined.set(Rflags::OF, count != 1);
        }
        M::Sar => {
            undefined |= Rflags::AF;
            undefined.set(Rflags::OF, count != 1);
        }
        M::Shld | M::Shrd => {
            undefined |= Rflags::AF;
            undefined.set(Rflags::OF, count != 1);
            if count > width {
                undefined |= Rflags::STATUS;
            }
        }
        _ => undefined.set(Rflags::OF, count != 1),
    }
    undefined
}

/// Whether a double shift's result itself is undefined: the count exceeds a 16-bit operand.
pub(super) fn double_shift_overflows(case: &Case, i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Shld | M::Shrd)
        && width(i) == 16
        && shift_count(case, i).is_none_or(|count| count & 31 > 16)
}

fn shift_count(case: &Case, i: &Instruction) -> Option<u64> {
    let rotate = matches!(i.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr);
    let shift = matches!(i.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd);
    if !rotate && !shift {
        return None;
    }
    let last = i.op_count() - 1;
    match i.op_kind(last) {
        OpKind::Immediate8 => Some(u64::from(i.immediate8())),
        OpKind::Register if i.op_register(last) == Register::CL => Some(case.regs.gpr[1] & 0xff),
        _ => Some(1),
    }
}

/// Counts in CL are unknown in the middle of a sequence.
fn variable_shift(i: &Instruction) -> Rflags {
    let last = i.op_count().saturating_sub(1);
    let by_cl = i.op_count() > 1 && i.op_kind(last) == OpKind::Register && i.op_register(last) == Register::CL;
    match i.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Shld | M::Shrd if by_cl || width(i) < 32 => Rflags::AF | Rflags::OF | Rflags::CF,
        M::Sar if by_cl => Rflags::AF | Rflags::OF,
        M::Rol | M::Ror | M::Rcl | M::Rcr if by_cl => Rflags::OF,
        _ => Rflags::empty(),
    }
}

/// Instructions that write their flags only for some operands.
fn conditional_writer(i: &Instruction) -> bool {
    matches!(i.mnemonic(), M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd)
        || i.is_string_instruction()
        || i.has_rep_prefix()
}

fn width(i: &Instruction) -> u64 {
    let bytes = match i.op0_kind() {
        OpKind::Register => i.op0_register().size(),
        _ => i.memory_size().size(),
    };
    8 * bytes as u64
}

pub(super) fn translate(bits: u32) -> Rflags {
    [
        (RflagsBits::OF, Rflags::OF),
        (RflagsBits::SF, Rflags::SF),
        (RflagsBits::ZF, Rflags::ZF),
        (RflagsBits::AF, Rflags::AF),
        (RflagsBits::CF, Rflags::CF),
        (RflagsBits::PF, Rflags::PF),
        (RflagsBits::DF, Rflags::DF),
        (RflagsBits::AC, Rflags::AC),
    ]
    .into_iter()
    .filter(|(b, _)| bits & b != 0)
    .fold(Rflags::empty(), |all, (_, f)| all | f)
}
