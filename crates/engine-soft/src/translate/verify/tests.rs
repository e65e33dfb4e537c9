//! Real translations pass, and injected faults are found.

use super::super::asm::{Asm, Rm, Sum, cond};
use super::super::build::{Build, HostFlavour};
use super::super::cache::CodeCache;
use super::super::regs::Host;
use super::super::stubs::{Helpers, HostCpu, Stubs};
use super::super::{translate, unit};
use super::*;

const RCX: Host = Host::RCX;
const R14: Host = Host::R14;

fn stubs() -> (CodeCache, Stubs) {
    let mut cache = CodeCache::new(1 << 20).unwrap();
    let functions = Helpers { interpret: 0, refill: 0, load: 0, only_refill: 0, wrote_code: 0 };
    let host = HostCpu { avx: true, fsgsbase: true, pext: true };
    let stubs = Stubs::write(&mut cache, functions, host).unwrap();
    (cache, stubs)
}

fn flavour(pext: bool, eager: bool) -> HostFlavour {
    HostFlavour { pext, rdtscp: false, eager, count: eager, alone: pext }
}

/// Some code with loads, stores, groups, loops, calls and branches.
#[rustfmt::skip]
const CODE: &[&[u8]] = &[
    // push rbp; mov rbp, rsp; push rbx; sub rsp, 8; mov [rbp-16], edi; mov rax, [rsi]; leave; ret
    &[0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 8, 0x89, 0x7d, 0xf0, 0x48, 0x8b, 0x06, 0xc9, 0xc3],
    // mov rdx, [rsi+rax*8]; add [rdi], rdx; add rdi, 8; dec rax; cmp rax, rbx; jne
    &[0x48, 0x8b, 0x14, 0xc6, 0x48, 0x01, 0x17, 0x48, 0x83, 0xc7, 8, 0x48, 0xff, 0xc8, 0x48, 0x39, 0xd8, 0x75, 0xed],
    // movupd xmm0, [rbx+rax]; movupd xmm2, [rbp+rax]; mulpd; addpd; movups [r12+rax], xmm0; add rax, 16; cmp rax, imm32; jne
    &[0x66, 0x0f, 0x10, 0x04, 0x03, 0x66, 0x0f, 0x10, 0x54, 5, 0, 0x66, 0x0f, 0x59, 0xc1, 0x66, 0x0f, 0x58, 0xc2,
      0x41, 0x0f, 0x11, 4, 4, 0x48, 0x83, 0xc0, 0x10, 0x48, 0x3d, 0, 0x24, 0xf4, 0, 0x75, 0xdc],
    // mov rdx, [rip+100h]; add [rsp+8], rdx; mov [rdi+r10], r9; mov ah, [rsi]; inc rsi; inc r10; cmp r10, rbx; jne
    &[0x48, 0x8b, 0x15, 0, 1, 0, 0, 0x48, 1, 0x54, 0x24, 8, 0x4e, 0x89, 0x0c, 0x17, 0x8a, 0x26, 0x48, 0xff, 0xc6,
      0x49, 0xff, 0xc2, 0x49, 0x39, 0xda, 0x75, 0xe3],
    // mov [rdi], rax; rep movsb; rep stosq; mov [rdi], rax; ret
    &[0x48, 0x89, 7, 0xf3, 0xa4, 0xf3, 0x48, 0xab, 0x48, 0x89, 7, 0xc3],
    // adc [r9], rax; mov ah, [rbx]; mov [rbx+2], ch; call [rdi+8]
    &[0x49, 0x11, 0x01, 0x8a, 0x23, 0x88, 0x6b, 2, 0xff, 0x57, 8],
    // mov fs:[10h], ecx; lock xadd [rdx], r10; jmp [rax]
    &[0x64, 0x89, 0x0c, 0x25, 0x10, 0, 0, 0, 0xf0, 0x4c, 0x0f, 0xc1, 0x12, 0xff, 0x20],
];

fn made(stubs: &Stubs, at: At, code: &[u8], host: HostFlavour) -> Built {
    let mut page = vec![0xf4; 4096];
    page[0x100..0x100 + code.len()].copy_from_slice(code);
    let context = Context::default();
    let unit = unit::read(&page, 0x100, context);
    translate(Build::new(stubs, at, (0, 0), context, Some(0x40_0000), host), &unit, 0x100)
}

#[test]
fn what_the_translator_emits_is_proved() {
    let (cache, stubs) = stubs();
    for code in CODE {
        for (pext, retry) in [(true, false), (true, true), (false, false), (false, true)] {
            let built = made(&stubs, cache.next(), code, flavour(pext, retry));
            assert_eq!(verify(&built, Context::default(), cache.next(), &stubs), Ok(()), "{code:x?}, PEXT: {pext}");
        }
    }
}

/// Every change of a byte that turns a checked operand into another one, or a jump into another one, is found. Not every change of a
/// byte is: a guest's ADD may become a guest's SUB.
#[test]
fn moved_offsets_are_found() {
    let (cache, stubs) = stubs();
    for code in CODE {
        let built = made(&stubs, cache.next(), code, flavour(true, false));
        let mut moved = 0;
        let mut decoder = Decoder::with_ip(64, &built.code, 0, DecoderOptions::NONE);
        while decoder.can_decode() {
            let ins = decoder.decode();
            let at = decoder.get_constant_offsets(&ins);
            let field = ins.ip() as usize + at.displacement_offset();
            let table = ins.memory_segment() == Register::GS
                && (ins.memory_base() == Register::RCX || ins.memory_index() == Register::RCX);
            let near = ins.op_count() == 1 && ins.op0_kind() == OpKind::NearBranch64;
            let jump = near && at.has_immediate() && at.immediate_size() == 4;
            let field = if jump { ins.ip() as usize + at.immediate_offset() } else { field };
            if !(jump || table && at.has_displacement() && at.displacement_size() == 4) {
                continue;
            }
            // Somewhere within the same table, or the same code: never where something begins.
            let mut code = built.code.clone();
            code[field + 1] ^= 0x55;
            code[field + 3] ^= 0x20;
            let broken = Built { code, sites: Vec::new(), ways: Vec::new(), ..built };
            let found = verify(&broken, Context::default(), cache.next(), &stubs);
            assert!(found.is_err(), "{ins} at {:x}", ins.ip());
            moved += 1;
        }
        assert!(moved > 5, "{moved}");
    }
}

/// What the verifier says of code made by `f`.
fn verdict(f: impl FnOnce(&mut Asm)) -> Result<(), String> {
    let (cache, stubs) = stubs();
    let mut a = Asm::default();
    f(&mut a);
    let leave = a.here();
    let out = a.jmp();
    a.fill(out, i64::from(stubs.link.0) - i64::from(cache.next().0));
    let built =
        Built { code: a.bytes, sites: Vec::new(), ways: Vec::new(), entry: 0, leave: leave as u32, instructions: 1 };
    verify(&built, Context::default(), cache.next(), &stubs)
}

/// The short check of `size` bytes at R14, compared with `limit`.
fn check(a: &mut Asm, access: Access, limit: i32) {
    let t = tables(Privilege::Supervisor, access);
    a.load32(RCX, Rm::Reg(R14));
    a.shr32(RCX, 9);
    a.group_imm32(false, 4, Rm::Reg(RCX), ((ENTRIES - 1) << 3) as i32);
    a.op(true, &[0x03], 14, Rm::Table(t.neg_tag));
    a.group_imm32(true, 7, Rm::Reg(R14), limit);
    let out = a.jcc(cond::A);
    a.op(true, &[0x03], 14, Rm::Table(t.host));
    a.fill_here(out);
}

#[test]
fn injected_faults_are_found() {
    let err = |f: fn(&mut Asm)| verdict(f).unwrap_err();
    // Memory without a check, or by a guest's register.
    assert!(err(|a| a.load(Host::RAX, Rm::Checked(0))).contains("not checked"));
    assert!(err(|a| a.load(Host::RAX, Rm::At(Host(3), 0))).contains("nobody's"));
    assert!(err(|a| a.raw(&[0xa4])).contains("nobody's"), "MOVSB");
    // The way on and the way out of a check meet: nothing is known there.
    assert!(
        err(|a| {
            check(a, Access::Load, 4096 - 8);
            a.load(Host::RAX, Rm::Checked(0));
        })
        .contains("not checked")
    );
    // State beyond the CPU, and the engine's pointers.
    assert!(err(|a| a.load(Host::RAX, Rm::State(size_of::<Cpu>() as i32))).contains("engine state"));
    assert!(err(|a| a.store(Rm::State(field!(attention)), Host::RAX)).contains("pointer"));
    assert!(err(|a| a.store(Rm::State(field!(ranges)), R14)).contains("keeps"));
    assert!(err(|a| a.store(Rm::State(field!(jump_to)), RCX)).contains("keeps"));
    // A table without an index, and another privilege's.
    let kernel = tables(Privilege::Supervisor, Access::Load).host;
    assert_eq!(arrays(Context::default()).get(&kernel), Some(&Array::Host { store: false }));
    assert!(!arrays(Context::default()).contains_key(&tables(Privilege::User, Access::Load).host));
    assert!(
        err(|a| a.load(Host::RAX, Rm::Table(tables(Privilege::Supervisor, Access::Load).host))).contains("no index")
    );
    // Jumps, calls, returns, the stack, the system.
    assert!(err(|a| a.raw(&[0xff, 0xe1])).contains("anywhere"), "JMP RCX");
    assert!(err(|a| a.raw(&[0xe8, 0, 0, 0, 0])).contains("no stub"));
    assert!(err(|a| a.raw(&[0xeb, 1])).contains("no instruction begins"));
    assert!(!err(|a| a.raw(&[0xc3])).is_empty(), "RET");
    assert!(err(|a| a.mov(Host::RAX, Host(4))).contains("RSP"));
    assert!(err(|a| a.raw(&[0x50])).contains("RSP"), "PUSH");
    assert!(!err(|a| a.raw(&[0x0f, 5])).is_empty(), "SYSCALL");
    assert!(err(|a| a.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xd8])).contains("system"), "WRGSBASE");
    assert!(err(|a| a.raw(&[0x8e, 0xe8])).contains("uses"), "MOV GS");
}

#[test]
fn checks_are_for_so_many_bytes_and_one_kind_of_access() {
    let short = |access: Access, size: i32, f: fn(&mut Asm)| {
        verdict(move |a| {
            let t = tables(Privilege::Supervisor, access);
            a.load32(RCX, Rm::Reg(R14));
            a.shr32(RCX, 9);
            a.group_imm32(false, 4, Rm::Reg(RCX), ((ENTRIES - 1) << 3) as i32);
            a.op(true, &[0x03], 14, Rm::Table(t.neg_tag));
            a.group_imm32(true, 7, Rm::Reg(R14), 4096 - size);
            let out = a.jcc(cond::A);
            a.op(true, &[0x03], 14, Rm::Table(t.host));
            f(a);
            a.fill_here(out);
        })
    };
    assert_eq!(short(Access::Load, 8, |a| a.load(Host::RAX, Rm::Checked(0))), Ok(()));
    assert_eq!(short(Access::Load, 8, |a| a.load32(Host::RAX, Rm::Checked(4))), Ok(()));
    assert!(short(Access::Load, 8, |a| a.load(Host::RAX, Rm::Checked(1))).is_err(), "a byte too far");
    assert!(short(Access::Load, 4, |a| a.load(Host::RAX, Rm::Checked(0))).is_err(), "four bytes too many");
    assert!(short(Access::Load, 8, |a| a.load(Host::RAX, Rm::Checked(-1))).is_err(), "before the range");
    assert!(short(Access::Load, 8, |a| a.store(Rm::Checked(0), Host::RAX)).is_err(), "a store where loads are allowed");
    assert_eq!(short(Access::Store, 8, |a| a.store(Rm::Checked(0), Host::RAX)), Ok(()));
    let moved: fn(&mut Asm) = |a| {
        a.lea(true, R14, Sum { base: Some(R14), index: Some((Host::RAX, 0)), disp: 0 });
        a.load(Host::RAX, Rm::Checked(0));
    };
    assert!(short(Access::Load, 8, moved).is_err(), "moved by a guest's register");
}
