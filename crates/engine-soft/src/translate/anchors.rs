//! How the accesses of a loop without checks (`rounds`) name host memory by themselves.
//!
//! Within a page host and linear addresses differ by a constant. An access whose address has one register that changes needs that
//! constant, plus what stays of the address, in a scratch register and nothing else: `[rbx + rax*8 + 16]` becomes
//! `[anchor + rax*8 + 16]`. Two anchors stay in registers from turn to turn.
//!
//! In a machine with one CPU nobody marks code while the turns run: setup has looked at the marks of all pages that are stored to, and
//! the stores need not. Marks of device memory are another matter: who follows a picture sets them at any time.

use iced_x86::{Instruction, OpKind, Register};

use super::address::Access;
use super::asm::{Rm, Sum};
use super::build::{Build, Version};
use super::frame::field;
use super::native;
use super::regs::{self, Host, Place};
use super::turns::Walk;
use super::unit::Insn;

/// What the anchor of a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing of the address changes: where the range begins.
    Still,
    /// What leads from linear to host addresses, plus this register times this: the part of the address that stays.
    Moving(Option<(usize, u32)>),
}

impl Form {
    /// For addresses of a base and an index register; `is_still` says which ones the loop never writes.
    pub(super) fn of(
        base: Option<usize>,
        index: Option<(usize, u32)>,
        is_still: impl Fn(usize) -> bool,
    ) -> Option<Form> {
        let Some(base) = base else { return Some(Form::Still) };
        let Some((index, scale)) = index else {
            return Some(if is_still(base) { Form::Still } else { Form::Moving(None) });
        };
        let in_host = |r: usize| matches!(regs::place(r), Place::Host(_));
        match (is_still(base), is_still(index)) {
            (true, true) => Some(Form::Still),
            (true, false) if in_host(base) => Some(Form::Moving(Some((base, 1)))),
            (false, true) if in_host(index) => Some(Form::Moving(Some((index, scale)))),
            _ => None,
        }
    }

    /// Where the anchor of range `n` is kept.
    fn slot(self, n: u8) -> Rm {
        let first = if self == Form::Moving(None) { field!(walks) } else { field!(anchors) };
        Rm::State(first + 8 * i32::from(n))
    }
}

/// What the scratch registers hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// R14: the host address of this range.
    pub(super) range: Option<u8>,
    /// R14 and RCX: the anchor of this range.
    pub(super) anchors: [Option<u8>; 2],
}

impl Known {
    /// What both know.
    pub(super) fn and(self, other: Known) -> Known {
        let both = |a: Option<u8>, b| a.filter(|a| Some(*a) == b);
        let anchors = std::array::from_fn(|i| both(self.anchors[i], other.anchors[i]));
        Known { range: both(self.range, other.range), anchors }
    }

    /// `r` gets another value.
    pub(super) fn loses(&mut self, r: Host) {
        match r {
            Host::R14 => (self.range, self.anchors[0]) = (None, None),
            Host::RCX => self.anchors[1] = None,
            _ => {}
        }
    }
}

/// An access by an anchor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchored {
    range: u8,
    form: Form,
    scratch: Host,
    index: Option<(Host, u32)>,
    disp: i64,
}

impl Anchored {
    /// Makes the memory operand of `host` this one.
    pub(super) fn redirect(&self, host: &mut Instruction) {
        let (index, scale) = self.index.map_or((Register::None, 1), |(h, s)| (native::named(h, 8), s));
        native::redirect(host, native::named(self.scratch, 8), self.disp);
        host.set_memory_index(index);
        host.set_memory_index_scale(scale);
    }
}

impl Build<'_> {
    /// How the memory operand of `insn` is named by an anchor, if it can be. `rcx_used`: the instruction needs RCX for itself.
    pub(super) fn anchored(&self, insn: &Insn, rcx_used: bool) -> Option<Anchored> {
        let m = self.walker(0)?;
        let form = self.forms.get(usize::from(m.group)).copied().flatten()?;
        let ins = &insn.ins;
        let operand = (0..ins.op_count()).find(|i| ins.op_kind(*i) == OpKind::Memory)?;
        if native::access(ins, operand) == Access::Store && !self.host.alone {
            return None;
        }
        let scratch = if self.head.anchors[1] == Some(m.group) && !rcx_used { Host::RCX } else { Host::R14 };
        let mut out = Anchored { range: m.group, form, scratch, index: None, disp: m.at.into() };
        if let Form::Moving(fixed) = form {
            let (base, index) = (ins.memory_base(), ins.memory_index());
            let is = |r: Register, n: usize| r != Register::None && r.full_register().number() == n;
            let (moving, scale) = match fixed {
                None if index == Register::None => (base, 1),
                Some((r, 1)) if is(base, r) => (index, ins.memory_index_scale()),
                Some((r, scale)) if is(index, r) && scale == ins.memory_index_scale() => (base, 1),
                _ => return None,
            };
            if !moving.is_gpr64() {
                return None;
            }
            let Place::Host(moving) = regs::place(moving.number()) else { return None };
            (out.index, out.disp) = (Some((moving, scale)), ins.memory_displacement64() as i64);
        }
        Some(out)
    }

    /// Gets `a` ready. Keeps the flags.
    pub(super) fn take_anchor(&mut self, a: &Anchored) {
        let which = usize::from(a.scratch == Host::RCX);
        if self.known.anchors[which] != Some(a.range) {
            self.known.loses(a.scratch);
            self.asm.load(a.scratch, a.form.slot(a.range));
            self.known.anchors[which] = Some(a.range);
        }
    }

    /// Decides which anchors the registers hold when a turn begins: of the first ranges that have one.
    pub(super) fn plan_anchors(&mut self, walks: &[Walk]) {
        self.forms = walks.iter().map(|w| w.form).collect();
        let mut with = (0..).zip(&self.forms).filter(|(_, f)| f.is_some()).map(|(n, _)| n);
        // Where instructions are counted, RCX does that.
        let (first, second) = (with.next(), with.next().filter(|_| !self.host.count));
        self.head = Known { range: None, anchors: [first, second] };
    }

    /// The registers get the anchors that they hold when a turn begins. Keeps the flags.
    pub(super) fn take_anchors(&mut self) {
        for (which, scratch) in [Host::R14, Host::RCX].into_iter().enumerate() {
            if let Some(n) = self.head.anchors[which]
                && self.known.anchors[which] != Some(n)
                && let Some(form) = self.forms[usize::from(n)]
            {
                self.asm.load(scratch, form.slot(n));
            }
        }
        self.known = self.head;
    }

    /// Keeps the anchor of range `n`, whose `walk` is at offset R14 of the page that entry RCX of the table at `host` has. That is
    /// before RCX becomes what leads to it; RCX and R14 stay, unless nothing of the address changes.
    pub(super) fn keep_still(&mut self, n: usize, walk: Walk, host: i32) {
        if walk.form == Some(Form::Still) {
            self.asm.op(true, &[0x03], Host::R14.0, Rm::Table(host));
            self.asm.store(Form::Still.slot(n as u8), Host::R14);
        }
    }

    /// Likewise, where RCX is what leads from linear to host addresses. RCX is lost.
    pub(super) fn keep_moving(&mut self, n: usize, walk: Walk) {
        if let Some(form @ Form::Moving(Some((r, scale)))) = walk.form
            && let Place::Host(r) = regs::place(r)
        {
            let index = Some((r, scale.trailing_zeros() as u8));
            self.asm.lea(true, Host::RCX, Sum { base: Some(Host::RCX), index, disp: 0 });
            self.asm.store(form.slot(n as u8), Host::RCX);
        }
    }

    /// Stores of the version at work need not look at code marks: setup has, and nobody marks meanwhile.
    pub(super) fn are_marks_settled(&self) -> bool {
        self.version() == Version::Rounds && self.host.alone
    }
}
