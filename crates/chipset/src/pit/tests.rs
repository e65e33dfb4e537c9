use std::sync::Arc;

use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Device, TimerDevice};

use super::*;
use crate::Ports;
use crate::testing::{Lines, Random};

struct Bench {
    pit: Pit,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    lines: Arc<Lines>,
    legacy: LegacyReplacement,
}

fn bench() -> Bench {
    let (clock, timer, lines) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default(), Arc::<Lines>::default());
    let legacy = LegacyReplacement::default();
    let wires = PitWires { clock: clock.clone(), timer: timer.clone(), irq: lines.line(0), legacy: legacy.clone() };
    Bench { pit: Pit::new(wires), clock, timer, lines, legacy }
}

impl Bench {
    /// Programs channel `n` with `control` (bits 5:0) and a 16-bit count.
    fn program(&mut self, n: u16, control: u8, count: u16) {
        self.pit.write_port(0x43, (n as u8) << 6 | control);
        self.pit.write_port(0x40 + n, count as u8);
        self.pit.write_port(0x40 + n, (count >> 8) as u8);
    }

    /// Moves the clock to the first nanosecond of tick `t`, counted from the beginning.
    fn go(&mut self, t: u64) {
        let now = self.clock.now();
        self.clock.advance(to_nanos(t) - now);
    }

    fn count(&mut self, n: u16) -> u16 {
        self.pit.write_port(0x43, (n as u8) << 6);
        u16::from_le_bytes([self.pit.read_port(0x40 + n), self.pit.read_port(0x40 + n)])
    }

    fn status(&mut self, n: u16) -> u8 {
        self.pit.write_port(0x43, 0xe0 | 2 << n);
        self.pit.read_port(0x40 + n)
    }

    /// Lets the alarm go off, if one is armed by `until`.
    fn run(&mut self, until: Nanos) {
        while let Some(at) = self.armed().filter(|at| *at <= until) {
            let now = self.clock.now();
            self.clock.advance(at.saturating_sub(now));
            self.pit.expired(at.max(now));
        }
    }

    fn armed(&self) -> Option<Nanos> {
        *self.timer.0.lock().unwrap()
    }
}

#[test]
fn ticks_and_nanoseconds_agree() {
    for t in [0, 1, 2, 1000, 1_193_182, u64::from(u32::MAX)] {
        assert_eq!(to_ticks(to_nanos(t)), t);
    }
    assert_eq!(to_ticks(1_000_000_000), PIT_HZ);
}

#[test]
fn mode_0_interrupts_at_terminal_count() {
    let mut b = bench();
    b.program(0, 0x30, 1000);
    assert!(!b.lines.level(0));
    assert_eq!(b.status(0), 0x30);
    b.go(400);
    assert_eq!(b.count(0), 600);
    assert_eq!(b.armed(), Some(to_nanos(1000)));
    b.run(to_nanos(1000));
    assert_eq!((b.lines.rises(0), b.lines.level(0)), (1, true));
    assert_eq!(b.armed(), None);
    assert_eq!(b.status(0), 0xb0, "OUT stays high");
    b.go(1010);
    assert_eq!(b.count(0), 0xfff6, "counting goes on");
    b.pit.write_port(0x40, 1);
    assert!(!b.lines.level(0), "the first byte of a new count drops OUT");
}

#[test]
fn mode_2_divides() {
    let mut b = bench();
    b.program(0, 0x34, 11932);
    assert!(b.lines.level(0));
    let rises = b.lines.rises(0);
    b.run(1_000_000_000);
    assert_eq!(b.lines.rises(0) - rises, 99, "100 Hz");
    b.go(11932 * 100 + 5);
    assert_eq!(b.count(0), 11932 - 5);
}

#[test]
fn late_alarms_give_one_rise_and_keep_the_phase() {
    let mut b = bench();
    b.program(0, 0x34, 1000);
    let rises = b.lines.rises(0);
    b.go(10_500);
    b.pit.expired(to_nanos(10_500));
    assert_eq!(b.lines.rises(0) - rises, 1);
    assert_eq!(b.armed(), Some(to_nanos(11_000)));
}

#[test]
fn a_tiny_period_does_not_storm() {
    let mut b = bench();
    b.program(0, 0x34, 2);
    let rises = b.lines.rises(0);
    b.run(10_000_000);
    assert!((1..=500).contains(&(b.lines.rises(0) - rises)));
}

#[test]
fn mode_3_is_a_square_wave() {
    let mut b = bench();
    b.pit.write_port(0x61, 1);
    b.program(2, 0x36, 10);
    for t in 0..40 {
        b.go(t);
        assert_eq!(b.pit.read_port(0x61) & 0x20 != 0, t % 10 < 5, "tick {t}");
        assert_eq!(u64::from(b.count(2)), 10 - 2 * t % 10);
    }
}

#[test]
fn a_new_count_in_mode_2_waits_for_the_period() {
    let mut b = bench();
    b.program(0, 0x34, 100);
    b.go(30);
    b.pit.write_port(0x40, 50);
    b.pit.write_port(0x40, 0);
    assert_eq!(b.count(0), 70);
    assert_eq!(b.status(0) & 0x40, 0x40, "null count");
    b.go(110);
    assert_eq!(b.count(0), 40);
    assert_eq!(b.status(0) & 0x40, 0);
}

#[test]
fn gate_2_stops_modes_0_and_restarts_mode_1() {
    let mut b = bench();
    b.pit.write_port(0x61, 0);
    b.program(2, 0x30, 100);
    b.go(50);
    assert_eq!(b.count(2), 100, "gate low: no counting");
    b.pit.write_port(0x61, 1);
    b.go(80);
    assert_eq!(b.count(2), 70);
    b.pit.write_port(0x61, 0);
    b.go(500);
    assert_eq!(b.count(2), 70);
    b.pit.write_port(0x61, 1);
    b.go(569);
    assert_eq!(b.pit.read_port(0x61) & 0x20, 0);
    b.go(570);
    assert_eq!(b.pit.read_port(0x61) & 0x20, 0x20);
    b.pit.write_port(0x61, 0);
    b.program(2, 0x32, 10);
    assert_eq!(b.pit.read_port(0x61) & 0x20, 0x20, "mode 1 rests high");
    b.pit.write_port(0x61, 1);
    assert_eq!(b.pit.read_port(0x61) & 0x20, 0, "one-shot triggered");
    b.go(580);
    assert_eq!(b.pit.read_port(0x61) & 0x20, 0x20);
}

#[test]
fn strobes() {
    let mut b = bench();
    b.program(0, 0x38, 10);
    b.go(9);
    assert_eq!(b.status(0) & 0x80, 0x80);
    b.go(10);
    assert_eq!(b.status(0) & 0x80, 0, "mode 4: low for one clock");
    b.go(11);
    assert_eq!(b.status(0) & 0x80, 0x80);
    b.pit.write_port(0x61, 0);
    b.program(2, 0x3a, 5);
    b.pit.write_port(0x61, 1);
    b.go(16);
    assert_eq!(b.status(2) & 0x80, 0, "mode 5: five clocks after the trigger");
}

#[test]
fn bcd_counts() {
    let mut b = bench();
    b.program(1, 0x35, 0x1000);
    b.go(1);
    assert_eq!(b.count(1), 0x0999);
    b.program(1, 0x31, 0);
    b.go(2);
    assert_eq!(b.count(1), 0x9999, "0 is 10000");
}

#[test]
fn access_modes_and_latches() {
    let mut b = bench();
    b.pit.write_port(0x43, 0x50);
    b.pit.write_port(0x41, 0x80);
    b.go(1);
    assert_eq!(b.pit.read_port(0x41), 0x7f, "low byte only");
    assert_eq!(b.pit.read_port(0x41), 0x7f);
    b.program(0, 0x34, 0x1234);
    b.pit.write_port(0x43, 0x00);
    b.go(0x34 + 1);
    b.pit.write_port(0x43, 0x00);
    assert_eq!(b.pit.read_port(0x40), 0x34, "a second latch command does not disturb the first");
    assert_eq!(b.pit.read_port(0x40), 0x12);
    b.pit.write_port(0x43, 0xc2);
    assert_eq!(b.pit.read_port(0x40), 0xb4, "status first");
    assert_eq!(b.pit.read_port(0x40), 0x00);
    assert_eq!(b.pit.read_port(0x40), 0x12);
    assert_eq!(b.pit.read_port(0x43), 0xff);
}

#[test]
fn refresh_toggles() {
    let mut b = bench();
    let first = b.pit.read_port(0x61) & 0x10;
    b.clock.advance(REFRESH);
    assert_ne!(b.pit.read_port(0x61) & 0x10, first);
}

#[test]
fn legacy_replacement_silences_irq_0() {
    let mut b = bench();
    b.legacy.set(true);
    b.program(0, 0x34, 1000);
    b.run(to_nanos(5000));
    assert_eq!(b.lines.rises(0), 0);
    b.legacy.set(false);
    b.run(to_nanos(7000));
    assert!(b.lines.rises(0) > 0);
    b.pit.reset();
    assert_eq!((b.armed(), b.lines.level(0)), (None, false));
}

#[test]
fn random_accesses_never_panic() {
    let mut b = bench();
    let mut random = Random::new(8254);
    for _ in 0..200_000 {
        let r = random.next();
        let port = [0x40, 0x41, 0x42, 0x43, 0x43, 0x61][(r >> 8) as usize % 6];
        match r & 3 {
            0 => drop(b.pit.read_port(port)),
            1 | 2 => b.pit.write_port(port, (r >> 16) as u8),
            _ => {
                let now = b.clock.advance(r >> 40);
                b.pit.expired(now);
                b.pit.speaker();
            }
        }
    }
}
