//! The second version of a loop (`turns`), in which no access is checked.
//!
//! Before it, *setup* finds the page of each range in the soft TLB, keeps what leads from linear to host addresses there, and computes
//! for how many turns all ranges stay in their pages. When that many are done, or something wants attention, or the loop ends, the version
//! is left; nothing of what setup found is used again.
//!
//! What it found stays true meanwhile, since only these turns run: nothing in them calls the page walk or the interpreter (an access
//! without a constant advance that misses leaves for another translation or the interpreter), so this CPU flushes
//! nothing. What other CPUs do to the page tables counts for this one when it says so by flushing, which an interrupt makes it do; that
//! waits for at most [`MOST`] turns. Code marks are tested after every store, as anywhere, since
//! those who mark wait for nobody's turn to end; in a machine with one CPU nobody marks meanwhile, and setup looks at them (`anchors`).

use super::address::{Access, Check, Spot, Which, tables};
use super::anchors::Known;
use super::asm::{Hole, Rm, Sum, cond};
use super::build::{Build, Version};
use super::classify::Kind;
use super::frame::field;
use super::regs::{self, Host, Place};
use super::turns::{Turns, Walk};
use super::unit::Insn;

/// Most turns between two looks at the attention word.
const MOST: i32 = 1024;

impl Build<'_> {
    /// Emits setup and the second version of the loop `unit`, to which `from` lead at the end of a turn. `entry` is where the first
    /// version begins.
    pub(super) fn rounds(&mut self, unit: &[Insn], turns: Turns, from: Vec<Hole>, entry: usize) {
        let Some(last) = unit.last() else { return };
        let before = self.mark();
        let setup = self.asm.here();
        self.plan_anchors(&turns.walks);
        self.set_up(unit, &turns, entry);
        self.known = Known::default();
        self.take_anchors();
        let head = self.asm.here();
        if self.host.count {
            self.count(unit.len() as i32);
        }
        self.groups = turns.groups;
        if self.emit(Version::Rounds, &unit[..unit.len() - 1]) {
            self.end_of_turn(last, turns.pace, head, setup);
            from.into_iter().for_each(|h| self.asm.fill(h, setup as i64));
        } else {
            // Something has to be interpreted: the loop stays what it was.
            self.forget_since(before);
            from.into_iter().for_each(|h| self.asm.fill(h, entry as i64));
        }
    }

    /// Finds the page of every range, and for how many turns to stay.
    fn set_up(&mut self, unit: &[Insn], turns: &Turns, entry: usize) {
        (self.vectors_loaded, self.x87_loaded) = (false, false);
        if unit.iter().any(|i| i.kind == Kind::X87) {
            self.need_x87();
        } else if unit.iter().any(|i| i.kind == Kind::Vector) {
            self.need_vectors();
        }
        let left = Rm::State(field!(turns_left));
        self.asm.op(false, &[0xc7], 0, left);
        self.asm.raw(&(MOST - 1).to_le_bytes());
        let mut not_served = Vec::new();
        for (n, walk) in turns.walks.iter().enumerate() {
            self.find_page(turns, n, *walk, &mut not_served);
        }
        let a = &mut self.asm;
        a.load32(Host::RCX, left);
        a.raw(&[0x85, 0xc9]); // test ecx, ecx
        not_served.push(a.jcc(cond::E));
        // After that many turns more than this one the register has that value.
        let (pace, step) = turns.pace;
        a.op(true, &[0x69], Host::RCX.0, Rm::Reg(Host::RCX)); // imul rcx, rcx, imm32
        a.raw(&step.to_le_bytes());
        let pace = self.part(super::native::named_64(pace), Host::R14);
        self.asm.lea(true, Host::RCX, Sum { base: Some(Host::RCX), index: Some((pace, 0)), disp: step });
        self.asm.store(Rm::State(field!(turns_end)), Host::RCX);
        self.loses(Host::R14);
        not_served.into_iter().for_each(|h| self.asm.fill(h, entry as i64));
    }

    /// Keeps what leads to the bytes of range `n` of `turns`, and lowers the number of turns to those that stay in its page.
    fn find_page(&mut self, turns: &Turns, n: usize, walk: Walk, not_served: &mut Vec<Hole>) {
        let group = turns.groups.groups[n];
        self.walk_address(walk);
        let access = if group.store { Access::Store } else { Access::Load };
        let at = tables(self.context.privilege(), access);
        let spill = Rm::State(field!(spill));
        self.entry_of_address();
        let a = &mut self.asm;
        a.op(true, &[0x03], Host::R14.0, Rm::Table(at.neg_tag));
        let room = 4096 - group.size as i32;
        a.group_imm32(true, 7, Rm::Reg(Host::R14), room);
        not_served.push(a.jcc(cond::A));
        if group.align > 1 {
            a.op(false, &[0xf7], 0, Rm::Reg(Host::R14)); // test r14d, imm32
            a.raw(&(group.align - 1).to_le_bytes());
            not_served.push(a.jcc(cond::NE));
        }
        self.keep_still(n, walk, at.host);
        let a = &mut self.asm;
        if group.store {
            a.store(spill, Host::RCX);
            a.load(Host::RCX, Rm::Table(at.mark));
            if self.host.alone {
                // Others set marks of device memory at any time.
                a.op(true, &[0x3b], Host::RCX.0, Rm::State(field!(device_marks)));
                not_served.push(a.jcc(cond::AE));
                a.op(false, &[0x83], 7, Rm::At(Host::RCX, 0));
                a.raw(&[0]);
                not_served.push(a.jcc(cond::NE));
            } else {
                a.store(Rm::State(field!(walk_marks) + 8 * n as i32), Host::RCX);
            }
            a.load(Host::RCX, spill);
        }
        a.load(Host::RCX, Rm::Table(at.addend));
        a.store(Rm::State(field!(walks) + 8 * n as i32), Host::RCX);
        self.keep_moving(n, walk);
        if walk.stride == 0 {
            return;
        }
        let a = &mut self.asm;
        // Upwards to the end of the page, downwards to its start.
        if walk.stride > 0 {
            a.raw(&[0x49, 0xf7, 0xde]); // neg r14
            a.add_constant(Host::R14, room);
        }
        let turn = walk.stride.unsigned_abs().next_power_of_two().trailing_zeros();
        a.shr32(Host::R14, turn as u8);
        let left = Rm::State(field!(turns_left));
        a.op(false, &[0x3b], Host::R14.0, left); // cmp r14d, left
        let more = a.jcc_short(cond::AE);
        a.store32(left, Host::R14);
        a.land(more);
    }

    /// R14 becomes the linear address at which `walk` begins in the coming turn.
    fn walk_address(&mut self, walk: Walk) {
        self.loses(Host::R14);
        let Some(base) = walk.base else { return self.linear(Host::R14, walk.low.into()) };
        let base = self.part(super::native::named_64(base), Host::R14);
        let index = walk
            .index
            .map(|(r, scale)| (self.part(super::native::named_64(r), Host::RCX), scale.trailing_zeros() as u8));
        self.asm.lea(true, Host::R14, Sum { base: Some(base), index, disp: walk.low });
    }

    /// The end of a turn: on to `head`, or to `setup` for more, or out of the loop.
    fn end_of_turn(&mut self, last: &Insn, (pace, _): (usize, i32), head: usize, setup: usize) {
        self.join(last);
        let over = (last.kind == Kind::Jcc).then(|| {
            let condition = (last.ins.condition_code() as u8).wrapping_sub(1);
            self.asm.jcc(condition ^ 1)
        });
        let end = Rm::State(field!(turns_end));
        match regs::place(pace) {
            Place::Host(h) => self.asm.op(true, &[0x3b], h.0, end),
            Place::Slot(at) => {
                self.loses(Host::RCX);
                self.asm.load(Host::RCX, Rm::State(at));
                self.asm.op(true, &[0x3b], Host::RCX.0, end);
            }
        }
        self.take_anchors();
        let again = self.asm.jcc(cond::NE);
        self.asm.fill(again, head as i64);
        self.poll_at(last.target(), false);
        let more = self.asm.jmp();
        self.asm.fill(more, setup as i64);
        if let Some(over) = over {
            self.asm.fill_here(over);
            self.go(last.next().into());
        }
    }

    /// Gets an access ready that lies in a range of the loop; `None` if it lies in none. Keeps the flags if `check` says so. RCX may be
    /// lost.
    pub(super) fn walk_to(&mut self, insn: &Insn, which: Which, check: Check) -> Option<Spot> {
        let m = self.walker(matches!(which, Which::Stack(..)).into())?;
        if !self.has_range(m.group) {
            self.address_of(insn, which, -m.at);
            let way = Rm::State(field!(walks) + 8 * i32::from(m.group));
            if check.keep_flags {
                self.loses(Host::RCX);
                self.asm.load(Host::RCX, way);
                self.asm.lea(true, Host::R14, Sum { base: Some(Host::R14), index: Some((Host::RCX, 0)), disp: 0 });
            } else {
                self.asm.op(true, &[0x03], Host::R14.0, way);
            }
            self.set_range(m.group);
        }
        Some(Spot::Shared { group: m.group, at: m.at, check, walks: true })
    }
}
