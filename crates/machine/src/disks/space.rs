//! A host without room stops the guest, not its writes: while requests wait for room the machine stands still, and every second
//! they are tried again. Whatever makes room - files removed, a file system grown, a pool with a new member - is noticed that way.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::Disks;
use crate::clock::GuestClock;
use crate::life::Control;
use crate::net::Drive;

/// How often to try again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where disks say that room is lacking, and where the thread that sees to it waits.
#[derive(Default)]
pub(crate) struct Space {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lacking: bool,
    /// Somebody says that there is room.
    nudged: bool,
    over: bool,
}

impl Space {
    /// A request waits for room.
    pub(crate) fn lacking(&self) {
        self.change(|s| s.lacking = true);
    }

    /// Tries again now.
    pub(crate) fn nudge(&self) {
        self.change(|s| s.nudged = true);
    }

    /// The machine ends.
    pub(crate) fn end(&self) {
        self.change(|s| s.over = true);
    }

    /// Waits until a request waits for room; false at the machine's end.
    pub(crate) fn wait(&self) -> bool {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !s.lacking && !s.over {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        (s.lacking, s.nudged) = (false, false);
        !s.over
    }

    /// Waits until it is time to try again; false at the machine's end.
    pub(crate) fn pass(&self) -> bool {
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(s, AGAIN, |s| !s.nudged && !s.over);
        let mut s = waited.unwrap_or_else(PoisonError::into_inner).0;
        (s.lacking, s.nudged) = (false, false);
        !s.over
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// The thread: stops the machine while room is lacking, until it ends.
pub(crate) fn main(disks: &Disks, control: &Control, clock: &GuestClock, net: Option<&Arc<Drive>>) {
    let space = disks.space();
    while space.wait() {
        if disks.waiting().is_empty() {
            continue;
        }
        if !control.stall() {
            return;
        }
        clock.pause();
        if let Some(net) = net {
            net.settle();
        }
        for why in disks.waiting() {
            tracing::warn!(why, "the machine stands until there is room");
        }
        while space.pass() && !disks.retry() {}
        // Before the CPUs, which must not see time stand.
        if !control.paused() {
            clock.resume();
        }
        control.unstall();
        if let Some(net) = net {
            net.wake();
        }
    }
}
