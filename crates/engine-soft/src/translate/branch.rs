//! Near branches.
//!
//! A branch within the page, or of code that is made for its address, is a jump that the engine links to the target's
//! translation. Every other one looks its target up in the table of branch targets. Every cycle in guest code has a backward or
//! an indirect branch: those look at the attention word.

use iced_x86::{Code, OpKind};

use super::address::{Access, Check, Which};
use super::asm::{Hole, Holes, Rm, Sum};
use super::build::Build;
use super::classify::Kind;
use super::frame::field;
use super::regs::{self, Host, Place};
use super::unit::Insn;
use crate::mmu::{KERNEL_TARGETS_AT, Privilege, TargetsAt, USER_TARGETS_AT};
use crate::op::REG_BLOCK_RIP;

impl Build<'_> {
    /// Goes to offset `off` of the page.
    pub(super) fn go(&mut self, off: i64) {
        if (0..4096).contains(&off) || self.is_linked_everywhere() {
            let way = self.way(off);
            let jump = self.asm.jmp();
            self.leads_to(jump, way);
            return;
        }
        self.linear(Host::R14, off);
        let Some((missing, at)) = self.find_target() else {
            let way = self.way(off);
            let out = self.asm.jmp();
            self.leaves_to(out, way);
            return;
        };
        self.go_to_target(at);
        let way = self.way(off);
        self.looks_up(missing, way);
    }

    /// As [`Build::go`] for the branch that may close a loop.
    fn go_round(&mut self, off: i64) {
        if self.is_loop() {
            let round = self.asm.jmp();
            self.goes_round(round);
        } else {
            self.go(off);
        }
    }

    /// Links across pages hold until the engine breaks them: the code is the kernel's.
    fn is_linked_everywhere(&self) -> bool {
        self.page.is_some_and(|p| p >> 63 != 0)
    }

    /// Conditional branch.
    pub(super) fn jcc(&mut self, insn: &Insn) {
        let target = insn.target();
        let condition = (insn.ins.condition_code() as u8).wrapping_sub(1);
        if insn.joins {
            let jump = self.asm.jcc(condition);
            self.goes_on_at(jump, target);
            return;
        }
        if insn.again != 0 {
            let way = self.way(insn.next().into());
            let jump = self.asm.jcc(condition ^ 1);
            self.leads_to(jump, way);
            self.next_turn(insn);
            return;
        }
        let near = (0..4096).contains(&target) || self.is_linked_everywhere();
        if near && target > i64::from(insn.off) {
            let way = self.way(target);
            let jump = self.asm.jcc(condition);
            self.leads_to(jump, way);
            return;
        }
        let over = self.asm.jcc(condition ^ 1);
        let known = self.known;
        self.poll_if_backward(insn, target);
        self.go_round(target);
        self.asm.fill_here(over);
        self.known = known;
    }

    fn poll_if_backward(&mut self, insn: &Insn, target: i64) {
        if target <= i64::from(insn.off) {
            self.poll_at(target, insn.live_taken != 0);
        }
    }

    /// Leaves to offset `off` of the page if something wants attention. With `keep` the flags stay.
    pub(super) fn poll_at(&mut self, off: i64, keep: bool) {
        let way = self.way(off);
        self.poll(way, keep);
    }

    /// Behind `insn` the next turn of a loop begins.
    fn next_turn(&mut self, insn: &Insn) {
        if self.host.count {
            self.count(insn.again.into());
        }
    }

    /// Relative jump.
    pub(super) fn jmp(&mut self, insn: &Insn) {
        if insn.again != 0 {
            self.next_turn(insn);
            return;
        }
        let target = insn.target();
        self.poll_if_backward(insn, target);
        self.go_round(target);
    }

    /// LOOP and JRCXZ.
    pub(super) fn counted(&mut self, insn: &Insn) {
        let Place::Host(count) = regs::place(regs::RCX) else { return };
        let loops = matches!(insn.ins.code(), Code::Loop_rel8_64_RCX | Code::Loop_rel8_32_ECX);
        if loops {
            self.asm.lea(self.context.is_64(), count, Sum { base: Some(count), index: None, disp: -1 });
        }
        self.load_word(Host::RCX, Rm::Reg(count));
        let zero = self.asm.jrcxz();
        let not_zero = self.asm.jmp();
        self.asm.land(zero);
        let (at_zero, otherwise) =
            if loops { (i64::from(insn.next()), insn.target()) } else { (insn.target(), i64::from(insn.next())) };
        self.poll_if_backward(insn, at_zero);
        self.go(at_zero);
        self.asm.fill_here(not_zero);
        self.poll_if_backward(insn, otherwise);
        self.go(otherwise);
    }

    /// Relative call.
    pub(super) fn call(&mut self, insn: &Insn) {
        self.poll_here_if(insn, insn.target() <= i64::from(insn.off));
        self.loses(Host::R14);
        let start = self.asm.here();
        let misses = self.push_return(insn);
        self.or_leave(misses, start, insn);
        self.go(insn.target());
    }

    /// Indirect jump or call, or return.
    pub(super) fn indirect(&mut self, insn: &Insn) {
        self.poll_here_if(insn, true);
        // For others there is no table.
        if !matches!(self.context.privilege(), Privilege::Supervisor | Privilege::User) {
            self.interpret_and_leave(insn);
            return;
        }
        // Whoever tries again comes here with another value in R14.
        self.loses(Host::R14);
        let start = self.asm.here();
        let mut misses = self.target(insn);
        let Some((missing, at)) = self.find_target() else { return };
        misses.push(missing);
        match insn.kind {
            Kind::CallIndirect => {
                if self.host.pext {
                    self.asm.load(Host::RCX, Rm::Table8(at.code));
                }
                self.asm.store(Rm::State(field!(jump_to)), Host::RCX);
                self.asm.store(Rm::State(field!(jump_lin)), Host::R14);
                misses.extend(self.push_return(insn));
                self.asm.load(Host::R14, Rm::State(field!(jump_lin)));
                self.asm.op(false, &[0xff], 4, Rm::State(field!(jump_to)));
            }
            Kind::Return => {
                let more = if insn.ins.op_count() == 1 { i32::from(insn.ins.immediate16()) } else { 0 };
                self.move_stack(self.word() + more);
                self.go_to_target(at);
            }
            _ => self.go_to_target(at),
        }
        self.or_leave(misses, start, insn);
    }

    /// R14 becomes the target of an indirect branch.
    fn target(&mut self, insn: &Insn) -> Holes {
        let check = Check { access: Access::Load, size: self.word() as u32, align: 1, keep_flags: true };
        if insn.kind == Kind::Return {
            let spot = self.reach(insn, Which::Stack(regs::RSP, 0), check);
            self.load_word(Host::R14, spot.rm());
            self.loses(Host::R14);
            return spot.misses();
        }
        if insn.ins.op0_kind() == OpKind::Register {
            self.fetch(Host::R14, insn.ins.op0_register().number());
            if !self.context.is_64() {
                self.asm.load32(Host::R14, Rm::Reg(Host::R14));
            }
            return Holes::new();
        }
        self.operand_address(&insn.ins, 0);
        let misses = self.check(check);
        self.load_word(Host::R14, Rm::Checked(0));
        misses
    }

    /// RCX selects the entry of linear address R14 in the table of branch targets, or without PEXT becomes the code itself; the jump
    /// returned is taken if it is not there. Keeps the flags. `None`: there is no table for this context, and nothing has been emitted.
    fn find_target(&mut self) -> Option<(Hole, TargetsAt)> {
        let (mask, at) = match self.context.privilege() {
            Privilege::Supervisor => (field!(kernel_targets_mask), KERNEL_TARGETS_AT),
            Privilege::User => (field!(user_targets_mask), USER_TARGETS_AT),
            _ => return None,
        };
        if !self.host.pext {
            return Some((self.find_target_slowly(mask, at), at));
        }
        let a = &mut self.asm;
        a.pext(Host::RCX, Host::R14, mask);
        a.load(Host::RCX, Rm::Table8(at.neg_lin));
        a.lea(true, Host::RCX, Sum { base: Some(Host::RCX), index: Some((Host::R14, 0)), disp: 0 });
        let hit = a.jrcxz();
        let missing = a.jmp();
        a.land(hit);
        a.pext(Host::RCX, Host::R14, mask);
        Some((missing, at))
    }

    /// Goes where [`Build::find_target`] has found.
    fn go_to_target(&mut self, at: TargetsAt) {
        if self.host.pext {
            self.asm.op(false, &[0xff], 4, Rm::Table8(at.code)); // jmp [table + rcx * 8]
        } else {
            self.asm.raw(&[0xff, 0xe1]); // jmp rcx
        }
    }

    /// As `find_target`, for hosts without a fast PEXT.
    fn find_target_slowly(&mut self, mask: i32, at: TargetsAt) -> Hole {
        let a = &mut self.asm;
        super::address::save_flags(a);
        a.load32(Host::RCX, Rm::Reg(Host::R14));
        a.op(false, &[0x23], Host::RCX.0, Rm::State(mask));
        a.raw(&[0xc1, 0xe1, 3 - crate::translate::targets::LOW as u8]); // shl ecx, imm8: from bits of the address to 8-byte entries
        a.store(Rm::State(field!(spill)), Host::R14);
        a.op(true, &[0x03], Host::R14.0, Rm::Table(at.neg_lin));
        a.load(Host::R14, Rm::State(field!(spill)));
        let other = a.jcc(super::asm::cond::NE);
        a.load(Host::RCX, Rm::Table(at.code));
        super::address::restore_flags(a);
        let found = a.jmp();
        a.fill_here(other);
        super::address::restore_flags(a);
        let missing = a.jmp();
        a.fill_here(found);
        missing
    }

    /// The return address goes onto the stack; R14 and RCX are lost, the flags stay.
    fn push_return(&mut self, insn: &Insn) -> Holes {
        let word = self.word();
        let check = Check { access: Access::Store, size: word as u32, align: 1, keep_flags: insn.live_in != 0 };
        let spot = self.reach(insn, Which::Stack(regs::RSP, -word), check);
        let back = i64::from(insn.next());
        let wide = self.context.is_64();
        let small = self.page.map(|p| p.wrapping_add(back as u64) as i64);
        let small = small.and_then(|p| if wide { i32::try_from(p).ok() } else { Some(p as i32) });
        let rcx_kept = match small {
            Some(lin) => {
                self.store_word_imm(spot.rm(), lin);
                true
            }
            None => {
                self.keep_entry(&spot);
                self.linear(Host::RCX, back);
                self.store_word(spot.rm(), Host::RCX);
                false
            }
        };
        self.move_stack(-word);
        // The call goes on whatever it has overwritten.
        self.stored(&spot, rcx_kept, true, None);
        spot.misses()
    }

    /// Sets the page from the linear address in R14, for code at offset `start` that runs wherever it is mapped.
    pub(super) fn set_page(&mut self, start: u16) {
        self.asm.lea(true, Host::RCX, Sum { base: Some(Host::R14), index: None, disp: -i32::from(start) });
        self.asm.store(Rm::State(regs::slot(REG_BLOCK_RIP.into())), Host::RCX);
    }

    /// Leaves, to come back to `insn`, if something wants attention.
    pub(super) fn poll_here_if(&mut self, insn: &Insn, wanted: bool) {
        if wanted && !insn.shadowed {
            let way = self.way(i64::from(insn.off));
            self.poll(way, insn.live_in != 0);
        }
    }
}
