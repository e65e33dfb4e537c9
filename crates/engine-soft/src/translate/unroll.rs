//! Short loops: a unit that meets the end of one goes through it a few times more.
//!
//! The accesses of all these turns share their checks (`hoist`), where a loop of three turns would not repay setting up the version without
//! any (`rounds`). What ends a turn leaves the unit where it is not taken; the last one goes on at the unit that begins with the loop, and looks
//! at the attention word.

use super::classify::Kind;
use super::unit::Insn;
use super::{liveness, turns};

/// Most turns in a unit.
const TURNS: usize = 4;
/// Most instructions of a turn.
const LENGTH: usize = 20;

/// Most instructions of a unit with such turns.
const MOST: usize = 96;

/// Adds turns to `unit`, if it ends with a loop within itself that gains from it.
pub(super) fn unroll(unit: &mut Vec<Insn>, page: &[u8]) {
    let Some(turn) = turn(unit, page) else { return };
    let more = ((MOST - unit.len()) / turn.len()).min(TURNS - 1);
    for _ in 0..more {
        if let Some(closing) = unit.last_mut() {
            closing.again = turn.len() as u8;
        }
        unit.extend_from_slice(&turn);
    }
}

/// The loop at the end of `unit`, whose accesses advance by constants.
fn turn(unit: &[Insn], page: &[u8]) -> Option<Vec<Insn>> {
    let last = unit.last().filter(|last| matches!(last.kind, Kind::Jcc | Kind::Jmp))?;
    if usize::from(last.next()) >= page.len() {
        return None;
    }
    // A unit that begins with the loop is reached by those who have been here, and by long loops.
    let start = unit.iter().position(|insn| i64::from(insn.off) == last.target()).filter(|start| *start > 0)?;
    let mut turn = unit[start..].to_vec();
    if turn.len() > LENGTH {
        return None;
    }
    liveness::find(&mut turn, page, &mut Vec::new());
    turns::find(&turn).is_some().then_some(turn)
}

#[cfg(test)]
mod tests {
    use super::super::context::Context;
    use super::super::hoist::{self, Group};
    use super::super::liveness::STATUS;
    use super::super::unit::{self, of_code as unit};
    use super::*;

    /// xor eax, eax; mov rdx, [rsi+rax*8]; add [rdi+rax*8], rdx; inc rax; cmp rax, 3; jne
    const SUMS: [u8; 19] =
        [0x31, 0xc0, 0x48, 0x8b, 0x14, 0xc6, 0x48, 0x01, 0x14, 0xc7, 0x48, 0xff, 0xc0, 0x48, 0x83, 0xf8, 3, 0x75, 0xef];

    #[test]
    fn turns_share_their_checks() {
        let u = unit(&SUMS);
        assert_eq!(u.len(), 1 + 4 * 5);
        let closing: Vec<_> = u.iter().filter(|i| i.kind == Kind::Jcc).map(|i| i.again).collect();
        assert_eq!(closing, [5, 5, 5, 0], "the last one leads to the loop");
        let groups = hoist::find(&u).groups;
        let eight_each = |store| Group { size: 32, align: 1, store };
        assert_eq!(groups, [eight_each(false), eight_each(true)]);
    }

    #[test]
    fn a_loop_from_its_start_on_is_one_turn() {
        let u = unit(&SUMS[2..]);
        assert_eq!(u.len(), 5);
        assert!(turns::find(&u).is_some());
    }

    #[test]
    fn flags_live_behind_each_turn() {
        // nop; mov rdx, [rsi]; add rsi, 8; cmp rdx, rcx; jne; sbb eax, eax; ret
        let u = unit(&[0x90, 0x48, 0x8b, 0x16, 0x48, 0x83, 0xc6, 8, 0x48, 0x39, 0xca, 0x75, 0xf4, 0x19, 0xc0, 0xc3]);
        assert_eq!(u.len(), 17);
        for closing in u.iter().filter(|i| i.kind == Kind::Jcc) {
            assert_eq!((closing.live_taken, closing.live_out), (0, iced_x86::RflagsBits::CF));
        }
        assert_eq!(u[5].live_in, 0, "ADD and CMP overwrite them in the next turn");
        assert_ne!(u[1].live_in, STATUS);
    }

    #[test]
    fn loops_that_do_not_gain_stay_as_they_are() {
        // nop; mov rsi, [rsi]; dec rax; jne: the address is not known in advance.
        assert_eq!(unit(&[0x90, 0x48, 0x8b, 0x36, 0x48, 0xff, 0xc8, 0x75, 0xf8]).len(), 4);
        // The turn is left for the next page.
        let mut page = vec![0xf4; 4096];
        page[4096 - SUMS.len()..].copy_from_slice(&SUMS);
        assert_eq!(unit::read(&page, 4096 - SUMS.len() as u16, Context::default()).len(), 6);
    }
}
