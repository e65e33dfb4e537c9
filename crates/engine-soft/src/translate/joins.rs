//! Branches within a unit: forward ones whose target is in the unit too, such as those over a few instructions.
//!
//! They are jumps within the translation. Where they arrive, only that is known which is known on both ways: of the guest's registers
//! (`hoist`), of the scratch registers, and of what has been loaded. And a check that one way goes past serves nothing behind the place where they
//! meet.

use super::anchors::Known;
use super::asm::Hole;
use super::build::Build;
use super::classify::Kind;
use super::unit::Insn;

/// A jump within the translation on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    from: Hole,
    /// Where it goes, as an offset in the page.
    to: i64,
    /// What was known there.
    known: Known,
    vectors_loaded: bool,
    x87_loaded: bool,
}

/// Marks the branches of `unit` that stay in it.
pub(super) fn find(unit: &mut [Insn]) {
    for i in 0..unit.len() {
        if unit[i].kind == Kind::Jcc && unit[i].target() > i64::from(unit[i].off) {
            unit[i].joins = passed(unit, i).is_some_and(|passed| passed.iter().all(may_be_passed));
        }
    }
}

/// The instructions that branch `i` goes past to its target in `unit`, if that is there.
fn passed(unit: &[Insn], i: usize) -> Option<&[Insn]> {
    let behind = &unit[i + 1..];
    let target = unit[i].target();
    behind.iter().position(|insn| i64::from(insn.off) == target).map(|n| &behind[..n])
}

/// It changes nothing that code is made for.
fn may_be_passed(insn: &Insn) -> bool {
    use Kind::{Jcc, Lea, Nop, Plain, Pop, Push, Vector, X87};
    matches!(insn.kind, Plain | Vector | X87 | Nop | Lea | Push | Pop | Jcc)
}

/// The place in `unit` at which branch `i` joins it again.
pub(super) fn joined(unit: &[Insn], i: usize) -> Option<usize> {
    if unit[i].joins { passed(unit, i).map(|passed| i + 1 + passed.len()) } else { None }
}

/// For each instruction of `unit` the first one behind it that is reached on a way past it too.
pub(super) fn serves_until(unit: &[Insn]) -> Vec<usize> {
    let mut until = vec![usize::MAX; unit.len()];
    for i in 0..unit.len() {
        if let Some(to) = joined(unit, i) {
            until[i + 1..to].iter_mut().for_each(|u| *u = (*u).min(to));
        }
    }
    until
}

impl Build<'_> {
    /// `from` goes on at offset `to` of the page, further down in the unit.
    pub(super) fn goes_on_at(&mut self, from: Hole, to: i64) {
        let (known, vectors_loaded, x87_loaded) = (self.known, self.vectors_loaded, self.x87_loaded);
        self.open.push(Open { from, to, known, vectors_loaded, x87_loaded });
    }

    /// `insn` begins here, for those who come from further up as well.
    pub(super) fn join(&mut self, insn: &Insn) {
        let mut n = 0;
        while n < self.open.len() {
            if self.open[n].to != i64::from(insn.off) {
                n += 1;
                continue;
            }
            let open = self.open.swap_remove(n);
            self.asm.fill_here(open.from);
            self.known = self.known.and(open.known);
            self.vectors_loaded &= open.vectors_loaded;
            self.x87_loaded &= open.x87_loaded;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::unit::of_code as unit;
    use super::super::{hoist, turns};
    use super::*;

    #[test]
    fn a_check_serves_those_who_come_through_it() {
        // test eax, eax; je 1f; mov ecx, [rsi]; mov edx, [rsi+4]; 1: mov ebx, [rsi+8]; mov ebp, [rsi+12]; ret
        let u = unit(&[0x85, 0xc0, 0x74, 5, 0x8b, 0x0e, 0x8b, 0x56, 4, 0x8b, 0x5e, 8, 0x8b, 0x6e, 12, 0xc3]);
        assert_eq!((u[1].joins, joined(&u, 1)), (true, Some(4)));
        assert_eq!(serves_until(&u)[..5], [usize::MAX, usize::MAX, 4, 4, usize::MAX]);
        let g = hoist::find(&u);
        let of = |i: usize| g.members[i][0].map(|m| (m.group, m.leads));
        assert_eq!([2, 3, 4, 5].map(of), [Some((0, true)), Some((0, false)), Some((1, true)), Some((1, false))]);
        // mov ecx, [rsi]; test eax, eax; je 1f; mov edx, [rsi+4]; 1: mov ebx, [rsi+8]; ret
        let u = unit(&[0x8b, 0x0e, 0x85, 0xc0, 0x74, 3, 0x8b, 0x56, 4, 0x8b, 0x5e, 8, 0xc3]);
        assert_eq!(hoist::find(&u).groups.len(), 1, "the first one comes before all ways");
    }

    #[test]
    fn what_one_way_changes_is_not_known() {
        // mov ecx, [rsi]; test eax, eax; je 1f; add rsi, 8; 1: mov ebx, [rsi+8]; ret
        let u = unit(&[0x8b, 0x0e, 0x85, 0xc0, 0x74, 4, 0x48, 0x83, 0xc6, 8, 0x8b, 0x5e, 8, 0xc3]);
        assert!(u[2].joins && hoist::find(&u).groups.is_empty());
        // Both ways the same: mov ecx, [rsi]; test eax, eax; je 1f; push rax; pop rax; 1: mov ebx, [rsi+8]; ret
        let u = unit(&[0x8b, 0x0e, 0x85, 0xc0, 0x74, 2, 0x50, 0x58, 0x8b, 0x5e, 8, 0xc3]);
        assert!(hoist::find(&u).groups.iter().any(|g| g.size == 12));
    }

    #[test]
    fn flags_live_on_the_way_that_reads_them() {
        // test eax, eax; je 1f; add ecx, 1; 1: mov ebx, [rsi]; adc edx, 0; ret
        let u = unit(&[0x85, 0xc0, 0x74, 3, 0x83, 0xc1, 1, 0x8b, 0x1e, 0x83, 0xd2, 0, 0xc3]);
        assert_eq!(u[1].live_taken, iced_x86::RflagsBits::CF);
    }

    #[test]
    fn system_instructions_and_other_places_are_not_passed() {
        // test eax, eax; je 1f; cli; 1: ret
        let u = unit(&[0x85, 0xc0, 0x74, 1, 0xfa, 0xc3]);
        assert!(!u[1].joins);
        // Into an instruction: je +1; mov ecx, imm32; ret
        let u = unit(&[0x74, 1, 0xb9, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3]);
        assert!(!u[0].joins);
    }

    #[test]
    fn a_loop_with_a_branch_within_is_one() {
        // nop; mov rdx, [rsi]; test rdx, rdx; jns 1f; neg rdx; 1: add rbx, rdx; add rsi, 8; dec rcx; jne
        let code = [
            0x90, 0x48, 0x8b, 0x16, 0x48, 0x85, 0xd2, 0x79, 3, 0x48, 0xf7, 0xda, 0x48, 0x01, 0xd3, 0x48, 0x83, 0xc6, 8,
        ];
        let u = unit(&[&code[..], &[0x48, 0xff, 0xc9, 0x75, 0xe9]].concat());
        assert_eq!(u.len(), 1 + 4 * 8);
        assert!(turns::find(&u[25..]).is_some());
        assert_eq!(joined(&u, 3 + 8), Some(5 + 8), "in the same turn");
    }
}
