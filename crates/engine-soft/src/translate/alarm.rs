//! How a deadline gets a CPU out of translated code: a timer of the host that signals the CPU's thread, whose handler sets the
//! attention word (timer_create(2), SIGEV_THREAD_ID).
//!
//! Any process of the same user may send that signal, with any value, and even in the name of a timer (rt_sigqueueinfo(2) forbids only
//! codes of the kernel's own). So the signal carries nothing that is believed: the handler takes the word from the thread it
//! interrupts, which names it while it runs guest code. The worst that a forged signal does is a look at the clock.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

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
    /// Prepares the alarm of the calling thread, which sets a bit of `word` until what is returned is dropped; `word` must live
    /// that long.
    pub(crate) fn attach(&mut self, word: *const AtomicU32) -> Listening {
        WORD.with(|w| w.store(word.cast_mut(), Ordering::SeqCst));
        // What rang while nobody listened is set anew.
        self.armed = 0;
        // SAFETY: a plain system call.
        let thread = unsafe { libc::gettid() };
        if self.timer.is_none() || self.thread != thread {
            self.detach();
            install();
            self.thread = thread;
            self.timer = create(thread);
        }
        Listening(std::marker::PhantomData)
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

    /// It is to be set for guest TSC `at`, since it is not set or rings later. One that rings earlier may stay: guests move their
    /// deadlines on more often than they let them pass, and to set it is a system call.
    #[inline]
    pub(crate) fn rings_after(&self, at: u64) -> bool {
        self.armed == 0 || at < self.armed
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

/// While it lives, the alarm of this thread has a word to set.
#[derive(Debug)]
#[must_use]
pub(crate) struct Listening(std::marker::PhantomData<*const ()>);

impl Drop for Listening {
    fn drop(&mut self) {
        WORD.with(|w| w.store(std::ptr::null_mut(), Ordering::SeqCst));
    }
}

thread_local! {
    /// The attention word of the CPU that this thread runs, or null.
    static WORD: AtomicPtr<AtomicU32> = const { AtomicPtr::new(std::ptr::null_mut()) };
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
    // SAFETY: the kernel passes a valid description of the signal.
    if unsafe { (*info).si_code } != libc::SI_TIMER {
        return;
    }
    // A thread-local without initialisation and destructor, which a handler may use.
    WORD.with(|w| {
        let word = w.load(Ordering::SeqCst);
        if !word.is_null() {
            // SAFETY: `Listening` of this very thread keeps it no longer than it lives.
            unsafe { (*word).fetch_or(attention::TIMER, Ordering::SeqCst) };
        }
    });
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

fn create(thread: libc::pid_t) -> Option<libc::timer_t> {
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
        let mut timer: libc::timer_t = std::mem::zeroed();
        (libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) == 0).then_some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Sends this thread the alarm's signal as another process could: with any code below zero and any value.
    fn forge(code: i32, value: u64) {
        #[repr(C)]
        struct Info {
            signo: i32,
            errno: i32,
            code: i32,
            pad: i32,
            /// Process and user; a timer's number and overruns.
            from: [u32; 2],
            value: u64,
            rest: [u64; 12],
        }
        let info = Info { signo: signal(), errno: 0, code, pad: 0, from: [0, 0], value, rest: [0; 12] };
        // SAFETY: a description of 128 bytes that lives during the call; the signal has a handler.
        let failed = unsafe {
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), libc::gettid(), signal(), &raw const info)
        };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    }

    #[test]
    fn it_rings_once_and_for_whoever_runs() {
        let word = AtomicU32::new(0);
        let mut alarm = Alarm::default();
        let listening = alarm.attach(&raw const word);
        alarm.set(7, || 1_000_000);
        let begin = Instant::now();
        while word.load(Ordering::SeqCst) == 0 && begin.elapsed() < Duration::from_secs(20) {
            std::hint::spin_loop();
        }
        assert_eq!(word.swap(0, Ordering::SeqCst), attention::TIMER);
        assert_eq!([6, 7, 8].map(|at| alarm.rings_after(at)), [true, false, false], "an earlier one may stay");
        alarm.rang();
        assert!(alarm.rings_after(8), "it is not set");
        drop(listening);
        alarm.set(8, || 1_000_000);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(word.load(Ordering::SeqCst), 0, "nobody listens");
        let _listening = alarm.attach(&raw const word);
        assert!(alarm.rings_after(8), "it has to be set again");
    }

    #[test]
    fn forged_signals_touch_nothing_of_theirs() {
        let (word, other) = (AtomicU32::new(0), AtomicU32::new(0));
        let mut alarm = Alarm::default();
        let listening = alarm.attach(&raw const word);
        for value in [&raw const other as u64, 0x10, !0 << 47, 0] {
            for code in [libc::SI_QUEUE, libc::SI_TKILL, libc::SI_MESGQ, libc::SI_ASYNCIO] {
                forge(code, value);
                assert_eq!(word.load(Ordering::SeqCst), 0);
            }
            // Who claims to be a timer makes the CPU look at the clock, and no more.
            forge(libc::SI_TIMER, value);
            assert_eq!(word.swap(0, Ordering::SeqCst), attention::TIMER);
        }
        drop(listening);
        forge(libc::SI_TIMER, &raw const word as u64);
        assert_eq!((word.load(Ordering::SeqCst), other.load(Ordering::SeqCst)), (0, 0));
    }
}
