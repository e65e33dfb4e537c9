use visor_console::{Button, InputEvent};

use super::*;
use crate::testing::*;

fn ask(rig: &Rig, select: u8, subselect: u8) -> Vec<u8> {
    rig.write(0x2000, 1, select.into());
    rig.write(0x2001, 1, subselect.into());
    let size = rig.read(0x2002, 1);
    (0..size).map(|i| rig.read(0x2008 + i, 1) as u8).collect()
}

/// Offers `n` buffers for events.
fn offer(rig: &Rig, q: &mut Vq, n: u64) {
    for i in 0..n {
        q.send(rig, &[(0x40_0000 + 8 * i, 8, true)]);
    }
}

/// The events in the first buffers.
fn events(rig: &Rig, n: usize) -> Vec<(u8, u16, u32)> {
    let bytes = rig.bytes(0x40_0000, 8 * n);
    let event = |e: &[u8]| (e[0], u16::from_le_bytes([e[2], e[3]]), u32::from_le_bytes([e[4], e[5], e[6], e[7]]));
    bytes.chunks_exact(8).map(event).collect()
}

#[test]
fn it_says_what_it_can_do() {
    let rig = Rig::new(Tablet::new().0);
    assert_eq!(ask(&rig, 1, 0), b"virtio tablet");
    assert_eq!(ask(&rig, 0x12, 1), [0, 0, 0, 0, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let keys = ask(&rig, 0x11, 1);
    assert_eq!((keys.len(), keys[0x110 / 8]), (0x110 / 8 + 1, 0x1f));
    assert_eq!((ask(&rig, 0x11, 2), ask(&rig, 0x11, 3), ask(&rig, 0x11, 4)), (vec![0x40, 1], vec![3], vec![]));
    assert_eq!(ask(&rig, 3, 0).len(), 8);
    assert_eq!(ask(&rig, 0x77, 0x33), []);
}

#[test]
fn events_come_in_packets() {
    let (tablet, host) = Tablet::new();
    let rig = Rig::new(tablet);
    host.input(&[InputEvent::Position { x: 1, y: 2 }]);
    assert!(!host.is_active());
    let mut q = rig.start(F_EVENT_IDX).remove(0);
    assert!(host.is_active());
    offer(&rig, &mut q, 6);
    host.input(&[InputEvent::Position { x: 5, y: 0xffff }, InputEvent::Button { button: Button::Right, down: true }]);
    assert_eq!(events(&rig, 4), [(3, 0, 5), (3, 1, 0x7fff), (1, 0x111, 1), (0, 0, 0)]);
    assert_eq!(
        (0..5).map(|_| q.used(&rig).map(|u| u.1)).collect::<Vec<_>>(),
        [Some(8), Some(8), Some(8), Some(8), None]
    );
    host.input(&[InputEvent::Wheel { dx: 0, dy: -1 }]);
    assert_eq!(events(&rig, 6)[4..], [(2, 8, u32::MAX), (0, 0, 0)]);
    host.input(&[InputEvent::Wheel { dx: 0, dy: 0 }]);
    host.input(&[InputEvent::Position { x: 1, y: 1 }]);
    assert_eq!(rig.status(), 0xf, "no room: lost");
}

#[test]
fn bad_buffers_stop_the_device_and_a_reset_starts_it_anew() {
    let (tablet, host) = Tablet::new();
    let rig = Rig::new(tablet);
    let mut q = rig.start(F_EVENT_IDX).remove(0);
    q.send(&rig, &[(0x40_0000, 4, true)]);
    q.send(&rig, &[(0x40_0100, 8, true)]);
    host.input(&[InputEvent::Button { button: Button::Left, down: true }]);
    assert_eq!(rig.status() & 0x40, 0x40);
    let mut queues = rig.start(F_EVENT_IDX);
    let s = queues[1].send(&rig, &[(0x40_0000, 8, false)]);
    assert_eq!(queues[1].used(&rig), Some((s, 0)), "lights are taken and ignored");
}
