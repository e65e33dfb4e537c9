//! The APIC timer: one-shot, periodic and TSC-deadline (SDM 3A §11.5.4).
//!
//! The count is never stored: it follows from the moment at which it will reach zero. Lost periods are not made up for
//! (IRR holds a vector once); the phase is kept. A period that no engine could keep up with is stretched to
//! [`MIN_PERIOD`] between interrupts, while the count reads as programmed.

use super::Now;
use super::regs::*;

/// Least nanoseconds between two interrupts of the periodic timer.
const MIN_PERIOD: u64 = 20_000;

/// Nanoseconds between two ticks of the crystal.
const TICK: u64 = 1_000_000_000 / super::TIMER_HZ;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timer {
    /// The initial count register.
    pub(super) initial: u32,
    /// The divide configuration register.
    pub(super) divide: u32,
    /// Guest time at which the count reaches zero; `None` when it rests at zero.
    pub(super) zero_at: Option<u64>,
    /// No periodic interrupt before this time.
    pub(super) not_before: u64,
    /// IA32_TSC_DEADLINE; 0 when disarmed.
    pub(super) tsc_deadline: u64,
}

impl Timer {
    /// Nanoseconds per count: a tick of the crystal times 1, 2, 4 ... 128.
    fn divisor(&self) -> u64 {
        // Bits 3, 1, 0: 000 is 2, 110 is 128, 111 is 1.
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        TICK << ((code + 1) & 7)
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) * self.divisor()
    }

    /// Moves to `now`; true if the timer expired since the last call.
    pub(super) fn advance(&mut self, lvt: u32, now: Now) -> bool {
        if lvt & LVT_TIMER_MODE == LVT_TIMER_DEADLINE {
            let fires = self.tsc_deadline != 0 && now.tsc >= self.tsc_deadline;
            if fires {
                self.tsc_deadline = 0;
            }
            return fires;
        }
        let Some(zero_at) = self.zero_at.filter(|at| *at <= now.nanos) else { return false };
        if lvt & LVT_TIMER_MODE != LVT_TIMER_PERIODIC || self.initial == 0 {
            self.zero_at = None;
            return true;
        }
        if now.nanos < self.not_before && lvt & LVT_MASKED == 0 {
            return false;
        }
        let periods = (now.nanos - zero_at) / self.period() + 1;
        self.zero_at = Some(zero_at.saturating_add(periods * self.period()));
        self.not_before = now.nanos.saturating_add(MIN_PERIOD);
        true
    }

    /// Guest time at which [`Timer::advance`] will say true.
    pub(super) fn deadline(&self, lvt: u32, now: Now, tsc_hz: u64) -> Option<u64> {
        if lvt & LVT_TIMER_MODE == LVT_TIMER_DEADLINE {
            if self.tsc_deadline == 0 {
                return None;
            }
            let ticks = u128::from(self.tsc_deadline.saturating_sub(now.tsc));
            let nanos = (ticks * 1_000_000_000).div_ceil(u128::from(tsc_hz.max(1)));
            return Some(now.nanos.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)));
        }
        let zero_at = self.zero_at?;
        Some(if lvt & LVT_TIMER_MODE == LVT_TIMER_PERIODIC { zero_at.max(self.not_before) } else { zero_at })
    }

    /// Writes the initial count: the timer starts anew; 0 stops it.
    pub(super) fn start(&mut self, initial: u32, now: u64) {
        self.initial = initial;
        self.not_before = 0;
        self.zero_at = (initial != 0).then(|| now.saturating_add(self.period()));
    }

    /// The current count register.
    pub(super) fn count(&self, lvt: u32, now: u64) -> u32 {
        if lvt & LVT_TIMER_MODE == LVT_TIMER_DEADLINE {
            return 0;
        }
        let Some(zero_at) = self.zero_at else { return 0 };
        match zero_at.checked_sub(now) {
            Some(left) => u32::try_from(left.div_ceil(self.divisor())).unwrap_or(u32::MAX),
            // An expiry held back by MIN_PERIOD: the count goes on.
            None if self.initial != 0 => {
                let over = (now - zero_at) % self.period();
                ((self.period() - over).div_ceil(self.divisor())) as u32
            }
            None => 0,
        }
    }

    /// Writes the divide configuration; a running count goes on at the new rate.
    pub(super) fn set_divide(&mut self, divide: u32, lvt: u32, now: u64) {
        let count = self.count(lvt, now);
        let running = self.zero_at.is_some();
        self.divide = divide & 0xb;
        if running {
            self.zero_at = Some(now.saturating_add(u64::from(count) * self.divisor()));
        }
    }

    /// Stops the timer, as a change to or from TSC-deadline mode does.
    pub(super) fn disarm(&mut self) {
        self.zero_at = None;
        self.tsc_deadline = 0;
    }
}
