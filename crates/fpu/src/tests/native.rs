//! The oracle: one unmodified instruction, run on the host with complete state.

use std::cell::Cell;
use std::sync::Once;

use super::{MEMORY, Machine};
use crate::FpuState;
use crate::arena::Arena;

/// Layout known to the assembly below.
#[repr(C, align(64))]
struct Context {
    before: [u8; 1024],
    after: [u8; 1024],
    gpr: [u64; 16],
    rflags: u64,
    code: u64,
}

std::arch::global_asm!(
    ".globl visor_fpu_oracle_enter",
    "visor_fpu_oracle_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov eax, 7",
    "xor edx, edx",
    "xrstor64 [rdi]",
    "push qword ptr [rdi + 2176]",
    "popfq",
    "push qword ptr [rdi + 2184]",
    "mov rax, [rdi + 2048]",
    "mov rcx, [rdi + 2056]",
    "mov rdx, [rdi + 2064]",
    "mov rbx, [rdi + 2072]",
    "mov rbp, [rdi + 2088]",
    "mov rsi, [rdi + 2096]",
    "mov r8, [rdi + 2112]",
    "mov r9, [rdi + 2120]",
    "mov r10, [rdi + 2128]",
    "mov r11, [rdi + 2136]",
    "mov r12, [rdi + 2144]",
    "mov r13, [rdi + 2152]",
    "mov r14, [rdi + 2160]",
    "mov r15, [rdi + 2168]",
    "mov rdi, [rdi + 2104]",
    "ret",
    ".globl visor_fpu_oracle_resume",
    "visor_fpu_oracle_resume:",
    "xchg rdi, [rsp]",
    "mov [rdi + 2048], rax",
    "mov [rdi + 2056], rcx",
    "mov [rdi + 2064], rdx",
    "mov [rdi + 2072], rbx",
    "mov [rdi + 2088], rbp",
    "mov [rdi + 2096], rsi",
    "mov [rdi + 2112], r8",
    "mov [rdi + 2120], r9",
    "mov [rdi + 2128], r10",
    "mov [rdi + 2136], r11",
    "mov [rdi + 2144], r12",
    "mov [rdi + 2152], r13",
    "mov [rdi + 2160], r14",
    "mov [rdi + 2168], r15",
    "pop rax",
    "mov [rdi + 2104], rax",
    "pushfq",
    "pop qword ptr [rdi + 2176]",
    "mov eax, 7",
    "xor edx, edx",
    "xsave64 [rdi + 1024]",
    "fninit",
    "mov dword ptr [rsp - 8], 0x1f80",
    "ldmxcsr [rsp - 8]",
    "vzeroupper",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "sysv64" {
    fn visor_fpu_oracle_enter(context: *mut Context);
    fn visor_fpu_oracle_resume();
}

thread_local! {
    static TRAPPED: Cell<bool> = const { Cell::new(false) };
}

extern "C" fn on_sigfpe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: passed on as it came.
    if unsafe { crate::observe::note(context) } {
        return;
    }
    TRAPPED.with(|t| t.set(true));
    let resume = visor_fpu_oracle_resume as *const () as i64;
    // SAFETY: the kernel passes a ucontext; the instruction under test has no stack effect, so
    // execution may continue at the resume label.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = resume;
    }
}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is valid; the handler has the SA_SIGINFO signature.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigfpe as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut()), 0);
        }
    });
}

/// Runs instructions natively. Memory operands must be `[rbx]`, `[rbx + vsib]` or, implicitly,
/// `[rdi]`.
pub(crate) struct Oracle {
    arena: Arena,
    context: Box<Context>,
}

impl Oracle {
    pub(crate) fn new() -> Self {
        install_handler();
        Self {
            arena: Arena::new().unwrap(),
            context: Box::new(Context { before: [0; 1024], after: [0; 1024], gpr: [0; 16], rflags: 0, code: 0 }),
        }
    }

    /// Runs `bytes` on `machine` and returns whether a floating-point exception was delivered.
    pub(crate) fn run(&mut self, bytes: &[u8], machine: &mut Machine) -> bool {
        let mut code = bytes.to_vec();
        code.extend([0xFF, 0x25, 0, 0, 0, 0]); // jmp [rip]
        code.extend((visor_fpu_oracle_resume as *const () as u64).to_le_bytes());
        let slot = self.arena.place(&code).unwrap();
        let context = &mut *self.context;
        context.before[..832].copy_from_slice(as_bytes(&machine.state));
        context.before[8..24].fill(0);
        context.before[512..576].fill(0);
        context.before[512] = 7;
        context.after.fill(0);
        context.gpr = machine.gpr;
        let address = machine.memory.bytes[MEMORY / 2..].as_mut_ptr() as u64;
        context.gpr[3] = address;
        context.gpr[7] = address;
        context.rflags = machine.rflags;
        context.code = slot.entry() as u64;
        TRAPPED.with(|t| t.set(false));
        // SAFETY: the code runs one user-mode instruction whose memory operand lies in
        // `machine.memory` and jumps back; everything the convention preserves is restored.
        unsafe { visor_fpu_oracle_enter(context) };
        self.arena.release(slot);
        let gpr = (context.gpr[3], context.gpr[7]) == (address, address);
        assert!(gpr, "the oracle needs RBX and RDI");
        let (rbx, rdi) = (machine.gpr[3], machine.gpr[7]);
        machine.gpr = context.gpr;
        (machine.gpr[3], machine.gpr[7]) = (rbx, rdi);
        machine.rflags = context.rflags;
        load_after(&context.after, &mut machine.state);
        TRAPPED.with(Cell::get)
    }
}

fn as_bytes(state: &FpuState) -> &[u8] {
    // SAFETY: FpuState is 832 bytes of plain integers without padding.
    unsafe { std::slice::from_raw_parts((&raw const *state).cast(), 832) }
}

fn load_after(area: &[u8; 1024], state: &mut FpuState) {
    let u128_at = |at: usize| u128::from_le_bytes(area[at..at + 16].try_into().unwrap());
    let u16_at = |at: usize| u16::from_le_bytes(area[at..at + 2].try_into().unwrap());
    state.x87.fcw = u16_at(0);
    state.x87.fsw = u16_at(2);
    state.x87.ftw = area[4];
    state.x87.mxcsr = u32::from_le_bytes(area[24..28].try_into().unwrap());
    for i in 0..8 {
        state.x87.st[i] = u128_at(32 + 16 * i) & crate::state::ST_MASK;
    }
    for i in 0..16 {
        state.set_xmm(i, u128_at(160 + 16 * i));
        state.set_ymm_hi(i, u128_at(576 + 16 * i));
    }
}
