//! The child process: runs one case after the other and writes outcomes to shared memory.
//!
//! It was forked from a process that may have had threads, so it allocates nothing, takes no lock and never panics.

use super::shared::Shared;
use super::{pages::Pages, seccomp, trampoline};
use crate::case::{Case, Mode, Outcome, Status, XSAVE_LEN};
use crate::layout;
use std::sync::atomic::Ordering;

const ALT_STACK_LEN: usize = 64 << 10;
const SIGNALS: [i32; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS];
/// Set in [`libc::siginfo_t`] terms by `SIGSYS`: a case tried a system call.
const NOT_AN_EXCEPTION: u64 = libc::SIGSYS as u64;

/// The child's life. Never returns; exit codes below 99 tell which preparation failed.
///
/// # Safety
/// Call it only in a freshly forked process; `shared` must be mapped for good.
pub(super) unsafe fn main(shared: &Shared, parent: i32) -> ! {
    // SAFETY: prctl with plain integers, and getppid.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::getppid() != parent {
            libc::_exit(0);
        }
    }
    stay_on_first_cpu();
    // SAFETY: this process exists for this purpose only.
    let Ok(mut pages) = (unsafe { Pages::map() }) else { exit(11) };
    if !install_ldt() {
        exit(12);
    }
    if !install_handlers() {
        exit(13);
    }
    if seccomp::install().is_err() {
        exit(14);
    }
    let mut done = shared.completed.load(Ordering::Acquire);
    loop {
        while shared.submitted.load(Ordering::Acquire) == done {
            super::futex::wait(&shared.submitted, done, None);
        }
        let (first, count) = (shared.first.load(Ordering::Acquire), shared.count.load(Ordering::Acquire));
        for i in first..count {
            shared.progress.store(i, Ordering::Release);
            // SAFETY: the parent leaves the slots alone until the batch is complete.
            unsafe { run_case(&mut pages, shared.case(i as usize), shared.outcome(i as usize)) };
        }
        shared.progress.store(count, Ordering::Release);
        done = done.wrapping_add(1);
        shared.completed.store(done, Ordering::Release);
        super::futex::wake(&shared.completed);
    }
}

/// Linux's per-CPU segment (selector 7Bh) expands down from the number of the CPU, so that loads of it decide what may be accessed by
/// where this process runs; the guest's has the number 0. Where CPU 0 is not to be had, such cases may differ.
fn stay_on_first_cpu() {
    // SAFETY: a set of CPUs is plain bits, and the call reads this one.
    unsafe {
        let mut first: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut first);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const first);
    }
}

unsafe fn run_case(pages: &mut Pages, case: *const Case, outcome: *mut Outcome) {
    // SAFETY: the caller passes two live, disjoint slots.
    let (case, outcome) = unsafe { (&*case, &mut *outcome) };
    pages.set_code(case.regs.rip, case.code());
    for patch in case.patches() {
        pages.write(patch.offset as usize, &patch.bytes[..(patch.len as usize).min(patch.bytes.len())]);
    }
    // SAFETY: pages and handlers are in place.
    let context = unsafe { &*trampoline::visor_oracle_enter(&case.regs) };
    // SAFETY: no case runs now, so nothing else writes the control block.
    let control = unsafe { &*trampoline::control() };
    capture(context, control, outcome);
    if case.mode == Mode::Compat {
        // The upper halves and R8 to R15 are undefined after leaving 64-bit mode (SDM 1 §3.4.1.1).
        for (i, r) in outcome.regs.gpr.iter_mut().enumerate() {
            *r = if i < 8 { *r & 0xffff_ffff } else { case.regs.gpr[i] };
        }
    }
    collect_memory(pages, outcome);
}

fn capture(context: &libc::ucontext_t, control: &trampoline::Control, outcome: &mut Outcome) {
    const ORDER: [i32; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];
    let machine = &context.uc_mcontext;
    let reg = |r: i32| machine.gregs[r as usize] as u64;
    for (to, from) in outcome.regs.gpr.iter_mut().zip(ORDER) {
        *to = reg(from);
    }
    outcome.regs.rip = reg(libc::REG_RIP);
    outcome.regs.rflags = reg(libc::REG_EFL);
    outcome.regs.fs_base = control.end_fs_base;
    outcome.regs.gs_base = control.end_gs_base;
    let selectors = reg(libc::REG_CSGSFS);
    let [ds, es, fs, gs] = control.end_sel;
    outcome.regs.sel = [es, selectors & 0xffff, selectors >> 48, ds, fs, gs];
    outcome.status = if control.signal == NOT_AN_EXCEPTION { Status::Escaped } else { Status::Exception };
    outcome.vector = reg(libc::REG_TRAPNO) as u32;
    outcome.error = reg(libc::REG_ERR);
    outcome.cr2 = if outcome.vector == 14 { reg(libc::REG_CR2) } else { 0 };
    // SAFETY: the kernel puts at least the standard-format area for x87, SSE and AVX there (the host has AVX).
    unsafe { std::ptr::copy_nonoverlapping(machine.fpregs.cast::<u8>(), outcome.regs.xsave.as_mut_ptr(), XSAVE_LEN) };
    crate::xsave::normalise(&mut outcome.regs);
}

fn collect_memory(pages: &mut Pages, outcome: &mut Outcome) {
    let base = layout::base_image();
    let split = layout::DATA_LEN as usize;
    let mut changed = [0u32; layout::WRITABLE_LEN / 8];
    let mut count = 0;
    let (data, stack) = pages.writable();
    outcome.diff_memory([(&base[..split], data), (&base[split..], stack)], |offset| {
        if let Some(slot) = changed.get_mut(count) {
            *slot = offset as u32;
            count += 1;
        }
    });
    for offset in &changed[..count] {
        pages.reset_qword(*offset as usize);
    }
}

/// `struct user_desc` of modify_ldt(2).
#[repr(C)]
struct UserDesc {
    entry: u32,
    base: u32,
    limit: u32,
    /// seg_32bit, contents (2), read_exec_only, limit_in_pages, seg_not_present, useable.
    flags: u32,
}

fn install_ldt() -> bool {
    let segments = [
        UserDesc { entry: 0, base: layout::LDT_FS_BASE, limit: 0xf_ffff, flags: 1 | 1 << 4 | 1 << 6 },
        UserDesc { entry: 1, base: layout::LDT_GS_BASE, limit: layout::LDT_GS_LIMIT, flags: 1 | 1 << 6 },
    ];
    segments.iter().all(|s| {
        // SAFETY: `s` is a valid user_desc of the size passed.
        unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, std::ptr::from_ref(s), size_of::<UserDesc>()) == 0 }
    })
}

fn install_handlers() -> bool {
    // SAFETY: the stack is mapped for good; the handler is the trampoline's, which follows the signal ABI.
    unsafe {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        let stack = libc::mmap(std::ptr::null_mut(), ALT_STACK_LEN, rw, flags, -1, 0);
        if stack == libc::MAP_FAILED {
            return false;
        }
        let alt = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: ALT_STACK_LEN };
        if libc::sigaltstack(&alt, std::ptr::null_mut()) != 0 {
            return false;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trampoline::visor_oracle_signal as *const () as usize;
        // NODEFER, because the handler never returns to the kernel.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        SIGNALS.iter().all(|s| libc::sigaction(*s, &action, std::ptr::null_mut()) == 0)
            && libc::sigprocmask(libc::SIG_UNBLOCK, &action.sa_mask, std::ptr::null_mut()) == 0
    }
}

fn exit(code: i32) -> ! {
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}
