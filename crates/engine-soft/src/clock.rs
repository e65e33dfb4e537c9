//! The time-stamp counter: its frequency on this host, and conversions.

use std::time::{Duration, Instant};

use visor_apic::Now;

use crate::cpu::Cpu;

/// How long a measurement of the TSC takes at least, and after how long it is what it is.
const STEP: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(20);
/// A measurement is over when it has taken so many times as long as reading the clock.
const FINE: u64 = 10_000;

/// The rate of the host's (and so the guest's) time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TscClock {
    /// Ticks per second.
    pub(crate) hz: u64,
}

impl TscClock {
    /// Measures the host's TSC against its monotonic clock: 2 ms where the clock is read in some tens of nanoseconds, up to 20 ms where
    /// reading it takes a system call. Good to some parts per million.
    pub(crate) fn measure() -> Self {
        let start = paired();
        let (ticks, nanos) = loop {
            std::thread::sleep(STEP);
            let end = paired();
            let ticks = end.tsc.wrapping_sub(start.tsc);
            let passed = end.clock.duration_since(start.clock);
            // Both ends are taken alike, so what they are wrong by is a small part of how wide they are.
            if (start.width + end.width).saturating_mul(FINE) <= ticks || passed >= LONGEST {
                break (ticks, passed.as_nanos().max(1));
            }
        };
        let hz = (u128::from(ticks) * 1_000_000_000 / nanos) as u64;
        // CPUID tells kilohertz at best, and guests compute with what CPUID tells.
        TscClock { hz: (hz / 1000).max(1) * 1000 }
    }

    /// TSC ticks in `nanos`.
    pub(crate) fn ticks(&self, nanos: u64) -> u64 {
        (u128::from(nanos) * u128::from(self.hz) / 1_000_000_000).min(u128::from(u64::MAX)) as u64
    }

    /// Nanoseconds in `ticks`.
    pub(crate) fn nanos(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(self.hz)).min(u128::from(u64::MAX)) as u64
    }
}

/// The host's TSC.
#[inline]
pub(crate) fn host_tsc() -> u64 {
    // SAFETY: RDTSC is unprivileged unless the process forbade it to itself.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The clock and the TSC at one moment.
struct Pair {
    tsc: u64,
    clock: Instant,
    /// Ticks between the two readings of the TSC that have the clock's between them.
    width: u64,
}

/// TSC and clock as close together as possible: the best of some tries, so that an interruption between the two reads
/// does not spoil the measurement.
fn paired() -> Pair {
    let mut best = Pair { tsc: 0, clock: Instant::now(), width: u64::MAX };
    for _ in 0..16 {
        let before = host_tsc();
        let clock = Instant::now();
        let width = host_tsc().wrapping_sub(before);
        if width < best.width {
            best = Pair { tsc: before.wrapping_add(width / 2), clock, width };
        }
    }
    best
}

impl Cpu {
    /// The guest's TSC.
    #[inline]
    pub(crate) fn tsc(&self) -> u64 {
        host_tsc().wrapping_add(self.tsc_offset)
    }

    /// The guest's TSC once all that stands before has been executed, as RDTSCP reads it: clocks read on two CPUs in turn rely on that.
    #[inline]
    pub(crate) fn ordered_tsc(&self) -> u64 {
        // SAFETY: LFENCE is part of SSE2, which every x86-64 CPU has.
        unsafe { core::arch::x86_64::_mm_lfence() };
        self.tsc()
    }

    /// The present for the local APIC. Its nanoseconds follow the host's TSC, which a guest's write to its own does not move.
    pub(crate) fn now(&self) -> Now {
        let host = host_tsc();
        Now { nanos: self.clock.nanos(host.wrapping_sub(self.epoch_tsc)), tsc: host.wrapping_add(self.tsc_offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_rate_keeps_time() {
        let clock = TscClock::measure();
        let start = paired();
        std::thread::sleep(Duration::from_millis(100));
        let end = paired();
        let by_tsc = clock.nanos(end.tsc - start.tsc) as i128;
        let real = end.clock.duration_since(start.clock).as_nanos() as i128;
        // 50 ms a minute is 833 parts per million.
        assert!((by_tsc - real).abs() * 1_000_000 < real * 800, "{by_tsc} against {real}");
    }

    #[test]
    fn conversions_are_inverse_and_do_not_overflow() {
        let c = TscClock { hz: 2_500_000_000 };
        assert_eq!(c.ticks(1_000), 2_500);
        assert_eq!(c.nanos(2_500), 1_000);
        assert_eq!(c.ticks(u64::MAX), u64::MAX);
    }
}
