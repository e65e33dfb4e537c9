use std::sync::Arc;

use visor_device::Device;

use super::*;
use crate::testing::{Lines, Power, Random};

struct Bench {
    c: I8042,
    lines: Arc<Lines>,
    power: Arc<Power>,
}

fn bench() -> Bench {
    let (lines, power) = (Arc::<Lines>::default(), Arc::new(Power::default()));
    let wires = I8042Wires { keyboard_irq: lines.line(1), mouse_irq: lines.line(12), power: power.clone() };
    Bench { c: I8042::new(wires), lines, power }
}

impl Bench {
    fn command(&mut self, value: u8) {
        self.c.write_port(0x64, value);
    }

    fn data(&mut self, value: u8) {
        self.c.write_port(0x60, value);
    }

    /// All bytes that wait, with whether each is from the mouse.
    fn drain(&mut self) -> Vec<(u8, bool)> {
        let mut bytes = Vec::new();
        while self.c.read_port(0x64) & 1 != 0 {
            assert!(bytes.len() < 1000);
            let mouse = self.c.read_port(0x64) & 0x20 != 0;
            bytes.push((self.c.read_port(0x60), mouse));
        }
        bytes
    }

    fn keyboard(&mut self) -> Vec<u8> {
        self.drain().into_iter().filter(|(_, mouse)| !mouse).map(|(b, _)| b).collect()
    }

    fn mouse(&mut self, value: u8) -> Vec<u8> {
        self.command(0xd4);
        self.data(value);
        self.drain().into_iter().filter(|(_, mouse)| *mouse).map(|(b, _)| b).collect()
    }
}

#[test]
fn self_tests() {
    let mut b = bench();
    assert_eq!(b.c.read_port(0x64), 0x10, "not locked, nothing else");
    b.command(0xaa);
    assert_eq!(b.c.read_port(0x64), 0x1d);
    assert_eq!(b.c.read_port(0x60), 0x55);
    for command in [0xab, 0xa9] {
        b.command(command);
        assert_eq!(b.keyboard(), [0]);
    }
    b.command(0x20);
    assert_eq!(b.keyboard(), [0x34]);
}

#[test]
fn command_byte_and_enables() {
    let mut b = bench();
    b.command(0x60);
    assert_eq!(b.c.read_port(0x64) & 8, 8);
    b.data(0x47);
    assert_eq!(b.c.read_port(0x64) & 8, 0);
    b.command(0xad);
    b.command(0xa7);
    b.command(0x20);
    assert_eq!(b.keyboard(), [0x77]);
    b.command(0xae);
    b.command(0xa8);
    b.command(0x20);
    assert_eq!(b.keyboard(), [0x47]);
    b.command(0x65);
    b.data(0x99);
    b.command(0x25);
    assert_eq!(b.keyboard(), [0x99], "RAM");
}

#[test]
fn keyboard_commands() {
    let mut b = bench();
    b.data(0xff);
    assert_eq!(b.keyboard(), [0xfa, 0xaa]);
    b.data(0xf2);
    assert_eq!(b.keyboard(), [0xfa, 0xab, 0x83]);
    b.data(0xee);
    assert_eq!(b.keyboard(), [0xee]);
    b.data(0xed);
    b.data(0x07);
    assert_eq!(b.keyboard(), [0xfa, 0xfa]);
    b.data(0xf0);
    b.data(0);
    assert_eq!(b.keyboard(), [0xfa, 0xfa, 2]);
    b.data(0x12);
    assert_eq!(b.keyboard(), [0xfe], "no such command");
    b.command(0x60);
    b.data(0x40);
    b.data(0xf2);
    assert_eq!(b.keyboard(), [0xfa, 0xab, 0x41], "translated, as drivers expect");
}

#[test]
fn keys_are_translated_and_interrupt() {
    let mut b = bench();
    b.command(0x60);
    b.data(0x41);
    b.c.key(&[0x1c, 0xf0, 0x1c]);
    assert!(b.lines.level(1));
    assert_eq!(b.lines.rises(1), 1);
    assert_eq!(b.c.read_port(0x60), 0x1e);
    assert_eq!(b.lines.rises(1), 2, "an edge for each byte");
    assert_eq!(b.c.read_port(0x60), 0x9e);
    assert!(!b.lines.level(1));
    b.c.key(&[0xe0, 0x75]);
    assert_eq!(b.keyboard(), [0xe0, 0x48], "cursor up");
    b.data(0xf5);
    b.drain();
    b.c.key(&[0x1c]);
    assert_eq!(b.keyboard(), [], "scanning is off");
}

#[test]
fn a_disabled_keyboard_holds_its_keys() {
    let mut b = bench();
    b.c.key(&[0x1c]);
    assert_eq!(b.keyboard(), []);
    b.command(0xae);
    assert_eq!(b.keyboard(), [0x1c]);
    for _ in 0..1000 {
        b.c.key(&[0x1c]);
    }
    assert!(b.keyboard().len() <= QUEUE + 1);
}

#[test]
fn mouse_commands() {
    let mut b = bench();
    assert_eq!(b.mouse(0xff), [0xfa, 0xaa, 0]);
    assert_eq!(b.mouse(0xf2), [0xfa, 0]);
    assert_eq!(b.mouse(0xf3), [0xfa]);
    assert_eq!(b.mouse(60), [0xfa]);
    assert_eq!(b.mouse(0xf4), [0xfa]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x20, 2, 60]);
    assert_eq!(b.mouse(0xeb), [0xfa, 8, 0, 0]);
    b.command(0x60);
    b.data(0x02);
    b.command(0xd3);
    b.data(0x5a);
    assert!(b.lines.level(12) && !b.lines.level(1));
    assert_eq!(b.drain(), [(0x5a, true)], "auxiliary loop test");
}

#[test]
fn output_port_and_a20() {
    let mut b = bench();
    b.command(0xd0);
    assert_eq!(b.keyboard(), [0x03]);
    b.command(0xdd);
    assert!(!b.c.a20());
    b.command(0xdf);
    assert!(b.c.a20());
    b.command(0xd1);
    b.data(0x01);
    assert!(!b.c.a20());
    assert_eq!(b.c.read_port(0x92), 0);
    b.c.write_port(0x92, 2);
    assert_eq!(b.c.read_port(0x92), 2);
    assert_eq!(b.power.take(), []);
}

#[test]
fn resets() {
    let mut b = bench();
    b.command(0xfe);
    assert_eq!(b.power.take(), [PowerEvent::Reset]);
    b.command(0xff);
    assert_eq!(b.power.take(), [], "pulses nothing");
    b.command(0xd1);
    b.data(0xfe);
    assert_eq!(b.power.take(), [PowerEvent::Reset]);
    b.c.write_port(0x92, 1);
    assert_eq!(b.power.take(), [PowerEvent::Reset]);
    b.c.reset();
    assert!(b.c.a20());
}

#[test]
fn reading_an_empty_buffer_repeats_the_last_byte() {
    let mut b = bench();
    b.command(0xaa);
    assert_eq!(b.c.read_port(0x60), 0x55);
    assert_eq!(b.c.read_port(0x60), 0x55);
}

#[test]
fn random_accesses_never_panic() {
    let mut b = bench();
    let mut random = Random::new(8042);
    for _ in 0..200_000 {
        let r = random.next();
        let port = [0x60, 0x64, 0x92][(r >> 8) as usize % 3];
        match r & 3 {
            0 => drop(b.c.read_port(port)),
            1 | 2 => b.c.write_port(port, (r >> 16) as u8),
            _ => b.c.key(&r.to_le_bytes()[..(r >> 8) as usize & 7]),
        }
        assert!(b.c.answers.len() <= QUEUE);
    }
    b.power.take();
}
