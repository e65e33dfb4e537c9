//! The pieces of code that all translations share: the way in, the ways out, and the way to the interpreter and back.

use visor_fpu::{OFFSET_FOP, OFFSET_MXCSR, OFFSET_XMM, OFFSET_YMM_HI};

use super::asm::{Asm, Hole, Rm, cond};
use super::cache::{At, CodeCache};
use super::crossing::{self, Crossing};
use super::frame::{Exit, MXCSR, STATUS, field};
use super::regs::{Host, mapped};
use super::strings::Strings;

/// Host registers that a function must preserve, without RSP (System V AMD64 ABI §3.2.1).
const PRESERVED: [u8; 6] = [3, 5, 12, 13, 14, 15];
/// Status flags that LAHF and SAHF move.
const LOW_FLAGS: i32 = 0xd5;

/// Where the stubs are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stubs {
    /// `extern "sysv64" fn(window, code)`: goes to translated code, and returns when that is left.
    pub(super) enter: At,
    /// Leaves to the target of exit R14.
    pub(super) link: At,
    /// Leaves to the target of exit R14 because of the attention word.
    pub(super) poll: At,
    /// Leaves to have the instruction of site R14 interpreted.
    pub(super) interpret: At,
    /// Called: has the instruction of site R14 interpreted and goes on, or leaves.
    pub(super) call_interpreter: At,
    /// Called: the TLB did not serve site R14. Returns as `call_interpreter`, or 5 bytes further to have the instruction tried again.
    pub(super) call_refill: At,
    /// Called: likewise for an instruction that loads. Returns 10 bytes further if R14 is the address of what it loads.
    pub(super) call_load: At,
    /// Called: likewise, but does nothing else.
    pub(super) only_refill: At,
    /// Called: R14 is a host address to which something was stored in a frame with code, and RCX the size.
    pub(super) wrote_code: At,
    /// Called: puts the guest's vector registers into the host's. Keeps the flags and all but R14 and RCX.
    pub(super) load_vectors: At,
    /// Called: likewise for the x87 registers as well.
    pub(super) load_x87: At,
    /// Jumped to: changes of rings.
    pub(super) crossing: Crossing,
    /// Called: REP MOVS and REP STOS.
    pub(super) strings: Strings,
}

/// Addresses of the functions that stubs call: `fn(cpu, site) -> 0 to go on, 2 to try again, 3 where the bytes are at
/// `jump_to``, `fn(cpu, host address, size) -> 0 to go on`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Helpers {
    pub(super) interpret: u64,
    pub(super) refill: u64,
    pub(super) load: u64,
    pub(super) only_refill: u64,
    pub(super) wrote_code: u64,
}

/// What the host can do for stubs.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostCpu {
    pub(super) avx: bool,
    pub(super) fsgsbase: bool,
    /// PEXT, as fast as other instructions.
    pub(super) pext: bool,
}

impl Stubs {
    /// Writes all stubs into an empty cache; `None` if it is too small.
    pub(super) fn write(cache: &mut CodeCache, helpers: Helpers, host: HostCpu) -> Option<Self> {
        let enter = cache.append(&enter(host))?;
        let save_vectors = cache.append(&save_vectors(host))?;
        let load_vectors = cache.append(&load_vectors(host))?;
        let load_x87 = cache.append(&load_x87(host))?;
        let link = cache.append(&leave(cache.next(), Exit::Link, save_vectors))?;
        let poll = cache.append(&leave(cache.next(), Exit::Poll, save_vectors))?;
        let interpret = cache.append(&leave(cache.next(), Exit::Interpret, save_vectors))?;
        let arrive = cache.append(&leave(cache.next(), Exit::Arrive, save_vectors))?;
        let crossing = if host.pext {
            let syscall = cache.append(&crossing::syscall(cache.next(), interpret, arrive))?;
            Crossing { syscall, sysret: cache.append(&crossing::sysret(cache.next(), interpret, arrive))? }
        } else {
            Crossing { syscall: interpret, sysret: interpret }
        };
        let fpu = [save_vectors, load_vectors, load_x87];
        let call_interpreter = cache.append(&call(cache.next(), helpers.interpret, false, fpu))?;
        let call_refill = cache.append(&call(cache.next(), helpers.refill, false, fpu))?;
        let call_load = cache.append(&call(cache.next(), helpers.load, false, fpu))?;
        let only_refill = cache.append(&call(cache.next(), helpers.only_refill, false, fpu))?;
        let wrote_code = cache.append(&call(cache.next(), helpers.wrote_code, true, fpu))?;
        let strings = Strings::write(cache, call_interpreter, wrote_code)?;
        cache.keep();
        Some(Stubs {
            enter,
            link,
            poll,
            interpret,
            call_interpreter,
            call_refill,
            call_load,
            only_refill,
            wrote_code,
            load_vectors,
            load_x87,
            crossing,
            strings,
        })
    }
}

fn enter(host: HostCpu) -> Vec<u8> {
    let mut a = Asm::default();
    for r in PRESERVED {
        push(&mut a, r);
    }
    // Calls from translated code find the stack aligned to 16 bytes, as functions want it.
    a.raw(&[0x48, 0x83, 0xec, 8]);
    if host.fsgsbase {
        a.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xdf]); // wrgsbase rdi
    }
    a.store(Rm::State(field!(jump_to)), Host(6));
    load_flags(&mut a);
    load_registers(&mut a);
    a.op(false, &[0xff], 4, Rm::State(field!(jump_to)));
    a.bytes
}

fn leave(at: At, exit: Exit, save_vectors: At) -> Vec<u8> {
    let mut a = Asm::default();
    a.op(false, &[0xc7], 0, Rm::State(field!(exit)));
    a.raw(&(exit as u32).to_le_bytes());
    if exit == Exit::Arrive {
        crossing::keep_rip(&mut a);
    } else {
        a.store32(Rm::State(field!(exit_id)), Host::R14);
    }
    save_registers(&mut a);
    a.op(false, &[0x80], 7, Rm::State(field!(vectors_away)));
    a.raw(&[0]);
    let away = a.jcc_short(cond::NE);
    call_stub(&mut a, at, save_vectors);
    a.land(away);
    give_back(&mut a);
    a.bytes
}

/// Calls `function(cpu, R14[, RCX])` with the guest's registers saved, and goes on with whatever they are then if it returns 0.
fn call(at: At, function: u64, second: bool, [save_vectors, load_vectors, load_x87]: [At; 3]) -> Vec<u8> {
    let mut a = Asm::default();
    save_registers(&mut a);
    // The arguments, before the stubs for vectors take their registers.
    a.mov(Host(6), Host::R14);
    if second {
        a.mov(Host(2), Host::RCX_SAVED);
    }
    // RBX remembers what has to be loaded again: 1 for vectors, 2 for x87.
    a.raw(&[0x31, 0xdb]);
    a.op(false, &[0x80], 7, Rm::State(field!(vectors_away)));
    a.raw(&[0]);
    let away = a.jcc_short(cond::NE);
    a.load8(Host(3), Rm::State(field!(x87_away)));
    a.raw(&[0x83, 0xf3, 1]); // xor ebx, 1
    a.raw(&[0x8d, 0x5c, 0x1b, 1]); // lea ebx, [rbx + rbx + 1]
    call_stub(&mut a, at, save_vectors);
    a.land(away);
    a.load(Host(7), Rm::State(field!(cpu)));
    a.raw(&[0x48, 0x83, 0xec, 8]);
    a.constant(Host::RAX, function);
    a.raw(&[0xff, 0xd0]);
    a.raw(&[0x48, 0x83, 0xc4, 8]);
    // 0 goes on, 1 leaves, 2 goes on 5 bytes further, 3 another 5.
    a.raw(&[0x83, 0xf8, 1]); // cmp eax, 1
    let gone = a.jcc(4);
    let on = a.jcc_short(2); // below
    a.raw(&[0x8d, 0x44, 0x80, 0xfb]); // lea eax, [rax + rax * 4 - 5]
    a.raw(&[0x48, 0x01, 0x04, 0x24]); // add [rsp], rax
    a.land(on);
    a.raw(&[0xf6, 0xc3, 2]); // test bl, 2
    let no_x87 = a.jcc_short(4);
    call_stub(&mut a, at, load_x87);
    a.land(no_x87);
    a.raw(&[0x83, 0xfb, 1]); // cmp ebx, 1
    let no_vectors = a.jcc_short(cond::NE);
    call_stub(&mut a, at, load_vectors);
    a.land(no_vectors);
    load_flags(&mut a);
    load_registers(&mut a);
    a.load(Host::R14, Rm::State(field!(jump_to)));
    a.raw(&[0xc3]);
    a.fill_here(gone);
    a.op(false, &[0xc7], 0, Rm::State(field!(exit)));
    a.raw(&(Exit::Done as u32).to_le_bytes());
    // The return address into the translated code.
    a.raw(&[0x48, 0x83, 0xc4, 8]);
    give_back(&mut a);
    a.bytes
}

/// Returns from `enter`.
fn give_back(a: &mut Asm) {
    a.raw(&[0x48, 0x83, 0xc4, 8]);
    for r in PRESERVED.iter().rev() {
        pop(a, *r);
    }
    a.raw(&[0xc3]);
}

/// Saves the guest's general-purpose registers and flags. RCX stays in R15, R14 stays.
fn save_registers(a: &mut Asm) {
    for (host, slot) in mapped() {
        a.store(Rm::State(slot), host);
    }
    a.mov(Host::RCX_SAVED, Host::RCX);
    a.raw(&[0x9f]); // lahf
    a.raw(&[0x0f, 0x90, 0xc0]); // seto al
    a.raw(&[0x0f, 0xb6, 0xcc]); // movzx ecx, ah
    a.group_imm32(false, 4, Rm::Reg(Host::RCX), LOW_FLAGS);
    a.raw(&[0x0f, 0xb6, 0xc0]); // movzx eax, al
    a.raw(&[0xc1, 0xe0, 11]); // shl eax, 11
    a.raw(&[0x09, 0xc8]); // or eax, ecx
    a.store(Rm::State(STATUS), Host::RAX);
}

fn load_registers(a: &mut Asm) {
    for (host, slot) in mapped() {
        a.load(host, Rm::State(slot));
    }
}

/// Loads the guest's status flags; RAX and RCX are lost.
fn load_flags(a: &mut Asm) {
    a.load(Host::RAX, Rm::State(STATUS));
    a.raw(&[0x89, 0xc1]); // mov ecx, eax
    a.shr32(Host::RCX, 11);
    a.raw(&[0x83, 0xe1, 1]); // and ecx, 1
    a.raw(&[0x80, 0xc1, 0x7f]); // add cl, 7Fh: overflows if it is 1
    a.raw(&[0x88, 0xc4]); // mov ah, al
    a.raw(&[0x9e]); // sahf
}

/// Saves the vector registers, and the x87 registers if the guest's are there. Gives the engine its own MXCSR.
fn save_vectors(host: HostCpu) -> Vec<u8> {
    let mut a = Asm::default();
    a.load(Host::R14, Rm::State(field!(fpu)));
    for i in 0..16 {
        move_xmm(&mut a, 0x29, i);
        if host.avx {
            move_high(&mut a, false, i);
        }
    }
    control(&mut a, 3);
    a.op(false, &[0x80], 7, Rm::State(field!(x87_away)));
    a.raw(&[0]);
    let away = a.jcc(cond::NE);
    // FIP and FDP would be addresses of the host.
    let pointers = [OFFSET_FOP as i32 + 2, OFFSET_FOP as i32 + 10];
    for p in pointers {
        a.op(false, &[0xff], 6, Rm::At(Host::R14, p));
    }
    a.op(false, &[0x0f, 0xb7], 1, Rm::At(Host::R14, OFFSET_FOP as i32));
    a.raw(&[0x49, 0x0f, 0xae, 0x06]); // fxsave64 [r14]
    a.raw(&[0x66]);
    a.op(false, &[0x89], 1, Rm::At(Host::R14, OFFSET_FOP as i32));
    for p in pointers.iter().rev() {
        a.op(false, &[0x8f], 0, Rm::At(Host::R14, *p));
    }
    a.raw(&[0xdb, 0xe3]); // fninit
    a.store8_imm(Rm::State(field!(x87_away)), 1);
    a.fill_here(away);
    a.op(false, &[0x0f, 0xae], 2, Rm::State(MXCSR));
    if host.avx {
        a.raw(&[0xc5, 0xf8, 0x77]); // vzeroupper
    }
    a.store8_imm(Rm::State(field!(vectors_away)), 1);
    a.raw(&[0xc3]);
    a.bytes
}

fn load_vectors(host: HostCpu) -> Vec<u8> {
    let mut a = Asm::default();
    a.load(Host::R14, Rm::State(field!(fpu)));
    if host.avx {
        gather_high(&mut a);
    }
    for i in 0..16 {
        move_xmm(&mut a, 0x28, i);
    }
    if host.avx {
        load_high(&mut a);
    }
    control(&mut a, 2);
    a.store8_imm(Rm::State(field!(vectors_away)), 0);
    a.raw(&[0xc3]);
    a.bytes
}

/// RCX becomes zero if the upper halves of all YMM registers are to be zero; keeps the flags, spoils XMM0 and XMM1.
fn gather_high(a: &mut Asm) {
    a.raw(&[0xc5, 0xf9, 0xef, 0xc0]); // vpxor xmm0, xmm0, xmm0
    for i in 0..16 {
        a.raw(&[0xc4, 0xc1, 0x79, 0xeb, 0x86]); // vpor xmm0, xmm0, [r14 + disp32]
        a.raw(&((OFFSET_YMM_HI + 16 * i) as i32).to_le_bytes());
    }
    a.raw(&[0xc5, 0xf1, 0x73, 0xd8, 8]); // vpsrldq xmm1, xmm0, 8
    a.raw(&[0xc5, 0xf9, 0xeb, 0xc1]); // vpor xmm0, xmm0, xmm1
    a.raw(&[0xc4, 0xe1, 0xf9, 0x7e, 0xc1]); // vmovq rcx, xmm0
}

/// Loads the upper halves of the YMM registers, after [`gather_high`]. If they are zero, in the one way that the processor
/// remembers: otherwise each SSE instruction would keep an upper half, and so wait for the last one that wrote the register.
fn load_high(a: &mut Asm) {
    let zero = a.jrcxz();
    let some = a.jmp();
    a.land(zero);
    a.raw(&[0xc5, 0xf8, 0x77]); // vzeroupper
    let done = a.jmp();
    a.fill_here(some);
    (0..16).for_each(|i| move_high(a, true, i));
    a.fill_here(done);
}

fn load_x87(host: HostCpu) -> Vec<u8> {
    let mut a = Asm::default();
    a.load(Host::R14, Rm::State(field!(fpu)));
    // FXRSTOR loads the vectors as well: what the host's registers hold of the guest goes to memory first.
    a.load8(Host::RCX, Rm::State(field!(vectors_away)));
    let here = a.jrcxz();
    let gone = a.jmp();
    a.land(here);
    for i in 0..16 {
        move_xmm(&mut a, 0x29, i);
        if host.avx {
            move_high(&mut a, false, i);
        }
    }
    control(&mut a, 3);
    a.fill_here(gone);
    if host.avx {
        gather_high(&mut a);
    }
    a.raw(&[0x49, 0x0f, 0xae, 0x0e]); // fxrstor64 [r14]
    if host.avx {
        load_high(&mut a);
    }
    a.store8_imm(Rm::State(field!(vectors_away)), 0);
    a.store8_imm(Rm::State(field!(x87_away)), 0);
    a.raw(&[0xc3]);
    a.bytes
}

/// MOVAPS between XMM `i` and its place at R14: 28h loads, 29h stores.
fn move_xmm(a: &mut Asm, opcode: u8, i: u8) {
    a.op(false, &[0x0f, opcode], i, Rm::At(Host::R14, (OFFSET_XMM + 16 * usize::from(i)) as i32));
}

/// VINSERTF128 or VEXTRACTF128 of the upper half of YMM `i`.
fn move_high(a: &mut Asm, load: bool, i: u8) {
    let r = if i < 8 { 0x80 } else { 0 };
    let vvvv = if load { (!i & 15) << 3 } else { 0x78 };
    a.raw(&[0xc4, r | 0x43, vvvv | 0x05, if load { 0x18 } else { 0x19 }, 0x86 | (i & 7) << 3]);
    a.raw(&((OFFSET_YMM_HI + 16 * usize::from(i)) as i32).to_le_bytes());
    a.raw(&[1]);
}

/// LDMXCSR (2) or STMXCSR (3) of the guest's MXCSR at R14.
fn control(a: &mut Asm, n: u8) {
    a.op(false, &[0x0f, 0xae], n, Rm::At(Host::R14, OFFSET_MXCSR as i32));
}

fn call_stub(a: &mut Asm, at: At, stub: At) {
    let hole: Hole = a.call();
    a.fill(hole, i64::from(stub.0) - i64::from(at.0));
}

fn push(a: &mut Asm, r: u8) {
    if r > 7 {
        a.raw(&[0x41]);
    }
    a.raw(&[0x50 | (r & 7)]);
}

fn pop(a: &mut Asm, r: u8) {
    if r > 7 {
        a.raw(&[0x41]);
    }
    a.raw(&[0x58 | (r & 7)]);
}
