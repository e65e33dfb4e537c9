//! The child's system-call filter: a case that reaches SYSCALL, SYSENTER or INT 80h must not do anything.

use std::io;

const ALLOWED: [i64; 2] = [libc::SYS_futex, libc::SYS_exit_group];

/// Installs the filter: 64-bit futex and exit_group only; anything else raises SIGSYS.
///
/// # Errors
/// Where the host does not allow seccomp filters.
pub(super) fn install() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ARCH_X86_64: u32 = 0xc000_003e;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        op(LOAD, 0, 0, 4), // seccomp_data.arch
        op(JEQ, 0, 3, ARCH_X86_64),
        op(LOAD, 0, 0, 0), // seccomp_data.nr
        op(JEQ, 2, 0, ALLOWED[0] as u32),
        op(JEQ, 1, 0, ALLOWED[1] as u32),
        op(RET, 0, 0, libc::SECCOMP_RET_TRAP),
        op(RET, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let fprog = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain prctl calls; `fprog` and what it points to live through them.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const fprog) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
