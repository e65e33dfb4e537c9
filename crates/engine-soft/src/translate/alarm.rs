//! How a deadline gets a CPU out of translated code: a timer of the host that signals the CPU's thread, whose handler sets the
//! attention word (timer_create(2), SIGEV_THREAD_ID).

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::attention;

/// A timer of one thread.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    timer: Option<libc::timer_t>,
    thread: libc::pid_t,
    /// Guest TSC that it is set to.
    armed: u64,
}

// SAFETY: a timer's number may be used by any thread of the process.
unsafe impl Send for Alarm {}

impl Alarm {
    /// Prepares the alarm of the calling thread; it sets a bit of `word`, which must live as long as this.
    pub(crate) fn attach(&mut self, word: *const AtomicU32) {
        // SAFETY: a plain system call.
        let thread = unsafe { libc::gettid() };
        if self.timer.is_some() && self.thread == thread {
            return;
        }
        self.detach();
        install();
        self.thread = thread;
        self.timer = create(thread, word);
        self.armed = u64::MAX;
    }

    /// Sets the alarm for guest TSC `at`, which is `nanos` from now; `u64::MAX` is never.
    #[inline]
    pub(crate) fn set(&mut self, at: u64, nanos: impl FnOnce() -> u64) {
        self.armed = at;
        self.program(if at == u64::MAX { 0 } else { nanos().max(1) });
    }

    /// It has rung, perhaps a little early.
    pub(crate) fn rang(&mut self) {
        self.armed = 0;
    }

    /// Guest TSC that it is set to.
    #[inline]
    pub(crate) fn at(&self) -> u64 {
        self.armed
    }

    fn program(&self, nanos: u64) {
        let Some(timer) = self.timer else { return };
        let value = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as libc::time_t,
            tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
        };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: never, it_value: value };
        // SAFETY: our own timer and a valid setting.
        unsafe { libc::timer_settime(timer, 0, &setting, std::ptr::null_mut()) };
    }

    fn detach(&mut self) {
        if let Some(timer) = self.timer.take() {
            // SAFETY: our own timer, not used again.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.detach();
    }
}

/// The signal: a real-time one that neither the C library nor anything else here uses.
fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

extern "C" fn ring(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes what `create` gave it; zero for signals from elsewhere.
    let word = unsafe { (*info).si_value().sival_ptr.cast::<AtomicU32>() };
    if !word.is_null() {
        // SAFETY: lives as long as the timer.
        unsafe { (*word).fetch_or(attention::TIMER, Ordering::SeqCst) };
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a handler that is safe at any time, for a signal of our own.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ring as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigaction(signal(), &action, std::ptr::null_mut());
        }
    });
}

fn create(thread: libc::pid_t, word: *const AtomicU32) -> Option<libc::timer_t> {
    // SAFETY: all zeroes is a valid event, and every pointer is to a local.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_notify_thread_id = thread;
        event.sigev_signo = signal();
        event.sigev_value.sival_ptr = word.cast_mut().cast();
        let mut timer: libc::timer_t = std::mem::zeroed();
        (libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) == 0).then_some(timer)
    }
}
