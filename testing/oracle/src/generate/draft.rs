//! A case under construction: which registers already have a value that an operand relies on.

use super::{state, values};
use crate::case::{Case, Mode};
use crate::layout::{self, CODE, DATA, PAGE, RODATA, STACK};
use crate::rng::Rng;
use iced_x86::Register;

/// A case under construction.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) case: Case,
    pub(super) mode: Mode,
    pub(super) rng: Rng,
    /// GPRs whose initial value an operand relies on.
    pinned: u16,
    /// Several instructions follow each other: keep pinned registers unwritten, so that later operands stay valid.
    pub(super) sequence: bool,
}

/// Where code of generated cases starts: room for branches in both directions.
pub(super) const ENTRY: u64 = CODE + 0xe00;

impl Draft {
    pub(super) fn new(mut rng: Rng, mode: Mode) -> Self {
        let mut case = Case { mode, regs: state::registers(&mut rng, mode), ..Case::default() };
        case.regs.rip = ENTRY + rng.below(0x180);
        // RSP is always meant.
        Draft { case, mode, rng, pinned: 1 << 4, sequence: false }
    }

    /// Registers to choose from: 16 or 8.
    pub(super) fn register_count(&self) -> u64 {
        if self.mode == Mode::Long { 16 } else { 8 }
    }

    pub(super) fn is_pinned(&self, gpr: usize) -> bool {
        self.pinned >> gpr & 1 != 0
    }

    /// Gives a register its initial value, unless an operand already relies on another; returns the value it has.
    pub(super) fn pin(&mut self, gpr: usize, value: u64) -> u64 {
        if !self.is_pinned(gpr) {
            self.case.regs.gpr[gpr] = if self.mode == Mode::Compat { value & 0xffff_ffff } else { value };
            self.pinned |= 1 << gpr;
        }
        self.case.regs.gpr[gpr]
    }

    /// A general register number for a data operand.
    pub(super) fn any_gpr(&mut self) -> u64 {
        let count = self.register_count();
        let first = self.rng.below(count);
        if !self.sequence || self.rng.chance(3) {
            return first;
        }
        (0..count).map(|i| (first + i) % count).find(|r| !self.is_pinned(*r as usize)).unwrap_or(first)
    }

    /// A linear address for an operand of `size` bytes: mostly valid, often at the edges of the pages.
    pub(super) fn target(&mut self, size: u64) -> u64 {
        let size = size.max(1);
        let align = size.next_power_of_two().min(64);
        let rng = &mut self.rng;
        let trouble = if self.sequence { 4 } else { 22 };
        if !rng.chance(trouble) {
            let at = DATA + rng.below(layout::DATA_LEN - size.min(layout::DATA_LEN));
            return if rng.chance(75) { at & !(align - 1) } else { at };
        }
        match rng.below(10) {
            0 | 1 => DATA + PAGE - rng.below(size + 1),
            2 => DATA - rng.below(size + 1),
            3 | 4 => (RODATA + rng.below(PAGE - size.min(PAGE))) & !(align - 1),
            5 => RODATA - rng.below(size + 1),
            6 => RODATA + PAGE - rng.below(size + 1),
            7 => STACK + PAGE - rng.below(size + 1),
            8 => rng.below(0x1000),
            _ => self.far_address(),
        }
    }

    fn far_address(&mut self) -> u64 {
        let rng = &mut self.rng;
        if self.mode == Mode::Compat {
            return 0xffff_ffff - rng.below(64);
        }
        match rng.below(4) {
            0 => 0x0000_8000_0000_0000 - rng.below(40),
            1 => 0xffff_8000_0000_0000 - rng.below(40),
            2 => rng.u64() | 1 << 62,
            _ => 0u64.wrapping_sub(rng.below(64)),
        }
    }

    /// A code address to branch to, in the INT3 sled; sometimes one that faults.
    pub(super) fn code_target(&mut self) -> u64 {
        match self.rng.below(if self.sequence { 40 } else { 12 }) {
            0 => DATA + self.rng.below(0x100),
            1 => CODE + layout::CODE_LEN + self.rng.below(0x100),
            2 => self.far_address(),
            _ => CODE + self.rng.below(0xc00),
        }
    }

    /// Puts a value of a random format, or bytes given, at a linear address where that is writable.
    pub(super) fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.case.patch(at, bytes);
    }

    /// Puts special operand values at a linear address.
    pub(super) fn poke_random(&mut self, at: u64, size: usize) {
        let mut v = [0; crate::case::PATCH_LEN];
        let v = &mut v[..size.clamp(1, crate::case::PATCH_LEN)];
        if size == 10 {
            v.copy_from_slice(&if self.rng.chance(70) {
                values::float80(&mut self.rng)
            } else {
                values::bcd80(&mut self.rng)
            });
        } else {
            values::vector(&mut self.rng, v);
        }
        self.poke(at, v);
    }

    /// Bytes of a stack slot of the mode.
    pub(super) fn word(&self) -> u64 {
        if self.mode == Mode::Long { 8 } else { 4 }
    }
}

/// The number of a general register of any width.
pub(super) fn gpr_number(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}
