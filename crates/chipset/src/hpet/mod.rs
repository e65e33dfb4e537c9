//! The high precision event timer (IA-PC HPET 1.0a §2.3).
//!
//! ```text
//! 000h GCAP_ID   [ 63:32 period in fs | 31:16 vendor | 15 legacy | 13 64-bit | 12:8 timers - 1 | 7:0 revision ]
//! 010h GEN_CONF  [ 1 legacy replacement | 0 enable ]
//! 020h GINTR_STA one bit per timer, write 1 to clear (level-triggered timers)
//! 0F0h main counter
//! 100h + 20h n   timer n: configuration, comparator (+8), FSB route (+10h, absent)
//!    conf [ 63:32 routes possible | 15 FSB possible | 14 | 13:9 route | 8 32-bit mode | 6 set accumulator | 5 64-bit possible
//!           4 periodic possible | 3 periodic | 2 enable | 1 level ]
//! ```
//!
//! Three timers, all 64 bits wide and able to be periodic; the counter runs at 100 MHz. A comparator fires when the counter
//! passes it. Periods missed because the machine ran late give one interrupt and keep the phase; periodic interrupts
//! come no closer than [`MIN_PERIOD`]. There is no FSB (MSI) delivery. With legacy replacement, timers 0 and 1 drive IRQ 0 and
//! IRQ 8, and PIT and RTC are told by [`LegacyReplacement`] to stay away from them.

mod device;
#[cfg(test)]
mod tests;
mod timer;

use std::sync::Arc;

use visor_device::{Clock, IrqLine, Nanos, TimerDevice, TimerSlot};

use crate::LegacyReplacement;
use timer::Timer;

/// Where a PC has it.
pub const HPET_BASE: u64 = 0xfed0_0000;
/// Bytes of its registers.
pub const HPET_LEN: u64 = 0x400;

const TIMERS: usize = 3;
/// Nanoseconds per count.
const TICK: Nanos = 10;
/// Least nanoseconds between two interrupts of a periodic timer.
const MIN_PERIOD: Nanos = 20_000;

const CONF_ENABLE: u64 = 1;
const CONF_LEGACY: u64 = 2;

/// What an [`Hpet`] is connected to.
#[derive(Clone)]
pub struct HpetWires {
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// Alarm for the comparators.
    pub timer: Arc<dyn TimerSlot>,
    /// IRQ 0 and IRQ 8, driven while legacy replacement is on.
    pub legacy_irqs: [IrqLine; 2],
    /// Lines that timers may be routed to, by GSI 0 to 31; others are ignored. Nobody else may drive them.
    pub routes: Vec<IrqLine>,
    /// Told to PIT and RTC.
    pub legacy: LegacyReplacement,
}

/// The event timer.
pub struct Hpet {
    wires: HpetWires,
    conf: u64,
    /// GINTR_STA.
    status: u64,
    /// The main counter at guest time `since`, at which it was started; while it stands still, its value.
    counter: u64,
    since: Nanos,
    /// The count up to which the comparators have been looked at.
    synced: u64,
    timers: [Timer; TIMERS],
    /// Guest time of the last look that fired; periodic alarms keep [`MIN_PERIOD`] from it.
    fired: Nanos,
}

impl Hpet {
    /// An event timer after power-on: the counter stands at 0.
    pub fn new(wires: HpetWires) -> Self {
        let routes = wires.routes.iter().filter_map(|l| 1u32.checked_shl(l.gsi())).fold(0, |all, bit| all | bit);
        let timers = [Timer::new(routes); TIMERS];
        Hpet { wires, conf: 0, status: 0, counter: 0, since: 0, synced: 0, timers, fired: 0 }
    }

    fn enabled(&self) -> bool {
        self.conf & CONF_ENABLE != 0
    }

    fn count(&self) -> u64 {
        let run = if self.enabled() { self.wires.clock.now().saturating_sub(self.since) / TICK } else { 0 };
        self.counter.wrapping_add(run)
    }

    /// The line that timer `n` drives.
    fn line(&self, n: usize) -> Option<&IrqLine> {
        if self.conf & CONF_LEGACY != 0 && n < 2 {
            return self.wires.legacy_irqs.get(n);
        }
        self.wires.routes.iter().find(|l| l.gsi() == self.timers[n].route())
    }

    /// Fires the comparators that the counter has passed, and arms the alarm for the next.
    fn sync(&mut self) {
        let (now, before) = (self.count(), self.synced);
        self.synced = now;
        for n in 0..TIMERS {
            if self.timers[n].advance(before, now) {
                self.fire(n);
            }
        }
        self.arm();
    }

    fn fire(&mut self, n: usize) {
        let timer = self.timers[n];
        if timer.is_periodic() {
            self.fired = self.wires.clock.now();
        }
        if timer.is_level() {
            self.status |= 1 << n;
            self.drive_level(n);
        } else if timer.interrupts()
            && let Some(line) = self.line(n)
        {
            line.pulse();
        }
    }

    /// Level-triggered timers hold their line while their status bit is set.
    fn drive_level(&self, n: usize) {
        if let Some(line) = self.line(n) {
            line.set(self.timers[n].is_level() && self.timers[n].interrupts() && self.status & 1 << n != 0);
        }
    }

    fn arm(&self) {
        let now = self.wires.clock.now();
        // The next count begins this long from now at the earliest.
        let phase = if self.enabled() { now.saturating_sub(self.since) % TICK } else { 0 };
        let alarm = |timer: &Timer| {
            let counts = timer.distance(self.synced);
            let at = (now - phase).saturating_add(counts.saturating_mul(TICK));
            if timer.is_periodic() { at.max(self.fired.saturating_add(MIN_PERIOD)) } else { at }
        };
        let next = self.timers.iter().filter(|t| self.enabled() && t.interrupts()).map(alarm).min();
        self.wires.timer.arm(next);
    }
}

impl TimerDevice for Hpet {
    fn expired(&mut self, _now: Nanos) {
        self.sync();
    }
}
