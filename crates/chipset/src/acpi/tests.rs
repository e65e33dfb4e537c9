use std::sync::Arc;

use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Device, PioDevice, TimerDevice};

use super::*;
use crate::testing::{Lines, Power, Random};
use crate::{Ports, PowerEvent};

struct Bench {
    pm: AcpiPm,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    lines: Arc<Lines>,
    power: Arc<Power>,
}

fn bench() -> Bench {
    let (clock, timer, lines) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default(), Arc::<Lines>::default());
    let power = Arc::new(Power::default());
    let pm = AcpiPm::new(clock.clone(), timer.clone(), lines.line(9), power.clone());
    Bench { pm, clock, timer, lines, power }
}

impl Bench {
    fn write16(&mut self, port: u16, value: u16) {
        for (port, byte) in (port..).zip(value.to_le_bytes()) {
            self.pm.write_port(port, byte);
        }
    }

    fn read16(&mut self, port: u16) -> u16 {
        let mut data = [0; 2];
        self.pm.read_ports(port, &mut data);
        u16::from_le_bytes(data)
    }

    fn read32(&mut self, port: u16) -> u32 {
        let mut data = [0; 4];
        self.pm.read_ports(port, &mut data);
        u32::from_le_bytes(data)
    }
}

#[test]
fn power_button_raises_the_sci() {
    let mut b = bench();
    assert!(!b.pm.power_button(), "nobody listens");
    assert_eq!(b.read16(0x600), 0x100);
    b.write16(0x600, 0x100);
    b.pm.write_port(0xb2, ACPI_DISABLE);
    assert_eq!(b.read16(0x604), 0);
    b.pm.write_port(0xb2, ACPI_ENABLE);
    assert_eq!(b.read16(0x604), 1);
    b.write16(0x602, 0x100);
    assert!(b.pm.power_button());
    assert!(b.lines.level(9));
    b.write16(0x600, 0x100);
    assert!(!b.lines.level(9), "write one to clear");
    b.pm.write_port(0xb2, ACPI_DISABLE);
    assert!(!b.pm.power_button());
    assert!(!b.lines.level(9));
    assert_eq!(b.pm.read_port(0xb2), ACPI_DISABLE);
}

#[test]
fn s5_powers_off() {
    let mut b = bench();
    b.write16(0x604, 0x0001);
    assert_eq!(b.power.take(), [], "without SLP_EN");
    b.write16(0x604, 0x2000 | 2 << 10);
    assert_eq!(b.power.take(), [], "another sleep state");
    b.write16(0x604, 0x2001 | u16::from(S5_SLEEP_TYPE) << 10);
    assert_eq!(b.power.take(), [PowerEvent::PowerOff]);
    assert_eq!(b.read16(0x604), 0x0001, "SLP_EN reads zero");
}

#[test]
fn s3_ends_by_the_button_or_an_enabled_alarm() {
    let mut b = bench();
    b.write16(0x604, 0x2000 | u16::from(S3_SLEEP_TYPE) << 10);
    assert_eq!(b.power.take(), [PowerEvent::Sleep]);
    b.pm.rtc_alarm();
    assert!(!b.pm.wakes(), "RTC_EN is clear");
    b.write16(0x602, 0x400);
    assert!(b.pm.wakes());
    b.pm.wake();
    assert_eq!(b.read16(0x600), 0x8400, "WAK_STS beside what woke it");
    b.write16(0x600, 0x8400);
    assert!(!b.pm.wakes());
    b.pm.power_button();
    assert!(b.pm.wakes());
}

#[test]
fn the_timer_has_24_bits_and_reports_its_carry() {
    let mut b = bench();
    b.clock.advance(1_000_000_000);
    assert_eq!(b.read32(0x608), 3_579_545);
    b.write16(0x602, 1);
    b.pm.write_port(0xb2, ACPI_ENABLE);
    let at = b.timer.0.lock().unwrap().unwrap();
    assert_eq!(at, 2_343_484_438, "bit 23 after 2^23 ticks");
    b.clock.advance(at - 1_000_000_000);
    b.pm.expired(at);
    assert!(b.lines.level(9));
    assert_eq!(b.read32(0x608), 1 << 23);
    b.write16(0x600, 1);
    assert!(!b.lines.level(9));
    b.clock.advance(at);
    assert_eq!(b.read32(0x608) >> 24, 0);
    assert_eq!(b.read16(0x600), 1);
}

#[test]
fn general_purpose_events() {
    let mut b = bench();
    b.pm.write_port(0xb2, ACPI_ENABLE);
    b.pm.raise_gpe(9);
    b.pm.raise_gpe(200);
    assert_eq!(b.read32(0x620), 1 << 9);
    b.pm.write_port(0x625, 2);
    assert!(b.lines.level(9));
    b.pm.write_port(0x621, 2);
    assert!(!b.lines.level(9));
    b.pm.reset();
    assert_eq!((b.read32(0x624), b.read16(0x604)), (0, 1));
}

#[test]
fn reserved_bits_read_zero() {
    let mut b = bench();
    b.write16(0x602, 0xffff);
    assert_eq!(b.read16(0x602), 0x0721);
    b.write16(0x604, 0xc3fe);
    assert_eq!(b.read16(0x604), 3, "SCI_EN does not change by writes");
    assert_eq!(b.read32(0x610), 0);
}

#[test]
fn the_reset_register_acts_on_a_rise() {
    let power = Arc::new(Power::default());
    let mut reset = ResetControl::new(power.clone());
    reset.write(0, &[2]);
    assert_eq!(power.take(), []);
    reset.write(0, &[6]);
    assert_eq!(power.take(), [PowerEvent::Reset]);
    reset.write(0, &[6]);
    assert_eq!(power.take(), []);
    reset.reset();
    reset.write_byte(RESET_VALUE);
    assert_eq!(power.take(), [PowerEvent::Reset]);
    assert_eq!(reset.read_byte(), 6);
}

#[test]
fn random_accesses_never_panic() {
    let mut b = bench();
    let mut reset = ResetControl::new(b.power.clone());
    let mut random = Random::new(604);
    for _ in 0..200_000 {
        let r = random.next();
        let port = if r & 16 == 0 { 0x600 + ((r >> 8) as u16 & 0x3c) } else { 0xb2 };
        match r & 7 {
            0 | 1 => b.pm.read_ports(port, &mut [0; 4][..1 << (r >> 20 & 1)]),
            2 | 3 => b.pm.write_port(port + (r >> 12 & 1) as u16, (r >> 16) as u8),
            4 => reset.write(0, &r.to_le_bytes()[..4]),
            5 => b.pm.raise_gpe((r >> 16) as u8),
            6 => drop(b.pm.power_button()),
            _ => {
                let now = b.clock.advance(r >> 34);
                b.pm.expired(now);
            }
        }
    }
}
