//! Which of the arithmetic flags each instruction of a unit must preserve.
//!
//! The guest's flags are the host's, and much of what is emitted between guest instructions would spoil them: it may where no later
//! instruction reads them before one overwrites them.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::classify::Kind;
use super::joins;
use super::system::System;
use super::unit::{Bytes, Insn, decoder};

/// How far behind a branch to look for instructions that overwrite the flags.
const AHEAD: usize = 6;

/// Flags as a set, in the bits of [`iced_x86::RflagsBits`].
pub(super) type Flags = u32;
/// OF, SF, ZF, AF, CF, PF.
pub(super) const STATUS: Flags = 0x3f;

/// Finds what each instruction must preserve.
pub(super) fn find(unit: &mut [Insn], page: &[u8], relied: &mut Vec<Bytes>) {
    let (Some(first), Some(last)) = (unit.first(), unit.last()) else { return };
    if !matches!(last.kind, Kind::Jcc | Kind::Jmp) || last.target() != i64::from(first.off) {
        return look_back(unit, page, None, relied);
    }
    // A loop: what it reads from turn to turn is known exactly.
    let (mut round, before) = (0, relied.len());
    loop {
        relied.truncate(before);
        look_back(unit, page, Some(round), relied);
        let again = unit[0].live_in;
        if again == round {
            return;
        }
        round |= again;
    }
}

/// Backwards from what may be read behind the unit. `round`: what is read in the next turn of a loop that the last one closes.
fn look_back(unit: &mut [Insn], page: &[u8], round: Option<Flags>, relied: &mut Vec<Bytes>) {
    let count = unit.len();
    let bits = if unit.first().is_none_or(|i| i.wide) { 64 } else { 32 };
    let mut live = match unit.last() {
        Some(last) if last.kind.falls_through() => look_ahead(page, i64::from(last.next()), bits, relied),
        _ => 0,
    };
    for n in (0..count).rev() {
        let joined = joins::joined(unit, n).map(|to| unit[to].live_in);
        let i = &mut unit[n];
        i.live_out = live;
        match i.kind {
            Kind::Jmp if i.again != 0 => i.live_taken = live,
            Kind::Jcc if i.again != 0 => {
                // Taken, it goes on in the unit.
                i.live_taken = live;
                i.live_out = look_ahead(page, i64::from(i.next()), bits, relied);
                live |= i.live_out | read_by(&i.ins);
            }
            Kind::Jcc | Kind::Jmp | Kind::Counted => {
                let closes = n + 1 == count;
                let taken = joined.or(round.filter(|_| closes));
                i.live_taken = taken.unwrap_or_else(|| look_ahead(page, i.target(), bits, relied));
                live |= i.live_taken | read_by(&i.ins);
            }
            // Division faults in programs that live on with the flags as they were.
            Kind::System(System::Syscall | System::Sysret | System::Divide | System::Repeat) => live = STATUS,
            // Whoever is not translated sees the register as a whole, and so does code that is not known.
            Kind::Interpret { .. } | Kind::Indirect | Kind::Call | Kind::Return | Kind::CallIndirect => live = STATUS,
            _ => live = (live & !overwritten_by(&i.ins)) | read_by(&i.ins),
        }
        i.live_in = live;
    }
}

fn read_by(ins: &Instruction) -> Flags {
    ins.rflags_read() & STATUS
}

/// Flags that `ins` overwrites whatever its operands are.
fn overwritten_by(ins: &Instruction) -> Flags {
    use Mnemonic::*;
    match ins.mnemonic() {
        // Not with a count of zero.
        Shl | Shr | Sar | Sal | Rol | Ror | Rcl | Rcr | Shld | Shrd => {
            let last = ins.op_count() - 1;
            let counted = ins.op_kind(last) == OpKind::Immediate8 && ins.immediate8() & 31 != 0;
            if counted { ins.rflags_modified() & STATUS & !unsure(ins.mnemonic()) } else { 0 }
        }
        // Nor with none in RCX.
        Cmpsb | Cmpsw | Cmpsd | Cmpsq | Scasb | Scasw | Scasd | Scasq if repeats(ins) => 0,
        _ => ins.rflags_modified() & STATUS,
    }
}

fn repeats(ins: &Instruction) -> bool {
    ins.has_rep_prefix() || ins.has_repne_prefix()
}

/// It may fault with the flags as they were, and processors leave some of them alone.
fn is_division(ins: &Instruction) -> bool {
    matches!(ins.mnemonic(), Mnemonic::Div | Mnemonic::Idiv)
}

/// Flags that a shift leaves alone for some counts or on some processors.
fn unsure(m: Mnemonic) -> Flags {
    use iced_x86::RflagsBits as F;
    match m {
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => STATUS & !F::CF,
        _ => 0,
    }
}

/// Flags that code of `bits` bits at offset `at` of the page may read before it overwrites them.
pub(super) fn read_at(page: &[u8], at: i64, bits: u32) -> Flags {
    look_ahead(page, at, bits, &mut Vec::new())
}

/// As [`read_at`]; the bytes that say that some are not read are added to `relied`.
fn look_ahead(page: &[u8], at: i64, bits: u32, relied: &mut Vec<Bytes>) -> Flags {
    let Some(at) = u16::try_from(at).ok().filter(|at| usize::from(*at) < page.len()) else { return STATUS };
    let mut decoder = decoder(page, at, bits);
    let mut ins = Instruction::default();
    let (mut read, mut open) = (0, STATUS);
    let mut end = at;
    for _ in 0..AHEAD {
        if open == 0 || !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut ins);
        if ins.is_invalid() || ins.flow_control() != FlowControl::Next || is_division(&ins) {
            // A conditional branch reads what it reads, and what is still open may be read behind it.
            break;
        }
        read |= read_by(&ins) & open;
        open &= !overwritten_by(&ins);
        end = decoder.ip() as u16;
    }
    if read | open != STATUS {
        relied.push((at, end));
    }
    read | open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_do_nothing_overwrites_nothing() {
        let behind = |code: &[u8]| {
            let mut page = vec![0x90; 4096];
            page[..code.len()].copy_from_slice(code);
            read_at(&page, 0, 64)
        };
        assert_eq!(behind(&[0x39, 0xc0]), 0, "cmp eax, eax");
        assert_eq!(behind(&[0xa6]), 0, "cmpsb");
        for repeated in [[0xf3, 0xa6], [0xf2, 0xa6], [0xf3, 0xaf], [0xf2, 0xae], [0xd3, 0xe0]] {
            assert_eq!(behind(&repeated), STATUS, "{repeated:x?}, with nothing in RCX");
        }
        assert_eq!(behind(&[0xc1, 0xe0, 1]), 0, "shl eax, 1");
        assert_eq!(behind(&[0xf7, 0xf9, 0x39, 0xc0]), STATUS, "idiv ecx; cmp eax, eax");
    }
}
