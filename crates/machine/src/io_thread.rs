//! The machine's I/O thread: alarms of devices, input from the host, resets and the time limit.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use visor_device::Clock;

use crate::board::Built;
use crate::chars::SerialLine;
use crate::clock::GuestClock;
use crate::life::{Control, MachineState, StopReason};
use crate::loader::Loader;
use crate::timers::Timers;
use crate::wake::Waker;

/// How often to look whether the guest can still run: an engine whose host keeps halted CPUs to itself does not tell.
const CENSUS: Duration = Duration::from_secs(2);

/// What the I/O thread works with.
pub(crate) struct IoThread {
    pub(crate) control: Arc<Control>,
    pub(crate) clock: Arc<GuestClock>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) waker: Waker,
    pub(crate) built: Arc<Built>,
    pub(crate) serial: SerialLine,
    pub(crate) loader: Loader,
    pub(crate) deadline: Option<Instant>,
}

/// Runs until the machine stops.
pub(crate) fn main(t: IoThread) {
    let mut census = Instant::now() + CENSUS;
    while t.control.stop_reason().is_none() {
        t.waker.drain();
        t.feed();
        let guest = t.run_timers();
        // After the timers, one of which may have ended a sleep.
        if t.control.reset_due() {
            reset(&t);
        }
        let limit = t.deadline.map(|d| d.saturating_duration_since(Instant::now()));
        if limit == Some(Duration::ZERO) {
            t.control.stop(StopReason::TimedOut);
            break;
        }
        if census <= Instant::now() {
            t.control.census();
            census = Instant::now() + CENSUS;
        }
        let next_census = Some(census.saturating_duration_since(Instant::now()));
        let timeout = [guest, limit, next_census].into_iter().flatten().min();
        t.sleep(timeout);
    }
    t.serial.close();
    t.built.disks.end();
    if let Some(net) = &t.built.net {
        net.wake();
    }
}

impl IoThread {
    /// Gives the UART what the host has written.
    fn feed(&self) {
        if let Some(uart) = &self.built.uart {
            self.serial.feed(|bytes| uart.lock().unwrap_or_else(PoisonError::into_inner).receive(bytes));
        }
    }

    /// Lets alarms go off and tells how long until the next one.
    fn run_timers(&self) -> Option<Duration> {
        if self.control.machine_state() == MachineState::Paused {
            return None;
        }
        let next = self.timers.run(self.clock.now())?;
        Some(Duration::from_nanos(next.saturating_sub(self.clock.now())))
    }

    fn sleep(&self, timeout: Option<Duration>) {
        let mut fds = [PollFd::new(self.waker.fd(), PollFlags::POLLIN)];
        // Interrupted or not: the loop looks at everything again.
        let _ = ppoll(&mut fds, timeout.map(TimeSpec::from), None);
    }
}

/// All CPUs have been reset: now the rest.
fn reset(t: &IoThread) {
    let state = if !t.control.sleeps() {
        t.built.reset().and_then(|()| t.loader.load()).map(|boot| boot.cpu)
    } else if t.built.wakes() && t.control.machine_state() != MachineState::Paused {
        t.built.wake().and_then(|()| t.loader.resume())
    } else {
        return;
    };
    match state {
        Ok(cpu) => t.control.reset_done(cpu),
        Err(e) => t.control.stop(StopReason::Failed(format!("cannot reboot: {e}"))),
    }
}
