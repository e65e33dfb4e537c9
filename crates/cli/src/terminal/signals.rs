//! Signals as events of a poll loop: the handler leaves a note and wakes the loop through a descriptor.
//!
//! A handler rather than a signalfd, because that needs the signals blocked in every thread, those of libraries included.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signals that ask a program to end, and the one that tells of a new size of the terminal.
const CAUGHT: [Signal; 5] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

/// Bit n: signal n has come.
static PENDING: AtomicU64 = AtomicU64::new(0);
/// Where the handler writes, or -1.
static WAKE: AtomicI32 = AtomicI32::new(-1);
/// Keeps the descriptor behind [`WAKE`] open for as long as a signal may come: for ever.
static KEPT: OnceLock<OwnedFd> = OnceLock::new();

/// Catches the signals from now on. Each makes `wake`, an eventfd, readable.
///
/// # Errors
/// Where the system refuses a handler.
pub(crate) fn catch_signals(wake: OwnedFd) -> anyhow::Result<()> {
    WAKE.store(KEPT.get_or_init(|| wake).as_raw_fd(), Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in CAUGHT {
        // SAFETY: the handler stores to atomics and calls write(2), which are async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Has a write beyond the limit on the size of files (`ulimit -f`) fail like one on a full file system, instead of ending the
/// process.
///
/// # Errors
/// Where the system refuses.
pub(crate) fn survive_file_limit() -> anyhow::Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGXFSZ, &ignore) }?;
    Ok(())
}

/// The signals that have come since the last call.
pub(crate) fn take_signals() -> Vec<Signal> {
    let pending = PENDING.swap(0, Ordering::SeqCst);
    CAUGHT.into_iter().filter(|s| pending & (1 << *s as i32) != 0).collect()
}

extern "C" fn on_signal(signal: libc::c_int) {
    PENDING.fetch_or(1 << signal, Ordering::SeqCst);
    let one = 1u64.to_ne_bytes();
    // SAFETY: __errno_location gives this thread's errno, valid while the thread lives; write reads 8 bytes of `one`. What
    // the interrupted code sees in errno is put back.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(WAKE.load(Ordering::SeqCst), one.as_ptr().cast(), one.len());
        *errno = saved;
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn a_signal_is_noted_once_and_wakes() {
        let event = EventFd::new().unwrap();
        catch_signals(event.as_fd().try_clone_to_owned().unwrap()).unwrap();
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        assert_eq!(event.read().unwrap(), 2);
        assert_eq!(take_signals(), [Signal::SIGWINCH]);
        assert_eq!(take_signals(), []);
    }
}
