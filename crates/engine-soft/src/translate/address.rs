//! Memory operands: the linear address, and the soft-TLB check that turns it into a host address.
//!
//! Two forms of the check exist. The short one overwrites the flags; where the guest's must survive, one of LEA, PEXT and JRCXZ
//! does the same without touching them. Hosts without a fast PEXT save the flags and use the short one.

use iced_x86::{Instruction, Register};

use super::asm::{Asm, Hole, Holes, Rm, Sum, cond};
use super::build::Build;
use super::frame::{self, field};
use super::regs::{self, Host, Place};
use super::unit::Insn;
use crate::mmu::{ENTRIES, KERNEL_AT, KernelTables, LoadTable, Privilege, StoreTable, Tables, USER_AT, UserTables};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Load,
    /// A store, or a load and a store.
    Store,
}

/// An access to be checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Check {
    pub(super) access: Access,
    /// Bytes, 1 to 64.
    pub(super) size: u32,
    /// Alignment that the instruction demands: 1, 16 or 32.
    pub(super) align: u32,
    /// The flags must survive the check.
    pub(super) keep_flags: bool,
}

/// Where an access finds its bytes.
#[derive(Debug)]
pub(super) enum Spot {
    /// At R14, where a check of its own left it; the jumps are taken if that failed.
    Own { check: Check, misses: Holes },
    /// At R14 plus an offset, in the range of a group.
    /// (With `walks`, of a loop's.)
    Shared { group: u8, at: i32, check: Check, walks: bool },
}

/// Which access of an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// The memory operand.
    Operand,
    /// The one that the stack pointer implies, at an offset from a guest register.
    Stack(usize, i32),
}

impl Spot {
    /// Offset from R14.
    pub(super) fn at(&self) -> i32 {
        match self {
            Spot::Own { .. } => 0,
            Spot::Shared { at, .. } => *at,
        }
    }

    pub(super) fn rm(&self) -> Rm {
        Rm::Checked(self.at())
    }

    /// The jumps taken if the access is not served.
    pub(super) fn misses(self) -> Holes {
        match self {
            Spot::Own { misses, .. } => misses,
            Spot::Shared { .. } => Holes::new(),
        }
    }
}

impl Build<'_> {
    /// Gets an access of `insn` ready: afterwards it may be made at the spot returned, with the flags as `check` says. RCX is lost.
    pub(super) fn reach(&mut self, insn: &Insn, which: Which, check: Check) -> Spot {
        if let Some(spot) = self.walk_to(insn, which, check) {
            return spot;
        }
        let member = self.member(matches!(which, Which::Stack(..)).into());
        let Some(m) = member else {
            self.address_of(insn, which, 0);
            let misses = self.check(check);
            return Spot::Own { check, misses };
        };
        let start = self.asm.here();
        if m.leads {
            self.address_of(insn, which, -m.at);
            let g = self.group(m.group);
            let access = if g.store { Access::Store } else { Access::Load };
            let whole = Check { access, size: g.size, align: g.align, keep_flags: check.keep_flags };
            let misses = self.check_range(whole);
            self.go_apart(misses, start, insn);
            self.asm.store(Rm::State(field!(ranges) + 8 * i32::from(m.group)), Host::R14);
            if g.store {
                self.load_mark(whole, true);
                self.asm.store(Rm::State(field!(marks) + 8 * i32::from(m.group)), Host::RCX);
            }
            self.set_range(m.group);
        } else if !self.has_range(m.group) {
            self.asm.load(Host::R14, Rm::State(field!(ranges) + 8 * i32::from(m.group)));
            self.set_range(m.group);
        }
        Spot::Shared { group: m.group, at: m.at, check, walks: false }
    }

    /// R14 becomes the linear address of the access, plus `by`; RCX may be lost, the flags stay.
    pub(super) fn address_of(&mut self, insn: &Insn, which: Which, by: i32) {
        match which {
            Which::Operand => {
                self.operand_address(&insn.ins, by);
            }
            Which::Stack(register, offset) => {
                if let Place::Host(h) = regs::place(register) {
                    self.loses(Host::R14);
                    let wide = self.context.is_64();
                    self.asm.lea(wide, Host::R14, Sum { base: Some(h), index: None, disp: offset + by });
                }
            }
        }
    }

    /// To be emitted before RCX is used between [`Build::reach`] and [`Build::stored`].
    pub(super) fn keep_entry(&mut self, spot: &Spot) {
        if let Spot::Own { check, .. } = spot
            && !(check.keep_flags && self.host.pext)
        {
            self.asm.store(Rm::State(field!(spill)), Host::RCX);
        }
    }

    /// To be emitted after a store at `spot`, where R14 still is: tells the engine if the frame has code. RCX is lost.
    /// `rcx_kept`: it has not been touched since [`Build::reach`]. `keep_flags`: the guest's flags are in the host's and must stay.
    /// Without `insn` the code goes on whatever the store hit.
    pub(super) fn stored(&mut self, spot: &Spot, rcx_kept: bool, keep_flags: bool, insn: Option<&Insn>) {
        if matches!(spot, Spot::Shared { walks: true, .. }) && self.are_marks_settled() {
            return;
        }
        self.loses(Host::RCX);
        let size = match spot {
            Spot::Own { check, .. } => {
                self.load_mark(*check, rcx_kept);
                check.size
            }
            Spot::Shared { group, check, walks, .. } => {
                let marks = if *walks { field!(walk_marks) } else { field!(marks) };
                self.asm.load(Host::RCX, Rm::State(marks + 8 * i32::from(*group)));
                check.size
            }
        };
        let hole = self.test_mark(keep_flags);
        self.or_tell_write(hole, spot.at(), size, insn);
    }

    /// R14 becomes the linear address of the memory operand of `ins`, plus `by`; RCX is lost, the flags stay.
    pub(super) fn operand_address(&mut self, ins: &Instruction, by: i32) {
        self.effective_address(ins, by);
        if let Some(seg) = segment(ins) {
            self.loses(Host::RCX);
            self.asm.load(Host::RCX, Rm::State(frame::segment_base(seg)));
            let wide = self.context.is_64();
            self.asm.lea(wide, Host::R14, Sum { base: Some(Host::R14), index: Some((Host::RCX, 0)), disp: 0 });
        }
    }

    /// R14 becomes the effective address of the memory operand of `ins`, plus `by`, which is 0 for addresses of 32 bits in 64-bit code.
    pub(super) fn effective_address(&mut self, ins: &Instruction, by: i32) {
        self.loses(Host::R14);
        if ins.is_ip_rel_memory_operand() {
            // The decoder counts from the page.
            self.linear(Host::R14, (ins.ip_rel_memory_address() as i64).wrapping_add(by.into()));
            if ins.memory_base() == Register::EIP {
                self.asm.load32(Host::R14, Rm::Reg(Host::R14));
            }
            return;
        }
        let base = (ins.memory_base() != Register::None).then(|| self.part(ins.memory_base(), Host::R14));
        let index = (ins.memory_index() != Register::None).then(|| self.part(ins.memory_index(), Host::RCX));
        let scale = ins.memory_index_scale().trailing_zeros() as u8;
        let wide = !is_32(ins.memory_base()) && !is_32(ins.memory_index());
        let own = ins.memory_displacement64() as i32;
        let (disp, rest) = match own.checked_add(by) {
            Some(sum) => (sum, 0),
            None if wide => (own, by),
            None => (own.wrapping_add(by), 0),
        };
        match (base, index) {
            (Some(b), None) if disp == 0 && wide => {
                if b != Host::R14 {
                    self.asm.mov(Host::R14, b);
                }
            }
            (None, None) => {
                let at = ins.memory_displacement64().wrapping_add(by as u64);
                self.asm.constant(Host::R14, if self.context.is_64() { at } else { at & 0xffff_ffff });
            }
            _ => self.asm.lea(wide, Host::R14, Sum { base, index: index.map(|i| (i, scale)), disp }),
        }
        if base.is_some() || index.is_some() {
            self.asm.add_constant(Host::R14, rest);
        }
    }

    /// The host register with the value of a guest register, for address arithmetic: `scratch` if it is in memory.
    pub(super) fn part(&mut self, register: Register, scratch: Host) -> Host {
        match regs::place(register.full_register().number()) {
            Place::Host(h) => h,
            Place::Slot(at) => {
                self.loses(scratch);
                self.asm.load(scratch, Rm::State(at));
                scratch
            }
        }
    }

    /// Turns the linear address in R14 into a host address. Where that fails, one of the jumps returned is taken. RCX selects the
    /// entry of the table afterwards where the flags need not be kept.
    pub(super) fn check(&mut self, check: Check) -> Holes {
        self.loses(Host::R14);
        self.loses(Host::RCX);
        let tables = tables(self.context.privilege(), check.access);
        if check.keep_flags && self.host.pext {
            return self.check_keeping_flags(check, tables);
        }
        if check.keep_flags {
            save_flags(&mut self.asm);
        }
        self.entry_of_address();
        let a = &mut self.asm;
        a.op(true, &[0x03], Host::R14.0, Rm::Table(tables.neg_tag));
        a.group_imm32(true, 7, Rm::Reg(Host::R14), 4096 - check.size as i32);
        let mut out = smallvec::smallvec![a.jcc(cond::A)];
        if check.align > 1 {
            a.op(false, &[0xf7], 0, Rm::Reg(Host::R14)); // test r14d, imm32
            a.raw(&(check.align - 1).to_le_bytes());
            out.push(a.jcc(cond::NE));
        }
        a.op(true, &[0x03], Host::R14.0, Rm::Table(tables.host));
        if check.keep_flags {
            let way_on = a.jmp();
            // Each way out of the check needs the flags as well.
            for hole in std::mem::take(&mut out) {
                a.fill_here(hole);
            }
            restore_flags(a);
            out.push(a.jmp());
            a.fill_here(way_on);
            restore_flags(a);
        }
        out
    }

    /// RCX becomes the offset of the entry that the linear address in R14 maps to; the flags are lost.
    pub(super) fn entry_of_address(&mut self) {
        let a = &mut self.asm;
        // BMI2 as well.
        if self.host.pext {
            a.rotate_address(9);
        } else {
            a.load32(Host::RCX, Rm::Reg(Host::R14));
            a.shr32(Host::RCX, 9);
        }
        a.group_imm32(false, 4, Rm::Reg(Host::RCX), ((ENTRIES - 1) << 3) as i32);
    }

    fn check_keeping_flags(&mut self, check: Check, tables: TableAt) -> Holes {
        let a = &mut self.asm;
        a.pext(Host::RCX, Host::R14, field!(index_mask));
        a.load(Host::RCX, Rm::Table8(tables.neg_tag));
        // An aligned operand that begins in the page ends in it.
        let last = if check.align > 1 && check.size == check.align { 0 } else { check.size as i32 - 1 };
        a.lea(true, Host::RCX, Sum { base: Some(Host::RCX), index: Some((Host::R14, 0)), disp: last });
        let mask = match check.align {
            1 => field!(page_mask),
            16 => field!(page_mask_16),
            _ => field!(page_mask_32),
        };
        a.pext(Host::RCX, Host::RCX, mask);
        let hit = a.jrcxz();
        let out = smallvec::smallvec![a.jmp()];
        a.land(hit);
        a.pext(Host::RCX, Host::R14, field!(index_mask));
        if check.access == Access::Store {
            // The entry's mark is wanted after the store.
            a.store(Rm::State(field!(spill)), Host::RCX);
        }
        a.load(Host::RCX, Rm::Table8(tables.addend));
        a.lea(true, Host::R14, Sum { base: Some(Host::R14), index: Some((Host::RCX, 0)), disp: 0 });
        out
    }

    /// As [`Build::check`] for the range of a group, whose size and alignment have nothing to do with each other.
    fn check_range(&mut self, whole: Check) -> Holes {
        if whole.align == 1 || !whole.keep_flags || !self.host.pext {
            return self.check(whole);
        }
        // The alignment first, so that R14 is still linear.
        let a = &mut self.asm;
        a.pext(Host::RCX, Host::R14, field!(low_mask_16));
        let aligned = a.jrcxz();
        let mut out = smallvec::smallvec![a.jmp()];
        a.land(aligned);
        out.extend(self.check(Check { align: 1, ..whole }));
        out
    }

    /// Jumps if the mark that RCX points to is set.
    fn test_mark(&mut self, keep_flags: bool) -> Hole {
        if keep_flags {
            self.asm.load32(Host::RCX, Rm::At(Host::RCX, 0));
            let clean = self.asm.jrcxz();
            let hole = self.asm.jmp();
            self.asm.land(clean);
            hole
        } else {
            self.asm.op(false, &[0x83], 7, Rm::At(Host::RCX, 0));
            self.asm.raw(&[0]);
            self.asm.jcc(cond::NE)
        }
    }

    /// RCX becomes the address of the mark of the entry that the check found.
    fn load_mark(&mut self, check: Check, entry_in_rcx: bool) {
        let mark = tables(self.context.privilege(), Access::Store).mark;
        let by_index = check.keep_flags && self.host.pext;
        if by_index || !entry_in_rcx {
            self.asm.load(Host::RCX, Rm::State(field!(spill)));
        }
        self.asm.load(Host::RCX, if by_index { Rm::Table8(mark) } else { Rm::Table(mark) });
    }
}

/// Keeps the status flags in memory; RAX is kept, RCX lost.
pub(super) fn save_flags(a: &mut Asm) {
    a.mov(Host::RCX, Host::RAX);
    a.raw(&[0x9f]); // lahf
    a.raw(&[0x0f, 0x90, 0xc0]); // seto al
    a.store32(Rm::State(field!(flags)), Host::RAX);
    a.mov(Host::RAX, Host::RCX);
}

/// The reverse. RCX is kept as well.
pub(super) fn restore_flags(a: &mut Asm) {
    a.store(Rm::State(field!(kept_rax)), Host::RAX);
    a.load32(Host::RAX, Rm::State(field!(flags)));
    a.raw(&[0x04, 0x7f]); // add al, 7Fh: overflows if it is 1
    a.raw(&[0x9e]); // sahf
    a.load(Host::RAX, Rm::State(field!(kept_rax)));
}

/// Index of the segment whose base counts in 64-bit mode.
fn segment(ins: &Instruction) -> Option<usize> {
    match ins.memory_segment() {
        Register::FS => Some(4),
        Register::GS => Some(5),
        _ => None,
    }
}

fn is_32(register: Register) -> bool {
    register.is_gpr32()
}

/// Offsets of a table's arrays from the GS base.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableAt {
    pub(super) neg_tag: i32,
    pub(super) host: i32,
    pub(super) addend: i32,
    /// Of stores only.
    pub(super) mark: i32,
}

/// Where the tables for an access are.
pub(super) fn tables(privilege: Privilege, access: Access) -> TableAt {
    use std::mem::offset_of;
    let pair = match privilege {
        Privilege::Supervisor => KERNEL_AT + offset_of!(KernelTables, tables),
        Privilege::SupervisorAc => USER_AT + offset_of!(UserTables, ac),
        Privilege::User | Privilege::UserAligned => USER_AT + offset_of!(UserTables, user),
    };
    let (table, mark) = match access {
        Access::Load => (pair + offset_of!(Tables, load), 0),
        Access::Store => {
            let store = pair + offset_of!(Tables, store);
            (store + offset_of!(StoreTable, page), store + offset_of!(StoreTable, mark))
        }
    };
    TableAt {
        neg_tag: (table + offset_of!(LoadTable, neg_tag)) as i32,
        host: (table + offset_of!(LoadTable, host)) as i32,
        addend: (table + offset_of!(LoadTable, addend)) as i32,
        mark: mark as i32,
    }
}
