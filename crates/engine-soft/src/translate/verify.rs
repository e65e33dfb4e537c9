//! A second opinion on emitted code: it is decoded again, and everything it may touch is proved to be harmless.
//!
//! An abstract interpretation over the two scratch registers, through which alone guest memory is reached, and the place where one of
//! them is spilt. What it proves, whatever the guest's registers hold:
//!
//! - a memory operand is engine state at a fixed offset within the CPU (and never one of the engine's own pointers, if written), an entry
//!   of a soft TLB of the code's privilege or of the branch targets at a bounded index, a code mark or the attention word, or guest memory at
//!   an address that a check has passed, within the bytes that were checked and, for stores, by a check for stores;
//! - a jump leads to an instruction of the same code, to a stub, or where a table of branch targets says;
//! - no instruction names the host's stack, other segments, or the system.
//!
//! Within a loop's version without checks (`rounds`) it proves that addresses are relative to a page that was found, not that the turns end
//! before the page does.

mod values;

use std::collections::BTreeMap;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
    UsedMemory,
};

use self::values::{Array, NOTHING, State, Val, is_constant, is_guests, pext, slot, state_disp, stored_at, sum};
use super::address::{Access, tables};
use super::build::Built;
use super::cache::At;
use super::context::Context;
use super::frame::{LOAD, field};
use super::hoist::GROUPS;
use super::strings;
use super::stubs::Stubs;
use super::turns::WALKS;
use crate::cpu::Cpu;
use crate::mmu::{ENTRIES, KERNEL_TARGETS_AT, Privilege, USER_TARGETS_AT};

struct Verifier<'a> {
    at: At,
    stubs: &'a Stubs,
    arrays: BTreeMap<i32, Array>,
    code: Vec<Instruction>,
    places: BTreeMap<u64, usize>,
    before: Vec<Option<State>>,
    /// What the ranges of groups hold, wherever they are stored.
    ranges: [Option<Val>; GROUPS],
    /// Likewise, the anchors.
    anchors: [Option<Val>; WALKS],
    factory: InstructionInfoFactory,
}

/// Proves what the module's documentation says of `built`, made for `context` and to be placed at `at`.
///
/// # Errors
/// The instruction that fails, and why.
pub(super) fn verify(built: &Built, context: Context, at: At, stubs: &Stubs) -> Result<(), String> {
    let mut v = Verifier {
        at,
        stubs,
        arrays: arrays(context),
        code: Vec::new(),
        places: BTreeMap::new(),
        before: Vec::new(),
        ranges: [None; GROUPS],
        anchors: [None; WALKS],
        factory: InstructionInfoFactory::new(),
    };
    v.decode(&built.code)?;
    let entries = [0, u64::from(built.entry), u64::from(built.leave)];
    // What ranges hold is known after the first time.
    for checking in [false, true] {
        v.before = vec![None; v.code.len()];
        let mut work = Vec::new();
        for entry in entries {
            v.reaches(entry as i64, NOTHING, &mut work)?;
        }
        while let Some(i) = work.pop() {
            v.step(i, checking, &mut work).map_err(|why| format!("{} at {:x}: {why}", v.code[i], v.code[i].ip()))?;
        }
    }
    Ok(())
}

fn arrays(context: Context) -> BTreeMap<i32, Array> {
    let mut out = BTreeMap::new();
    let (whose, targets) = match context.privilege() {
        Privilege::User | Privilege::UserAligned => (vec![Privilege::User], USER_TARGETS_AT),
        _ => (vec![Privilege::Supervisor, Privilege::SupervisorAc], KERNEL_TARGETS_AT),
    };
    for privilege in whose {
        for store in [false, true] {
            let t = tables(privilege, if store { Access::Store } else { Access::Load });
            out.insert(t.neg_tag, Array::Tag { store });
            out.insert(t.host, Array::Host { store });
            out.insert(t.addend, Array::Addend { store });
            if store {
                out.insert(t.mark, Array::Mark);
            }
        }
    }
    out.insert(targets.neg_lin, Array::TargetLin);
    out.insert(targets.code, Array::TargetCode);
    out
}

impl Verifier<'_> {
    fn decode(&mut self, code: &[u8]) -> Result<(), String> {
        let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        while decoder.can_decode() {
            let ins = decoder.decode();
            if ins.is_invalid() {
                return Err(format!("no instruction at {:x}", ins.ip()));
            }
            self.places.insert(ins.ip(), self.code.len());
            self.code.push(ins);
        }
        Ok(())
    }

    /// Control comes to offset `to` in `state`.
    fn reaches(&mut self, to: i64, state: State, work: &mut Vec<usize>) -> Result<(), String> {
        let i = u64::try_from(to).ok().and_then(|to| self.places.get(&to).copied());
        let i = i.ok_or_else(|| format!("no instruction begins at {to:x}"))?;
        let new = self.before[i].map_or(state, |old| old.meet(state));
        if self.before[i] != Some(new) {
            self.before[i] = Some(new);
            work.push(i);
        }
        Ok(())
    }

    fn step(&mut self, i: usize, checking: bool, work: &mut Vec<usize>) -> Result<(), String> {
        let (ins, Some(state)) = (self.code[i], self.before[i]) else { return Ok(()) };
        if checking {
            self.check(&ins, &state)?;
        }
        let next = ins.next_ip() as i64;
        let target = ins.near_branch_target() as i64;
        match ins.flow_control() {
            FlowControl::Next => {
                let after = self.after(&ins, state, checking)?;
                self.reaches(next, after, work)
            }
            FlowControl::UnconditionalBranch if self.stub(target) => Ok(()),
            FlowControl::UnconditionalBranch => self.reaches(target, state, work),
            FlowControl::ConditionalBranch => self.branch(&ins, state, next, target, work),
            FlowControl::Call => self.call(next, target, work),
            // UD2 behind what does not come back; what follows is told by the call.
            FlowControl::Exception if ins.mnemonic() == Mnemonic::Ud2 => Ok(()),
            FlowControl::IndirectBranch => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn branch(
        &mut self,
        ins: &Instruction,
        s: State,
        next: i64,
        target: i64,
        work: &mut Vec<usize>,
    ) -> Result<(), String> {
        let (mut taken, mut on) = (s, s);
        match (ins.mnemonic(), s.r14, s.compared, s.rcx) {
            (Mnemonic::Ja, Val::Tagged { store }, Some(most), _) => {
                on.r14 = Val::InPage { store, size: 4096 - most, linear: false };
            }
            (Mnemonic::Jrcxz, _, _, Val::Outside { store, size }) => {
                taken.r14 = Val::InPage { store, size, linear: true };
            }
            _ => {}
        }
        if !self.stub(target) {
            self.reaches(target, taken, work)?;
        }
        self.reaches(next, on, work)
    }

    fn call(&mut self, next: i64, target: i64, work: &mut Vec<usize>) -> Result<(), String> {
        let to = target + i64::from(self.at.0);
        let is = |stub: At| to == i64::from(stub.0);
        let s = self.stubs;
        self.reaches(next, NOTHING, work)?;
        if s.strings.has(At(to as u32)) {
            // It begins again.
            self.reaches(next - strings::CALL, NOTHING, work)?;
        }
        if is(s.call_refill) || is(s.only_refill) || is(s.call_load) {
            self.reaches(next + 5, NOTHING, work)?;
        }
        if is(s.call_load) && self.places.contains_key(&((next + 10) as u64)) {
            let loaded = Val::Host { store: false, size: LOAD as i64 };
            self.reaches(next + 10, State { r14: loaded, ..NOTHING }, work)?;
        }
        Ok(())
    }

    /// The offset is that of a stub.
    fn stub(&self, target: i64) -> bool {
        let s = self.stubs;
        let known = [s.link, s.poll, s.interpret, s.crossing.syscall, s.crossing.sysret];
        known.iter().any(|stub| target + i64::from(self.at.0) == i64::from(stub.0))
    }

    /// The offset is that of a stub to be called.
    fn called_stub(&self, target: i64) -> bool {
        let s = self.stubs;
        let known =
            [s.call_interpreter, s.call_refill, s.call_load, s.only_refill, s.wrote_code, s.load_vectors, s.load_x87];
        let to = target + i64::from(self.at.0);
        known.iter().any(|stub| to == i64::from(stub.0)) || u32::try_from(to).is_ok_and(|to| s.strings.has(At(to)))
    }

    /// What `ins` touches is harmless.
    fn check(&mut self, ins: &Instruction, s: &State) -> Result<(), String> {
        use Mnemonic as M;
        let m = ins.mnemonic();
        if ins.flow_control() == FlowControl::Call {
            let ok = ins.op0_kind() == OpKind::NearBranch64 && self.called_stub(ins.near_branch_target() as i64);
            return if ok { Ok(()) } else { Err("calls what is no stub".to_owned()) };
        }
        if ins.flow_control() == FlowControl::IndirectBranch {
            let to_register = ins.op0_kind() == OpKind::Register && ins.op0_register() == Register::RCX;
            let to_frame = ins.op0_kind() == OpKind::Memory
                && ins.memory_segment() == Register::GS
                && (ins.memory_base(), ins.memory_index()) == (Register::None, Register::None)
                && ins.memory_displacement64() == field!(jump_to) as u64;
            let array = i32::try_from(ins.memory_displacement64() as i64).ok().and_then(|d| self.arrays.get(&d));
            let to_entry = ins.op0_kind() == OpKind::Memory
                && ins.memory_segment() == Register::GS
                && (ins.memory_base(), ins.memory_index()) == (Register::None, Register::RCX)
                && ins.memory_index_scale() == 8
                && s.rcx == (Val::Index { times: true, targets: true })
                && array == Some(&Array::TargetCode);
            let ok = to_register && s.rcx == Val::Code || to_frame || to_entry;
            return if ok { Ok(()) } else { Err("jumps anywhere".to_owned()) };
        }
        let system = [M::Wrgsbase, M::Wrfsbase, M::Swapgs, M::Xsetbv, M::Cpuid, M::Syscall, M::Sysenter, M::Wrpkru];
        if ins.is_privileged() || system.contains(&m) {
            return Err("concerns the system".to_owned());
        }
        let info = self.factory.info(ins);
        for r in info.used_registers() {
            let full = r.register().full_register();
            let own = full == Register::RSP || full.is_cr() || full.is_dr() || full.is_tr();
            let segment = full.is_segment_register() && !matches!(r.access(), OpAccess::Read | OpAccess::CondRead);
            if own || segment {
                return Err(format!("uses {full:?}"));
            }
        }
        let uses: Vec<UsedMemory> = info.used_memory().to_vec();
        uses.iter().filter(|u| u.access() != OpAccess::NoMemAccess).try_for_each(|u| self.operand(ins, u, s))
    }

    fn operand(&self, ins: &Instruction, u: &UsedMemory, s: &State) -> Result<(), String> {
        let write = !matches!(u.access(), OpAccess::Read | OpAccess::CondRead);
        let (disp, size) = (u.displacement() as i64, u.memory_size().size() as i64);
        let gs = u.segment() == Register::GS;
        let fail = |why: &str| Err(format!("{why} ({s:?})"));
        match (gs, u.base(), u.index()) {
            (true, Register::None, Register::None) => {
                if disp < 0 || disp + size.max(1) > size_of::<Cpu>() as i64 {
                    return fail("not engine state");
                }
                if write { self.state_write(ins, disp, size, s) } else { Ok(()) }
            }
            (true, base, index) => {
                let times = index == Register::RCX && base == Register::None && u.scale() == 8;
                let plain = base == Register::RCX && index == Register::None;
                let Val::Index { times: t, targets } = s.rcx else { return fail("no index") };
                let array = i32::try_from(disp).ok().and_then(|d| self.arrays.get(&d));
                let of_targets = matches!(array, Some(Array::TargetLin | Array::TargetCode));
                let ok =
                    (times || plain) && t == times && array.is_some() && of_targets == targets && !write && size <= 8;
                if ok { Ok(()) } else { fail("no entry of a table") }
            }
            // The rest of an address in a loop: what leads to the page is of the same page as what was found.
            (false, base @ (Register::R14 | Register::RCX), index)
                if s.value(base) == Val::Walk && is_guests(index) =>
            {
                Ok(())
            }
            (false, base @ (Register::R14 | Register::RCX), Register::None) => {
                match if base == Register::R14 { s.r14 } else { s.rcx } {
                    Val::Host { store, size: all } => {
                        let inside = disp >= 0 && disp + size <= all && size > 0;
                        if inside && (store || !write) { Ok(()) } else { fail("more than was checked") }
                    }
                    Val::Mark if disp == 0 && size == 4 && !write => Ok(()),
                    _ => fail("not checked"),
                }
            }
            _ => fail("an address of nobody's"),
        }
    }

    /// A write to the CPU's own memory: not to the engine's pointers, and to those of generated code only what they are for.
    fn state_write(&self, ins: &Instruction, disp: i64, size: i64, s: &State) -> Result<(), String> {
        let value = (ins.op1_kind() == OpKind::Register && ins.mnemonic() == Mnemonic::Mov).then(|| ins.op1_register());
        let value = value.map(|r| s.value(r));
        let hits = |at: i32, len: usize| disp < i64::from(at) + len as i64 && i64::from(at) < disp + size;
        for (at, len) in [(field!(translator), 8), (field!(attention), 8), (field!(fpu), 8), (field!(cpu), 8)] {
            if hits(at, len) {
                return Err("overwrites a pointer of the engine".to_owned());
            }
        }
        // From the first of the masks to the last one.
        let masks = (field!(device_marks) + 8 - field!(index_mask)) as usize;
        let ok = if hits(field!(index_mask), masks) {
            false
        } else if hits(field!(jump_to), 8) {
            value == Some(Val::Code)
        } else if hits(field!(ranges), 8 * GROUPS) {
            matches!(value, Some(Val::Host { .. }))
        } else if hits(field!(marks), 8 * GROUPS) || hits(field!(walk_marks), 8 * WALKS) {
            value == Some(Val::Mark)
        } else if hits(field!(anchors), 8 * WALKS) {
            matches!(value, Some(Val::Host { .. } | Val::Walk))
        } else if hits(field!(walks), 8 * WALKS) {
            matches!(value, Some(Val::Addend { .. }))
        } else {
            true
        };
        if ok { Ok(()) } else { Err(format!("keeps {value:?}")) }
    }

    /// The state behind `ins`.
    fn after(&mut self, ins: &Instruction, s: State, checking: bool) -> Result<State, String> {
        let mut out = s;
        if ins.rflags_modified() != 0 {
            out.compared = None;
        }
        if ins.mnemonic() == Mnemonic::Cmp && ins.op0_register() == Register::R14 && is_constant(ins) {
            out.compared = Some(ins.immediate(1) as i64).filter(|most| (0..4096).contains(most));
        }
        if let Some(disp) = stored_at(ins) {
            if disp == field!(spill) {
                out.spill = s.value(ins.op1_register());
            }
            let kept = slot(disp, field!(ranges), GROUPS).map(|n| &mut self.ranges[n]);
            let kept = kept.or(slot(disp, field!(anchors), WALKS).map(|n| &mut self.anchors[n]));
            if let Some(kept) = kept.filter(|_| !checking) {
                let v = s.value(ins.op1_register());
                *kept = Some(kept.map_or(v, |old| old.meet(v)));
            }
        }
        let info = self.factory.info(ins);
        let written = |full: Register| {
            info.used_registers().iter().any(|r| {
                r.register().full_register() == full && !matches!(r.access(), OpAccess::Read | OpAccess::CondRead)
            })
        };
        let (rcx, r14) = (written(Register::RCX), written(Register::R14));
        if rcx {
            out.rcx = self.new_value(ins, &s, Register::RCX);
            // What R14 was compared with belongs to the entry that RCX selected.
            if matches!(s.r14, Val::Tagged { .. } | Val::InPage { linear: false, .. }) {
                out.r14 = Val::Any;
            }
        }
        if r14 {
            out.r14 = self.new_value(ins, &s, Register::R14);
            if matches!(s.rcx, Val::End { .. } | Val::Outside { .. } | Val::Addend { .. }) && !rcx {
                out.rcx = Val::Any;
            }
        }
        Ok(out)
    }

    /// What `ins` makes of register `to`.
    fn new_value(&self, ins: &Instruction, s: &State, to: Register) -> Val {
        use Mnemonic as M;
        let m = ins.mnemonic();
        let (r0, r1) = (ins.op0_register(), ins.op1_register());
        if r0.full_register() != to {
            return Val::Any;
        }
        if m == M::Lea && r0.is_gpr64() {
            return sum(ins, s, to);
        }
        if m == M::Mov && ins.op1_kind() == OpKind::Register && r0.is_gpr64() {
            return s.value(r1);
        }
        if m == M::Pext && r0 == Register::RCX && ins.op2_kind() == OpKind::Memory {
            return pext(r1, state_disp(ins), s);
        }
        if m == M::And && r0 == Register::ECX && is_constant(ins) {
            let fits = ins.immediate(1) == ((ENTRIES - 1) << 3) as u64;
            return if fits { Val::Index { times: false, targets: false } } else { Val::Any };
        }
        if m == M::And && r0 == Register::ECX && ins.op1_kind() == OpKind::Memory {
            let mask = [field!(kernel_targets_mask), field!(user_targets_mask)];
            return if state_disp(ins).is_some_and(|d| mask.contains(&d)) { Val::Target } else { Val::Any };
        }
        if m == M::Shl && r0 == Register::ECX && s.rcx == Val::Target {
            let fits = ins.immediate(1) == u64::from(3 - super::targets::LOW);
            return if fits { Val::Index { times: false, targets: true } } else { Val::Any };
        }
        if ins.op_count() == 2 && ins.op1_kind() == OpKind::Memory && r0.is_gpr64() {
            return self.loaded(ins, s, m);
        }
        Val::Any
    }

    /// What MOV or ADD from the engine's memory makes of its register.
    fn loaded(&self, ins: &Instruction, s: &State, m: Mnemonic) -> Val {
        if let Some(disp) = state_disp(ins) {
            if m == Mnemonic::Add && ins.op0_register() == Register::R14 && slot(disp, field!(walks), WALKS).is_some() {
                return Val::Host { store: true, size: 4096 };
            }
            if m != Mnemonic::Mov {
                return Val::Any;
            }
            if let Some(n) = slot(disp, field!(ranges), GROUPS) {
                return self.ranges[n].unwrap_or(Val::Any);
            }
            if let Some(n) = slot(disp, field!(anchors), WALKS) {
                return self.anchors[n].unwrap_or(Val::Any);
            }
            let mark = slot(disp, field!(marks), GROUPS).or(slot(disp, field!(walk_marks), WALKS));
            return match disp {
                d if d == field!(spill) => s.spill,
                d if d == field!(attention) => Val::Mark,
                _ if mark.is_some() => Val::Mark,
                d if slot(d, field!(walks), WALKS).is_some() => Val::Walk,
                _ => Val::Any,
            };
        }
        let array = i32::try_from(ins.memory_displacement64() as i64).ok().and_then(|d| self.arrays.get(&d));
        match (m, array, s.r14) {
            (Mnemonic::Add, Some(Array::Tag { store }), _) => Val::Tagged { store: *store },
            (Mnemonic::Add, Some(Array::Host { store }), Val::InPage { store: as_store, size, linear: false })
                if *store == as_store =>
            {
                Val::Host { store: as_store, size }
            }
            (Mnemonic::Mov, Some(Array::Tag { store }), _) => Val::Tag { store: *store },
            (Mnemonic::Mov, Some(Array::Addend { store }), _) => Val::Addend { store: *store },
            (Mnemonic::Mov, Some(Array::Mark), _) => Val::Mark,
            (Mnemonic::Mov, Some(Array::TargetCode), _) => Val::Code,
            _ => Val::Any,
        }
    }
}

#[cfg(test)]
mod tests;
