use std::sync::Arc;

use super::*;
use crate::testing::*;

const DATA: u64 = 6 << 20;
const MULTIPORT: u64 = 2;

fn rig() -> (Rig, ConsoleHandle) {
    let port = |name: &str, console| PortConfig { name: name.into(), console };
    let ports = vec![port("", true), port("org.visor.agent.0", false)];
    let (device, handle) = Console::new(&ConsoleConfig { ports, size: (80, 25) }).unwrap();
    (Rig::new(device), handle)
}

/// Remembers a port's events.
fn events(port: &ConsolePort) -> Arc<Mutex<Vec<PortEvent>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let l = log.clone();
    port.on_event(move |e| l.lock().unwrap().push(e));
    log
}

fn take(log: &Mutex<Vec<PortEvent>>) -> Vec<PortEvent> {
    std::mem::take(&mut *log.lock().unwrap())
}

/// Sends a control message.
fn say(rig: &Rig, q: &mut [Vq], id: u32, event: u16, value: u16) {
    rig.store(DATA, &[&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat());
    q[3].send(rig, &[(DATA, 8, false)]);
    assert!(q[3].used(rig).is_some());
}

/// Gives the device `n` buffers for control messages.
fn listen(rig: &Rig, q: &mut [Vq], n: u64) {
    for _ in 0..n {
        let at = DATA + 0x1000 + u64::from(q[2].next_head()) * 64;
        q[2].send(rig, &[(at, 64, true)]);
    }
}

/// The control messages that have come: port, event, value, tail.
fn heard(rig: &Rig, q: &mut [Vq]) -> Vec<(u32, u16, u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((head, len)) = q[2].used(rig) {
        let b = rig.bytes(DATA + 0x1000 + u64::from(head) * 64, len as usize);
        let half = |i| u16::from_le_bytes([b[i], b[i + 1]]);
        all.push((u32::from(half(0)), half(4), half(6), b[8..].to_vec()));
    }
    all
}

/// A driver with both ports open.
fn open(rig: &Rig, handle: &ConsoleHandle) -> Vec<Vq> {
    let mut q = rig.start(MULTIPORT | F_EVENT_IDX);
    listen(rig, &mut q, 32);
    say(rig, &mut q, 0, 0, 1);
    for port in 0..2 {
        handle.port_at(port).unwrap().set_open(true);
        say(rig, &mut q, port as u32, 3, 1);
        say(rig, &mut q, port as u32, 6, 1);
    }
    heard(rig, &mut q);
    q
}

#[test]
fn ports_are_announced_named_and_opened() {
    let (rig, handle) = rig();
    assert_eq!(rig.read(0x2000, 8), 80 | 25 << 16 | 2 << 32);
    let mut q = rig.start(MULTIPORT);
    assert_eq!(q.len(), 6);
    let agent = handle.port("org.visor.agent.0").unwrap();
    let log = events(&agent);
    agent.set_open(true);
    say(&rig, &mut q, 0, 0, 1);
    assert_eq!(heard(&rig, &mut q), [], "no buffers yet");
    listen(&rig, &mut q, 1);
    assert_eq!(heard(&rig, &mut q), [(0, 1, 1, vec![])]);
    listen(&rig, &mut q, 20);
    assert_eq!(heard(&rig, &mut q), [(1, 1, 1, vec![])]);
    say(&rig, &mut q, 0, 3, 1);
    assert_eq!(heard(&rig, &mut q), [(0, 4, 1, vec![]), (0, 5, 0, vec![80, 0, 25, 0])]);
    say(&rig, &mut q, 1, 3, 1);
    assert_eq!(heard(&rig, &mut q), [(1, 7, 1, b"org.visor.agent.0".to_vec()), (1, 6, 1, vec![])]);
    say(&rig, &mut q, 1, 6, 1);
    assert!(agent.guest_open());
    assert_eq!(take(&log), [PortEvent::Opened]);
    agent.set_open(false);
    assert_eq!(heard(&rig, &mut q), [(1, 6, 0, vec![])]);
    say(&rig, &mut q, 1, 6, 0);
    say(&rig, &mut q, 99, 6, 1);
    assert_eq!((take(&log), agent.guest_open()), (vec![PortEvent::Closed], false));
    assert!(handle.port("no such port").is_none() && handle.port_at(2).is_none());
}

#[test]
fn resizing_reaches_both_kinds_of_driver() {
    let (rig, handle) = rig();
    let mut q = open(&rig, &handle);
    let generation = rig.read(0x15, 1);
    handle.resize(132, 50);
    assert_eq!(heard(&rig, &mut q), [(0, 5, 0, vec![132, 0, 50, 0])]);
    assert_ne!(rig.read(0x15, 1), generation);
    assert_eq!(rig.read(0x2000, 4), 132 | 50 << 16);
    assert_eq!(rig.isr() & 2, 2, "configuration change");
}

#[test]
fn bytes_flow_both_ways() {
    let (rig, handle) = rig();
    let mut q = open(&rig, &handle);
    let agent = handle.port_at(1).unwrap();
    let log = events(&agent);
    rig.store(DATA, b"from guest");
    let head = q[5].send(&rig, &[(DATA, 5, false), (DATA + 5, 5, false)]);
    assert_eq!(q[5].used(&rig), Some((head, 0)));
    assert_eq!(take(&log), [PortEvent::Readable]);
    let mut buf = [0; 7];
    assert_eq!((agent.read(&mut buf), &buf[..]), (7, &b"from gu"[..]));
    assert_eq!((agent.read(&mut buf), &buf[..3]), (3, &b"est"[..]));
    assert_eq!(agent.read(&mut buf), 0);
    assert_eq!(agent.write(b"to guest"), 8);
    let a = q[4].send(&rig, &[(DATA + 0x100, 3, true)]);
    let b = q[4].send(&rig, &[(DATA + 0x200, 100, true)]);
    assert_eq!((q[4].used(&rig), q[4].used(&rig)), (Some((a, 3)), Some((b, 5))));
    assert_eq!((rig.bytes(DATA + 0x100, 3), rig.bytes(DATA + 0x200, 5)), (b"to ".to_vec(), b"guest".to_vec()));
    let c = q[4].send(&rig, &[(DATA + 0x300, 100, true)]);
    assert_eq!(q[4].used(&rig), None);
    assert_eq!(agent.write(b"later"), 5, "straight into the waiting buffer");
    assert_eq!(q[4].used(&rig), Some((c, 5)));
}

#[test]
fn a_slow_host_makes_the_guest_wait() {
    let (rig, handle) = rig();
    let mut q = open(&rig, &handle);
    let agent = handle.port_at(1).unwrap();
    let pattern: Vec<u8> = (0..0x1_0000u32).map(|i| (i / 251) as u8 ^ i as u8).collect();
    rig.store(DATA, &pattern);
    // 48 KiB fit, of the next 48 KiB a part, the third must wait.
    for _ in 0..3 {
        q[5].send(&rig, &[(DATA, 0xc000, false)]);
    }
    assert!(q[5].used(&rig).is_some());
    assert!(q[5].used(&rig).is_none(), "half of it read is not all of it");
    let mut got = vec![0; 3 * 0xc000];
    let mut done = 0;
    while done < got.len() {
        let end = (done + 1000).min(got.len());
        let n = agent.read(&mut got[done..end]);
        assert!(n > 0);
        done += n;
    }
    assert!(got.chunks(0xc000).all(|c| c == &pattern[..0xc000]));
    assert!(q[5].used(&rig).is_some() && q[5].used(&rig).is_some());
    assert_eq!(agent.read(&mut [0; 1]), 0);
}

#[test]
fn a_slow_guest_makes_the_host_wait() {
    let (rig, handle) = rig();
    let agent = handle.port_at(1).unwrap();
    assert_eq!(agent.write(b"x"), 0, "not open");
    let mut q = open(&rig, &handle);
    let log = events(&agent);
    assert_eq!(agent.write(&vec![b'a'; PORT_BUFFER]), PORT_BUFFER);
    assert_eq!(take(&log), []);
    assert_eq!(agent.write(b"more"), 0);
    q[4].send(&rig, &[(DATA, 10, true)]);
    assert_eq!(take(&log), [PortEvent::Writable]);
    assert_eq!(agent.write(b"more and more"), 10);
    say(&rig, &mut q, 1, 6, 0);
    assert_eq!(take(&log), [PortEvent::Closed]);
    say(&rig, &mut q, 1, 6, 1);
    q[4].send(&rig, &[(DATA, 10, true)]);
    assert!(q[4].used(&rig).is_some());
    assert!(q[4].used(&rig).is_none(), "bytes for the one who closed are gone");
}

#[test]
fn output_without_a_host_is_thrown_away() {
    let (rig, handle) = rig();
    let mut q = open(&rig, &handle);
    let agent = handle.port_at(1).unwrap();
    for _ in 0..3 {
        q[5].send(&rig, &[(DATA, 0xc000, false)]);
    }
    agent.set_open(false);
    for _ in 0..3 {
        assert!(q[5].used(&rig).is_some(), "a waiting guest is let go");
    }
    q[5].send(&rig, &[(DATA, 5, false)]);
    assert!(q[5].used(&rig).is_some());
    agent.set_open(true);
    assert_eq!(agent.read(&mut [0; 1]), 0);
}

#[test]
fn a_driver_without_multiport_has_one_open_console() {
    let (rig, handle) = rig();
    let console = handle.port_at(0).unwrap();
    console.set_open(true);
    let mut q = rig.start(0);
    assert!(console.guest_open());
    rig.store(DATA, b"boot");
    q[1].send(&rig, &[(DATA, 4, false)]);
    assert_eq!(console.write(b"key"), 3);
    q[0].send(&rig, &[(DATA + 8, 16, true)]);
    assert_eq!((q[0].used(&rig), rig.bytes(DATA + 8, 3)), (Some((0, 3)), b"key".to_vec()));
    rig.store(DATA, &[0, 0, 0, 0, 0, 0, 1, 0]);
    q[3].send(&rig, &[(DATA, 8, false)]);
    assert_eq!(q[3].used(&rig), None, "control queues are dead");
    rig.write(0x14, 1, 0);
    let mut buf = [0; 8];
    assert_eq!((console.read(&mut buf), &buf[..4]), (4, &b"boot"[..]), "last words survive the reset");
    assert!(!console.guest_open());
}

#[test]
fn the_number_of_ports_is_limited() {
    for n in [0, 32] {
        let ports = vec![PortConfig { name: String::new(), console: false }; n];
        assert_eq!(Console::new(&ConsoleConfig { ports, size: (0, 0) }).err(), Some(PortCountError(n)));
    }
}

#[test]
fn random_drivers_do_no_harm() {
    let (rig, handle) = rig();
    let ports = [handle.port_at(0).unwrap(), handle.port_at(1).unwrap()];
    fuzz(&rig, 0xfeed_beef_1234_5678, MULTIPORT | F_INDIRECT | F_EVENT_IDX | F_RING_RESET, |r| {
        let port = &ports[r.below(2) as usize];
        match r.below(5) {
            0 => port.set_open(r.below(4) != 0),
            1 => handle.resize(r.next() as u16, r.next() as u16),
            2 => _ = port.read(&mut vec![0; r.below(9000) as usize]),
            _ => _ = port.write(&vec![1; r.below(9000) as usize]),
        }
    });
    open(&rig, &handle);
}
