use super::*;
use crate::testing::*;

/// Counts up.
struct Counter(u8);
impl Entropy for Counter {
    fn fill(&mut self, data: &mut [u8]) -> bool {
        for d in data {
            self.0 = self.0.wrapping_add(1);
            *d = self.0;
        }
        true
    }
}

struct NoEntropy;
impl Entropy for NoEntropy {
    fn fill(&mut self, _data: &mut [u8]) -> bool {
        false
    }
}

#[test]
fn requests_are_filled_in_order_and_cut_at_the_limit() {
    let rig = Rig::new(Rng::new(Counter(0)));
    let mut q = rig.start(F_EVENT_IDX).remove(0);
    let a = q.send(&rig, &[(0x10_0000 * 4, 3, true), (0x50_0000, 5, true)]);
    assert_eq!(q.used(&rig), Some((a, 8)));
    assert_eq!((rig.bytes(0x40_0000, 4), rig.bytes(0x50_0000, 6)), (vec![1, 2, 3, 0], vec![4, 5, 6, 7, 8, 0]));
    let b = q.send(&rig, &[(0x40_0000, 10_000, true)]);
    assert_eq!(q.used(&rig), Some((b, 4096)));
    assert_eq!(q.used(&rig), None);
}

#[test]
fn host_entropy_differs_and_a_failing_source_gives_nothing() {
    let rig = Rig::new(Rng::new(HostEntropy));
    let mut q = rig.start(0).remove(0);
    q.send(&rig, &[(0x40_0000, 32, true)]);
    q.send(&rig, &[(0x40_1000, 32, true)]);
    assert_ne!(rig.bytes(0x40_0000, 32), rig.bytes(0x40_1000, 32));
    let rig = Rig::new(Rng::new(NoEntropy));
    let mut q = rig.start(0).remove(0);
    let head = q.send(&rig, &[(0x40_0000, 32, true)]);
    assert_eq!(q.used(&rig), Some((head, 0)));
}

#[test]
fn a_readable_buffer_breaks_the_device_until_reset() {
    let rig = Rig::new(Rng::new(Counter(0)));
    let mut q = rig.start(0).remove(0);
    q.send(&rig, &[(0x40_0000, 32, false)]);
    assert_eq!(rig.status() & 0x40, 0x40);
    let mut q = rig.start(0).remove(0);
    let head = q.send(&rig, &[(0x40_0000, 4, true)]);
    assert_eq!(q.used(&rig), Some((head, 4)));
}

#[test]
fn random_drivers_do_no_harm() {
    let rig = Rig::new(Rng::new(Counter(0)));
    fuzz(&rig, 0x9e37_79b9_7f4a_7c15, F_INDIRECT | F_EVENT_IDX | F_RING_RESET, |_| ());
    let mut q = rig.start(0).remove(0);
    let head = q.send(&rig, &[(0x40_0000, 4, true)]);
    assert_eq!(q.used(&rig), Some((head, 4)));
}
