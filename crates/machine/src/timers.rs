//! The alarms of the machine's devices. The I/O thread waits for the next one and tells its device.
//!
//! A machine has about ten alarms, so they are kept in a plain list.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use visor_device::{Device, Nanos, TimerSlot};

use crate::wake::Waker;

/// All alarms.
#[derive(Debug)]
pub(crate) struct Timers {
    waker: Waker,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    alarms: Vec<(Option<Nanos>, Weak<Slot>)>,
    /// Until when the I/O thread sleeps; a sooner alarm must wake it.
    sleeps_until: Option<Nanos>,
}

/// One alarm.
pub(crate) struct Slot {
    index: usize,
    timers: Arc<Timers>,
    device: OnceLock<Arc<Mutex<dyn Device>>>,
}

impl Timers {
    pub(crate) fn new(waker: Waker) -> Arc<Self> {
        Arc::new(Timers { waker, state: Mutex::default() })
    }

    /// A new alarm, for the constructor of a device; [`Slot::bind`] names the device once it exists.
    pub(crate) fn slot(self: &Arc<Self>) -> Arc<Slot> {
        let mut s = self.lock();
        let slot = Arc::new(Slot { index: s.alarms.len(), timers: self.clone(), device: OnceLock::new() });
        s.alarms.push((None, Arc::downgrade(&slot)));
        slot
    }

    /// Tells the devices whose alarm is due, and returns the time of the next alarm, until which the caller may sleep.
    pub(crate) fn run(&self, now: Nanos) -> Option<Nanos> {
        for slot in self.take_due(now) {
            slot.fire(now);
        }
        // What was armed meanwhile for a time already past is found by the next call: the caller's sleep is 0 then.
        let mut s = self.lock();
        s.sleeps_until = s.alarms.iter().filter_map(|(at, _)| *at).min();
        s.sleeps_until
    }

    fn take_due(&self, now: Nanos) -> Vec<Arc<Slot>> {
        let mut s = self.lock();
        let mut due = Vec::new();
        for (at, slot) in &mut s.alarms {
            if at.is_some_and(|at| at <= now) {
                *at = None;
                due.extend(slot.upgrade());
            }
        }
        due
    }

    /// Never held while a device is locked by the same thread's call: devices arm alarms under their own lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Says whose alarm this is.
    pub(crate) fn bind(&self, device: Arc<Mutex<dyn Device>>) {
        let _ = self.device.set(device);
    }

    fn fire(&self, now: Nanos) {
        let Some(device) = self.device.get() else { return };
        let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(timer) = device.as_timer() {
            timer.expired(now);
        }
    }
}

impl TimerSlot for Slot {
    fn arm(&self, at: Option<Nanos>) {
        let sooner = {
            let mut s = self.timers.lock();
            let sooner = at.is_some_and(|at| s.sleeps_until.is_none_or(|until| at < until));
            if let Some(alarm) = s.alarms.get_mut(self.index) {
                alarm.0 = at;
            }
            if sooner {
                s.sleeps_until = at;
            }
            sooner
        };
        if sooner {
            self.timers.waker.wake();
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use visor_device::TimerDevice;

    use super::*;

    struct Counter {
        slot: Arc<Slot>,
        fired: Vec<Nanos>,
    }

    impl Device for Counter {
        fn name(&self) -> &str {
            "counter"
        }
        fn reset(&mut self) {}
        fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
            Some(self)
        }
    }

    impl TimerDevice for Counter {
        fn expired(&mut self, now: Nanos) {
            self.fired.push(now);
            // Periodic, as the PIT's counter is.
            self.slot.arm(Some(now + 10));
        }
    }

    #[test]
    fn alarms_fire_once_each_and_in_time() {
        let timers = Timers::new(Waker::new().unwrap());
        let make = || {
            let slot = timers.slot();
            let d = Arc::new(Mutex::new(Counter { slot: slot.clone(), fired: Vec::new() }));
            slot.bind(d.clone());
            (slot, d)
        };
        let ((a, da), (b, db)) = (make(), make());
        assert_eq!(timers.run(0), None);
        a.arm(Some(5));
        b.arm(Some(3));
        assert_eq!(timers.run(2), Some(3));
        assert_eq!(timers.run(4), Some(5));
        assert_eq!(timers.run(6), Some(14));
        a.arm(None);
        assert_eq!(timers.run(100), Some(110));
        assert_eq!((da.lock().unwrap().fired.len(), db.lock().unwrap().fired.len()), (1, 2));
    }
}
