//! Processes and signals.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

use super::check;

/// Sends a signal to one process.
///
/// # Errors
/// The error of `kill`, for example when the process is gone.
pub fn kill(pid: u32, signo: i32) -> io::Result<()> {
    let pid = to_pid(pid)?;
    // SAFETY: plain integers; the kernel checks them.
    check(unsafe { libc::kill(pid, signo) }).map(drop)
}

/// Sends a signal to all processes of a group.
///
/// # Errors
/// The error of `kill`, for example when the group is empty.
pub fn kill_group(group: u32, signo: i32) -> io::Result<()> {
    let group = to_pid(group)?;
    // SAFETY: plain integers; the kernel checks them.
    check(unsafe { libc::kill(-group, signo) }).map(drop)
}

/// Only real process ids: 0, 1 and negative numbers mean "many" to `kill`, and nobody here wants that by accident.
fn to_pid(pid: u32) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(pid).ok().filter(|p| *p > 0).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A descriptor that becomes readable when the process ends.
///
/// # Errors
/// The error of `pidfd_open`.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let pid = to_pid(pid)?;
    // SAFETY: plain integers in; a fresh descriptor out, owned by nobody else.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        let fd = check(i32::try_from(fd).unwrap_or(-1))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// What [`reap`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaped {
    /// This child has ended.
    Child(u32, ExitStatus),
    /// There are children, but none has ended.
    Running,
    /// There is no such child.
    None,
}

/// Collects one ended child without waiting: the child `pid`, or any.
pub fn reap(pid: Option<u32>) -> Reaped {
    use std::os::unix::process::ExitStatusExt;
    let Ok(wanted) = pid.map_or(Ok(-1), to_pid) else {
        return Reaped::None;
    };
    let mut status = 0;
    // SAFETY: `status` is valid for writing.
    let found = unsafe { libc::waitpid(wanted, &raw mut status, libc::WNOHANG) };
    match u32::try_from(found) {
        Ok(0) => Reaped::Running,
        Ok(pid) => Reaped::Child(pid, ExitStatus::from_raw(status)),
        Err(_) => Reaped::None,
    }
}

/// Sends a signal to every process but the caller and PID 1.
///
/// # Errors
/// The error of `kill`, for example when there is no other process.
pub fn kill_everyone(signo: i32) -> io::Result<()> {
    if std::process::id() != 1 {
        // From anywhere else this would end the session of whoever runs it.
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    // SAFETY: plain integers; the kernel checks them.
    check(unsafe { libc::kill(-1, signo) }).map(drop)
}

/// Makes the command's process the leader of a new session, without a terminal, when it starts.
pub fn become_session_leader(command: &mut Command) {
    unblock_signals_for(command);
    // SAFETY: `setsid` is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| check(libc::setsid()).map(drop));
    }
}

/// Makes the command begin with no signal blocked or ignored. Both are inherited, and the signals of [`SignalFd`] are blocked: without
/// this a command would be deaf to the keyboard's interrupt and to a polite end.
pub fn unblock_signals_for(command: &mut Command) {
    // SAFETY: `signal`, `sigemptyset` and `sigprocmask` are async-signal-safe; `none` is initialised before use and lives on the stack.
    unsafe {
        command.pre_exec(|| {
            for signo in 1..=libc::SIGRTMAX() {
                // Refused for SIGKILL, SIGSTOP and those of the C library, which nobody ignores.
                libc::signal(signo, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())).map(drop)
        });
    }
}

/// Turns writing to a closed pipe into an error instead of death.
pub fn ignore_sigpipe() {
    // SAFETY: SIG_IGN installs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Sets the file mode creation mask.
pub fn umask(mask: u32) {
    // SAFETY: plain integer.
    unsafe {
        libc::umask(mask);
    }
}

/// Signals delivered by reading instead of by handlers.
#[derive(Debug)]
pub struct SignalFd(std::fs::File);

impl SignalFd {
    /// Blocks `signals` for this process and opens a descriptor that delivers them. Programs inherit the block unless started
    /// with [`unblock_signals_for`], [`become_session_leader`] or [`super::acquire_tty_for`].
    ///
    /// # Errors
    /// The error of `signalfd`.
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        // SAFETY: `set` is initialised by `sigemptyset` before use; the descriptor is fresh and owned by nobody else.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signo in signals {
                libc::sigaddset(&raw mut set, *signo);
            }
            check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            let fd = check(libc::signalfd(-1, &raw const set, flags))?;
            Ok(Self(std::fs::File::from_raw_fd(fd)))
        }
    }

    /// The next signal that has come.
    pub fn next_signal(&mut self) -> Option<i32> {
        // `signalfd_siginfo` is 128 bytes and begins with the signal number (signalfd(2)).
        let mut info = [0u8; 128];
        self.0.read_exact(&mut info).ok()?;
        let [a, b, c, d, ..] = info;
        Some(i32::from_ne_bytes([a, b, c, d]))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
