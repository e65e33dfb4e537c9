//! Where a CPU's time goes. The account always stands at one [`Phase`]; each change books the time since the last one, so that
//! the parts add up to the whole. A change costs one RDTSC.

use visor_engine::{TimeStats, VcpuStats};

use crate::clock::{TscClock, host_tsc};

/// What a CPU's thread is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Phase {
    /// The interpreter, which decodes and walks page tables under the same name.
    Interpreter,
    /// Translated code.
    Translated,
    /// The translator.
    Translation,
    /// Exceptions, interrupts, and what translated code calls.
    Helpers,
    /// The machine.
    Devices,
    /// Asleep.
    Idle,
}

const PHASES: usize = 6;

/// The account of one CPU, in TSC ticks.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    phase: Phase,
    /// When `phase` began.
    since: u64,
    ticks: [u64; PHASES],
}

/// An entry that [`Account::leave`] ends.
#[derive(Debug)]
#[must_use]
pub(crate) struct Entered {
    before: Phase,
    at: u64,
}

impl Default for Account {
    fn default() -> Self {
        Account { phase: Phase::Interpreter, since: 0, ticks: [0; PHASES] }
    }
}

impl Account {
    /// `Vcpu::run` begins: the time since it last ended is nobody's.
    pub(crate) fn start(&mut self) {
        self.since = host_tsc();
    }

    /// `Vcpu::run` ends.
    pub(crate) fn stop(&mut self) {
        self.book(host_tsc());
    }

    /// From here on the time is that of `phase`, until [`Account::leave`].
    #[inline]
    pub(crate) fn enter(&mut self, phase: Phase) -> Entered {
        let at = host_tsc();
        self.book(at);
        let before = std::mem::replace(&mut self.phase, phase);
        Entered { before, at }
    }

    /// Back to the phase before; gives the ticks since `entered`, those of phases within it included.
    #[inline]
    pub(crate) fn leave(&mut self, entered: Entered) -> u64 {
        let now = host_tsc();
        self.book(now);
        self.phase = entered.before;
        now.wrapping_sub(entered.at)
    }

    #[inline]
    fn book(&mut self, now: u64) {
        // The TSCs of two sockets may differ by some ticks.
        self.ticks[self.phase as usize] += now.saturating_sub(self.since);
        self.since = now;
    }

    fn nanos(&self, phase: Phase, clock: TscClock) -> u64 {
        clock.nanos(self.ticks[phase as usize])
    }
}

/// What the outside gets to see of `stats`, whose times are in ticks, and of `account`.
pub(crate) fn report(stats: &VcpuStats, account: &Account, clock: TscClock) -> VcpuStats {
    let mut out = stats.clone();
    let e = &mut out.exits;
    for timed in [&mut e.pio, &mut e.mmio, &mut e.hlt, &mut e.interrupt, &mut e.exception] {
        timed.nanos = clock.nanos(timed.nanos);
    }
    for helper in &mut e.helpers {
        helper.nanos = clock.nanos(helper.nanos);
    }
    out.time = TimeStats {
        guest: account.nanos(Phase::Translated, clock),
        interpreter: account.nanos(Phase::Interpreter, clock),
        translation: account.nanos(Phase::Translation, clock),
        helpers: account.nanos(Phase::Helpers, clock),
        devices: account.nanos(Phase::Devices, clock),
        idle: account.nanos(Phase::Idle, clock),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(ticks: u64) {
        let begin = host_tsc();
        while host_tsc() - begin < ticks {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_parts_add_up_and_nest() {
        let mut account = Account::default();
        account.start();
        let begin = account.since;
        spin(1_000);
        let helper = account.enter(Phase::Helpers);
        spin(2_000);
        let device = account.enter(Phase::Devices);
        spin(5_000);
        let device = account.leave(device);
        let helper = account.leave(helper);
        account.stop();
        assert_eq!(account.ticks.iter().sum::<u64>(), account.since - begin, "nothing is lost or counted twice");
        assert!(device >= 5_000 && helper >= device + 2_000, "{device} within {helper}");
        let ticks = |p: Phase| account.ticks[p as usize];
        assert!(ticks(Phase::Interpreter) >= 1_000 && ticks(Phase::Devices) == device);
        assert_eq!(ticks(Phase::Helpers), helper - device);
        assert_eq!(account.phase, Phase::Interpreter);

        let mut stats = VcpuStats::default();
        stats.exits.mmio.add(device);
        let out = report(&stats, &account, TscClock { hz: 500_000_000 });
        assert_eq!(out.exits.mmio.nanos, 2 * device);
        assert_eq!(out.time.devices, 2 * device);
        assert_eq!(out.time.total(), 2 * account.ticks.iter().sum::<u64>());
    }

    #[test]
    fn time_between_runs_is_nobodys() {
        let mut account = Account::default();
        account.start();
        account.stop();
        let before = account.ticks;
        spin(1_000_000);
        account.start();
        let begin = account.since;
        account.stop();
        assert_eq!(account.ticks.iter().sum::<u64>() - before.iter().sum::<u64>(), account.since - begin);
    }
}
