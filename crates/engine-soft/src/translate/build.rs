//! A translation under construction: its code, its cold code, and what the engine must know of both.

mod cold;
mod values;

use cold::Cold;
use iced_x86::Encoder;

use super::anchors::{Form, Known};
use super::asm::{Asm, Hole, Holes, Rm};
use super::cache::At;
use super::context::Context;
use super::hoist::{self, Groups, Member};
use super::joins::Open;
use super::regs::{self, Host};
use super::stubs::Stubs;
use super::turns;
use super::unit::Insn;
use crate::op::REG_BLOCK_RIP;

/// What the interpreter needs to execute one instruction of translated code.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) ins: iced_x86::Instruction,
    /// Offset in the page.
    pub(super) off: u16,
    /// Linear address of the page, where the code is made for one.
    pub(super) page: Option<u64>,
}

impl Site {
    /// The instruction is a branch whose target the table of branch targets should know.
    pub(super) fn is_indirect(&self) -> bool {
        use iced_x86::FlowControl::*;
        matches!(self.ins.flow_control(), IndirectBranch | IndirectCall | Return)
    }
}

/// No site.
pub(super) const NO_SITE: u32 = u32::MAX;

/// A way out of translated code to a known place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// Linear address, or (with `relative`) relative to the page that executes.
    pub(super) target: u64,
    pub(super) relative: bool,
    /// The jump that leads out, if it may lead to a translation instead.
    pub(super) jump: Option<At>,
    /// The target is in the same page.
    pub(super) near: bool,
    /// Code that leaves to it.
    pub(super) cold: At,
    /// The target belongs into the table of branch targets.
    pub(super) looked_up: bool,
    /// At the target every access is to check for itself.
    pub(super) apart: bool,
    /// How often it was taken, if so.
    pub(super) taken: u8,
}

/// A finished translation.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) code: Vec<u8>,
    pub(super) sites: Vec<Site>,
    pub(super) ways: Vec<Way>,
    /// Offset of the entry for those who have set the page, behind the code that sets it.
    pub(super) entry: u32,
    /// Offset of code that leaves to the start of this translation.
    pub(super) leave: u32,
    /// Guest instructions.
    pub(super) instructions: u32,
}

/// See the module's documentation.
pub(super) struct Build<'a> {
    pub(super) asm: Asm,
    pub(super) context: Context,
    pub(super) host: HostFlavour,
    /// Linear address of the page, if the code is made for one; otherwise it runs wherever the page is mapped.
    pub(super) page: Option<u64>,
    stubs: &'a Stubs,
    /// Where the code will be.
    at: At,
    /// Numbers of the first site and way.
    first: (u32, u32),
    sites: Vec<Site>,
    ways: Vec<Way>,
    cold: Vec<Cold>,
    pub(super) encoder: Encoder,
    /// Which accesses share checks, in the version of the unit at work.
    pub(super) groups: Groups,
    version: Version,
    /// The unit is a loop with a version without checks, and this instruction, the last one, closes it.
    closes: Option<usize>,
    /// Jumps to that version.
    round: Vec<Hole>,
    /// The instruction at work, by its place in the unit.
    current: usize,
    /// What the scratch registers hold, and what they hold when a turn of a loop without checks begins.
    pub(super) known: Known,
    pub(super) head: Known,
    /// What the anchors of that loop's ranges are.
    pub(super) forms: Vec<Option<Form>>,
    /// Every access checks for itself: what [`Way::apart`] leads to.
    pub(super) only_apart: bool,
    /// Jumps within the version at work.
    pub(super) open: Vec<Open>,
    /// Jumps to such a translation from the instruction at this offset of the page on.
    apart: Vec<(Hole, u16)>,
    /// Something had to be interpreted where that cannot be.
    spoilt: bool,
    /// The vector (x87) registers are known to be loaded.
    pub(super) vectors_loaded: bool,
    pub(super) x87_loaded: bool,
}

/// The versions of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Groups of accesses share checks.
    Shared,
    /// Every access checks for itself: there are no groups, or their ranges are not served.
    Apart,
    /// None does: the turns of a loop that stay in their pages.
    Rounds,
}

/// What the host offers to translated code.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostFlavour {
    /// PEXT, as fast as other instructions.
    pub(super) pext: bool,
    /// Count instructions.
    pub(super) count: bool,
    /// The machine has one CPU.
    pub(super) alone: bool,
    /// The guest's CPUID has RDTSCP.
    pub(super) rdtscp: bool,
    /// What is to be done when code has been used for a while is done at once. For tests, which run code but once.
    pub(super) eager: bool,
}

impl<'a> Build<'a> {
    pub(super) fn new(
        stubs: &'a Stubs,
        at: At,
        first: (u32, u32),
        context: Context,
        page: Option<u64>,
        host: HostFlavour,
    ) -> Self {
        Build {
            asm: Asm::default(),
            context,
            host,
            page,
            stubs,
            at,
            first,
            sites: Vec::with_capacity(16),
            ways: Vec::with_capacity(8),
            cold: Vec::with_capacity(32),
            encoder: Encoder::new(64),
            groups: Groups::default(),
            version: Version::Apart,
            closes: None,
            round: Vec::new(),
            current: 0,
            known: Known::default(),
            head: Known::default(),
            forms: Vec::new(),
            open: Vec::new(),
            apart: Vec::new(),
            only_apart: false,
            spoilt: false,
            vectors_loaded: false,
            x87_loaded: false,
        }
    }

    /// Counts `n` instructions; the flags stay.
    pub(super) fn count(&mut self, n: i32) {
        let counter = Rm::State(super::frame::field!(instructions));
        self.asm.load(Host::RCX, counter);
        self.asm.add_constant(Host::RCX, n);
        self.asm.store(counter, Host::RCX);
    }

    /// Emits `unit`, whose entry is at `entry`.
    pub(super) fn unit(&mut self, unit: &[Insn], entry: usize) {
        if self.only_apart {
            self.emit(Version::Apart, unit);
            return;
        }
        self.groups = hoist::find(unit);
        let turns = if self.context.is_64() { turns::find(unit) } else { None };
        self.closes = turns.as_ref().map(|_| unit.len() - 1);
        self.emit(if self.groups.groups.is_empty() { Version::Apart } else { Version::Shared }, unit);
        if let Some(turns) = turns {
            let from = std::mem::take(&mut self.round);
            self.rounds(unit, turns, from, entry);
        }
    }

    /// Emits `unit`. False if the version has no place for an instruction that must be interpreted.
    pub(super) fn emit(&mut self, version: Version, unit: &[Insn]) -> bool {
        self.version = version;
        self.open.clear();
        self.known = if version == Version::Rounds { self.head } else { Known::default() };
        let made_for = self.context;
        for (i, insn) in unit.iter().enumerate() {
            self.current = i;
            self.join(insn);
            super::one(self, insn);
            self.follow_rights(insn);
            if self.spoilt {
                return false;
            }
        }
        if version == Version::Rounds {
            return true;
        }
        if let Some(last) = unit.last()
            && last.kind.falls_through()
        {
            self.go(last.next().into());
        }
        self.context = made_for;
        true
    }

    /// How much there is, for [`Build::forget_since`].
    pub(super) fn mark(&self) -> [usize; 5] {
        [self.asm.here(), self.sites.len(), self.ways.len(), self.cold.len(), self.apart.len()]
    }

    /// Forgets all that was emitted since `mark`.
    pub(super) fn forget_since(&mut self, mark: [usize; 5]) {
        self.asm.bytes.truncate(mark[0]);
        self.sites.truncate(mark[1]);
        self.ways.truncate(mark[2]);
        self.cold.truncate(mark[3]);
        self.apart.truncate(mark[4]);
        self.spoilt = false;
    }

    /// The instruction at work closes a loop that has a version without checks.
    pub(super) fn is_loop(&self) -> bool {
        self.closes == Some(self.current)
    }

    /// `from` goes on there.
    pub(super) fn goes_round(&mut self, from: Hole) {
        self.round.push(from);
    }

    /// Code behind `insn` may have other rights.
    fn follow_rights(&mut self, insn: &Insn) {
        if let super::classify::Kind::System(what) = insn.kind {
            self.context = what.leads_to(self.context);
        }
    }

    /// Goes to a stub that executes `insn`, or has it interpreted.
    pub(super) fn stub_or_interpret(&mut self, insn: &Insn, stub: impl Fn(&Stubs) -> At) {
        let site = self.site(insn);
        self.asm.constant(Host::R14, site.into());
        self.jump_to_stub(stub(self.stubs));
    }

    /// Calls a stub that executes `insn`, and goes on.
    pub(super) fn call_of_site(&mut self, insn: &Insn, stub: impl Fn(&Stubs) -> At) {
        let site = self.site(insn);
        self.asm.constant(Host::R14, site.into());
        self.call_stub(stub(self.stubs));
    }

    /// A number under which the interpreter finds `insn`.
    pub(super) fn site(&mut self, insn: &Insn) -> u32 {
        if self.sites.last().is_some_and(|s| s.off == insn.off) {
            return self.first.0 + self.sites.len() as u32 - 1;
        }
        self.sites.push(Site { ins: insn.ins, off: insn.off, page: self.page });
        self.first.0 + self.sites.len() as u32 - 1
    }

    /// `to` becomes the linear address of offset `off` of the page; the flags stay.
    pub(super) fn linear(&mut self, to: Host, off: i64) {
        self.loses(to);
        match self.page {
            Some(page) if self.context.is_64() => self.asm.constant(to, page.wrapping_add(off as u64)),
            Some(page) => self.asm.constant(to, page.wrapping_add(off as u64) & 0xffff_ffff),
            None => {
                self.asm.load(to, Rm::State(regs::slot(REG_BLOCK_RIP.into())));
                match i32::try_from(off) {
                    Ok(disp) => self.asm.add_constant(to, disp),
                    // A branch reaches no further than 2 GiB from an instruction of the page.
                    Err(_) => {
                        let half = (off / 2) as i32;
                        self.asm.add_constant(to, half);
                        self.asm.add_constant(to, (off - i64::from(half)) as i32);
                    }
                }
                if !self.context.is_64() {
                    self.asm.load32(to, Rm::Reg(to));
                }
            }
        }
    }

    /// The interpreter executes `insn`, whose code begins at `start`, if one of `from` jumps; the code goes on here. Nothing of it
    /// must have been done where they jump.
    pub(super) fn or_interpret(&mut self, from: Holes, start: usize, insn: &Insn) {
        self.or_collect(from, start, None, insn);
    }

    /// Likewise. `ready`: the code behind its check, if all that it does with memory is one load.
    pub(super) fn or_collect(&mut self, from: Holes, start: usize, ready: Option<usize>, insn: &Insn) {
        if from.is_empty() {
            return;
        }
        if self.version == Version::Rounds {
            self.apart.extend(from.into_iter().map(|h| (h, insn.off)));
            return;
        }
        let site = self.site(insn);
        let back = self.asm.here();
        self.cold.push(Cold::Interpret { from, site, start, ready, back });
        // The way back from there has lost them.
        self.known = Known::default();
    }

    /// The interpreter executes the branch `insn`, whose code begins at `start`, if one of `from` jumps.
    pub(super) fn or_leave(&mut self, from: Holes, start: usize, insn: &Insn) {
        let site = self.site(insn);
        self.cold.push(Cold::Leave { from, site, start });
    }

    /// What the memory operand (0) or the stack access (1) of the instruction at work is to a group.
    pub(super) fn member(&self, which: usize) -> Option<Member> {
        if self.version == Version::Shared { self.groups.members[self.current][which] } else { None }
    }

    /// Likewise to a range of the loop, in the version without checks.
    pub(super) fn walker(&self, which: usize) -> Option<Member> {
        if self.version == Version::Rounds { self.groups.members[self.current][which] } else { None }
    }

    /// The range of group `n`.
    pub(super) fn group(&self, n: u8) -> hoist::Group {
        self.groups.groups[usize::from(n)]
    }

    /// The range of a group is not served: `from` has `insn`, the instruction at work, tried again when its page has been filled in, or goes
    /// on where every access checks for itself. `start` is where its code begins here.
    pub(super) fn go_apart(&mut self, from: Holes, start: usize, insn: &Insn) {
        let site = self.site(insn);
        self.cold.push(Cold::Range { from, site, start, off: insn.off });
    }

    /// Whether some access of the instruction at work leads a group.
    pub(super) fn leads(&self) -> bool {
        [0, 1].into_iter().filter_map(|which| self.member(which)).any(|m| m.leads)
    }

    /// Tells the engine of a store of `size` bytes at R14 + `at` by `insn`, if `from` jumps. Without `insn` the code goes on whatever the
    /// store hit.
    pub(super) fn or_tell_write(&mut self, from: Hole, at: i32, size: u32, insn: Option<&Insn>) {
        let site = insn.map_or(NO_SITE, |insn| self.site(insn));
        let back = self.asm.here();
        // The way back from there has lost all but this.
        let range = self.known.range.filter(|_| self.version == Version::Shared);
        self.cold.push(Cold::WroteCode { from, at, size, site, back, range });
        self.known = Known { range, ..Known::default() };
    }

    /// The interpreter executes `insn` here, and the code goes on.
    pub(super) fn interpret(&mut self, insn: &Insn) {
        self.spoilt = self.version == Version::Rounds;
        self.call_of_site(insn, |s| s.call_interpreter);
    }

    /// The interpreter executes `insn` and the code ends.
    pub(super) fn interpret_and_leave(&mut self, insn: &Insn) {
        let site = self.site(insn);
        self.asm.constant(Host::R14, site.into());
        self.jump_to_stub(self.stubs.interpret);
    }

    /// Makes sure that the guest's vector registers are in the host's.
    pub(super) fn need_vectors(&mut self) {
        if !self.vectors_loaded {
            self.load_unless_there(super::frame::field!(vectors_away), self.stubs.load_vectors);
            self.vectors_loaded = true;
        }
    }

    /// Makes sure that the guest's x87 and vector registers are in the host's.
    pub(super) fn need_x87(&mut self) {
        if !self.x87_loaded {
            self.load_unless_there(super::frame::field!(x87_away), self.stubs.load_x87);
            self.vectors_loaded = true;
            self.x87_loaded = true;
        }
    }

    fn load_unless_there(&mut self, flag: i32, stub: At) {
        self.loses(Host::RCX);
        self.asm.load8(Host::RCX, Rm::State(flag));
        let there = self.asm.jrcxz();
        self.call_stub(stub);
        self.asm.land(there);
    }

    /// A way out to offset `off` of the page, through a jump still to be made.
    pub(super) fn way(&mut self, off: i64) -> u32 {
        let near = (0..4096).contains(&off);
        let (target, relative) = match self.page {
            Some(page) => (page.wrapping_add(off as u64), false),
            None => (off as u64, true),
        };
        self.ways.push(Way {
            target,
            relative,
            jump: None,
            near,
            cold: At(0),
            looked_up: false,
            apart: false,
            taken: 0,
        });
        self.first.1 + self.ways.len() as u32 - 1
    }

    /// `from` leads to `way`, and may be linked to a translation.
    pub(super) fn leads_to(&mut self, from: Hole, way: u32) {
        let jump = At(self.at.0 + from.field() as u32);
        self.ways[(way - self.first.1) as usize].jump = Some(jump);
        self.cold.push(Cold::Way { from: smallvec::smallvec![from], way, poll: false });
    }

    /// `from` leads to `way` because of the attention word.
    pub(super) fn polls(&mut self, from: Hole, way: u32) {
        self.cold.push(Cold::Way { from: smallvec::smallvec![from], way, poll: true });
    }

    /// `from` leads to `way`, which is looked up and put into the table of branch targets.
    pub(super) fn looks_up(&mut self, from: Hole, way: u32) {
        self.ways[(way - self.first.1) as usize].looked_up = true;
        self.leaves_to(from, way);
    }

    /// `from` leads to `way`, which is never linked.
    pub(super) fn leaves_to(&mut self, from: Hole, way: u32) {
        self.cold.push(Cold::Way { from: smallvec::smallvec![from], way, poll: false });
    }

    /// Leaves the code if the attention word is set, to `way`. With `keep` the flags stay.
    pub(super) fn poll(&mut self, way: u32, keep: bool) {
        self.asm.load(Host::RCX, Rm::State(super::frame::field!(attention)));
        if keep {
            self.asm.load32(Host::RCX, Rm::At(Host::RCX, 0));
            let quiet = self.asm.jrcxz();
            let out = self.asm.jmp();
            self.asm.land(quiet);
            self.polls(out, way);
        } else {
            self.asm.op(false, &[0x83], 7, Rm::At(Host::RCX, 0));
            self.asm.raw(&[0]);
            let out = self.asm.jcc(super::asm::cond::NE);
            self.polls(out, way);
        }
    }

    fn call_stub(&mut self, stub: At) {
        self.known = Known::default();
        let hole = self.asm.call();
        self.asm.fill(hole, i64::from(stub.0) - i64::from(self.at.0));
    }

    pub(super) fn jump_to_stub(&mut self, stub: At) {
        let hole = self.asm.jmp();
        self.asm.fill(hole, i64::from(stub.0) - i64::from(self.at.0));
    }
}
