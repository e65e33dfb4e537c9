//! What the verifier knows of scratch registers, and how instructions change it.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::translate::frame::field;

/// What is known of a scratch register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Val {
    Any,
    /// The offset (with `times`: an eighth of it) of an entry of a soft TLB or of the branch targets.
    Index {
        times: bool,
        targets: bool,
    },
    /// Part of the index of a branch target.
    Target,
    /// A linear address minus what the table of loads (stores) has for its entry.
    Tagged {
        store: bool,
    },
    /// That plus R14 and constant: where the access ends.
    Tag {
        store: bool,
    },
    End {
        store: bool,
        last: i64,
    },
    /// Zero if that is within the page: `size` bytes.
    Outside {
        store: bool,
        size: i64,
    },
    /// An offset (a linear address if `linear`) whose `size` bytes are in the page that the table has.
    InPage {
        store: bool,
        size: i64,
        linear: bool,
    },
    Addend {
        store: bool,
    },
    /// A host address of that many checked bytes.
    Host {
        store: bool,
        size: i64,
    },
    /// What leads to a page of a loop, perhaps plus a value of the guest's.
    Walk,
    /// A `u32` that may be read.
    Mark,
    /// Translated code.
    Code,
}

impl Val {
    pub(super) fn meet(self, other: Val) -> Val {
        match (self, other) {
            (a, b) if a == b => a,
            (Val::Host { store: a, size: m }, Val::Host { store: b, size: n }) => {
                Val::Host { store: a && b, size: m.min(n) }
            }
            _ => Val::Any,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) rcx: Val,
    pub(super) r14: Val,
    pub(super) spill: Val,
    /// The flags are those of R14 compared with this.
    pub(super) compared: Option<i64>,
}

pub(super) const NOTHING: State = State { rcx: Val::Any, r14: Val::Any, spill: Val::Any, compared: None };

impl State {
    pub(super) fn value(&self, r: Register) -> Val {
        match r {
            Register::RCX => self.rcx,
            Register::R14 => self.r14,
            _ => Val::Any,
        }
    }

    pub(super) fn meet(self, o: State) -> State {
        State {
            rcx: self.rcx.meet(o.rcx),
            r14: self.r14.meet(o.r14),
            spill: self.spill.meet(o.spill),
            compared: if self.compared == o.compared { self.compared } else { None },
        }
    }
}

/// What an array of a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Array {
    Tag { store: bool },
    Host { store: bool },
    Addend { store: bool },
    Mark,
    TargetLin,
    TargetCode,
}

/// A register of the guest.
pub(super) fn is_guests(r: Register) -> bool {
    r.is_gpr64() && !matches!(r, Register::RCX | Register::R14 | Register::RSP)
}

/// LEA of scratch registers.
pub(super) fn sum(ins: &Instruction, s: &State, to: Register) -> Val {
    let of_guests = ins.memory_base() == Register::RCX && is_guests(ins.memory_index());
    if of_guests && to == Register::RCX && matches!(s.rcx, Val::Addend { .. }) && ins.memory_displacement64() == 0 {
        return Val::Walk;
    }
    let both = [ins.memory_base(), ins.memory_index()];
    if ins.memory_index_scale() != 1 || !both.contains(&Register::RCX) || !both.contains(&Register::R14) {
        return Val::Any;
    }
    let disp = ins.memory_displacement64() as i64;
    match (to, s.rcx, s.r14) {
        (Register::RCX, Val::Tag { store }, _) => Val::End { store, last: disp },
        (Register::R14, Val::Addend { store: a }, Val::InPage { store, size, linear: true })
            if a == store && disp == 0 =>
        {
            Val::Host { store, size }
        }
        (Register::R14, Val::Walk, _) if disp == 0 => Val::Host { store: true, size: 4096 },
        _ => Val::Any,
    }
}

/// PEXT into RCX of `from` under the mask at `mask`.
pub(super) fn pext(from: Register, mask: Option<i32>, s: &State) -> Val {
    let is = |f: i32| mask == Some(f);
    match (from, s.rcx) {
        (Register::R14, _) if is(field!(index_mask)) => Val::Index { times: true, targets: false },
        (Register::R14, _) if is(field!(kernel_targets_mask)) || is(field!(user_targets_mask)) => {
            Val::Index { times: true, targets: true }
        }
        (Register::RCX, Val::End { store, last }) if is(field!(page_mask)) => Val::Outside { store, size: last + 1 },
        // An aligned operand that begins in the page ends in it.
        (Register::RCX, Val::End { store, last: 0 }) if is(field!(page_mask_16)) => Val::Outside { store, size: 16 },
        (Register::RCX, Val::End { store, last: 0 }) if is(field!(page_mask_32)) => Val::Outside { store, size: 32 },
        (Register::RCX, Val::End { store, last }) if is(field!(page_mask_16)) || is(field!(page_mask_32)) => {
            Val::Outside { store, size: last + 1 }
        }
        _ => Val::Any,
    }
}

pub(super) fn is_constant(ins: &Instruction) -> bool {
    ins.op_count() == 2 && !matches!(ins.op1_kind(), OpKind::Register | OpKind::Memory)
}

/// Offset from the GS base, if the memory operand is just that.
pub(super) fn state_disp(ins: &Instruction) -> Option<i32> {
    let plain = (ins.memory_base(), ins.memory_index()) == (Register::None, Register::None);
    if ins.memory_segment() != Register::GS || !plain {
        return None;
    }
    i32::try_from(ins.memory_displacement64()).ok()
}

/// Where a 64-bit MOV of a register to engine state goes.
pub(super) fn stored_at(ins: &Instruction) -> Option<i32> {
    let store =
        ins.mnemonic() == Mnemonic::Mov && ins.op0_kind() == OpKind::Memory && ins.op1_kind() == OpKind::Register;
    if store { state_disp(ins) } else { None }
}

/// The number of the 8-byte slot at `disp` among `len` from `first`.
pub(super) fn slot(disp: i32, first: i32, len: usize) -> Option<usize> {
    let at = usize::try_from(disp - first).ok()?;
    (at % 8 == 0 && at / 8 < len).then_some(at / 8)
}
