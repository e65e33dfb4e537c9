//! Guest registers and words of the guest's size in code under construction.

use super::{Build, Version};
use crate::translate::asm::{Rm, Sum};
use crate::translate::regs::{self, Host, Place};

impl Build<'_> {
    /// Register `r` gets another value.
    pub(in crate::translate) fn loses(&mut self, r: Host) {
        self.known.loses(r);
    }

    /// Whether R14 holds the host address of the range of group `n`.
    pub(in crate::translate) fn has_range(&self, n: u8) -> bool {
        self.known.range == Some(n)
    }

    /// R14 holds the host address of the range of group `n` now.
    pub(in crate::translate) fn set_range(&mut self, n: u8) {
        self.known.loses(Host::R14);
        self.known.range = Some(n);
    }

    /// Which version is at work.
    pub(in crate::translate) fn version(&self) -> Version {
        self.version
    }

    /// Bytes that the stack pointer moves by.
    pub(in crate::translate) fn word(&self) -> i32 {
        if self.context.is_64() { 8 } else { 4 }
    }

    /// Loads what the stack and pointers hold.
    pub(in crate::translate) fn load_word(&mut self, to: Host, from: Rm) {
        if self.context.is_64() { self.asm.load(to, from) } else { self.asm.load32(to, from) }
    }

    /// The reverse.
    pub(in crate::translate) fn store_word(&mut self, to: Rm, from: Host) {
        if self.context.is_64() { self.asm.store(to, from) } else { self.asm.store32(to, from) }
    }

    /// Likewise, of a sign-extended constant.
    pub(in crate::translate) fn store_word_imm(&mut self, to: Rm, value: i32) {
        if self.context.is_64() { self.asm.store_imm(to, value) } else { self.asm.store32_imm(to, value) }
    }

    /// Puts the value of guest register `guest` into `to`; the flags stay.
    pub(in crate::translate) fn fetch(&mut self, to: Host, guest: usize) {
        self.loses(to);
        match regs::place(guest) {
            Place::Host(h) => self.asm.mov(to, h),
            Place::Slot(at) => self.asm.load(to, Rm::State(at)),
        }
    }

    /// Guest register `guest` becomes `from`.
    pub(in crate::translate) fn put(&mut self, guest: usize, from: Host) {
        match regs::place(guest) {
            Place::Host(h) => self.asm.mov(h, from),
            Place::Slot(at) => self.asm.store(Rm::State(at), from),
        }
    }

    /// Adds a constant to guest register RSP; the flags stay.
    pub(in crate::translate) fn move_stack(&mut self, by: i32) {
        if let Place::Host(h) = regs::place(regs::RSP) {
            self.asm.lea(self.context.is_64(), h, Sum { base: Some(h), index: None, disp: by });
        }
    }
}
