use std::sync::Arc;

use visor_console::{Button, Key};
use visor_device::testing::{ManualClock, ManualTimer};
use visor_device::{Device, TimerDevice};

use super::*;
use crate::Ports;
use crate::testing::{Lines, Power, Random};

struct Bench {
    c: I8042,
    lines: Arc<Lines>,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    power: Arc<Power>,
}

fn bench() -> Bench {
    let (lines, power) = (Arc::<Lines>::default(), Arc::new(Power::default()));
    let (clock, timer) = (Arc::<ManualClock>::default(), Arc::<ManualTimer>::default());
    let wires = I8042Wires {
        clock: clock.clone(),
        timer: timer.clone(),
        keyboard_irq: lines.line(1),
        mouse_irq: lines.line(12),
        power: power.clone(),
    };
    Bench { c: I8042::new(wires), lines, clock, timer, power }
}

impl Bench {
    fn command(&mut self, value: u8) {
        self.c.write_port(0x64, value);
    }

    fn key(&mut self, key: Key, down: bool) {
        self.c.input(&[InputEvent::Key { key, down }]);
    }

    /// Lets time pass to the alarm, if there is one.
    fn alarm(&mut self) -> bool {
        let Some(at) = self.timer.0.lock().unwrap().take() else { return false };
        let now = self.clock.now();
        self.clock.advance(at.saturating_sub(now));
        self.c.expired(at);
        true
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
    b.key(Key::A, true);
    b.key(Key::A, false);
    assert!(b.lines.level(1));
    assert_eq!(b.lines.rises(1), 1);
    assert_eq!(b.c.read_port(0x60), 0x1e);
    assert_eq!(b.lines.rises(1), 2, "an edge for each byte");
    assert_eq!(b.c.read_port(0x60), 0x9e);
    assert!(!b.lines.level(1));
    b.key(Key::UP, true);
    assert_eq!(b.keyboard(), [0xe0, 0x48], "cursor up");
    b.data(0xf5);
    b.drain();
    b.key(Key::A, true);
    assert_eq!(b.keyboard(), [], "scanning is off");
}

#[test]
fn a_disabled_keyboard_holds_its_keys() {
    let mut b = bench();
    b.key(Key::A, true);
    assert_eq!(b.keyboard(), []);
    b.command(0xae);
    assert_eq!(b.keyboard(), [0x1c]);
    for _ in 0..1000 {
        b.key(Key::A, true);
        b.key(Key::A, false);
    }
    let bytes = b.keyboard();
    assert!(bytes.len() <= QUEUE + 2);
    let released = bytes.windows(2).filter(|w| *w == [0xf0, 0x1c]).count();
    assert_eq!(bytes.iter().filter(|c| **c == 0x1c).count(), 2 * released - 1, "each release has its press");
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
            _ => {
                let (dx, dy) = ((r >> 8) as i32, (r >> 20) as i32);
                b.key(Key((r >> 8) as u16 % 150), r & 4 != 0);
                b.c.input(&[InputEvent::Motion { dx, dy }, InputEvent::Wheel { dx, dy }]);
                b.c.expired(r);
            }
        }
        assert!(b.c.answers.len() <= QUEUE);
    }
    b.power.take();
}

#[test]
fn a_held_key_repeats_at_the_rate_that_was_set() {
    let mut b = bench();
    b.command(0xae);
    b.key(Key::J, true);
    b.key(Key::J, true);
    assert_eq!(b.keyboard(), [0x3b], "the keyboard alone repeats");
    assert!(b.alarm());
    assert_eq!((b.clock.now(), b.keyboard()), (500_000_000, vec![0x3b]));
    assert!(b.alarm());
    assert_eq!(b.clock.now() / 1_000_000, 591, "10.9 a second");
    (0..5).for_each(|_| _ = b.alarm());
    assert_eq!(b.keyboard(), [0x3b, 0x3b], "no backlog for a guest that does not read");
    b.data(0xf3);
    b.data(0x00);
    b.drain();
    b.key(Key::K, true);
    let at = b.clock.now();
    b.alarm();
    assert_eq!(b.clock.now() - at, 250_000_000);
    assert_eq!(b.keyboard(), [0x42, 0x42], "the last key");
    b.key(Key::K, false);
    b.key(Key::J, false);
    assert_eq!(b.keyboard(), [0xf0, 0x42, 0xf0, 0x3b]);
    assert!(!b.alarm());
}

#[test]
fn lights_and_sets() {
    let mut b = bench();
    b.data(0xed);
    b.data(0x02);
    assert_eq!((b.keyboard(), b.c.leds()), (vec![0xfa, 0xfa], 2));
    b.data(0xed);
    b.data(0xf4);
    assert_eq!((b.keyboard(), b.c.leds()), (vec![0xfa, 0xfa], 2), "a command instead of the parameter");
    for (set, make, release) in [(1, vec![0xe0, 0x4b], vec![0xe0, 0xcb]), (3, vec![0x61], vec![0xf0, 0x61])] {
        b.data(0xf0);
        b.data(set);
        b.data(0xf0);
        b.data(0);
        assert_eq!(b.keyboard(), [0xfa, 0xfa, 0xfa, 0xfa, set]);
        b.key(Key::LEFT, true);
        assert_eq!(b.keyboard(), make);
        b.key(Key::LEFT, false);
        assert_eq!(b.keyboard(), release);
    }
    b.data(0xfd);
    b.data(0x61);
    b.data(0xfb);
    b.data(0x6a);
    assert_eq!(b.keyboard(), [0xfa; 4]);
    b.key(Key::LEFT, true);
    b.key(Key::LEFT, false);
    assert_eq!((b.keyboard(), b.alarm()), (vec![0x61], false), "make only");
    b.key(Key::RIGHT, true);
    assert!(b.alarm());
    b.key(Key::RIGHT, false);
    assert_eq!(b.keyboard()[..1], [0x6a], "no break");
    b.data(0xf5);
    b.data(0xf4);
    b.drain();
    b.key(Key::LEFT, true);
    assert_eq!(b.keyboard(), [0xe0, 0x6b], "defaults: set 2");
    b.key(Key::LEFT_ALT, true);
    b.key(Key::PRINT, true);
    assert_eq!(b.keyboard(), [0x11, 0x84], "SysRq");
}

#[test]
fn answers_go_before_keys() {
    let mut b = bench();
    b.key(Key::A, true);
    b.key(Key::B, true);
    b.command(0xae);
    b.data(0xed);
    assert_eq!(b.keyboard(), [0x1c, 0xfa, 0x32]);
}

#[test]
fn movements_become_packets() {
    let mut b = bench();
    let motion = |dx, dy| InputEvent::Motion { dx, dy };
    let packet = |b: &mut Bench| b.drain().into_iter().map(|(byte, _)| byte).collect::<Vec<_>>();
    b.c.input(&[motion(5, 5)]);
    assert_eq!(packet(&mut b), [], "not enabled");
    assert_eq!((b.mouse(0xf4), b.c.mouse_enabled()), (vec![0xfa], true));
    b.c.input(&[motion(5, -3)]);
    b.c.input(&[InputEvent::Button { button: Button::Left, down: true }]);
    assert_eq!(packet(&mut b), [0x08, 5, 3, 0x09, 0, 0]);
    b.c.input(&[motion(-300, 2)]);
    assert_eq!(packet(&mut b), [0x39, 1, 0xfe, 0x19, 0xd3, 0], "more than a report holds: two");
    b.c.input(&[InputEvent::Wheel { dx: 0, dy: 1 }]);
    assert_eq!(packet(&mut b), [], "no wheel yet");
    for rate in [200, 100, 80] {
        b.mouse(0xf3);
        b.mouse(rate);
    }
    assert_eq!(b.mouse(0xf2), [0xfa, 3]);
    b.c.input(&[InputEvent::Wheel { dx: 0, dy: 1 }]);
    assert_eq!(packet(&mut b), [0x09, 0, 0, 0xff]);
    for rate in [200, 200, 80] {
        b.mouse(0xf3);
        b.mouse(rate);
    }
    assert_eq!(b.mouse(0xf2), [0xfa, 4]);
    b.c.input(&[InputEvent::Wheel { dx: 0, dy: -2 }, InputEvent::Button { button: Button::Side, down: true }]);
    assert_eq!(packet(&mut b), [0x09, 0, 0, 0x02, 0x09, 0, 0, 0x10]);
    assert_eq!(b.mouse(0xe9), [0xfa, 0x24, 2, 80], "the left button");
    b.mouse(0xf0);
    b.c.input(&[motion(1, 0)]);
    assert_eq!(packet(&mut b), [], "remote mode");
    assert_eq!(b.mouse(0xeb), [0xfa, 0x09, 1, 0, 0x10]);
    assert_eq!((b.mouse(0xff), b.mouse(0xf2)), (vec![0xfa, 0xaa, 0], vec![0xfa, 0]));
}
