//! Instructions on the system's state that translated code executes by itself: flags, time, segment bases, division.
//!
//! Each does what the interpreter's handler does in the usual case, and asks the interpreter in every other: nothing of an
//! instruction has been done when it does. Code in rings 1 and 2 is never translated, so what is not ring 3 is ring 0.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use visor_x86::regs::Rflags;

use super::address::{Access, Check, Which};
use super::asm::{Holes, Rm, Sum, cond};
use super::build::Build;
use super::classify::Kind;
use super::context::Context;
use super::frame::field;
use super::regs::{self, Host};
use super::unit::Insn;
use crate::cpu::Cpu;
use crate::mmu::Privilege;

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    Cli,
    Sti,
    Cld,
    Std,
    Clac,
    Stac,
    Pushf,
    Popf,
    Divide,
    Swapgs,
    /// RDTSC, and RDTSCP.
    Rdtsc,
    /// RDFSBASE, RDGSBASE.
    ReadBase,
    /// WRFSBASE, WRGSBASE.
    WriteBase,
    /// MOV from a control register.
    ReadControl,
    /// MOV from a segment register to a general one.
    ReadSegment,
    /// BT, BTS, BTR, BTC whose bit may lie far from the address.
    BitString,
    Syscall,
    Sysret,
    /// REP MOVS, REP STOS.
    Repeat,
}

const IF: i32 = Rflags::IF.bits() as i32;
const DF: i32 = Rflags::DF.bits() as i32;
const AC: i32 = Rflags::AC.bits() as i32;
/// What POPF may change that only the interpreter knows the consequences of.
const POPF_RARE: i32 = (Rflags::TF.bits()
    | Rflags::DF.bits()
    | Rflags::IOPL.bits()
    | Rflags::NT.bits()
    | Rflags::AC.bits()
    | Rflags::ID.bits()) as i32;

const SYSFLAGS: Rm = Rm::State(std::mem::offset_of!(Cpu, sysflags) as i32);
pub(super) const IRQ_WAITING: Rm = Rm::State(std::mem::offset_of!(Cpu, irq_waiting) as i32);
/// Whose rights accesses use.
pub(super) const PRIVILEGE: Rm =
    Rm::State((std::mem::offset_of!(Cpu, mmu) + std::mem::offset_of!(crate::mmu::Mmu, privilege)) as i32);

/// How `ins` is translated, if it belongs here.
pub(super) fn classify(ins: &Instruction, context: Context) -> Option<Kind> {
    use Mnemonic::*;
    let kernel = !context.is_user();
    let wide = context.is_64();
    if !wide && super::narrow::is_different(ins, context) {
        return None;
    }
    let found = match ins.mnemonic() {
        Cli if kernel => System::Cli,
        Sti if kernel => System::Sti,
        Clac if kernel && context.smap() => System::Clac,
        Stac if kernel && context.smap() => System::Stac,
        Cld => System::Cld,
        Std => System::Std,
        Pushfq | Pushfd => System::Pushf,
        Popfq | Popfd => System::Popf,
        Div | Idiv if divides(ins) => System::Divide,
        Swapgs if kernel && wide => System::Swapgs,
        Rdtsc | Rdtscp => System::Rdtsc,
        Rdfsbase | Rdgsbase if wide => System::ReadBase,
        Wrfsbase | Wrgsbase if wide => System::WriteBase,
        Mov if kernel && wide && reads_control(ins) => System::ReadControl,
        Mov if reads_segment(ins) => System::ReadSegment,
        Bt | Bts | Btr | Btc if wide && is_bit_string(ins) => System::BitString,
        _ if wide && super::strings::what(ins).is_some() => System::Repeat,
        Syscall if wide && !kernel => System::Syscall,
        Sysretq if wide && context.privilege() == Privilege::Supervisor => System::Sysret,
        _ => return None,
    };
    Some(Kind::System(found))
}

fn divides(ins: &Instruction) -> bool {
    use Code::*;
    matches!(ins.code(), Div_rm16 | Div_rm32 | Div_rm64 | Idiv_rm16 | Idiv_rm32 | Idiv_rm64)
}

fn reads_control(ins: &Instruction) -> bool {
    let from = ins.op1_register();
    ins.op1_kind() == OpKind::Register && matches!(from, Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4)
}

fn reads_segment(ins: &Instruction) -> bool {
    let register = |kind| kind == OpKind::Register;
    register(ins.op0_kind())
        && register(ins.op1_kind())
        && ins.op1_register().is_segment_register()
        && ins.op0_register().size() >= 4
}

/// With a bit number in a register: of 32 or 64 bits, and at an address of 64.
fn is_bit_string(ins: &Instruction) -> bool {
    let wide = |r: Register| r == Register::None || r.is_gpr64() || r == Register::RIP;
    ins.op0_kind() == OpKind::Memory
        && ins.op1_kind() == OpKind::Register
        && ins.op1_register().size() >= 4
        && wide(ins.memory_base())
        && wide(ins.memory_index())
}

impl System {
    /// General registers that it writes, but for the stack pointer.
    pub(super) fn written(self, ins: &Instruction) -> &'static [usize] {
        match self {
            System::Divide => &[0, 2],
            System::Rdtsc if ins.mnemonic() == Mnemonic::Rdtscp => &[0, 1, 2],
            System::Rdtsc => &[0, 2],
            System::ReadBase | System::ReadControl | System::ReadSegment => {
                match ins.op0_register().full_register().number() {
                    n @ 0..16 => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15][n..=n],
                    _ => &[],
                }
            }
            _ => &[],
        }
    }

    /// Whose rights code behind it has, before which code of `context` stands.
    pub(super) fn leads_to(self, context: Context) -> Context {
        match self {
            System::Clac => context.with_privilege(Privilege::Supervisor),
            System::Stac => context.with_privilege(Privilege::SupervisorAc),
            _ => context,
        }
    }

    /// Executing it twice does what executing it once does, if registers, flags and memory are restored in between.
    pub(super) fn is_repeatable(self) -> bool {
        use System::*;
        matches!(self, Cli | Cld | Std | Pushf | Divide | ReadBase | ReadControl | ReadSegment)
    }
}

impl Build<'_> {
    pub(super) fn system(&mut self, insn: &Insn, what: System) {
        match what {
            System::Cli => self.flag(insn, IF, false, Holes::new()),
            System::Cld => self.flag(insn, DF, false, Holes::new()),
            System::Std => self.flag(insn, DF, true, Holes::new()),
            System::Sti => self.sti(insn),
            System::Clac | System::Stac => self.access_check(insn, what == System::Stac),
            System::Pushf => self.pushf(insn),
            System::Popf => self.popf(insn),
            System::Divide => self.divide(insn),
            System::Swapgs => self.swapgs(),
            System::Rdtsc => self.rdtsc(insn),
            System::ReadBase => self.read_base(insn),
            System::WriteBase => self.write_base(insn),
            System::ReadControl => self.read_control(insn),
            System::ReadSegment => self.read_segment(insn),
            System::BitString => self.bit_string(insn),
            System::Syscall => self.syscall(insn),
            System::Sysret => self.sysret(insn),
            System::Repeat => self.repeat(insn),
        }
    }

    /// Sets or clears one bit of the system flags, unless one of `misses` jumps; the status flags stay as far as they are read.
    fn flag(&mut self, insn: &Insn, bit: i32, on: bool, misses: Holes) {
        let start = self.asm.here();
        self.flag_from(insn, bit, on, misses, start);
    }

    fn flag_from(&mut self, insn: &Insn, bit: i32, on: bool, misses: Holes, start: usize) {
        if insn.live_out == 0 {
            let (group, value) = if on { (1, bit) } else { (4, !bit) };
            self.asm.group_imm32(false, group, SYSFLAGS, value);
        } else if self.host.pext {
            let all_but = match bit {
                IF => field!(all_but_if),
                DF => field!(all_but_df),
                _ => field!(all_but_ac),
            };
            self.asm.load(Host::RCX, SYSFLAGS);
            self.asm.pext(Host::RCX, Host::RCX, all_but);
            self.asm.pdep(Host::RCX, Host::RCX, all_but);
            if on {
                self.asm.add_constant(Host::RCX, bit);
            }
            self.asm.store(SYSFLAGS, Host::RCX);
        } else {
            super::address::save_flags(&mut self.asm);
            let (group, value) = if on { (1, bit) } else { (4, !bit) };
            self.asm.group_imm32(false, group, SYSFLAGS, value);
            super::address::restore_flags(&mut self.asm);
        }
        self.or_interpret(misses, start, insn);
    }

    /// The instruction behind it is of the same unit and does not look at the attention word before it is executed (`unit` sees to
    /// that; this one looks where that one would): so nothing interrupts before it. What waits already is the interpreter's business.
    fn sti(&mut self, insn: &Insn) {
        self.poll_here_if(insn, insn.looks);
        let start = self.asm.here();
        self.asm.load8(Host::RCX, IRQ_WAITING);
        let none = self.asm.jrcxz();
        let waiting = self.asm.jmp();
        self.asm.land(none);
        self.flag_from(insn, IF, true, smallvec::smallvec![waiting], start);
    }

    /// CLAC and STAC: code behind them is made for other rights.
    fn access_check(&mut self, insn: &Insn, on: bool) {
        self.flag(insn, AC, on, Holes::new());
        let who = if on { Privilege::SupervisorAc } else { Privilege::Supervisor };
        let Rm::State(at) = PRIVILEGE else { return };
        self.asm.store8_imm(Rm::State(at), who as u8);
        self.loses(Host::R14);
    }

    /// Flags as RFLAGS has them to `jump_lin`; R14 and RCX are lost, the flags stay.
    pub(super) fn flags_image(&mut self) {
        self.loses(Host::R14);
        let a = &mut self.asm;
        a.mov(Host::R14, Host::RAX);
        a.raw(&[0x9f]); // lahf
        a.raw(&[0x0f, 0x90, 0xc0]); // seto al
        a.raw(&[0x0f, 0xb6, 0xcc]); // movzx ecx, ah
        a.raw(&[0x0f, 0xb6, 0xc0]); // movzx eax, al
        // OF is bit 11: times 8, 8, 8 and 4 without touching flags.
        for shift in [3, 3, 3, 2] {
            a.lea(false, Host::RAX, Sum { base: None, index: Some((Host::RAX, shift)), disp: 0 });
        }
        // Bit 1 is set in both.
        a.lea(false, Host::RCX, Sum { base: Some(Host::RCX), index: Some((Host::RAX, 0)), disp: -2 });
        a.load(Host::RAX, SYSFLAGS);
        a.lea(true, Host::RCX, Sum { base: Some(Host::RCX), index: Some((Host::RAX, 0)), disp: 0 });
        a.store(Rm::State(field!(jump_lin)), Host::RCX);
        a.mov(Host::RAX, Host::R14);
    }

    fn pushf(&mut self, insn: &Insn) {
        self.loses(Host::R14);
        let start = self.asm.here();
        self.flags_image();
        // Whoever tries again reads them once more.
        let word = self.word();
        let check = Check { access: Access::Store, size: word as u32, align: 1, keep_flags: true };
        let spot = self.reach(insn, Which::Stack(regs::RSP, -word), check);
        let rcx_kept = self.store_through_rcx(&spot, field!(jump_lin));
        self.move_stack(-word);
        self.stored(&spot, rcx_kept, insn.live_out != 0, Some(insn));
        self.or_interpret(spot.misses(), start, insn);
    }

    fn popf(&mut self, insn: &Insn) {
        self.loses(Host::R14);
        let start = self.asm.here();
        let size = self.word() as u32;
        let check = Check { access: Access::Load, size, align: 1, keep_flags: insn.live_in != 0 };
        let spot = self.reach(insn, Which::Stack(regs::RSP, 0), check);
        self.load_word(Host::RCX, spot.rm());
        self.loses(Host::R14);
        let mut misses = spot.misses();
        let a = &mut self.asm;
        a.mov(Host::R14, Host::RCX);
        a.op(true, &[0x33], Host::R14.0, SYSFLAGS); // xor
        a.op(false, &[0xf7], 0, Rm::Reg(Host::R14)); // test r14d, imm32
        let rare = if self.context.is_user() { POPF_RARE | IF } else { POPF_RARE };
        a.raw(&rare.to_le_bytes());
        misses.push(a.jcc(cond::NE));
        if !self.context.is_user() {
            a.group_imm32(false, 4, Rm::Reg(Host::R14), IF);
            let same = a.jcc_short(cond::E);
            a.op(false, &[0x80], 7, IRQ_WAITING);
            a.raw(&[0]);
            misses.push(a.jcc(cond::NE));
            a.op(false, &[0x31], Host::R14.0, SYSFLAGS);
            a.land(same);
        }
        a.mov(Host::R14, Host::RAX);
        a.mov(Host::RAX, Host::RCX);
        status_from_rax(a);
        a.mov(Host::RAX, Host::R14);
        self.move_stack(self.word());
        self.or_interpret(misses, start, insn);
    }

    /// To the kernel, by the stub.
    fn syscall(&mut self, insn: &Insn) {
        self.linear(Host::RCX, insn.next().into());
        self.asm.store(Rm::State(field!(jump_lin)), Host::RCX);
        self.stub_or_interpret(insn, |s| s.crossing.syscall);
    }

    /// To user code, by the stub.
    fn sysret(&mut self, insn: &Insn) {
        self.stub_or_interpret(insn, |s| s.crossing.sysret);
    }
}

/// The status flags become those of an RFLAGS image in RAX; RAX and RCX are lost.
pub(super) fn status_from_rax(a: &mut super::asm::Asm) {
    a.load32(Host::RCX, Rm::Reg(Host::RAX));
    a.shr32(Host::RCX, 11);
    a.raw(&[0x83, 0xe1, 1]); // and ecx, 1
    a.raw(&[0x80, 0xc1, 0x7f]); // add cl, 7Fh: overflows if it is 1
    a.raw(&[0x88, 0xc4]); // mov ah, al
    a.raw(&[0x9e]); // sahf
}

/// The instruction at `insn` looks at the attention word before it is executed.
pub(super) fn looks_before(insn: &Insn) -> bool {
    match insn.kind {
        Kind::Indirect | Kind::CallIndirect | Kind::Return => true,
        Kind::Call => insn.target() <= i64::from(insn.off),
        _ => false,
    }
}
