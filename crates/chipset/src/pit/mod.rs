//! The 8254 programmable interval timer and port 61h (Intel 8254 data sheet; 82371 for port 61h).
//!
//! ```text
//! 40h 41h 42h  counters 0, 1, 2
//! 43h          control: [ SC1 SC0 | RW1 RW0 | M2 M1 M0 | BCD ]   SC = 3: read-back [ 1 1 !count !status C2 C1 C0 0 ]
//! 61h          bit 0 gate of counter 2, 1 speaker, 4 refresh toggle, 5 OUT of counter 2
//! ```
//!
//! Counts are not kept but follow from the clock, so an idle counter costs nothing. OUT of counter 0 is IRQ 0.
//!
//! *Lost ticks.* If the machine's timer runs late, one rise is delivered for all that were missed and the phase is kept: a
//! guest that tells time by counting ticks falls behind rather than being flooded. Rises come no faster than every
//! [`MIN_PERIOD`] nanoseconds.
//!
//! Differences from the chip: a new count in modes 2 and 3 takes over at the end of the whole period; an odd count in mode 3
//! reads as if it were even.

mod channel;
mod device;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use visor_device::{Clock, IrqLine, Nanos, TimerDevice, TimerSlot};

use crate::LegacyReplacement;
use channel::Channel;

/// Input frequency of the counters in Hz.
pub const PIT_HZ: u64 = 1_193_182;

/// Least nanoseconds between two rises of IRQ 0.
const MIN_PERIOD: Nanos = 20_000;

/// Half a refresh cycle, in nanoseconds: port 61h bit 4 toggles at each.
const REFRESH: Nanos = 15_085;

/// What a [`Pit`] is connected to.
#[derive(Clone)]
pub struct PitWires {
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// Alarm for OUT of counter 0.
    pub timer: Arc<dyn TimerSlot>,
    /// IRQ 0.
    pub irq: IrqLine,
    /// Set while the HPET stands in for counter 0.
    pub legacy: LegacyReplacement,
}

/// The timer with its three counters.
pub struct Pit {
    wires: PitWires,
    channels: [Channel; 3],
    /// Port 61h bits 0 to 3 as written.
    port61: u8,
    /// Tick at which OUT of counter 0 rises next.
    next_rise: Option<u64>,
}

impl Pit {
    /// A timer after power-on; no counter runs until it is programmed.
    pub fn new(wires: PitWires) -> Self {
        Pit { wires, channels: Default::default(), port61: 0, next_rise: None }
    }

    /// OUT of counter 2, which the speaker plays while port 61h bit 1 is set.
    pub fn speaker(&mut self) -> bool {
        let now = self.ticks();
        self.port61 & 2 != 0 && self.channels[2].out(now)
    }

    /// Now, in ticks of the counters' input.
    fn ticks(&self) -> u64 {
        to_ticks(self.wires.clock.now())
    }

    /// Sets IRQ 0 and the alarm after counter 0 was written to.
    fn rearm(&mut self) {
        let now = self.ticks();
        let out = self.channels[0].out(now);
        self.drive(out);
        self.next_rise = self.channels[0].next_rise(now);
        self.arm();
    }

    fn arm(&self) {
        let earliest = self.wires.clock.now().saturating_add(MIN_PERIOD);
        self.wires.timer.arm(self.next_rise.map(|t| {
            let at = to_nanos(t);
            if self.channels[0].is_periodic() { at.max(earliest) } else { at }
        }));
    }

    fn drive(&self, level: bool) {
        if !self.wires.legacy.is_on() {
            self.wires.irq.set(level);
        }
    }
}

impl TimerDevice for Pit {
    fn expired(&mut self, now: Nanos) {
        let ticks = to_ticks(now);
        if self.next_rise.is_none_or(|t| t > ticks) {
            return self.arm();
        }
        self.drive(false);
        self.drive(true);
        self.next_rise = self.channels[0].next_rise(ticks);
        self.arm();
    }
}

fn to_ticks(nanos: Nanos) -> u64 {
    (u128::from(nanos) * u128::from(PIT_HZ) / 1_000_000_000) as u64
}

/// The first nanosecond that belongs to `ticks`.
fn to_nanos(ticks: u64) -> Nanos {
    u64::try_from((u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(PIT_HZ))).unwrap_or(u64::MAX)
}
