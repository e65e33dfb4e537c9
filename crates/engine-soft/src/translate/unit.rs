//! The unit of translation: a straight run of guest instructions within one page.
//!
//! A unit goes on behind conditional branches that jump forward (their taken path leaves it, or joins it further down: `joins`), and ends
//! at every other transfer of control and at instructions that change how code runs. Short loops at its end are gone through several
//! times (`unroll`).

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::classify::{Kind, classify};
use super::context::Context;
use super::joins;
use super::liveness::{self, Flags, STATUS};
use super::system::{self, System};
use super::unroll::unroll;

/// Most instructions in a unit.
const MAX: usize = 64;

/// One guest instruction of a unit.
#[derive(Clone, Debug)]
pub(super) struct Insn {
    pub(super) ins: Instruction,
    pub(super) kind: Kind,
    /// Offset in the page.
    pub(super) off: u16,
    /// Of 64-bit code.
    pub(super) wide: bool,
    /// STI that looks at the attention word, since the next instruction would and must not.
    pub(super) looks: bool,
    /// In the shadow of that STI.
    pub(super) shadowed: bool,
    /// A branch forward whose target is in the unit.
    pub(super) joins: bool,
    /// If not zero: a branch that closes a loop and, taken, goes on with the next instruction of the unit: with that many that are
    /// another turn of the loop.
    pub(super) again: u8,
    /// Flags from before this instruction that it or a later one reads.
    pub(super) live_in: Flags,
    /// Flags that a later instruction reads.
    pub(super) live_out: Flags,
    /// Flags that the taken path of a branch reads.
    pub(super) live_taken: Flags,
}

impl Insn {
    /// Offset of the next instruction.
    pub(super) fn next(&self) -> u16 {
        self.off + self.ins.len() as u16
    }

    /// All flags are to survive, whoever reads them.
    pub(super) fn keep_all_flags(&mut self) {
        (self.live_in, self.live_out, self.live_taken) = (STATUS, STATUS, STATUS);
    }

    /// Target of a relative branch, relative to the page.
    pub(super) fn target(&self) -> i64 {
        let target = self.ins.near_branch_target();
        if self.wide { target as i64 } else { i64::from(target as i32) }
    }
}

/// Bytes of a page, as offsets of the first and of the one behind the last.
pub(super) type Bytes = (u16, u16);

/// Reads the unit at offset `start` of a page of code. Empty if its first instruction is not one, or goes on in the next page.
pub(super) fn read(page: &[u8], start: u16, context: Context) -> Vec<Insn> {
    read_noting(page, start, context, &mut Vec::new())
}

/// As [`read`]; what the unit depends on, itself and all that says which flags are dead, is added to `relied`.
pub(super) fn read_noting(page: &[u8], start: u16, context: Context, relied: &mut Vec<Bytes>) -> Vec<Insn> {
    let mut unit = Vec::with_capacity(16);
    let mut decoder = decoder(page, start, context.bits());
    let wide = context.is_64();
    let mut ins = Instruction::default();
    while unit.len() < MAX && decoder.can_decode() {
        let off = decoder.ip() as u16;
        decoder.decode_out(&mut ins);
        // It may go on in the next page, or be too long; the interpreter knows.
        if ins.is_invalid() {
            break;
        }
        let kind = classify(&ins, context);
        let (live_in, live_out, live_taken) = (STATUS, STATUS, STATUS);
        let (looks, shadowed, joins, again) = (false, false, false, 0);
        let insn = Insn { ins, kind, off, wide, looks, shadowed, joins, again, live_in, live_out, live_taken };
        let backward = matches!(kind, Kind::Jcc) && insn.target() <= i64::from(off);
        unit.push(insn);
        if kind.ends() || backward {
            break;
        }
    }
    shadow_of_sti(&mut unit);
    if let Some(last) = unit.last() {
        relied.push((start, last.next()));
    }
    joins::find(&mut unit);
    unroll(&mut unit, page);
    liveness::find(&mut unit, page, relied);
    unit
}

/// The instruction behind STI must be executed before the attention word is looked at: where that is a branch which looks, STI does so in
/// its place, so that every cycle still has somebody who looks. Where it is not here, the interpreter sees to it, as to several STI in a row.
fn shadow_of_sti(unit: &mut Vec<Insn>) {
    for i in 0..unit.len() {
        if unit[i].kind != Kind::System(System::Sti) {
            continue;
        }
        let Some(next) = unit.get(i + 1) else { return interpret_from(unit, i) };
        if next.kind == unit[i].kind {
            return interpret_from(unit, i);
        }
        if system::looks_before(next) {
            unit[i].looks = true;
            unit[i + 1].shadowed = true;
        }
    }
}

/// The interpreter executes STI `i`, and the unit ends.
fn interpret_from(unit: &mut Vec<Insn>, i: usize) {
    unit[i].kind = Kind::Interpret { ends: true };
    unit.truncate(i + 1);
}

pub(super) fn decoder(page: &[u8], at: u16, bits: u32) -> Decoder<'_> {
    Decoder::with_ip(bits, &page[usize::from(at)..], u64::from(at), DecoderOptions::NO_PAUSE)
}

/// The unit that starts with `code`, in a page of HLT.
#[cfg(test)]
pub(super) fn of_code(code: &[u8]) -> Vec<Insn> {
    let mut page = vec![0xf4; 4096];
    page[..code.len()].copy_from_slice(code);
    read(&page, 0, Context::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::of_code as unit;

    #[test]
    fn flags_are_dead_before_they_are_overwritten() {
        // mov rax, [rdi]; test eax, eax; je +2; mov [rsi], eax; add eax, ebx; ret
        let u = unit(&[0x48, 0x8b, 0x07, 0x85, 0xc0, 0x74, 0x02, 0x89, 0x06, 0x01, 0xd8, 0xc3]);
        assert_eq!(u.len(), 6);
        assert_eq!(u[0].live_in, 0, "TEST overwrites all that is read");
        assert_eq!(u[1].live_in, 0);
        assert_eq!(u[2].live_taken, 0, "ADD comes first there as well");
        assert_eq!(u[3].live_in, 0);
        assert_eq!(u[4].live_out, STATUS, "nobody knows who reads them behind RET");
    }

    #[test]
    fn carries_survive_inc() {
        // add eax, ebx; mov rcx, [rdi]; inc ecx; adc edx, 0; ret
        let u = unit(&[0x01, 0xd8, 0x48, 0x8b, 0x0f, 0xff, 0xc1, 0x83, 0xd2, 0, 0xc3]);
        assert_eq!(u[1].live_in, iced_x86::RflagsBits::CF);
    }

    #[test]
    fn shifts_by_nothing_overwrite_nothing() {
        // mov rax, [rdi]; shl eax, cl; ret
        let u = unit(&[0x48, 0x8b, 0x07, 0xd3, 0xe0, 0xc3]);
        assert_eq!(u[0].live_in, STATUS);
    }

    #[test]
    fn what_says_that_flags_are_dead_is_relied_on() {
        let mut page = vec![0xf4; 4096];
        // add eax, ebx; jrcxz +7Ch; mov ecx, edx; cmp eax, edx; ret
        page[..9].copy_from_slice(&[0x01, 0xd8, 0xe3, 0x7c, 0x89, 0xd1, 0x39, 0xd0, 0xc3]);
        // mov ecx, edx; test eax, eax; ret
        page[0x80..0x85].copy_from_slice(&[0x89, 0xd1, 0x85, 0xc0, 0xc3]);
        let mut relied = Vec::new();
        let u = read_noting(&page, 0, Context::default(), &mut relied);
        assert_eq!((u.len(), u[1].live_in), (2, 0));
        assert_eq!(relied, [(0, 4), (4, 8), (0x80, 0x84)]);
        // ret: nothing is known, and nothing relied on.
        page[0x80] = 0xc3;
        relied.clear();
        assert_eq!(read_noting(&page, 0, Context::default(), &mut relied)[1].live_in, STATUS);
        assert_eq!(relied, [(0, 4), (4, 8)]);
    }

    #[test]
    fn nothing_looks_in_the_shadow_of_sti() {
        let sti = Kind::System(System::Sti);
        // sti; ret
        let u = unit(&[0xfb, 0xc3]);
        assert_eq!((u.len(), u[0].kind, u[0].looks, u[1].shadowed), (2, sti, true, true));
        // sti; nop; ret
        let u = unit(&[0xfb, 0x90, 0xc3]);
        assert_eq!((u.len(), u[0].kind, u[0].looks, u[2].shadowed), (3, sti, false, false));
        // sti; sti; ret
        let u = unit(&[0xfb, 0xfb, 0xc3]);
        assert_eq!((u.len(), u[0].kind), (1, Kind::Interpret { ends: true }));
        let mut page = vec![0x90; 4096];
        page[4095] = 0xfb;
        let u = read(&page, 4095, Context::default());
        assert_eq!((u.len(), u[0].kind), (1, Kind::Interpret { ends: true }));
    }

    #[test]
    fn a_unit_ends_with_its_page() {
        let mut page = vec![0x90; 4096];
        page[4095] = 0x0f;
        assert_eq!(read(&page, 4090, Context::default()).len(), 5);
        assert!(read(&page, 4095, Context::default()).is_empty());
    }
}
