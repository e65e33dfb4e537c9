//! One thread that waits so that nobody else must.
//!
//! It watches a descriptor and a timer, and calls whoever wants to know; then it rests until [`Waker::rearm`], so that a busy
//! port is not woken for what it sees by itself.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use visor_net::Notify;

use crate::sys::{check, epoll, epoll_control, epoll_wait};

const SOURCE: u64 = 0;
const TIMER: u64 = 1;
const STOP: u64 = 2;

struct Shared {
    epoll: OwnedFd,
    timer: OwnedFd,
    stop: OwnedFd,
    notify: Mutex<Option<Notify>>,
    /// The owner was told and has not looked since.
    told: AtomicBool,
    /// The source has fired and is not watched.
    fired: AtomicBool,
}

/// The thread and what it watches.
pub(crate) struct Waker {
    shared: Arc<Shared>,
    source: OwnedFd,
    interest: u32,
    /// When the timer goes off.
    armed: Option<Instant>,
    thread: Option<JoinHandle<()>>,
}

impl Waker {
    /// Watches `source` for `interest` (epoll events).
    pub(crate) fn new(name: &str, source: OwnedFd, interest: u32) -> io::Result<Waker> {
        let epoll = epoll()?;
        // SAFETY: no pointers; the descriptors are new.
        let (timer, stop) = unsafe {
            let timer = check(libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?;
            let timer = OwnedFd::from_raw_fd(timer);
            (timer, OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?))
        };
        let (ep, add) = (epoll.as_raw_fd(), libc::EPOLL_CTL_ADD);
        let once = (libc::EPOLLONESHOT) as u32;
        epoll_control(ep, add, source.as_raw_fd(), interest | once, SOURCE)?;
        epoll_control(ep, add, timer.as_raw_fd(), (libc::EPOLLIN | libc::EPOLLET) as u32, TIMER)?;
        epoll_control(ep, add, stop.as_raw_fd(), libc::EPOLLIN as u32, STOP)?;
        let (told, fired) = (AtomicBool::new(false), AtomicBool::new(false));
        let shared = Arc::new(Shared { epoll, timer, stop, notify: Mutex::new(None), told, fired });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || theirs.run())?;
        Ok(Waker { shared, source, interest, armed: None, thread: Some(thread) })
    }

    /// Says who wants to know.
    pub(crate) fn set_notify(&self, notify: Notify) {
        // Something may have happened before anybody listened.
        self.shared.told.store(false, Ordering::SeqCst);
        *lock(&self.shared.notify) = Some(notify);
        self.tell();
    }

    /// Tells the owner, unless it knows already.
    pub(crate) fn tell(&self) {
        self.shared.tell();
    }

    /// The owner looks now; whatever happens from here on is news.
    pub(crate) fn looking(&self) {
        self.shared.told.store(false, Ordering::SeqCst);
    }

    /// Watches on. Everything that the owner could see was seen. Wakes it at `at` at the latest.
    pub(crate) fn rearm(&mut self, at: Option<Instant>) {
        if self.shared.fired.swap(false, Ordering::SeqCst) {
            self.watch(self.interest);
        }
        if let Some(at) = at {
            self.alarm(at);
        }
    }

    /// Wakes the owner at `at` at the latest.
    pub(crate) fn alarm(&mut self, at: Instant) {
        // An earlier alarm that comes to nothing costs less than setting it anew for every frame.
        let now = Instant::now();
        if self.armed.is_some_and(|t| t <= at && t > now) {
            return;
        }
        let after = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        let value = libc::timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()) };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the pointer is to a live value, and no old one is asked for.
        unsafe { libc::timerfd_settime(self.shared.timer.as_raw_fd(), 0, &raw const timer, std::ptr::null_mut()) };
        self.armed = Some(at);
    }

    /// Watches for other events.
    pub(crate) fn set_interest(&mut self, interest: u32) {
        if interest != self.interest {
            self.interest = interest;
            self.watch(interest);
        }
    }

    fn watch(&self, interest: u32) {
        let events = interest | libc::EPOLLONESHOT as u32;
        // The source lives as long as we do; there is nothing that could fail.
        let _ =
            epoll_control(self.shared.epoll.as_raw_fd(), libc::EPOLL_CTL_MOD, self.source.as_raw_fd(), events, SOURCE);
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: pointer and length describe `one`.
        unsafe { libc::write(self.shared.stop.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        loop {
            let n = match epoll_wait(self.epoll.as_raw_fd(), &mut events, -1) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            for event in &events[..n] {
                match event.u64 {
                    STOP => return,
                    SOURCE => self.fired.store(true, Ordering::SeqCst),
                    _ => {}
                }
            }
            self.tell();
        }
    }

    fn tell(&self) {
        if self.told.swap(true, Ordering::SeqCst) {
            return;
        }
        let notify = lock(&self.notify).clone();
        match notify {
            Some(notify) => notify(),
            None => self.told.store(false, Ordering::SeqCst),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
