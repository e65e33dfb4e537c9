//! Which units are loops whose accesses advance by constants from turn to turn.
//!
//! Such a loop has a second version (`rounds`) in which the soft TLB is asked once for many turns: as long as every access stays in
//! the page in which it began, its host address is the linear one plus a constant.

use super::anchors::Form;
use super::classify::Kind;
use super::hoist::{self, Gathering, Groups, Values};
use super::unit::Insn;

/// Most ranges of a loop; each has places in the frame.
pub(super) const WALKS: usize = 8;
/// Most bytes by which a range advances in a turn.
const STRIDE: i64 = 1024;
/// Most alignment: that of a YMM register.
const ALIGN: u32 = 32;

/// A range of bytes that advances with each turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Guest registers whose sum it starts from, the second one scaled. None: the page of the code.
    pub(super) base: Option<usize>,
    pub(super) index: Option<(usize, u32)>,
    /// Its start from there, in bytes.
    pub(super) low: i32,
    /// Bytes by which it advances in a turn.
    pub(super) stride: i32,
    /// How its accesses may name host memory by themselves, if they may.
    pub(super) form: Option<Form>,
}

/// A loop that is one unit.
#[derive(Debug)]
pub(super) struct Turns {
    /// The ranges, and which access lies in which.
    pub(super) groups: Groups,
    /// How each range advances.
    pub(super) walks: Vec<Walk>,
    /// A register that changes by a constant in each turn, by which turns are counted, and the constant.
    pub(super) pace: (usize, i32),
}

/// What `unit` is as a loop, if it is one that gains from a second version.
pub(super) fn find(unit: &[Insn]) -> Option<Turns> {
    let (last, body) = unit.split_last()?;
    // Setup computes with all bits of registers.
    if !last.wide {
        return None;
    }
    let start = i64::from(unit[0].off);
    let closes = matches!(last.kind, Kind::Jcc | Kind::Jmp) && last.target() == start;
    // Between the turns the flags are overwritten.
    if !closes || last.live_taken != 0 || !body.iter().all(|insn| is_simple(insn, start, last.off)) {
        return None;
    }
    // Their checks come before all turns.
    let serves = vec![usize::MAX; unit.len()];
    let (found, values) = hoist::gatherings(unit, ALIGN, &serves);
    let mut out = Turns {
        groups: Groups { members: vec![[None; 2]; unit.len()], groups: Vec::new() },
        walks: Vec::new(),
        pace: pace(&values)?,
    };
    for g in &found {
        if let Some(walk) = walk(g, &values)
            && out.walks.len() < WALKS
        {
            out.groups.add(g);
            out.walks.push(walk);
        }
    }
    (!out.walks.is_empty()).then_some(out)
}

/// It neither calls anything nor leads to another place of the loop.
fn is_simple(insn: &Insn, start: i64, end: u16) -> bool {
    match insn.kind {
        Kind::Plain | Kind::Vector | Kind::X87 | Kind::Nop | Kind::Lea | Kind::Push | Kind::Pop => true,
        Kind::Jcc => insn.joins || !(start..=i64::from(end)).contains(&insn.target()),
        _ => false,
    }
}

/// A register that changes by a constant, preferably one that has a host register.
fn pace(values: &Values) -> Option<(usize, i32)> {
    let steps = |r: usize| {
        let step = i32::try_from(values.change(r)?).ok()?;
        (step != 0 && step.unsigned_abs() < 1 << 20).then_some((r, step))
    };
    let in_host = |r: &usize| matches!(super::regs::place(*r), super::regs::Place::Host(_));
    (0..16).filter(in_host).find_map(steps).or_else(|| (0..16).find_map(steps))
}

/// How the range of `g` advances, if it is by a constant.
fn walk(g: &Gathering, values: &Values) -> Option<Walk> {
    let register = |id: u32| if id < 16 { Some((id as usize, values.change(id as usize)?)) } else { None };
    let mut out = Walk { base: None, index: None, low: i32::try_from(g.low).ok()?, stride: 0, form: None };
    let mut stride = 0i64;
    if let Some(id) = g.root.base {
        let (r, by) = register(id)?;
        (out.base, stride) = (Some(r), by);
    }
    if let Some((id, scale)) = g.root.index {
        let (r, by) = register(id)?;
        out.index = Some((r, scale));
        stride = stride.wrapping_add(by.wrapping_mul(i64::from(scale)));
    }
    if stride.abs() > STRIDE || stride % i64::from(g.group().align) != 0 {
        return None;
    }
    out.stride = stride as i32;
    out.form = Form::of(out.base, out.index, |r| values.is_still(r));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::unit::of_code;
    use super::*;

    fn turns(code: &[u8]) -> Option<Turns> {
        find(&of_code(code))
    }

    #[test]
    fn arrays_advance() {
        // mov rdx, [rsi+rax*8]; add [rdi], rdx; add rdi, 8; dec rax; cmp rax, rbx; jne
        let t = turns(&[
            0x48, 0x8b, 0x14, 0xc6, 0x48, 0x01, 0x17, 0x48, 0x83, 0xc7, 8, 0x48, 0xff, 0xc8, 0x48, 0x39, 0xd8, 0x75,
            0xed,
        ])
        .unwrap();
        assert_eq!(t.pace, (0, -1));
        assert_eq!(
            t.walks[0],
            Walk { base: Some(6), index: Some((0, 8)), low: 0, stride: -8, form: Some(Form::Moving(Some((6, 1)))) }
        );
        assert_eq!(t.walks[1], Walk { base: Some(7), index: None, low: 0, stride: 8, form: Some(Form::Moving(None)) });
        assert!(!t.groups.groups[0].store && t.groups.groups[1].store);
    }

    #[test]
    fn other_loops_are_left_alone() {
        // mov rsi, [rsi]; dec rax; jne: the address is not known in advance.
        assert!(turns(&[0x48, 0x8b, 0x36, 0x48, 0xff, 0xc8, 0x75, 0xf8]).is_none());
        // mov edx, [rsi]; adc ebx, edx; lea rsi, [rsi+4]; dec rax; jne: the carry goes round.
        assert!(turns(&[0x8b, 0x16, 0x11, 0xd3, 0x48, 0x8d, 0x76, 4, 0x48, 0xff, 0xc8, 0x75, 0xf3]).is_none());
        // cmp [rsi], eax; jne: nothing changes.
        assert!(turns(&[0x39, 0x06, 0x75, 0xfc]).is_none());
    }
}
