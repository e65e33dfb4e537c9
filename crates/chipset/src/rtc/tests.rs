use std::sync::Arc;

use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Device, TimerDevice};

use super::*;
use crate::Ports;
use crate::testing::{Lines, Random};

struct Bench {
    rtc: Rtc,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    lines: Arc<Lines>,
    legacy: LegacyReplacement,
}

/// Where the line to the wake logic is put among the test's lines.
const WAKE: u32 = 30;

/// A clock whose wall clock begins at 1970-01-01 00:00:00.
fn bench() -> Bench {
    let (clock, timer, lines) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default(), Arc::<Lines>::default());
    let legacy = LegacyReplacement::default();
    let wires = RtcWires {
        clock: clock.clone(),
        timer: timer.clone(),
        irq: lines.line(8),
        wake: lines.line(WAKE),
        legacy: legacy.clone(),
    };
    let config = RtcConfig { memory_below_4g: 3 << 30, memory_above_4g: 5 << 30 };
    Bench { rtc: Rtc::new(wires, config), clock, timer, lines, legacy }
}

impl Bench {
    fn read(&mut self, index: u8) -> u8 {
        self.rtc.write_port(0x70, index);
        self.rtc.read_port(0x71)
    }

    fn write(&mut self, index: u8, value: u8) {
        self.rtc.write_port(0x70, index);
        self.rtc.write_port(0x71, value);
    }

    fn time(&mut self) -> [u8; 8] {
        [0x32, 9, 8, 7, 6, 4, 2, 0].map(|i| self.read(i))
    }

    fn armed(&self) -> Option<Nanos> {
        *self.timer.0.lock().unwrap()
    }

    fn go(&mut self, to: Nanos) {
        let now = self.clock.now();
        self.clock.advance(to - now);
        if self.armed().is_some_and(|at| at <= to) {
            self.rtc.expired(to);
        }
    }
}

#[test]
fn shows_the_wall_clock_in_bcd() {
    let mut b = bench();
    b.go(1_709_251_199 * SECOND);
    assert_eq!(b.time(), [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x59], "Thursday, 29 February 2024");
    b.go(1_709_251_200 * SECOND);
    assert_eq!(b.time(), [0x20, 0x24, 0x03, 0x01, 0x06, 0, 0, 0]);
}

#[test]
fn formats() {
    let mut b = bench();
    b.go(1_709_251_199 * SECOND);
    b.write(0x0b, 0x06);
    assert_eq!(b.time(), [20, 24, 2, 29, 5, 23, 59, 59], "binary, 24 hours");
    b.write(0x0b, 0x00);
    assert_eq!(b.read(4), 0x91, "11 pm in BCD");
    b.write(0x0b, 0x04);
    assert_eq!(b.read(4), 0x8b);
    b.go(1_709_251_200 * SECOND);
    assert_eq!(b.read(4), 12, "midnight is 12 am");
    b.go((1_709_251_200 + 12 * 3600) * SECOND);
    assert_eq!(b.read(4), 0x8c, "noon is 12 pm");
}

#[test]
fn setting_the_time() {
    let mut b = bench();
    b.write(0x0b, 0x82);
    for (index, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58)] {
        b.write(index, value);
    }
    b.go(10 * SECOND);
    assert_eq!(b.read(0), 0x58, "the clock stands while SET");
    assert_eq!(b.read(0x0a) & 0x80, 0);
    b.write(0x0b, 0x02);
    b.go(12 * SECOND);
    assert_eq!(b.time(), [0x20, 0x00, 0x01, 0x01, 0x07, 0, 0, 0], "a Saturday");
    b.write(2, 0x30);
    assert_eq!(b.time(), [0x20, 0x00, 0x01, 0x01, 0x07, 0, 0x30, 0], "a write without SET counts at once");
}

#[test]
fn calendar_round_trips() {
    let f = Format::from_register_b(2);
    for seconds in (0..4_102_444_800i64).step_by(86_399 * 13) {
        assert_eq!(TimeRegs::of(seconds, f).seconds(f), seconds);
    }
    assert_eq!(TimeRegs([0xff; 8]).seconds(f), TimeRegs([0x59, 0x59, 0x23, 0, 0x31, 0x12, 0x99, 0x99]).seconds(f));
}

#[test]
fn update_in_progress_before_each_second() {
    let mut b = bench();
    b.go(SECOND - 244_001);
    assert_eq!(b.read(0x0a), 0x26);
    b.go(SECOND - 244_000);
    assert_eq!(b.read(0x0a), 0xa6);
    b.go(SECOND);
    assert_eq!(b.read(0x0a), 0x26);
}

#[test]
fn periodic_interrupt() {
    let mut b = bench();
    b.write(0x0b, 0x42);
    assert_eq!(b.armed(), Some(976_563), "1024 Hz");
    b.go(976_563);
    assert!(b.lines.level(8));
    assert_eq!(b.armed(), None, "no alarm while the flag is set");
    assert_eq!(b.read(0x0c), 0xc0);
    assert!(!b.lines.level(8));
    assert_eq!(b.armed(), Some(1_953_125));
    b.write(0x0a, 0x20);
    assert_eq!(b.armed(), None, "rate 0 is off");
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (15, 2)] {
        b.write(0x0a, 0x20 | rate);
        b.go(b.clock.now().div_ceil(SECOND) * SECOND);
        b.read(0x0c);
        assert_eq!(b.armed().unwrap() - b.clock.now(), SECOND.div_ceil(hz));
    }
}

#[test]
fn update_interrupt_and_flags_without_interrupt() {
    let mut b = bench();
    b.go(1_500_000_000);
    assert_eq!(b.read(0x0c), 0x50, "flags come without interrupts, but IRQF does not");
    b.write(0x0b, 0x12);
    assert_eq!(b.armed(), Some(2 * SECOND));
    b.go(2 * SECOND);
    assert!(b.lines.level(8));
    assert_eq!(b.read(0x0c) & 0x90, 0x90);
}

#[test]
fn alarm() {
    let mut b = bench();
    for (index, value) in [(1, 0x30), (3, 0x02), (5, 0xff)] {
        b.write(index, value);
    }
    b.write(0x0b, 0x22);
    assert_eq!(b.armed(), Some(150 * SECOND), "02:30 of any hour");
    b.go(149 * SECOND);
    assert!(!b.lines.level(8));
    b.go(150 * SECOND);
    assert!(b.lines.level(8));
    assert_eq!(b.read(0x0c) & 0xa0, 0xa0);
    assert_eq!(b.armed(), Some((3600 + 150) * SECOND));
    b.write(3, 0x77);
    assert_eq!(b.armed(), None, "no such minute");
    for index in [1, 3, 5] {
        b.write(index, 0xc0);
    }
    assert_eq!(b.armed(), Some(151 * SECOND), "every second");
    b.write(0x0b, 0x20);
    b.write(5, 0x81);
    b.write(3, 0);
    b.write(1, 0);
    assert_eq!(b.armed(), Some(13 * 3600 * SECOND), "1 pm");
}

#[test]
fn an_alarm_reaches_the_wake_logic_whoever_drives_irq_8() {
    let mut b = bench();
    b.legacy.set(true);
    for index in [1, 3, 5] {
        b.write(index, 0xc0);
    }
    b.write(0x0b, 0x22);
    b.go(SECOND);
    assert_eq!((b.lines.rises(8), b.lines.rises(WAKE)), (0, 1));
    b.go(2 * SECOND);
    assert_eq!(b.lines.rises(WAKE), 1, "the pin stays until register C is read");
    b.read(0x0c);
    assert!(!b.lines.level(WAKE));
    b.go(3 * SECOND);
    assert_eq!((b.lines.rises(8), b.lines.rises(WAKE)), (0, 2));
}

#[test]
fn memory_sizes_and_checksum() {
    let mut b = bench();
    let mut word = |i| u16::from(b.read(i)) | u16::from(b.read(i + 1)) << 8;
    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(word(0x34), ((3u64 << 30) / 65536 - 256) as u16);
    assert_eq!(word(0x5b), (((5u64 << 30) / 65536) & 0xffff) as u16);
    assert_eq!(b.read(0x5d), (((5u64 << 30) / 65536) >> 16) as u8);
    let sum: u16 = (0x10..0x2e).map(|i| u16::from(b.read(i))).sum();
    assert_eq!([b.read(0x2e), b.read(0x2f)], sum.to_be_bytes());
    b.rtc.set_byte(0x3d, 0x12);
    assert_eq!(b.read(0x3d), 0x12);
    b.rtc.set_byte(0x0a, 0);
    assert_eq!(b.read(0x0a) & 0x7f, 0x26);
}

#[test]
fn index_and_nmi_mask() {
    let mut b = bench();
    b.rtc.write_port(0x70, 0x8d);
    assert!(b.rtc.nmi_masked());
    assert_eq!(b.rtc.read_port(0x71), 0x80, "VRT");
    b.write(0x0d, 0);
    assert!(!b.rtc.nmi_masked());
    assert_eq!(b.read(0x0d), 0x80, "read-only");
    b.write(0x40, 0x5a);
    b.write(0x0b, 0x72);
    b.go(3 * SECOND);
    b.rtc.reset();
    assert_eq!(b.read(0x0b), 0x02);
    assert_eq!((b.read(0x40), b.lines.level(8), b.armed()), (0x5a, false, None));
}

#[test]
fn random_accesses_never_panic() {
    let mut b = bench();
    let mut random = Random::new(146_818);
    for _ in 0..200_000 {
        let r = random.next();
        let index = if r & 8 == 0 { (r >> 8) as u8 & 0xf } else { (r >> 8) as u8 };
        match r & 3 {
            0 => drop(b.read(index)),
            1 => b.write(index, (r >> 16) as u8),
            2 => drop(b.rtc.read_port(0x70)),
            _ => {
                let now = b.clock.advance(r >> 33);
                b.rtc.expired(now);
            }
        }
    }
}
