//! Inline instructions that read or change one piece of the CPU's state, and those on numbers that have unusual cases: division and
//! bit strings. See `system`.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::address::{Access, Check, Spot, restore_flags, save_flags};
use super::asm::{Hole, Holes, Rm, Sum, cond};
use super::build::Build;
use super::frame::{self, field};
use super::regs::{self, Host};
use super::unit::Insn;
use crate::cpu::Cpu;

const CR4: Rm = Rm::State(std::mem::offset_of!(Cpu, cr4) as i32);

impl Build<'_> {
    /// DIV and IDIV, where they cannot raise #DE: of IDIV only dividends that fit the lower half.
    pub(super) fn divide(&mut self, insn: &Insn) {
        let ins = &insn.ins;
        self.loses(Host::R14);
        let start = self.asm.here();
        let size =
            if ins.op0_kind() == OpKind::Register { ins.op0_register().size() } else { ins.memory_size().size() };
        let (mut misses, memory) = (Holes::new(), ins.op0_kind() == OpKind::Memory);
        if memory {
            self.operand_address(ins, 0);
            let check = Check { access: Access::Load, size: size as u32, align: 1, keep_flags: insn.live_in != 0 };
            misses = self.check(check);
        } else {
            self.fetch(Host::R14, ins.op0_register().full_register().number());
        }
        let a = &mut self.asm;
        let prefix: &[u8] = if size == 2 { &[0x66] } else { &[] };
        let wide = size == 8;
        if memory {
            match size {
                2 => a.op(false, &[0x0f, 0xb7], Host::R14.0, Rm::Checked(0)),
                4 => a.load32(Host::R14, Rm::Checked(0)),
                _ => a.load(Host::R14, Rm::Checked(0)),
            }
        }
        // It faults with the flags of before, and leaves those undefined, which is to say as this processor leaves them.
        let mut unusual = Holes::new();
        save_flags(a);
        if matches!(ins.mnemonic(), Mnemonic::Div) {
            a.raw(prefix);
            a.op(wide, &[0x3b], 2, Rm::Reg(Host::R14)); // cmp rdx, r14
            unusual.push(a.jcc(cond::AE));
        } else {
            // The upper half is the sign of the lower.
            a.mov(Host::RCX, Host::RAX);
            a.raw(prefix);
            a.op(wide, &[0xc1], 7, Rm::Reg(Host::RCX)); // sar rcx, imm8
            a.raw(&[size as u8 * 8 - 1]);
            a.raw(prefix);
            a.op(wide, &[0x3b], 2, Rm::Reg(Host::RCX)); // cmp rdx, rcx
            unusual.push(a.jcc(cond::NE));
            // The divisor is neither 0 nor -1.
            a.lea(wide, Host::RCX, Sum { base: Some(Host::R14), index: None, disp: 1 });
            a.raw(prefix);
            a.op(wide, &[0x83], 7, Rm::Reg(Host::RCX)); // cmp rcx, 1
            a.raw(&[1]);
            unusual.push(a.jcc(cond::BE));
        }
        let usual = a.jmp();
        unusual.into_iter().for_each(|h| a.fill_here(h));
        restore_flags(a);
        misses.push(a.jmp());
        a.fill_here(usual);
        if insn.live_out != 0 {
            restore_flags(a);
        }
        a.raw(prefix);
        let group = if matches!(ins.mnemonic(), Mnemonic::Div) { 6 } else { 7 };
        a.op(wide, &[0xf7], group, Rm::Reg(Host::R14));
        self.or_interpret(misses, start, insn);
    }

    pub(super) fn swapgs(&mut self) {
        self.loses(Host::R14);
        let (base, kernel) = (Rm::State(frame::hidden_base(5)), Rm::State(frame::KERNEL_GS_BASE));
        self.asm.load(Host::RCX, base);
        self.asm.load(Host::R14, kernel);
        self.asm.store(kernel, Host::RCX);
        self.asm.store(base, Host::R14);
        self.asm.store(Rm::State(frame::segment_base(5)), Host::R14);
    }

    /// Counts a PAUSE, and has the interpreter execute those that are to let others run; the flags stay.
    pub(super) fn pause(&mut self, insn: &Insn) {
        let left = Rm::State(field!(pauses));
        let start = self.asm.here();
        self.asm.load(Host::RCX, left);
        self.asm.add_constant(Host::RCX, -1);
        self.asm.store(left, Host::RCX);
        let over = self.asm.jrcxz();
        let on = self.asm.jmp();
        self.asm.land(over);
        let rest = self.asm.jmp();
        self.asm.fill_here(on);
        self.or_interpret(smallvec::smallvec![rest], start, insn);
    }

    pub(super) fn rdtsc(&mut self, insn: &Insn) {
        let aux = insn.ins.mnemonic() == Mnemonic::Rdtscp;
        if !self.host.pext || (aux && !self.host.rdtscp) {
            self.interpret(insn);
            return;
        }
        let start = self.asm.here();
        let mut misses = Holes::new();
        if self.context.is_user() {
            // CR4.TSD
            self.asm.load(Host::RCX, CR4);
            self.asm.pext(Host::RCX, Host::RCX, field!(cr4_tsd));
            let allowed = self.asm.jrcxz();
            misses.push(self.asm.jmp());
            self.asm.land(allowed);
        }
        self.loses(Host::R14);
        let a = &mut self.asm;
        if aux {
            // RDTSCP waits for what stands before it, and clocks read on two CPUs in turn rely on that. LFENCE does as much.
            a.raw(&[0x0f, 0xae, 0xe8]);
        }
        a.raw(&[0x0f, 0x31]);
        a.rorx32(Host(2), Host(2));
        a.load(Host::RCX, Rm::State(std::mem::offset_of!(Cpu, tsc_offset) as i32));
        a.lea(true, Host::RAX, Sum { base: Some(Host::RAX), index: Some((Host(2), 0)), disp: 0 });
        a.lea(true, Host::RAX, Sum { base: Some(Host::RAX), index: Some((Host::RCX, 0)), disp: 0 });
        a.rorx32(Host(2), Host::RAX);
        a.load32(Host(2), Rm::Reg(Host(2)));
        a.load32(Host::RAX, Rm::Reg(Host::RAX));
        if aux {
            self.asm.load(Host::RCX, Rm::State(frame::TSC_AUX));
            self.put(regs::RCX, Host::RCX);
        }
        self.or_interpret(misses, start, insn);
    }

    /// Jumps if CR4.FSGSBASE is clear; RCX is lost, the flags stay.
    fn unless_fsgsbase(&mut self) -> Hole {
        self.asm.load(Host::RCX, CR4);
        self.asm.pext(Host::RCX, Host::RCX, field!(cr4_fsgsbase));
        let clear = self.asm.jrcxz();
        let on = self.asm.jmp();
        self.asm.land(clear);
        let off = self.asm.jmp();
        self.asm.fill_here(on);
        off
    }

    pub(super) fn read_base(&mut self, insn: &Insn) {
        if !self.host.pext {
            self.interpret(insn);
            return;
        }
        let start = self.asm.here();
        let off = self.unless_fsgsbase();
        let to = insn.ins.op0_register();
        let from = Rm::State(frame::hidden_base(which_base(&insn.ins)));
        if to.is_gpr64() {
            self.asm.load(Host::RCX, from);
        } else {
            self.asm.load32(Host::RCX, from);
        }
        self.put(to.full_register().number(), Host::RCX);
        self.or_interpret(smallvec::smallvec![off], start, insn);
    }

    pub(super) fn write_base(&mut self, insn: &Insn) {
        if !self.host.pext || insn.live_out != 0 {
            self.interpret(insn);
            return;
        }
        self.loses(Host::R14);
        let start = self.asm.here();
        let mut misses = smallvec::smallvec![self.unless_fsgsbase()];
        let from = insn.ins.op0_register();
        self.fetch(Host::R14, from.full_register().number());
        if !from.is_gpr64() {
            self.asm.load32(Host::R14, Rm::Reg(Host::R14));
        }
        let a = &mut self.asm;
        a.mov(Host::RCX, Host::R14);
        for group in [4, 7] {
            a.op(true, &[0xc1], group, Rm::Reg(Host::RCX)); // shl, then sar: canonical addresses stay
            a.raw(&[16]);
        }
        a.op(true, &[0x3b], Host::RCX.0, Rm::Reg(Host::R14));
        misses.push(a.jcc(cond::NE));
        let seg = which_base(&insn.ins);
        a.store(Rm::State(frame::hidden_base(seg)), Host::R14);
        a.store(Rm::State(frame::segment_base(seg)), Host::R14);
        self.or_interpret(misses, start, insn);
    }

    pub(super) fn read_control(&mut self, insn: &Insn) {
        use std::mem::offset_of;
        let at = match insn.ins.op1_register() {
            Register::CR0 => offset_of!(Cpu, cr0),
            Register::CR2 => offset_of!(Cpu, cr2),
            Register::CR3 => offset_of!(Cpu, cr3),
            _ => offset_of!(Cpu, cr4),
        };
        self.asm.load(Host::RCX, Rm::State(at as i32));
        self.put(insn.ins.op0_register().number(), Host::RCX);
    }

    pub(super) fn read_segment(&mut self, insn: &Insn) {
        let at = frame::segment(insn.ins.op1_register().number()).selector;
        self.asm.op(false, &[0x0f, 0xb7], Host::RCX.0, Rm::State(at)); // movzx ecx, word
        self.put(insn.ins.op0_register().full_register().number(), Host::RCX);
    }

    /// The address of the word with the bit first, then the instruction with what is left of the bit number.
    pub(super) fn bit_string(&mut self, insn: &Insn) {
        let ins = &insn.ins;
        self.loses(Host::R14);
        let start = self.asm.here();
        // ZF stays what it was (SDM 2A, BT).
        let keep = insn.live_in != 0;
        if keep {
            save_flags(&mut self.asm);
        }
        let bit = ins.op1_register();
        let wide = bit.is_gpr64();
        let (size, shift, scale) = if wide { (8, 6, 3) } else { (4, 5, 2) };
        self.operand_address(ins, 0);
        // The bit number is signed.
        self.bit_number(bit.full_register().number(), wide);
        self.asm.op(true, &[0xc1], 7, Rm::Reg(Host::RCX)); // sar rcx, imm8
        self.asm.raw(&[shift]);
        self.asm.lea(true, Host::R14, Sum { base: Some(Host::R14), index: Some((Host::RCX, scale)), disp: 0 });
        let access = if ins.mnemonic() == Mnemonic::Bt { Access::Load } else { Access::Store };
        let check = Check { access, size, align: 1, keep_flags: false };
        let mut misses = self.check(check);
        if keep {
            misses = self.missing_with_flags(misses);
        }
        let spot = Spot::Own { check, misses };
        if access == Access::Store {
            self.keep_entry(&spot);
        }
        self.bit_number(bit.full_register().number(), wide);
        self.asm.raw(&[0x83, 0xe1, size as u8 * 8 - 1]); // and ecx, imm8
        if keep {
            restore_flags(&mut self.asm);
        }
        if ins.has_lock_prefix() {
            self.asm.raw(&[0xf0]);
        }
        let opcode = match ins.mnemonic() {
            Mnemonic::Bt => 0xa3,
            Mnemonic::Bts => 0xab,
            Mnemonic::Btr => 0xb3,
            _ => 0xbb,
        };
        self.asm.op(wide, &[0x0f, opcode], Host::RCX.0, Rm::Checked(0));
        if access == Access::Store {
            self.stored(&spot, false, true, Some(insn));
        }
        self.or_interpret(spot.misses(), start, insn);
    }

    /// What is missing has the guest's flags again where it goes on.
    fn missing_with_flags(&mut self, misses: Holes) -> Holes {
        let way_on = self.asm.jmp();
        misses.into_iter().for_each(|h| self.asm.fill_here(h));
        restore_flags(&mut self.asm);
        let missing = self.asm.jmp();
        self.asm.fill_here(way_on);
        smallvec::smallvec![missing]
    }

    /// RCX becomes the bit number in guest register `guest`; the flags stay.
    fn bit_number(&mut self, guest: usize, wide: bool) {
        self.fetch(Host::RCX, guest);
        if !wide {
            self.asm.op(true, &[0x63], Host::RCX.0, Rm::Reg(Host::RCX)); // movsxd rcx, ecx
        }
    }
}

/// FS or GS.
fn which_base(ins: &Instruction) -> usize {
    match ins.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => 4,
        _ => 5,
    }
}
