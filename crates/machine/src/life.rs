//! The machine's life: running, paused, being reset, stopped; and how its threads agree on it.
//!
//! ```text
//!   Created ──start──▶ Running ◀──resume── Paused
//!                      │  ▲  └────pause────▶ │
//!             reset ───┘  └─ I/O thread ─┐   │
//!                  all vCPUs reset ──────┘   │
//!   any of them ──stop──▶ Stopped(reason) ◀──┘
//! ```
//!
//! Requests come from any thread, devices included: they only leave a note and kick the vCPUs. Each vCPU thread passes
//! [`Control::gate`] between two runs and learns there what to do. A reset needs all of them: each resets its own CPU, then the
//! I/O thread resets the devices, loads the kernel anew and hands the boot CPU its state.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use visor_chipset::{PowerEvent, PowerSink};
use visor_engine::Kicker;
use visor_x86::CpuState;

use crate::listener::Listener;
use crate::wake::Waker;

/// Why a machine has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself, and the machine was told not to reboot.
    Reset,
    /// A CPU shut down after a triple fault, and the machine was told not to reboot.
    TripleFault,
    /// The guest wrote to the debug exit port; the status is odd.
    DebugExit(u8),
    /// The time limit is over.
    TimedOut,
    /// The host asked for it.
    Killed,
    /// No CPU can ever run again: all wait with interrupts disabled.
    GuestHung,
    /// The host failed: an engine's error, or the kernel file has gone when it was needed for a reboot.
    Failed(String),
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::PowerOff => f.write_str("the guest powered off"),
            StopReason::Reset => f.write_str("the guest reset itself"),
            StopReason::TripleFault => f.write_str("the guest's CPU shut down after a triple fault"),
            StopReason::DebugExit(status) => write!(f, "the guest exited with debug status {status}"),
            StopReason::TimedOut => f.write_str("the time limit was reached"),
            StopReason::Killed => f.write_str("the machine was stopped"),
            StopReason::GuestHung => f.write_str("the guest halted all CPUs with interrupts disabled"),
            StopReason::Failed(why) => write!(f, "the machine failed: {why}"),
        }
    }
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineState {
    /// Not started yet.
    Created,
    /// Its CPUs run, or are being reset.
    Running,
    /// Its CPUs stand still.
    Paused,
    /// Over.
    Stopped(StopReason),
}

/// What a vCPU thread does next.
pub(crate) enum Gate {
    /// Run guest code.
    Run,
    /// Reset the CPU, then [`Control::was_reset`].
    Reset,
    /// Take over this state.
    Start(Box<CpuState>),
    /// Find out whether the CPU can wake up, then [`Control::report`].
    Census,
    /// End the thread.
    Exit,
}

/// What threads agree on.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    kickers: OnceLock<Vec<Kicker>>,
    waker: Waker,
    listener: Listener,
    no_reboot: bool,
}

#[derive(Default)]
struct State {
    started: bool,
    pause: bool,
    /// Room is lacking on the host.
    stalled: bool,
    stop: Option<StopReason>,
    /// A reset is under way.
    reset: bool,
    /// It is the way into S3, which lasts until [`Control::reset_done`].
    sleep: bool,
    /// The state with which the boot CPU begins.
    boot: Option<Box<CpuState>>,
    cpus: Vec<CpuStatus>,
    reboots: u32,
}

impl State {
    /// The CPUs are to stand.
    fn stands(&self) -> bool {
        self.pause || self.stalled
    }
}

#[derive(Clone, Copy, Default)]
struct CpuStatus {
    parked: bool,
    was_reset: bool,
    /// Must report whether it can wake up.
    asked: bool,
    /// Has reported that it cannot.
    idle: bool,
}

impl Control {
    pub(crate) fn new(cpus: u32, no_reboot: bool, waker: Waker, listener: Listener) -> Arc<Self> {
        let state = State { cpus: vec![CpuStatus::default(); cpus as usize], ..State::default() };
        Arc::new(Control {
            state: Mutex::new(state),
            changed: Condvar::new(),
            kickers: OnceLock::new(),
            waker,
            listener,
            no_reboot,
        })
    }

    /// Lets the vCPUs pass the gate, the boot CPU with `boot`.
    pub(crate) fn start(&self, kickers: Vec<Kicker>, boot: CpuState) {
        let _ = self.kickers.set(kickers);
        self.change(|s| {
            s.started = true;
            s.boot = Some(Box::new(boot));
        });
    }

    pub(crate) fn stop(&self, reason: StopReason) {
        self.change(|s| {
            s.stop.get_or_insert(reason);
        });
    }

    /// Asks for a reset, after which the guest boots anew, or for the end if that is what a reset means.
    pub(crate) fn reset(&self, reason: StopReason) {
        self.change(|s| {
            if self.no_reboot {
                s.stop.get_or_insert(reason);
            } else {
                // A reset of a machine that sleeps is a reset.
                (s.reset, s.sleep) = (true, false);
            }
        });
    }

    /// Suspends to RAM: resets all CPUs and keeps them from running until the I/O thread wakes the machine.
    pub(crate) fn sleep(&self) {
        self.change(|s| {
            if !s.reset {
                (s.reset, s.sleep) = (true, true);
            }
        });
    }

    /// True if the machine is in S3 or on its way there.
    pub(crate) fn sleeps(&self) -> bool {
        self.lock().sleep
    }

    /// Has the I/O thread look at everything again.
    pub(crate) fn look(&self) {
        self.waker.wake();
    }

    /// Stops all vCPUs between two instructions; true when they stand, false if the machine has stopped instead.
    pub(crate) fn pause(&self) -> bool {
        self.change(|s| s.pause = true);
        let mut s = self.lock();
        while s.stop.is_none() && s.pause && !s.cpus.iter().all(|c| c.parked) {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.stop.is_none() && s.pause
    }

    pub(crate) fn resume(&self) {
        self.change(|s| s.pause = false);
    }

    /// Stops all vCPUs until [`Control::unstall`], whether anybody resumes them or not. False if the machine has stopped instead.
    pub(crate) fn stall(&self) -> bool {
        self.change(|s| s.stalled = true);
        let mut s = self.lock();
        while s.stop.is_none() && !s.cpus.iter().all(|c| c.parked) {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.stop.is_none()
    }

    /// Ends what [`Control::stall`] began.
    pub(crate) fn unstall(&self) {
        self.change(|s| s.stalled = false);
    }

    /// Whether somebody has paused the machine.
    pub(crate) fn paused(&self) -> bool {
        self.lock().pause
    }

    /// Whether the machine stands because room is lacking.
    pub(crate) fn stalled(&self) -> bool {
        self.lock().stalled
    }

    pub(crate) fn machine_state(&self) -> MachineState {
        let s = self.lock();
        match &s.stop {
            Some(reason) => MachineState::Stopped(reason.clone()),
            None if !s.started => MachineState::Created,
            None if s.stands() && s.cpus.iter().all(|c| c.parked) => MachineState::Paused,
            None => MachineState::Running,
        }
    }

    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.lock().stop.clone()
    }

    /// Resets of the machine since its start.
    pub(crate) fn reboots(&self) -> u32 {
        self.lock().reboots
    }

    /// Waits for the end; `None` when the time is up.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Option<StopReason> {
        let until = timeout.map(|t| Instant::now() + t);
        let mut s = self.lock();
        loop {
            if let Some(reason) = &s.stop {
                return Some(reason.clone());
            }
            s = match until {
                None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.checked_duration_since(Instant::now())?;
                    self.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// What vCPU `id` does next; blocks while there is nothing.
    pub(crate) fn gate(&self, id: usize) -> Gate {
        let mut s = self.lock();
        loop {
            if s.stop.is_some() {
                return Gate::Exit;
            }
            if s.reset && !s.cpus[id].was_reset {
                return Gate::Reset;
            }
            if s.sleep && s.stands() && !s.cpus[id].parked {
                s.cpus[id].parked = true;
                self.changed.notify_all();
            }
            if s.started && !s.reset {
                if id == 0
                    && let Some(boot) = s.boot.take()
                {
                    return Gate::Start(boot);
                }
                if std::mem::take(&mut s.cpus[id].asked) {
                    return Gate::Census;
                }
                if !s.stands() {
                    s.cpus[id].parked = false;
                    return Gate::Run;
                }
                if !s.cpus[id].parked {
                    s.cpus[id].parked = true;
                    self.changed.notify_all();
                }
            }
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// vCPU `id` has been reset.
    pub(crate) fn was_reset(&self, id: usize) {
        let mut s = self.lock();
        s.cpus[id].was_reset = true;
        if s.cpus.iter().all(|c| c.was_reset) {
            self.waker.wake();
        }
    }

    /// True if all vCPUs have been reset, and the rest of the machine must be.
    pub(crate) fn reset_due(&self) -> bool {
        let s = self.lock();
        s.reset && s.stop.is_none() && s.cpus.iter().all(|c| c.was_reset)
    }

    /// The machine has been reset.
    pub(crate) fn reset_done(&self, boot: CpuState) {
        self.change(|s| {
            s.reset = false;
            s.reboots += u32::from(!std::mem::take(&mut s.sleep));
            s.boot = Some(Box::new(boot));
            s.cpus.iter_mut().for_each(|c| *c = CpuStatus::default());
        });
    }

    /// A vCPU may have halted for good: ask all whether any can still run.
    pub(crate) fn census(&self) {
        self.change(|s| s.cpus.iter_mut().for_each(|c| (c.asked, c.idle) = (true, false)));
    }

    /// vCPU `id` answers the question of [`Control::census`].
    pub(crate) fn report(&self, id: usize, idle: bool) {
        let hung = {
            let mut s = self.lock();
            s.cpus[id].idle = idle;
            s.cpus.iter().all(|c| c.idle && !c.asked)
        };
        if hung {
            self.stop(StopReason::GuestHung);
        }
    }

    /// Changes the state and sees to it that everybody notices.
    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
        self.waker.wake();
        self.listener.tell();
        for k in self.kickers.get().into_iter().flatten() {
            k.kick();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PowerSink for Control {
    fn request(&self, event: PowerEvent) {
        match event {
            PowerEvent::PowerOff => self.stop(StopReason::PowerOff),
            PowerEvent::Sleep => self.sleep(),
            PowerEvent::Reset => self.reset(StopReason::Reset),
            PowerEvent::Exit(status) => self.stop(StopReason::DebugExit(status)),
        }
    }
}
