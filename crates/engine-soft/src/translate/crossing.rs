//! SYSCALL and SYSRET in translated code: pieces of code that all translations share, which change rings as the interpreter's
//! handlers do and go on at the translation of the target, if the table of branch targets has it.
//!
//! What is not the usual case - a trap flag, alignment checks, an interrupt that waits, a target that is not canonical - is left
//! to the interpreter, with nothing done.

use visor_x86::regs::Rflags;

use super::address::{restore_flags, save_flags};
use super::asm::{Asm, Hole, Rm, Sum, cond};
use super::cache::At;
use super::frame::{self, field};
use super::regs::{self, Host, Place};
use super::system::{IRQ_WAITING, PRIVILEGE, status_from_rax};
use crate::cpu::Cpu;
use crate::mmu::{self, Privilege, TargetsAt};

/// Where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing {
    /// R14 is the site, `jump_lin` the address of the next instruction.
    pub(super) syscall: At,
    /// R14 is the site.
    pub(super) sysret: At,
}

/// Attributes of the segments that SYSCALL and SYSRET load (SDM 2B, SYSCALL).
const CODE64: u32 = 0xa09b;
const DATA: u32 = 0xc093;
const RING3: u32 = 0x60;
/// RFLAGS bits that SYSRET takes from R11.
const SYSRET_FLAGS: i32 = 0x3c_7fd7;
const STATUS: i32 = Rflags::STATUS.bits() as i32;
const UNUSUAL: i32 = (Rflags::TF.bits() | Rflags::AC.bits()) as i32;

const EFER: Rm = Rm::State(std::mem::offset_of!(Cpu, efer) as i32);
const SYSFLAGS: Rm = Rm::State(std::mem::offset_of!(Cpu, sysflags) as i32);
const CPL: Rm = Rm::State(std::mem::offset_of!(Cpu, cpl) as i32);
const RIP: Rm = Rm::State(std::mem::offset_of!(Cpu, rip) as i32);
const STAR: Rm = Rm::State(std::mem::offset_of!(Cpu, msr.star) as i32);
const LSTAR: Rm = Rm::State(std::mem::offset_of!(Cpu, msr.lstar) as i32);
const FMASK: Rm = Rm::State(std::mem::offset_of!(Cpu, msr.fmask) as i32);
const R11: usize = 11;

/// SYSCALL, for code at `at`. `slow` is the stub that leaves to have site R14 interpreted, `arrive` the one that leaves to
/// linear address R14.
pub(super) fn syscall(at: At, slow: At, arrive: At) -> Vec<u8> {
    let mut a = Asm::default();
    let mut holes = begin(&mut a, mmu::KERNEL_LAYOUT_AT);
    a.load32(Host::RCX, FMASK);
    a.raw(&[0xf7, 0xd1]); // not ecx
    test_ecx(&mut a, UNUSUAL);
    holes.push(a.jcc(cond::NE));
    // RFLAGS.
    a.mov(Host::R14, Host::RAX);
    a.load8(Host::RCX, Rm::State(field!(flags) + 1));
    a.group_imm32(false, 4, Rm::Reg(Host::RCX), STATUS);
    a.load8(Host::RAX, Rm::State(field!(flags)));
    a.raw(&[0xc1, 0xe0, 11]); // shl eax, 11
    a.raw(&[0x09, 0xc1]); // or ecx, eax
    a.op(true, &[0x0b], Host::RCX.0, SYSFLAGS); // or rcx, [sysflags]
    a.store(Rm::State(regs::slot(R11)), Host::RCX);
    a.load(Host::RAX, FMASK);
    a.raw(&[0x48, 0xf7, 0xd0]); // not rax
    a.raw(&[0x48, 0x21, 0xc8]); // and rax, rcx
    set_sysflags(&mut a);
    a.load(Host::RCX, STAR);
    a.raw(&[0x48, 0xc1, 0xe9, 32]); // shr rcx, 32
    a.group_imm32(false, 4, Rm::Reg(Host::RCX), 0xfffc);
    segment(&mut a, 1, CODE64, 0);
    segment(&mut a, 2, DATA, 8);
    ring(&mut a, 0, Privilege::Supervisor);
    status_from_rax(&mut a);
    a.mov(Host::RAX, Host::R14);
    if let Place::Host(rcx) = regs::place(regs::RCX) {
        a.load(rcx, Rm::State(field!(jump_lin)));
    }
    a.load(Host::R14, LSTAR);
    go(&mut a, at, arrive, field!(kernel_targets_mask), mmu::KERNEL_TARGETS_AT);
    give_up(&mut a, at, slow, holes);
    a.bytes
}

/// SYSRET to 64-bit code, likewise.
pub(super) fn sysret(at: At, slow: At, arrive: At) -> Vec<u8> {
    let mut a = Asm::default();
    let mut holes = begin(&mut a, mmu::USER_LAYOUT_AT);
    let Place::Host(target) = regs::place(regs::RCX) else { return a.bytes };
    // Where user code is; all else may be wrong.
    a.mov(Host::RCX, target);
    a.raw(&[0x48, 0xc1, 0xe9, 47]); // shr rcx, 47
    holes.push(a.jcc(cond::NE));
    a.load(Host::RCX, Rm::State(regs::slot(R11)));
    test_ecx(&mut a, UNUSUAL);
    holes.push(a.jcc(cond::NE));
    a.op(false, &[0x80], 7, IRQ_WAITING);
    a.raw(&[0]);
    holes.push(a.jcc(cond::NE));
    a.mov(Host::R14, Host::RAX);
    a.load32(Host::RAX, Rm::Reg(Host::RCX));
    a.group_imm32(false, 4, Rm::Reg(Host::RAX), SYSRET_FLAGS);
    set_sysflags(&mut a);
    a.load(Host::RCX, STAR);
    a.raw(&[0x48, 0xc1, 0xe9, 48]); // shr rcx, 48
    a.raw(&[0x83, 0xc9, 3]); // or ecx, 3: what is added has these bits clear
    segment(&mut a, 1, CODE64 | RING3, 16);
    segment(&mut a, 2, DATA | RING3, 8);
    ring(&mut a, 3, Privilege::User);
    status_from_rax(&mut a);
    a.mov(Host::RAX, Host::R14);
    a.mov(Host::R14, target);
    go(&mut a, at, arrive, field!(user_targets_mask), mmu::USER_TARGETS_AT);
    give_up(&mut a, at, slow, holes);
    a.bytes
}

/// Leaves to linear address R14; `leave` are the rest of the stubs that leave.
pub(super) fn keep_rip(a: &mut Asm) {
    a.store(RIP, Host::R14);
}

/// What both want: SYSCALL enabled, and 64-bit code in the table of targets (`layout_at` tells).
fn begin(a: &mut Asm, layout_at: i32) -> Vec<Hole> {
    a.store(Rm::State(field!(spill)), Host::R14);
    save_flags(a);
    a.op(false, &[0xf6], 0, EFER); // test byte [efer], imm8: EFER.SCE
    a.raw(&[1]);
    let disabled = a.jcc(cond::E);
    a.op(false, &[0x80], 7, Rm::State(layout_at));
    a.raw(&[0]);
    vec![disabled, a.jcc(cond::NE)]
}

/// System flags from the RFLAGS image in RAX; RCX is lost.
fn set_sysflags(a: &mut Asm) {
    a.mov(Host::RCX, Host::RAX);
    a.group_imm32(true, 4, Rm::Reg(Host::RCX), !STATUS);
    a.raw(&[0x83, 0xc9, 2]); // or ecx, 2: 32 bits are all that are ever set
    a.store(SYSFLAGS, Host::RCX);
}

/// Segment register `seg` becomes a flat one whose selector is CX plus `more`.
fn segment(a: &mut Asm, seg: usize, attr: u32, more: i32) {
    let at = frame::segment(seg);
    a.add_constant(Host::RCX, more);
    a.raw(&[0x66]);
    a.op(false, &[0x89], Host::RCX.0, Rm::State(at.selector));
    a.add_constant(Host::RCX, -more);
    a.store_imm(Rm::State(at.base), 0);
    a.op(false, &[0xc7], 0, Rm::State(at.limit));
    a.raw(&u32::MAX.to_le_bytes());
    a.op(false, &[0xc7], 0, Rm::State(at.attr));
    a.raw(&attr.to_le_bytes());
}

fn ring(a: &mut Asm, cpl: u8, who: Privilege) {
    a.store8_imm(CPL, cpl);
    a.store8_imm(PRIVILEGE, who as u8);
}

fn test_ecx(a: &mut Asm, mask: i32) {
    a.raw(&[0xf7, 0xc1]);
    a.raw(&mask.to_le_bytes());
}

/// Goes to the code for linear address R14, or leaves to it. Keeps the flags.
fn go(a: &mut Asm, at: At, arrive: At, mask: i32, table: TargetsAt) {
    a.pext(Host::RCX, Host::R14, mask);
    a.load(Host::RCX, Rm::Table8(table.neg_lin));
    a.lea(true, Host::RCX, Sum { base: Some(Host::RCX), index: Some((Host::R14, 0)), disp: 0 });
    let hit = a.jrcxz();
    jump(a, at, arrive);
    a.land(hit);
    a.pext(Host::RCX, Host::R14, mask);
    a.load(Host::RCX, Rm::Table8(table.code));
    a.raw(&[0xff, 0xe1]); // jmp rcx
}

fn give_up(a: &mut Asm, at: At, slow: At, holes: Vec<Hole>) {
    holes.into_iter().for_each(|h| a.fill_here(h));
    restore_flags(a);
    a.load(Host::R14, Rm::State(field!(spill)));
    jump(a, at, slow);
}

fn jump(a: &mut Asm, at: At, to: At) {
    let hole = a.jmp();
    a.fill(hole, i64::from(to.0) - i64::from(at.0));
}
