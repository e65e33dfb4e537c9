//! Which accesses of a unit share one soft-TLB check.
//!
//! Accesses whose addresses differ by constants - fields of a structure, slots of a stack frame, pushes in a row - form a group if
//! they lie within [`SPAN`] bytes. The first one checks the whole range and keeps its host address; the others use that. If the
//! range is not served as a whole (it crosses a page, say), the interpreter goes on there, and in the end another
//! translation, in which every access checks for itself.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::address::Access;
use super::classify::Kind;
use super::joins;
use super::native;
use super::system::System;
use super::unit::Insn;

/// Most bytes from the first to the last of a group.
const SPAN: i64 = 512;
/// Most groups of a unit; each has a place in the frame.
pub(super) const GROUPS: usize = 8;

/// What an access is to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) group: u8,
    /// Bytes from the start of the group's range.
    pub(super) at: i32,
    /// The first one.
    pub(super) leads: bool,
}

/// A range that is checked as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Bytes.
    pub(super) size: u32,
    /// Alignment of its start that some member demands.
    pub(super) align: u32,
    /// Some member stores.
    pub(super) store: bool,
}

/// The groups of a unit.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By instruction: the memory operand, and the access through the stack pointer that it implies.
    pub(super) members: Vec<[Option<Member>; 2]>,
    pub(super) groups: Vec<Group>,
}

/// Finds the groups of `unit`.
pub(super) fn find(unit: &[Insn]) -> Groups {
    let (found, _) = gatherings(unit, 16, &joins::serves_until(unit));
    let mut out = Groups { members: vec![[None; 2]; unit.len()], groups: Vec::new() };
    for g in found.iter().filter(|g| g.accesses.len() > 1).take(GROUPS) {
        out.add(g);
    }
    out
}

/// All accesses of `unit` that demand an alignment of at most `align`, those that may share a check together, and what is known of
/// the registers behind it. `serves`: for each instruction where its check is of no use any more.
pub(super) fn gatherings(unit: &[Insn], align: u32, serves: &[usize]) -> (Vec<Gathering>, Values) {
    let mut values = Values::default();
    let mut found: Vec<Gathering> = Vec::new();
    // What was known at branches that come out further down.
    let mut open: Vec<(usize, [(u32, i64); 16])> = Vec::new();
    for (i, insn) in unit.iter().enumerate() {
        open.iter().filter(|(to, _)| *to == i).for_each(|(_, known)| values.keep_common(known));
        open.retain(|(to, _)| *to != i);
        if let Some(to) = joins::joined(unit, i) {
            open.push((to, values.known));
        }
        for (which, access) in accesses(insn, &values).into_iter().enumerate() {
            if let Some(access) = access.filter(|a| a.align <= align) {
                gather(&mut found, i, which, access, serves[i]);
            }
        }
        values.follow(insn);
    }
    (found, values)
}

impl Groups {
    pub(super) fn add(&mut self, g: &Gathering) {
        let group = self.groups.len() as u8;
        for (k, (i, which, a)) in g.accesses.iter().enumerate() {
            self.members[*i][*which] = Some(Member { group, at: (a.offset - g.low) as i32, leads: k == 0 });
        }
        self.groups.push(g.group());
    }
}

impl Gathering {
    /// Its range.
    pub(super) fn group(&self) -> Group {
        let align = self.accesses.iter().map(|(_, _, a)| a.align).max().unwrap_or(1);
        let store = self.accesses.iter().any(|(_, _, a)| a.store);
        Group { size: (self.high - self.low) as u32, align, store }
    }
}

/// An address without its constant part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// The value of a register; below 16, the one with which the register of that number begins.
    pub(super) base: Option<u32>,
    /// Likewise, and its scale.
    pub(super) index: Option<(u32, u32)>,
    /// The page of the code.
    pub(super) page: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    root: Root,
    offset: i64,
    size: i64,
    align: u32,
    store: bool,
}

/// Accesses that lie within [`SPAN`] bytes.
pub(super) struct Gathering {
    pub(super) root: Root,
    /// Offset of the first byte from the root, and of the end.
    pub(super) low: i64,
    high: i64,
    accesses: Vec<(usize, usize, Reach)>,
    /// The instruction from which on its check, that of the first access, is of no use.
    until: usize,
}

fn gather(found: &mut Vec<Gathering>, i: usize, which: usize, a: Reach, until: usize) {
    let end = a.offset + a.size;
    for g in found.iter_mut().rev().filter(|g| g.root == a.root && i < g.until) {
        let (low, high) = (g.low.min(a.offset), g.high.max(end));
        let aligned = |x: &Reach| x.align == 1 || (x.offset - low) % i64::from(x.align) == 0;
        if high - low <= SPAN && aligned(&a) && g.accesses.iter().all(|(_, _, x)| aligned(x)) {
            (g.low, g.high) = (low, high);
            g.accesses.push((i, which, a));
            return;
        }
    }
    found.push(Gathering { root: a.root, low: a.offset, high: end, accesses: vec![(i, which, a)], until });
}

/// What is known of the registers: which unknown value each holds, plus a constant.
#[derive(Debug)]
pub(super) struct Values {
    known: [(u32, i64); 16],
    next: u32,
    /// Bit *n*: register *n* has been written.
    moved: u16,
}

impl Default for Values {
    fn default() -> Self {
        Values { known: std::array::from_fn(|i| (i as u32, 0)), next: 16, moved: 0 }
    }
}

impl Values {
    /// By how much register `guest` has changed since the beginning, if that is a constant.
    pub(super) fn change(&self, guest: usize) -> Option<i64> {
        let (id, by) = self.known[guest];
        (id as usize == guest).then_some(by)
    }

    /// Register `guest` has not been written.
    pub(super) fn is_still(&self, guest: usize) -> bool {
        self.moved >> guest & 1 == 0
    }

    /// Keeps what is the same in `other`.
    fn keep_common(&mut self, other: &[(u32, i64); 16]) {
        for (r, known) in other.iter().enumerate() {
            if self.known[r] != *known {
                self.forget(r);
            }
        }
    }

    fn of(&self, r: Register) -> (u32, i64) {
        self.known[r.full_register().number()]
    }

    fn forget(&mut self, guest: usize) {
        self.known[guest] = (self.next, 0);
        self.next += 1;
        self.moved |= 1 << guest;
    }

    fn forget_written(&mut self, ins: &Instruction) {
        use Mnemonic::*;
        if matches!(ins.mnemonic(), Cmp | Test | Bt) {
            return;
        }
        for i in 0..ins.op_count() {
            let written = i == 0 || i == 1 && matches!(ins.mnemonic(), Xchg | Xadd | Mulx);
            if written && ins.op_kind(i) == OpKind::Register && ins.op_register(i).is_gpr() {
                self.forget(ins.op_register(i).full_register().number());
            }
        }
        match ins.mnemonic() {
            Mul | Imul | Cwd | Cdq | Cqo | Cbw | Cwde | Cdqe | Cmpxchg | Cmpxchg8b | Cmpxchg16b | Lahf | Fnstsw
            | Fstsw => {
                self.forget(0);
                self.forget(2);
            }
            Pcmpestri | Pcmpestri64 | Pcmpistri | Vpcmpestri | Vpcmpestri64 | Vpcmpistri => self.forget(1),
            _ => {}
        }
    }

    /// What `insn` does to the registers.
    fn follow(&mut self, insn: &Insn) {
        let ins = &insn.ins;
        match insn.kind {
            Kind::Push => self.move_stack(-word(insn)),
            Kind::Pop => {
                self.move_stack(word(insn));
                self.forget(ins.op0_register().number());
            }
            Kind::Leave => {
                self.known[4] = (self.known[5].0, self.known[5].1 + word(insn));
                self.moved |= 1 << 4;
                self.forget(5);
            }
            Kind::Nop | Kind::Pause | Kind::Jcc => {}
            Kind::System(System::Pushf) => self.move_stack(-word(insn)),
            Kind::System(System::Popf) => self.move_stack(word(insn)),
            // Accesses before and behind have different rights.
            // And what is interpreted may change what is served.
            Kind::System(System::Clac | System::Stac | System::Repeat) => (0..16).for_each(|r| self.forget(r)),
            Kind::System(what) => what.written(ins).iter().for_each(|r| self.forget(*r)),
            Kind::Interpret { .. } => (0..16).for_each(|r| self.forget(r)),
            Kind::Lea => match sum(insn) {
                Some((from, by)) => self.set(ins.op0_register(), from, by),
                None => self.forget(ins.op0_register().full_register().number()),
            },
            _ => match copied(insn) {
                Some((from, by)) => self.set(ins.op0_register(), from, by),
                None => self.forget_written(ins),
            },
        }
    }

    fn move_stack(&mut self, by: i64) {
        self.known[4].1 += by;
        self.moved |= 1 << 4;
    }

    fn set(&mut self, to: Register, from: Register, by: i64) {
        let (id, offset) = self.of(from);
        self.known[to.number()] = (id, offset.wrapping_add(by));
        self.moved |= 1 << to.number();
    }
}

/// Bytes that PUSH pushes.
fn word(insn: &Insn) -> i64 {
    if insn.wide { 8 } else { 4 }
}

/// A whole register, as far as code of this size has it.
fn is_whole(insn: &Insn, r: Register) -> bool {
    if insn.wide { r.is_gpr64() } else { r.is_gpr32() }
}

/// `value`, which in 32-bit code counts modulo 2^32.
fn signed(insn: &Insn, value: u64) -> i64 {
    if insn.wide { value as i64 } else { i64::from(value as i32) }
}

/// The register and the constant whose sum an LEA of whole registers computes.
fn sum(insn: &Insn) -> Option<(Register, i64)> {
    let ins = &insn.ins;
    let whole = is_whole(insn, ins.op0_register()) && is_whole(insn, ins.memory_base());
    let plain = whole && ins.memory_index() == Register::None;
    plain.then(|| (ins.memory_base(), signed(insn, ins.memory_displacement64())))
}

/// The register and the constant whose sum a MOV, ADD, SUB, INC or DEC of whole registers leaves in its first operand.
fn copied(insn: &Insn) -> Option<(Register, i64)> {
    let ins = &insn.ins;
    if ins.op_count() == 0 || ins.op0_kind() != OpKind::Register || !is_whole(insn, ins.op0_register()) {
        return None;
    }
    let to = ins.op0_register();
    let immediate = |i| {
        use OpKind::{Immediate8to32, Immediate8to64, Immediate32, Immediate32to64};
        matches!(ins.op_kind(i), Immediate8to64 | Immediate32to64 | Immediate8to32 | Immediate32)
    };
    let value = || signed(insn, ins.immediate(1));
    match ins.mnemonic() {
        Mnemonic::Mov if ins.op1_kind() == OpKind::Register && is_whole(insn, ins.op1_register()) => {
            Some((ins.op1_register(), 0))
        }
        Mnemonic::Add if immediate(1) => Some((to, value())),
        Mnemonic::Sub if immediate(1) => Some((to, value().wrapping_neg())),
        Mnemonic::Inc => Some((to, 1)),
        Mnemonic::Dec => Some((to, -1)),
        _ => None,
    }
}

/// The accesses of `insn` that may share a check: its memory operand, and the stack's.
fn accesses(insn: &Insn, values: &Values) -> [Option<Reach>; 2] {
    let operand = match insn.kind {
        Kind::Plain | Kind::Vector | Kind::X87 => operand(insn, values),
        _ => None,
    };
    [operand, stack(insn, values)]
}

fn operand(insn: &Insn, values: &Values) -> Option<Reach> {
    let ins = &insn.ins;
    let i = (0..ins.op_count()).find(|i| ins.op_kind(*i) == OpKind::Memory)?;
    let align = native::alignment(insn);
    if matches!(ins.memory_segment(), Register::FS | Register::GS) {
        return None;
    }
    let size = ins.memory_size().size() as i64;
    let store = native::access(ins, i) == Access::Store;
    if ins.is_ip_rel_memory_operand() {
        let root = Root { base: None, index: None, page: true };
        let offset = ins.ip_rel_memory_address() as i64;
        return (ins.memory_base() == Register::RIP).then_some(Reach { root, offset, size, align, store });
    }
    let wide = |r: Register| r == Register::None || is_whole(insn, r);
    if !wide(ins.memory_base()) || !wide(ins.memory_index()) || ins.memory_base() == Register::None {
        return None;
    }
    let (base, mut offset) = values.of(ins.memory_base());
    offset = offset.wrapping_add(signed(insn, ins.memory_displacement64()));
    let mut index = None;
    if ins.memory_index() != Register::None {
        let (id, by) = values.of(ins.memory_index());
        let scale = ins.memory_index_scale();
        index = Some((id, scale));
        offset = offset.wrapping_add(by.wrapping_mul(i64::from(scale)));
    }
    // Far from overflow, so that distances are true.
    (offset.abs() < 1 << 40).then_some(Reach {
        root: Root { base: Some(base), index, page: false },
        offset,
        size,
        align,
        store,
    })
}

fn stack(insn: &Insn, values: &Values) -> Option<Reach> {
    let size = word(insn);
    let (by, store, register) = match insn.kind {
        Kind::Push | Kind::Call | Kind::System(System::Pushf) => (-size, true, Register::RSP),
        Kind::CallIndirect if matches!(insn.ins.code(), Code::Call_rm64 | Code::Call_rm32) => {
            (-size, true, Register::RSP)
        }
        Kind::Pop | Kind::Return | Kind::System(System::Popf) => (0, false, Register::RSP),
        Kind::Leave => (0, false, Register::RBP),
        _ => return None,
    };
    let (id, offset) = values.of(register);
    let root = Root { base: Some(id), index: None, page: false };
    (offset.abs() < 1 << 40).then_some(Reach { root, offset: offset + by, size, align: 1, store })
}

#[cfg(test)]
mod tests {
    use super::super::unit::of_code;
    use super::*;

    fn groups(code: &[u8]) -> Groups {
        find(&of_code(code))
    }

    #[test]
    fn a_frame_is_one_group() {
        // push rbp; mov rbp, rsp; push rbx; sub rsp, 8; mov [rbp-16], edi; mov rax, [rsi]; leave; ret
        let code = [0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 8, 0x89, 0x7d, 0xf0, 0x48, 0x8b, 0x06, 0xc9, 0xc3];
        let g = groups(&code);
        assert_eq!(g.groups, [Group { size: 32, align: 1, store: true }]);
        let at = |i: usize, which: usize| g.members[i][which].map(|m| (m.at, m.leads));
        assert_eq!(at(0, 1), Some((16, true)));
        assert_eq!((at(2, 1), at(4, 0)), (Some((8, false)), Some((0, false))));
        assert_eq!(at(5, 0), None, "alone");
        assert_eq!((at(6, 1), at(7, 1)), (Some((16, false)), Some((24, false))));
    }

    #[test]
    fn unknown_values_are_different() {
        // mov rax, [rdi]; mov rdi, rsi; mov rcx, [rdi]; xchg rsi, rbx; mov rdx, [rsi]; ret
        let code = [0x48, 0x8b, 7, 0x48, 0x89, 0xf7, 0x48, 0x8b, 0x0f, 0x48, 0x87, 0xde, 0x48, 0x8b, 0x16, 0xc3];
        assert!(groups(&code).groups.is_empty());
        // movaps xmm0, [rdi+8]; movaps xmm1, [rdi+16]: never both aligned.
        let g = groups(&[0x0f, 0x28, 0x47, 8, 0x0f, 0x28, 0x4f, 16, 0xc3]);
        assert!(g.groups.is_empty());
    }

    #[test]
    fn far_things_are_apart() {
        // mov rax, [rdi]; mov rcx, [rdi+1000h]; mov rdx, [rdi+8]; ret
        let g = groups(&[0x48, 0x8b, 7, 0x48, 0x8b, 0x8f, 0, 16, 0, 0, 0x48, 0x8b, 0x57, 8, 0xc3]);
        assert_eq!(g.groups, [Group { size: 16, align: 1, store: false }]);
        assert_eq!(g.members[1], [None, None]);
    }
}
