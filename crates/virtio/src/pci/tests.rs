use std::sync::Mutex;

use super::*;
use crate::testing::*;
use crate::{Chain, DeviceType};

/// Copies the readable part of a chain to the writable one; keeps chains of queue 1 until told.
struct Echo {
    queues: Option<Arc<Queues>>,
    kept: Arc<Mutex<Vec<Chain>>>,
    config: [u8; 8],
}

impl Echo {
    fn rig() -> (Rig, Arc<Mutex<Vec<Chain>>>) {
        let kept = Arc::new(Mutex::new(Vec::new()));
        (Rig::new(Echo { queues: None, kept: kept.clone(), config: [7; 8] }), kept)
    }
}

impl VirtioDevice for Echo {
    fn name(&self) -> &str {
        "echo"
    }
    fn device_type(&self) -> DeviceType {
        DeviceType { id: 63, class: 0xff_0000 }
    }
    fn features(&self) -> u64 {
        1
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8, 16]
    }
    fn attach(&mut self, queues: Arc<Queues>) {
        self.queues = Some(queues);
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (i, d) in data.iter_mut().enumerate() {
            *d = self.config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (i, d) in data.iter().enumerate() {
            if let Some(c) = self.config.get_mut(offset as usize + i) {
                *c = *d;
            }
        }
    }
    fn activate(&mut self, _features: u64) {}
    fn notify(&mut self, queue: u16) {
        let queues = self.queues.clone().unwrap();
        for _ in 0..64 {
            let Some(chain) = queues.next(queue) else { break };
            if queue == 1 {
                self.kept.lock().unwrap().push(chain);
                continue;
            }
            let mut data = vec![0; chain.readable.len().min(chain.writable.len())];
            chain.readable.get(0, &mut data).unwrap();
            chain.writable.put(0, &data).unwrap();
            chain.complete(data.len() as u32);
        }
    }
    fn reset(&mut self) {}
}

const DATA: u64 = 4 << 20;

#[test]
fn identity_and_capabilities_are_those_of_a_modern_device() {
    let (rig, _) = Echo::rig();
    assert_eq!(rig.read_config(0), 0x107f_1af4);
    assert_eq!(rig.read_config(8), 0xff00_0001);
    assert_eq!(rig.read_config(0x2c), 0x107f_1af4);
    for (kind, offset, len) in [(1, 0, 0x40), (3, 0x1000, 1), (4, 0x2000, 0x1000), (2, 0x3000, 8)] {
        let cap = rig.capability(9, |at| rig.read_config(at) >> 24 == kind);
        assert_eq!(rig.read_config(cap + 4) & 0xff, 4);
        assert_eq!((rig.read_config(cap + 8), rig.read_config(cap + 12)), (offset, len), "structure {kind}");
    }
    let notify = rig.capability(9, |at| rig.read_config(at) >> 24 == 2);
    assert_eq!(rig.read_config(notify + 16), 4, "notification multiplier");
}

#[test]
fn features_are_negotiated_by_the_rules() {
    let (rig, _) = Echo::rig();
    assert_eq!(rig.offered(), 1 | F_INDIRECT | F_EVENT_IDX | F_VERSION_1 | F_RING_RESET);
    assert!(!rig.negotiate(1), "a driver that knows no version 1");
    assert!(!rig.negotiate(F_VERSION_1 | 2), "a feature that was not offered");
    rig.write(0x14, 1, 0xf);
    assert_eq!(rig.status(), 3, "no DRIVER_OK without FEATURES_OK");
    assert!(rig.negotiate(F_VERSION_1 | 1));
    rig.write(8, 4, 0);
    rig.write(0xc, 4, 0);
    assert_eq!(rig.read(0xc, 4), 1, "frozen after FEATURES_OK");
    rig.write(0x14, 1, 1);
    assert_eq!(rig.status(), 0xb, "bits are cleared by reset only");
    rig.write(0x14, 1, 0);
    assert_eq!((rig.status(), rig.read(0xc, 4)), (0, 0));
}

#[test]
fn queue_registers_behave() {
    let (rig, _) = Echo::rig();
    assert_eq!(rig.read(0x12, 2), 2);
    assert!(rig.negotiate(F_VERSION_1));
    rig.write(0x16, 2, 1);
    assert_eq!((rig.read(0x18, 2), rig.read(0x1e, 2)), (16, 1));
    for bad in [0, 3, 32] {
        rig.write(0x18, 2, bad);
        assert_eq!(rig.read(0x18, 2), 16);
    }
    rig.write(0x18, 2, 4);
    rig.write(0x20, 4, 0x1234_5670);
    rig.write(0x24, 4, 0x9a);
    assert_eq!((rig.read(0x18, 2), rig.read(0x20, 8)), (4, 0x9a_1234_5670));
    rig.write(0x1a, 2, 2);
    assert_eq!(rig.read(0x1a, 2), 2);
    rig.write(0x1a, 2, 3);
    assert_eq!(rig.read(0x1a, 2), 0xffff, "no such vector");
    rig.write(0x16, 2, 2);
    assert_eq!(rig.read(0x18, 2), 0, "no such queue");
    rig.write(0x2000, 4, 0x0403_0201);
    assert_eq!(rig.read(0x2000, 8), 0x0707_0707_0403_0201);
}

#[test]
fn chains_go_round_with_an_intx_interrupt() {
    let (rig, _) = Echo::rig();
    let mut q = rig.start(0).remove(0);
    rig.store(DATA, b"hello world");
    let head =
        q.send(&rig, &[(DATA, 5, false), (DATA + 5, 6, false), (DATA + 0x100, 3, true), (DATA + 0x200, 20, true)]);
    assert_eq!(q.used(&rig), Some((head, 11)));
    assert_eq!((rig.bytes(DATA + 0x100, 3), rig.bytes(DATA + 0x200, 8)), (b"hel".to_vec(), b"lo world".to_vec()));
    assert_eq!(*rig.irq.0.lock().unwrap(), [(10, true)]);
    assert_eq!(rig.read_config(4) >> 19 & 1, 1, "interrupt status bit");
    assert_eq!((rig.isr(), rig.isr()), (1, 0));
    assert_eq!(*rig.irq.0.lock().unwrap(), [(10, true), (10, false)]);
    rig.store(q.base + 0x1000, &1u16.to_le_bytes());
    q.send(&rig, &[(DATA, 5, false)]);
    assert_eq!((q.used(&rig).is_some(), rig.isr()), (true, 0), "VIRTQ_AVAIL_F_NO_INTERRUPT");
}

#[test]
fn messages_carry_the_vector_of_the_queue() {
    let (rig, _) = Echo::rig();
    rig.enable_msix();
    let mut q = rig.start(F_EVENT_IDX).remove(0);
    q.send(&rig, &[(DATA, 5, false)]);
    assert_eq!(*rig.msi.0.lock().unwrap(), [0x101]);
    assert_eq!((rig.isr(), rig.irq.0.lock().unwrap().len()), (0, 0));
    q.used_event(&rig, 2);
    q.send(&rig, &[(DATA, 5, false)]);
    assert_eq!(rig.msi.0.lock().unwrap().len(), 1, "the driver has asked for the third one");
    q.send(&rig, &[(DATA, 5, false)]);
    assert_eq!(rig.msi.0.lock().unwrap().len(), 2);
    let event = rig.bytes(q.base + 0x2000 + 4 + 8 * u64::from(q.size), 2);
    assert_eq!(event, [3, 0], "avail_event asks for the next one");
}

#[test]
fn indirect_tables_work_and_longer_ones_than_the_queue_do_not() {
    let (rig, _) = Echo::rig();
    let mut q = rig.start(F_INDIRECT).remove(0);
    rig.store(DATA, b"abcd");
    let table = |n: u16| {
        let last = descriptor(DATA + 0x100, 4, WRITE, 0);
        (1..n).flat_map(|i| descriptor(DATA, 1, NEXT, i)).chain(last).collect::<Vec<_>>()
    };
    for (n, broken) in [(8, false), (9, true)] {
        let t = table(n);
        rig.store(DATA + 0x1000, &t);
        rig.store(q.base + 16 * 7, &descriptor(DATA + 0x1000, t.len() as u32, INDIRECT, 0));
        q.offer(&rig, 7);
        q.kick(&rig);
        assert_eq!(q.used(&rig), (!broken).then_some((7, 4)));
        assert_eq!(rig.status() & 0x40 != 0, broken);
    }
    assert_eq!(rig.bytes(DATA + 0x100, 4), b"aaaa");
}

#[test]
fn broken_chains_stop_the_device_with_a_configuration_interrupt() {
    type Break = fn(&Rig, &mut Vq);
    let cases: [(&str, Break); 7] = [
        ("outside RAM", |r, q| _ = q.add(r, &[(RAM - 4, 8, false)])),
        ("wraps around", |r, q| _ = q.add(r, &[(u64::MAX - 1, 8, false)])),
        ("readable after writable", |r, q| _ = q.add(r, &[(DATA, 8, true), (DATA, 8, false)])),
        ("head out of range", |r, q| q.offer(r, 8)),
        ("next out of range", |r, q| {
            r.store(q.base, &descriptor(DATA, 4, NEXT, 99));
            q.offer(r, 0);
        }),
        ("loop", |r, q| {
            r.store(q.base, &descriptor(DATA, 4, NEXT, 0));
            q.offer(r, 0);
        }),
        ("index jumps", |r, q| r.store(q.base + 0x1002, &1000u16.to_le_bytes())),
    ];
    for (what, make) in cases {
        let (rig, _) = Echo::rig();
        rig.enable_msix();
        assert!(rig.negotiate(F_VERSION_1));
        rig.write(0x10, 2, 0);
        let mut q = rig.set_up(0);
        rig.write(0x14, 1, 0xf);
        make(&rig, &mut q);
        q.kick(&rig);
        assert_eq!(rig.status(), 0x4f, "{what}");
        assert_eq!(*rig.msi.0.lock().unwrap(), [0x100], "{what}: one configuration interrupt");
        assert_eq!(q.used(&rig), None, "{what}");
        q.kick(&rig);
        let mut q = rig.start(0).remove(0);
        q.send(&rig, &[(DATA, 4, false)]);
        assert!(q.used(&rig).is_some(), "{what}: works after a reset");
    }
}

#[test]
fn a_queue_outside_ram_breaks_the_device() {
    for at in [RAM - 16, !0xf, 0x1008] {
        let (rig, _) = Echo::rig();
        assert!(rig.negotiate(F_VERSION_1));
        rig.write(0x20, 8, at);
        rig.write(0x28, 8, 0x2000);
        rig.write(0x30, 8, 0x3000);
        rig.write(0x1c, 2, 1);
        rig.write(0x14, 1, 0xf);
        assert_eq!(rig.status(), 0x4f);
    }
}

#[test]
fn chains_taken_before_a_reset_are_void() {
    let (rig, kept) = Echo::rig();
    type Reset = fn(&Rig);
    let resets: [Reset; 3] = [
        |r| r.write(0x14, 1, 0),
        |r| {
            r.write(0x16, 2, 1);
            r.write(0x3a, 2, 1);
            assert_eq!((r.read(0x3a, 2), r.read(0x1c, 2)), (0, 0));
        },
        |r| {
            r.reset_machine();
            r.pci.lock().unwrap().assign_resources().unwrap();
            r.write_config(4, &6u16.to_le_bytes());
        },
    ];
    for reset in resets {
        let mut q = rig.start(F_RING_RESET).remove(1);
        rig.store(DATA, b"safe");
        q.send(&rig, &[(DATA, 4, true)]);
        let chain = kept.lock().unwrap().remove(0);
        reset(&rig);
        assert_eq!(chain.writable.put(0, b"evil"), Err(crate::BufferError::Stale));
        assert_eq!(chain.writable.get(0, &mut [0; 4]), Err(crate::BufferError::Stale));
        chain.complete(4);
        assert_eq!((rig.bytes(DATA, 4), q.used(&rig)), (b"safe".to_vec(), None));
    }
    let mut q = rig.start(0).remove(1);
    let a = q.send(&rig, &[(DATA, 4, true)]);
    kept.lock().unwrap().clear();
    assert_eq!(q.used(&rig), Some((a, 0)), "a chain that is dropped goes back empty");
}

#[test]
fn a_reset_queue_can_be_used_again() {
    let (rig, _) = Echo::rig();
    let mut queues = rig.start(F_RING_RESET);
    queues[0].send(&rig, &[(DATA, 4, false)]);
    rig.write(0x16, 2, 0);
    rig.write(0x3a, 2, 1);
    assert_eq!(rig.read(0x18, 2), 8);
    let mut q = rig.set_up(0);
    let head = q.send(&rig, &[(DATA, 4, false)]);
    assert_eq!(q.used(&rig), Some((head, 0)));
}

#[test]
fn nothing_moves_without_bus_mastering() {
    let (rig, _) = Echo::rig();
    rig.write_config(4, &2u16.to_le_bytes());
    let mut q = rig.start(0).remove(0);
    let head = q.send(&rig, &[(DATA, 4, false)]);
    assert_eq!(q.used(&rig), None);
    rig.write_config(4, &6u16.to_le_bytes());
    assert_eq!(q.used(&rig), Some((head, 0)), "buffers that waited are found");
}

#[test]
fn buffers_offered_before_driver_ok_are_found() {
    let (rig, _) = Echo::rig();
    assert!(rig.negotiate(F_VERSION_1));
    let mut q = rig.set_up(0);
    let head = q.send(&rig, &[(DATA, 4, false)]);
    assert_eq!(q.used(&rig), None);
    rig.write(0x14, 1, 0xf);
    assert_eq!(q.used(&rig), Some((head, 0)));
}

#[test]
fn the_window_in_configuration_space_reaches_the_registers() {
    let (rig, _) = Echo::rig();
    let cap = rig.capability(9, |at| rig.read_config(at) >> 24 == 5);
    let aim = |bar: u8, offset: u32, len: u32| {
        rig.write_config(cap + 4, &[bar]);
        rig.write_config(cap + 8, &offset.to_le_bytes());
        rig.write_config(cap + 12, &len.to_le_bytes());
    };
    aim(4, 0x12, 2);
    assert_eq!(rig.read_config(cap + 16) & 0xffff, 2, "num_queues");
    aim(4, 0x14, 1);
    rig.write_config(cap + 16, &[3]);
    assert_eq!(rig.status(), 3);
    for (bar, offset, len) in [(0, 0, 4), (9, 0, 4), (4, 2, 4), (4, 0x4000, 4), (4, 0xffff_fffc, 4), (4, 0, 3)] {
        aim(bar, offset, len);
        rig.write_config(cap + 16, &[0; 4]);
        rig.read_config(cap + 16);
        assert_eq!(rig.status(), 3);
    }
}

#[test]
fn random_drivers_do_no_harm() {
    let (rig, kept) = Echo::rig();
    fuzz(&rig, 0x0123_4567_89ab_cdef, !0, |r| {
        let mut kept = kept.lock().unwrap();
        let keep = r.below(4) as usize;
        kept.truncate(keep);
    });
}
