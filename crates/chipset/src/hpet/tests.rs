use std::sync::Arc;

use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Device, MmioDevice, TimerDevice};

use super::*;
use crate::testing::{Lines, Random};

struct Bench {
    hpet: Hpet,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    lines: Arc<Lines>,
    legacy: LegacyReplacement,
}

fn bench() -> Bench {
    let (clock, timer, lines) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default(), Arc::<Lines>::default());
    let legacy = LegacyReplacement::default();
    let wires = HpetWires {
        clock: clock.clone(),
        timer: timer.clone(),
        legacy_irqs: [lines.line(0), lines.line(8)],
        routes: vec![lines.line(20), lines.line(21)],
        legacy: legacy.clone(),
    };
    Bench { hpet: Hpet::new(wires), clock, timer, lines, legacy }
}

impl Bench {
    fn read(&mut self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.hpet.read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u64) {
        self.hpet.write(offset, &value.to_le_bytes());
    }

    fn armed(&self) -> Option<Nanos> {
        *self.timer.0.lock().unwrap()
    }

    fn go(&mut self, to: Nanos) {
        while let Some(at) = self.armed().filter(|at| *at <= to) {
            let now = self.clock.now();
            self.clock.advance(at.saturating_sub(now));
            self.hpet.expired(at.max(now));
        }
        let now = self.clock.now();
        self.clock.advance(to.saturating_sub(now));
    }
}

#[test]
fn capabilities() {
    let mut b = bench();
    let id = b.read(0);
    assert_eq!(id >> 32, 10_000_000, "femtoseconds");
    assert!(id >> 32 <= 0x05f5_e100);
    assert_eq!(id & 0xffff_ffff, 0x8086_a201);
    assert_eq!(b.read(0x100), 0x0030_0000_0000_0030);
    let mut half = [0; 4];
    b.hpet.read(4, &mut half);
    assert_eq!(u32::from_le_bytes(half), 10_000_000);
}

#[test]
fn the_counter_runs_while_enabled() {
    let mut b = bench();
    b.go(1000);
    assert_eq!(b.read(0xf0), 0);
    b.write(0xf0, 500);
    b.write(0x10, 1);
    b.go(2000);
    assert_eq!(b.read(0xf0), 600);
    b.write(0xf0, 0);
    assert_eq!(b.read(0xf0), 600, "cannot be set while running");
    b.write(0x10, 0);
    b.go(9000);
    assert_eq!(b.read(0xf0), 600);
    b.hpet.write(0xf4, &1u32.to_le_bytes());
    assert_eq!(b.read(0xf0), 1 << 32 | 600, "half by half");
}

#[test]
fn one_shot_edge() {
    let mut b = bench();
    b.write(0x140, 20 << 9 | 4);
    b.write(0x148, 1000);
    assert_eq!(b.armed(), None);
    b.write(0x10, 1);
    assert_eq!(b.armed(), Some(10_000));
    b.go(9_999);
    assert_eq!(b.lines.rises(20), 0);
    b.go(1_000_000);
    assert_eq!((b.lines.rises(20), b.lines.level(20)), (1, false));
    b.write(0x148, 200_000);
    b.go(3_000_000);
    assert_eq!(b.lines.rises(20), 2);
    assert_eq!(b.read(0x20), 0, "edges leave no status");
}

#[test]
fn impossible_routes_are_not_taken() {
    let mut b = bench();
    b.write(0x100, 21 << 9);
    b.write(0x100, 5 << 9);
    assert_eq!(b.read(0x100) >> 9 & 0x1f, 21);
}

#[test]
fn periodic_with_set_accumulator() {
    let mut b = bench();
    b.write(0x10, 1);
    b.write(0x100, 20 << 9 | 0x4c);
    b.write(0x108, 50_000);
    assert_eq!(b.read(0x100) & 0x40, 0, "set-accumulator clears itself");
    b.write(0x108, 100_000);
    b.go(10_499_999);
    assert_eq!(b.lines.rises(20), 10, "first at 0.5 ms, then each millisecond");
    b.go(10_500_000);
    assert_eq!(b.lines.rises(20), 11);
    assert_eq!(b.read(0x108), 1_150_000);
    b.clock.advance(5_600_000);
    b.hpet.expired(0);
    assert_eq!(b.lines.rises(20), 12, "lost periods give one interrupt");
    assert_eq!(b.armed(), Some(16_500_000));
}

#[test]
fn level_triggered_timers_hold_their_line() {
    let mut b = bench();
    b.write(0x120, 21 << 9 | 6);
    b.write(0x128, 100);
    b.write(0x10, 1);
    b.go(1000);
    assert!(b.lines.level(21));
    assert_eq!(b.read(0x20), 2);
    b.write(0x20, 2);
    assert!(!b.lines.level(21));
    b.write(0x128, 500);
    b.go(5000);
    b.write(0x120, 21 << 9 | 2);
    assert!(!b.lines.level(21), "disabled");
    b.write(0x120, 21 << 9 | 6);
    assert!(b.lines.level(21));
    b.hpet.reset();
    assert!(!b.lines.level(21));
}

#[test]
fn a_32_bit_timer_wraps() {
    let mut b = bench();
    b.write(0xf0, 0xffff_ff00);
    b.write(0x100, 20 << 9 | 0x104);
    b.write(0x108, 0x1_0000_0010);
    assert_eq!(b.read(0x108), 0x10);
    b.write(0x10, 1);
    assert_eq!(b.armed(), Some(0x110 * 10));
    b.go(0x110 * 10);
    assert_eq!(b.lines.rises(20), 1);
    assert_eq!(b.read(0xf0), 0x1_0000_0010);
}

#[test]
fn legacy_replacement() {
    let mut b = bench();
    b.lines.line(0).set(true);
    b.write(0x10, 3);
    assert!(b.legacy.is_on() && !b.lines.level(0));
    let rises = b.lines.rises(0);
    b.write(0x100, 4);
    b.write(0x108, 10_000);
    b.write(0x120, 4);
    b.write(0x128, 20_000);
    b.go(150_000);
    assert_eq!((b.lines.rises(0) - rises, b.lines.rises(8)), (1, 0));
    b.go(250_000);
    assert_eq!(b.lines.rises(8), 1);
    b.write(0x10, 1);
    assert!(!b.legacy.is_on());
}

#[test]
fn a_tiny_period_does_not_storm() {
    let mut b = bench();
    b.write(0x10, 1);
    b.write(0x100, 20 << 9 | 0x4c);
    b.write(0x108, 1);
    b.go(10_000_000);
    assert!((1..=501).contains(&b.lines.rises(20)));
}

#[test]
fn random_accesses_never_panic() {
    let mut b = bench();
    let mut random = Random::new(0x4850_4554);
    for _ in 0..200_000 {
        let r = random.next();
        let offset =
            if r & 8 == 0 { (r >> 8) & 0x3ff } else { [0x10, 0x20, 0xf0, 0x100, 0x108][(r >> 8) as usize % 5] };
        let value = (r.rotate_left(20) >> (r & 63)).to_le_bytes();
        let len = 1 << (r >> 4 & 3);
        match r & 3 {
            0 => b.hpet.read(offset, &mut [0; 8][..len]),
            1 | 2 => b.hpet.write(offset, &value[..len]),
            _ => {
                let now = b.clock.advance(r >> 40);
                b.hpet.expired(now);
            }
        }
    }
}
