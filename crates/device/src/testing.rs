//! Stand-ins for a machine, for the tests of devices.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::{Clock, IrqSink, Nanos, TimerSlot};

/// A clock that a test moves by hand.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves time forward.
    pub fn advance(&self, by: Nanos) -> Nanos {
        self.0.fetch_add(by, Ordering::SeqCst) + by
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
    fn wall(&self) -> Duration {
        Duration::from_nanos(self.now())
    }
}

/// Records the changes of interrupt lines.
#[derive(Debug, Default)]
pub struct IrqLog(pub Mutex<Vec<(u32, bool)>>);

impl IrqSink for IrqLog {
    fn set(&self, gsi: u32, level: bool) {
        if let Ok(mut log) = self.0.lock() {
            log.push((gsi, level));
        }
    }
}

/// Remembers when an alarm was armed for.
#[derive(Debug, Default)]
pub struct ManualTimer(pub Mutex<Option<Nanos>>);

impl TimerSlot for ManualTimer {
    fn arm(&self, at: Option<Nanos>) {
        if let Ok(mut slot) = self.0.lock() {
            *slot = at;
        }
    }
}
