use std::sync::Arc;

use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Device, PioDevice, TimerDevice};

use super::*;
use crate::testing::{Lines, Random, Screen};

struct Bench {
    uart: Uart,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    lines: Arc<Lines>,
    screen: Screen,
}

fn bench() -> Bench {
    let (clock, timer, lines) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default(), Arc::<Lines>::default());
    let screen = Screen::default();
    let wires =
        UartWires { clock: clock.clone(), timer: timer.clone(), irq: lines.line(4), sink: Box::new(screen.clone()) };
    Bench { uart: Uart::new("uart0", wires), clock, timer, lines, screen }
}

impl Bench {
    fn read(&mut self, offset: u16) -> u8 {
        let mut data = [0];
        self.uart.read(offset, &mut data);
        data[0]
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(offset, &[value]);
    }

    fn irq(&self) -> bool {
        self.lines.level(4)
    }
}

#[test]
fn output_goes_out_at_once() {
    let mut b = bench();
    b.write(0, b'a');
    assert_eq!(b.screen.text(), b"a");
    assert_eq!(b.read(5), 0x60);
}

#[test]
fn divisor_latch_and_scratch() {
    let mut b = bench();
    b.write(3, 0x83);
    b.write(0, 0x0c);
    b.write(1, 0x01);
    assert_eq!((b.read(0), b.read(1)), (0x0c, 0x01));
    b.write(3, 0x03);
    assert_eq!(b.read(1), 0, "IER again");
    b.write(7, 0x5a);
    assert_eq!((b.read(7), b.read(3)), (0x5a, 0x03));
    assert_eq!(b.screen.text(), b"");
}

/// What Linux does to find out what kind of port this is.
#[test]
fn a_driver_finds_a_16550a() {
    let mut b = bench();
    b.write(1, 0x0f);
    assert_eq!(b.read(1), 0x0f);
    b.write(1, 0xf0);
    assert_eq!(b.read(1), 0, "upper bits of IER do not exist");
    b.write(4, 0x1a);
    assert_eq!(b.read(6) & 0xf0, 0x90, "loopback: DCD is OUT2, CTS is RTS");
    b.write(4, 0);
    assert_eq!(b.read(6) & 0xf0, 0xb0);
    b.write(2, 0x01);
    assert_eq!(b.read(2) >> 6, 3, "16550A");
    b.write(2, 0x21);
    assert_eq!(b.read(2) & 0x20, 0, "no 64-byte FIFO");
    b.write(1, 0x02);
    assert_eq!(b.read(2) & 0xf, 2, "enabling raises");
    b.write(1, 0);
    b.write(1, 0x02);
    assert_eq!(b.read(2) & 0xf, 2, "and again");
    assert_eq!(b.read(2) & 0xf, 1, "reading IIR clears");
}

#[test]
fn transmitter_interrupt() {
    let mut b = bench();
    assert!(!b.irq());
    b.write(1, 2);
    assert!(b.irq());
    b.read(2);
    assert!(!b.irq());
    b.write(0, b'x');
    assert!(b.irq(), "empty again");
}

#[test]
fn receive_without_fifo() {
    let mut b = bench();
    b.write(1, 1);
    assert_eq!(b.uart.receive(b"xy"), 1);
    assert!(b.irq());
    assert_eq!((b.read(5), b.read(2)), (0x61, 0x04));
    assert_eq!(b.screen.ready_calls(), 0);
    assert_eq!(b.read(0), b'x');
    assert!(!b.irq());
    assert_eq!(b.screen.ready_calls(), 1, "room again");
    assert_eq!(b.read(5), 0x60);
}

#[test]
fn trigger_level_and_time_out() {
    let mut b = bench();
    b.write(3, 0x03);
    b.write(2, 0x81);
    b.write(1, 1);
    assert_eq!(b.uart.receive(b"1234567"), 7);
    assert!(!b.irq(), "below the trigger level of 8");
    let at = b.timer.0.lock().unwrap().unwrap();
    assert_eq!(at, 4 * (10 * 16 * 1_000_000_000 / 1_843_200), "four characters of ten bits at 115200");
    b.clock.advance(at);
    b.uart.expired(at);
    assert!(b.irq());
    assert_eq!(b.read(2), 0xcc);
    assert_eq!(b.read(0), b'1');
    assert!(!b.irq(), "a read ends the time-out");
    assert_eq!(b.uart.receive(b"89"), 2);
    assert_eq!(b.read(2), 0xc4);
    assert_eq!(b.uart.receive(&[0; 20]), 8, "16 in all");
    b.write(2, 0x83);
    assert_eq!(b.read(5), 0x60, "FIFO reset");
    assert_eq!(*b.timer.0.lock().unwrap(), None);
    assert_eq!(b.screen.ready_calls(), 1);
}

#[test]
fn break_and_line_status_interrupt() {
    let mut b = bench();
    b.write(2, 1);
    b.write(1, 4);
    assert!(b.uart.receive_break());
    assert!(b.irq());
    assert_eq!(b.read(2), 0xc6);
    assert_eq!(b.read(5), 0xf1);
    assert!(!b.irq());
    assert_eq!(b.read(5), 0x61, "reading LSR clears the error");
    assert_eq!(b.read(0), 0);
}

#[test]
fn loopback_returns_what_is_sent() {
    let mut b = bench();
    b.write(4, 0x10);
    b.write(0, b'q');
    assert_eq!(b.screen.text(), b"");
    assert_eq!(b.uart.receive(b"z"), 0, "the input is disconnected");
    b.write(0, b'r');
    assert_eq!(b.read(5), 0x63, "overrun");
    assert_eq!(b.read(5), 0x61);
    assert_eq!(b.read(0), b'r');
    b.write(4, 0);
    assert_eq!(b.screen.ready_calls(), 1, "input may come again");
}

#[test]
fn modem_status() {
    let mut b = bench();
    b.write(1, 8);
    b.write(4, 0x14);
    assert!(b.irq());
    assert_eq!(b.read(6), 0x4b, "CTS, DSR and DCD fell, RI rose");
    assert!(!b.irq());
    b.write(4, 0x10);
    assert_eq!(b.read(6), 0x04, "trailing edge of RI");
    b.write(4, 0x1f);
    assert_eq!(b.read(6), 0xfb);
}

#[test]
fn priorities() {
    let mut b = bench();
    b.write(1, 0xf);
    b.write(4, 0x10);
    b.write(0, 1);
    b.write(0, 2);
    assert_eq!(b.read(2), 6);
    b.read(5);
    assert_eq!(b.read(2), 4);
    b.read(0);
    assert_eq!(b.read(2), 2);
    assert_eq!(b.read(2), 0);
    b.read(6);
    assert_eq!(b.read(2), 1);
}

#[test]
fn reset_forgets() {
    let mut b = bench();
    b.write(1, 3);
    b.write(2, 0xc1);
    b.uart.receive(b"abc");
    b.uart.reset();
    assert_eq!((b.read(1), b.read(2), b.read(5), b.irq()), (0, 1, 0x60, false));
}

#[test]
fn random_accesses_never_panic() {
    let mut b = bench();
    let mut random = Random::new(16_550);
    for _ in 0..200_000 {
        let r = random.next();
        match r & 3 {
            0 => drop(b.read((r >> 8) as u16 & 7)),
            1 => b.write((r >> 8) as u16 & 7, (r >> 16) as u8),
            2 => drop(b.uart.receive(&r.to_le_bytes()[..(r >> 8) as usize & 7])),
            _ => {
                let now = b.clock.advance(r >> 44);
                b.uart.expired(now);
            }
        }
        assert!(b.uart.rx.len() <= FIFO);
        assert_eq!(b.irq(), b.uart.cause().is_some());
    }
}
