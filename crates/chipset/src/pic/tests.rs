use std::sync::Arc;

use visor_device::Device;

use super::Pic;
use crate::Ports;
use crate::testing::{Intr, Random};

/// A pair set up as PC firmware does: vectors 08h and 70h, everything unmasked.
fn pic() -> (Arc<Intr>, Pic) {
    let intr = Arc::new(Intr::default());
    let mut p = Pic::new(intr.clone());
    init(&mut p, 1);
    (intr, p)
}

fn init(p: &mut Pic, icw4: u8) {
    for (even, base, icw3) in [(0x20, 0x08, 4), (0xa0, 0x70, 2)] {
        p.write_port(even, 0x11);
        for value in [base, icw3, icw4, 0] {
            p.write_port(even + 1, value);
        }
    }
}

fn isr(p: &mut Pic, even: u16) -> u8 {
    p.write_port(even, 0x0b);
    p.read_port(even)
}

fn irr(p: &mut Pic, even: u16) -> u8 {
    p.write_port(even, 0x0a);
    p.read_port(even)
}

#[test]
fn nothing_happens_before_initialisation() {
    let intr = Arc::new(Intr::default());
    let mut p = Pic::new(intr.clone());
    p.set(0, true);
    assert!(!*intr.0.lock().unwrap());
    assert_eq!(p.acknowledge(), None);
}

#[test]
fn fully_nested_priorities() {
    let (intr, mut p) = pic();
    p.set(4, true);
    assert!(*intr.0.lock().unwrap());
    assert_eq!(p.acknowledge(), Some(0x0c));
    assert!(!p.intr());
    p.set(5, true);
    assert!(!p.intr(), "lower priority waits");
    p.set(1, true);
    assert_eq!(p.acknowledge(), Some(0x09));
    assert_eq!(isr(&mut p, 0x20), 0x12);
    p.write_port(0x20, 0x20);
    assert_eq!(isr(&mut p, 0x20), 0x10, "non-specific EOI ends the highest");
    p.write_port(0x20, 0x64);
    assert_eq!(p.acknowledge(), Some(0x0d));
}

#[test]
fn the_slave_comes_through_input_2() {
    let (_, mut p) = pic();
    p.set(8, true);
    assert_eq!(irr(&mut p, 0x20), 4);
    assert_eq!(p.acknowledge(), Some(0x70));
    assert_eq!((isr(&mut p, 0x20), isr(&mut p, 0xa0)), (4, 1));
    p.set(14, true);
    assert!(!p.intr());
    p.write_port(0xa0, 0x20);
    assert!(!p.intr(), "the master still serves its input 2");
    p.write_port(0x20, 0x20);
    assert_eq!(p.acknowledge(), Some(0x76));
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    let (_, mut p) = pic();
    init(&mut p, 0x11);
    p.set(14, true);
    assert_eq!(p.acknowledge(), Some(0x76));
    p.set(8, true);
    assert_eq!(p.acknowledge(), Some(0x70));
}

#[test]
fn masks() {
    let (_, mut p) = pic();
    p.write_port(0x21, 0x02);
    p.set(1, true);
    assert!(!p.intr());
    assert_eq!(p.read_port(0x21), 2);
    p.write_port(0x21, 0);
    assert!(p.intr());
    p.write_port(0x21, 0xff);
    assert_eq!(p.acknowledge(), Some(0x0f), "a request that went away gives IRQ 7");
    assert_eq!(isr(&mut p, 0x20), 0, "without being in service");
}

#[test]
fn a_slave_request_that_goes_away_gives_irq_15() {
    let (_, mut p) = pic();
    p.write_port(0x4d1, 0x04);
    p.set(10, true);
    p.write_port(0x20, 0x0e);
    assert_eq!(p.read_port(0x20), 0x82, "the master's half of the cycle, by poll");
    p.set(10, false);
    assert_eq!(p.slave.acknowledge(), None);
    assert_eq!(p.slave.vector(7), 0x77);
}

#[test]
fn edge_and_level() {
    let (_, mut p) = pic();
    p.write_port(0x4d1, 0xff);
    assert_eq!(p.read_port(0x4d1), 0xde, "IRQ 8 and 13 are always edge-triggered");
    p.write_port(0x4d0, 0xff);
    assert_eq!(p.read_port(0x4d0), 0xf8);
    p.write_port(0x4d0, 0x20);
    p.set(5, true);
    assert_eq!(p.acknowledge(), Some(0x0d));
    p.write_port(0x20, 0x20);
    assert!(p.intr(), "a level requests until it ends");
    p.set(5, false);
    assert!(!p.intr());
    p.set(4, true);
    p.set(4, false);
    assert_eq!(p.acknowledge(), Some(0x0c), "a pulse is kept");
    p.write_port(0x20, 0x20);
    assert!(!p.intr());
}

#[test]
fn automatic_eoi_and_rotation() {
    let (_, mut p) = pic();
    init(&mut p, 3);
    p.write_port(0x20, 0x80);
    p.set(3, true);
    assert_eq!(p.acknowledge(), Some(0x0b));
    assert_eq!(isr(&mut p, 0x20), 0);
    p.set(3, false);
    p.set(3, true);
    p.set(4, true);
    assert_eq!(p.acknowledge(), Some(0x0c), "3 has the lowest priority now");
}

#[test]
fn rotation_on_eoi_and_set_priority() {
    let (_, mut p) = pic();
    p.write_port(0x20, 0xc3);
    p.set(0, true);
    p.set(4, true);
    assert_eq!(p.acknowledge(), Some(0x0c), "with 3 lowest, 4 is highest");
    p.write_port(0x20, 0xa0);
    p.set(4, false);
    p.set(4, true);
    p.set(5, true);
    assert_eq!(p.acknowledge(), Some(0x0d), "with 4 lowest, 5 is highest");
    p.write_port(0x20, 0xe5);
    assert_eq!(isr(&mut p, 0x20), 0);
}

#[test]
fn special_mask_mode_lets_lower_priorities_in() {
    let (_, mut p) = pic();
    p.set(1, true);
    assert_eq!(p.acknowledge(), Some(0x09));
    p.set(6, true);
    assert!(!p.intr());
    p.write_port(0x21, 0x02);
    p.write_port(0x20, 0x68);
    assert_eq!(p.acknowledge(), Some(0x0e));
    p.write_port(0x20, 0x20);
    assert_eq!(isr(&mut p, 0x20), 0x02, "a masked input is not ended by non-specific EOI");
}

#[test]
fn poll() {
    let (_, mut p) = pic();
    p.set(6, true);
    p.write_port(0x20, 0x0c);
    assert_eq!(p.read_port(0x20), 0x86);
    assert!(!p.intr());
    assert_eq!(isr(&mut p, 0x20), 0x40);
    p.write_port(0x20, 0x0c);
    assert_eq!(p.read_port(0x20), 0, "nothing to poll");
}

#[test]
fn icw1_clears_and_resets_edges() {
    let (_, mut p) = pic();
    p.set(1, true);
    init(&mut p, 1);
    assert!(!p.intr(), "an edge-triggered input needs a new rise");
    p.set(1, false);
    p.set(1, true);
    assert!(p.intr());
    p.reset();
    assert!(!p.intr());
}

#[test]
fn random_accesses_never_panic() {
    let (intr, mut p) = pic();
    let mut random = Random::new(8259);
    for _ in 0..200_000 {
        let r = random.next();
        let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][(r >> 8) as usize % 6];
        match r & 7 {
            0..=2 => p.write_port(port, (r >> 16) as u8),
            3 => drop(p.read_port(port)),
            4 => drop(p.acknowledge()),
            _ => p.set((r >> 16) as u32 & 31, r >> 32 & 1 != 0),
        }
        assert_eq!(*intr.0.lock().unwrap(), p.intr());
    }
}
