//! The assembly that enters a case and the signal handler that leaves it.
//!
//! `enter` loads every register of a [`Regs`] and jumps into the case with IRETQ, which also selects compatibility mode and
//! sets RFLAGS. The case always ends with a signal. The handler entry saves what the kernel does not put on the signal
//! frame (segment selectors and bases), restores the driver's thread pointer and stack, and returns the address of the
//! `ucontext` as if `enter` had returned: no `rt_sigreturn`, so one signal per case is all a run costs.

use crate::case::{Regs, offset};

/// Driver state that the assembly saves and restores, and the segment state at the end of a case.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Control {
    rsp: u64,
    fs_base: u64,
    gs_base: u64,
    /// 1 while a case runs: a signal at any other time is a bug of the driver and ends the process.
    in_case: u64,
    /// FS base at the end of the case.
    pub(super) end_fs_base: u64,
    /// GS base at the end of the case.
    pub(super) end_gs_base: u64,
    /// DS, ES, FS, GS at the end of the case.
    pub(super) end_sel: [u64; 4],
    /// `siginfo` address and signal number of the last signal.
    pub(super) signal: u64,
}

#[unsafe(no_mangle)]
static mut VISOR_ORACLE_CONTROL: Control =
    Control { rsp: 0, fs_base: 0, gs_base: 0, in_case: 0, end_fs_base: 0, end_gs_base: 0, end_sel: [0; 4], signal: 0 };

/// The control block.
pub(super) fn control() -> *mut Control {
    &raw mut VISOR_ORACLE_CONTROL
}

unsafe extern "C" {
    /// Runs the case whose registers `regs` holds and returns the `ucontext` of the signal that ended it, which is valid until
    /// the next signal.
    ///
    /// # Safety
    /// The code, data and stack pages must be mapped, the handlers installed on an alternate stack, and the code must not
    /// be able to reach the process's own memory.
    pub(super) fn visor_oracle_enter(regs: *const Regs) -> *const libc::ucontext_t;

    /// The handler for `sigaction`.
    pub(super) fn visor_oracle_signal();
}

std::arch::global_asm!(
    ".globl visor_oracle_enter",
    ".globl visor_oracle_signal",
    "visor_oracle_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + {ctl}], rsp",
    "rdfsbase rax",
    "mov [rip + {ctl} + 8], rax",
    "rdgsbase rax",
    "mov [rip + {ctl} + 16], rax",
    // IRETQ with NT set faults.
    "push 2",
    "popfq",
    "mov eax, 7",
    "xor edx, edx",
    "xrstor64 [rdi]",
    // IRETQ frame: SS, RSP, RFLAGS, CS, RIP.
    "push qword ptr [rdi + {sel} + 16]",
    "push qword ptr [rdi + {gpr} + 32]",
    "push qword ptr [rdi + {rflags}]",
    "push qword ptr [rdi + {sel} + 8]",
    "push qword ptr [rdi + {rip}]",
    // A null selector first, then the base: on some processors loading null clears the base.
    "mov ax, [rdi + {sel} + 32]",
    "mov fs, ax",
    "test ax, ax",
    "jnz 2f",
    "mov rax, [rdi + {fs_base}]",
    "wrfsbase rax",
    "2:",
    "mov ax, [rdi + {sel} + 40]",
    "mov gs, ax",
    "test ax, ax",
    "jnz 3f",
    "mov rax, [rdi + {gs_base}]",
    "wrgsbase rax",
    "3:",
    "mov ax, [rdi + {sel} + 0]",
    "mov es, ax",
    "mov ax, [rdi + {sel} + 24]",
    "mov ds, ax",
    "mov rax, [rdi + {gpr}]",
    "mov rcx, [rdi + {gpr} + 8]",
    "mov rdx, [rdi + {gpr} + 16]",
    "mov rbx, [rdi + {gpr} + 24]",
    "mov rbp, [rdi + {gpr} + 40]",
    "mov rsi, [rdi + {gpr} + 48]",
    "mov r8, [rdi + {gpr} + 64]",
    "mov r9, [rdi + {gpr} + 72]",
    "mov r10, [rdi + {gpr} + 80]",
    "mov r11, [rdi + {gpr} + 88]",
    "mov r12, [rdi + {gpr} + 96]",
    "mov r13, [rdi + {gpr} + 104]",
    "mov r14, [rdi + {gpr} + 112]",
    "mov r15, [rdi + {gpr} + 120]",
    "mov rdi, [rdi + {gpr} + 56]",
    "mov qword ptr [rip + {ctl} + 24], 1",
    "iretq",
    // void handler(int rdi, siginfo_t *rsi, ucontext_t *rdx)
    "visor_oracle_signal:",
    "cmp qword ptr [rip + {ctl} + 24], 1",
    "jne 4f",
    "mov qword ptr [rip + {ctl} + 24], 0",
    // The kernel leaves AC and NT as the case had them.
    "push 2",
    "popfq",
    "rdfsbase rax",
    "mov [rip + {ctl} + 32], rax",
    "rdgsbase rax",
    "mov [rip + {ctl} + 40], rax",
    "xor eax, eax",
    "mov ax, ds",
    "mov [rip + {ctl} + 48], rax",
    "mov ax, es",
    "mov [rip + {ctl} + 56], rax",
    "mov ax, fs",
    "mov [rip + {ctl} + 64], rax",
    "mov ax, gs",
    "mov [rip + {ctl} + 72], rax",
    "mov [rip + {ctl} + 80], rdi",
    "xor eax, eax",
    "mov fs, ax",
    "mov gs, ax",
    "mov rax, [rip + {ctl} + 8]",
    "wrfsbase rax",
    "mov rax, [rip + {ctl} + 16]",
    "wrgsbase rax",
    "mov rsp, [rip + {ctl}]",
    "mov rax, rdx",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    // A signal outside a case: exit_group(99).
    "4:",
    "mov edi, 99",
    "mov eax, 231",
    "syscall",
    "ud2",
    ctl = sym VISOR_ORACLE_CONTROL,
    gpr = const offset::GPR,
    rip = const offset::RIP,
    rflags = const offset::RFLAGS,
    fs_base = const offset::FS_BASE,
    gs_base = const offset::GS_BASE,
    sel = const offset::SEL,
);
