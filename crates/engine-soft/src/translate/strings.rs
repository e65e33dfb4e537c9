//! REP MOVS and REP STOS in translated code: pieces of code that all translations share, which do a page's worth at a time with the
//! host's own instruction, as long as the soft TLB serves both ends.
//!
//! Between pages they look at the attention word, and RCX, RSI and RDI say what is left. What is not the usual case - a miss, a
//! frame with code, a direction downwards, an element in two pages - is left to the interpreter, with nothing of that page done. 64-bit
//! addresses only.

use iced_x86::{Code, Instruction, OpKind, Register};
use visor_x86::regs::Rflags;

use super::address::{Access, TableAt, restore_flags, save_flags, tables};
use super::asm::{Asm, Hole, Holes, Rm, cond};
use super::build::{Build, NO_SITE};
use super::cache::{At, CodeCache};
use super::frame::field;
use super::regs::{self, Host, Place};
use super::unit::Insn;
use crate::cpu::Cpu;
use crate::mmu::{ENTRIES, Privilege};

/// Where they are: by [`what`] and, in rows, by whose rights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strings([[At; 8]; 3]);

/// Bytes of the call of one: MOV R14D, imm32 and CALL.
pub(super) const CALL: i64 = 11;

const RIGHTS: [Privilege; 3] = [Privilege::Supervisor, Privilege::SupervisorAc, Privilege::User];
const SYSFLAGS: Rm = Rm::State(std::mem::offset_of!(Cpu, sysflags) as i32);
const RDX: Host = Host(2);
const RBX: Host = Host(3);
const RSI: Host = Host(6);
const RDI: Host = Host(7);

/// What `ins` is: the binary logarithm of its element's size, and 4 more for STOS.
pub(super) fn what(ins: &Instruction) -> Option<usize> {
    use Code::*;
    let what = match ins.code() {
        Movsb_m8_m8 => 0,
        Movsw_m16_m16 => 1,
        Movsd_m32_m32 => 2,
        Movsq_m64_m64 => 3,
        Stosb_m8_AL => 4,
        Stosw_m16_AX => 5,
        Stosd_m32_EAX => 6,
        Stosq_m64_RAX => 7,
        _ => return None,
    };
    let flat = !matches!(ins.segment_prefix(), Register::FS | Register::GS);
    (ins.has_rep_prefix() && flat && ins.op0_kind() == OpKind::MemoryESRDI).then_some(what)
}

impl Strings {
    /// Writes them. `slow` and `wrote_code` are the stubs of these names.
    pub(super) fn write(cache: &mut CodeCache, slow: At, wrote_code: At) -> Option<Self> {
        let mut all = [[At(0); 8]; 3];
        for (row, who) in all.iter_mut().zip(RIGHTS) {
            for (what, stub) in row.iter_mut().enumerate() {
                *stub = cache.append(&repeated(cache.next(), what, who, [slow, wrote_code]))?;
            }
        }
        Some(Strings(all))
    }

    /// Some stub is at `at`.
    pub(super) fn has(&self, at: At) -> bool {
        self.0.iter().flatten().any(|stub| *stub == at)
    }
}

impl Build<'_> {
    /// REP MOVS or REP STOS, by the stub.
    pub(super) fn repeat(&mut self, insn: &Insn) {
        let row = RIGHTS.iter().position(|who| *who == self.context.privilege());
        match (row, what(&insn.ins)) {
            (Some(row), Some(what)) => self.call_of_site(insn, |s| s.strings.0[row][what]),
            _ => self.interpret(insn),
        }
    }
}

/// The stub, to be called with the site in R14; R14 and RCX are lost, the flags stay.
fn repeated(at: At, what: usize, who: Privilege, [slow, wrote_code]: [At; 2]) -> Vec<u8> {
    let (moves, log) = (what < 4, (what % 4) as u8);
    let Place::Host(count) = regs::place(regs::RCX) else { return Vec::new() };
    let mut a = Asm::default();
    a.store(Rm::State(field!(spill)), Host::R14);
    save_flags(&mut a);
    a.raw(&[0x53, 0x52]); // push rbx; push rdx
    let again = a.here();
    a.op(true, &[0x85], count.0, Rm::Reg(count));
    let done = a.jcc(cond::E);
    let mut give_up = usual(&mut a);
    // RBX becomes the number of elements to the end of the page.
    room(&mut a, Host::R14, RDI, log);
    if moves {
        room(&mut a, Host::RCX, RSI, log);
        least(&mut a, Host::R14, Host::RCX);
    }
    least(&mut a, Host::R14, count);
    a.mov(RBX, Host::R14);
    a.op(true, &[0x85], RBX.0, Rm::Reg(RBX));
    give_up.push(a.jcc(cond::E));
    if moves {
        let from = tables(who, Access::Load);
        give_up.push(host_address(&mut a, RDX, RSI, from));
        // Where it may still be lost.
        a.store(Rm::State(field!(jump_lin)), RDX);
    }
    let to = tables(who, Access::Store);
    give_up.push(host_address(&mut a, Host::R14, RDI, to));
    a.load(RDX, Rm::Table(to.mark));
    give_up.push(if_marked(&mut a));
    transfer(&mut a, moves, log);
    a.op(true, &[0x29], RBX.0, Rm::Reg(count)); // sub
    a.op(true, &[0xc1], 4, Rm::Reg(RBX)); // shl rbx, imm8
    a.raw(&[log]);
    a.op(true, &[0x01], RBX.0, Rm::Reg(RDI)); // add
    if moves {
        a.op(true, &[0x01], RBX.0, Rm::Reg(RSI));
    }
    // Others may have marked it meanwhile.
    let marked = if_marked(&mut a);
    let more = a.jmp();
    a.fill(more, again as i64);
    a.fill_here(marked);
    tell(&mut a, at, count, wrote_code);
    give_up.into_iter().for_each(|h| a.fill_here(h));
    leave(&mut a);
    a.load(Host::R14, Rm::State(field!(spill)));
    jump(&mut a, at, slow);
    a.fill_here(done);
    leave(&mut a);
    a.raw(&[0xc3]);
    a.bytes
}

/// Upwards, and nothing wants attention. RCX is lost.
fn usual(a: &mut Asm) -> Holes {
    a.op(false, &[0xf7], 0, SYSFLAGS); // test dword, imm32
    a.raw(&(Rflags::DF.bits() as u32).to_le_bytes());
    let downwards = a.jcc(cond::NE);
    a.load(Host::RCX, Rm::State(field!(attention)));
    a.op(false, &[0x83], 7, Rm::At(Host::RCX, 0)); // cmp dword, imm8
    a.raw(&[0]);
    smallvec::smallvec![downwards, a.jcc(cond::NE)]
}

/// `to` becomes the number of elements from linear address `at` to the end of its page.
fn room(a: &mut Asm, to: Host, at: Host, log: u8) {
    a.load32(to, Rm::Reg(at));
    a.group_imm32(false, 4, Rm::Reg(to), 0xfff);
    a.op(true, &[0xf7], 3, Rm::Reg(to)); // neg
    a.add_constant(to, 4096);
    a.shr32(to, log);
}

/// `to` becomes the lesser one of `to` and `other`.
fn least(a: &mut Asm, to: Host, other: Host) {
    a.op(true, &[0x3b], other.0, Rm::Reg(to)); // cmp
    a.op(true, &[0x0f, 0x42], to.0, Rm::Reg(other)); // cmovb
}

/// `to` becomes the host address for linear address `lin`, in whose page the access stays, and RCX its entry. Jumps if the table has it not.
fn host_address(a: &mut Asm, to: Host, lin: Host, table: TableAt) -> Hole {
    a.mov(to, lin);
    a.load32(Host::RCX, Rm::Reg(lin));
    a.shr32(Host::RCX, 9);
    a.group_imm32(false, 4, Rm::Reg(Host::RCX), ((ENTRIES - 1) << 3) as i32);
    a.op(true, &[0x03], to.0, Rm::Table(table.neg_tag));
    a.group_imm32(true, 7, Rm::Reg(to), 4095);
    let other = a.jcc(cond::A);
    a.op(true, &[0x03], to.0, Rm::Table(table.host));
    other
}

/// Jumps if the mark that RDX points to is set.
fn if_marked(a: &mut Asm) -> Hole {
    a.op(false, &[0x83], 7, Rm::At(RDX, 0));
    a.raw(&[0]);
    a.jcc(cond::NE)
}

/// RBX elements to R14; RCX is lost.
fn transfer(a: &mut Asm, moves: bool, log: u8) {
    a.raw(&[0x56, 0x57]); // push rsi; push rdi
    if moves {
        a.load(RSI, Rm::State(field!(jump_lin)));
    }
    a.mov(RDI, Host::R14);
    a.mov(Host::RCX, RBX);
    let opcode = if moves { 0xa4 } else { 0xaa } | u8::from(log > 0);
    match log {
        1 => a.raw(&[0x66, 0xf3, opcode]),
        3 => a.raw(&[0xf3, 0x48, opcode]),
        _ => a.raw(&[0xf3, opcode]),
    }
    a.raw(&[0x5f, 0x5e]); // pop rdi; pop rsi
}

/// RBX bytes at R14 went to a frame with code. If something is left to do, the instruction begins again; that finds the attention word
/// set if code was hit.
fn tell(a: &mut Asm, at: At, count: Host, wrote_code: At) {
    a.mov(Host::RCX, RBX);
    a.op(true, &[0xc1], 4, Rm::Reg(Host::RCX)); // shl rcx, imm8
    a.raw(&[32]);
    a.load32(RDX, Rm::State(field!(spill)));
    a.op(true, &[0x85], count.0, Rm::Reg(count));
    let whole = a.jcc(cond::E);
    a.constant(RDX, NO_SITE.into());
    a.raw(&[0x48, 0x83, 0x6c, 0x24, 16, CALL as u8]); // sub qword [rsp + 16], imm8
    a.fill_here(whole);
    a.op(true, &[0x09], RDX.0, Rm::Reg(Host::RCX)); // or
    leave(a);
    jump(a, at, wrote_code);
}

/// What the stub has used is the guest's again; RCX and R14 stay.
fn leave(a: &mut Asm) {
    a.raw(&[0x5a, 0x5b]); // pop rdx; pop rbx
    restore_flags(a);
}

fn jump(a: &mut Asm, at: At, to: At) {
    let hole = a.jmp();
    a.fill(hole, i64::from(to.0) - i64::from(at.0));
}
