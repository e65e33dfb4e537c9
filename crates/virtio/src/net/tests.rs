mod echo;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use visor_net::cable::{CableEnd, cable};
use visor_net::{Accepts, Frame, MacAddr, NetPort, Nic, Offload, SegmentKind, Segments, Sent};

use super::*;
use crate::testing::{F_EVENT_IDX, F_INDIRECT, F_RING_RESET, Random, Rig, Vq, fuzz};

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const OURS: [u8; 6] = MAC.0;
/// Guest memory for buffers.
const DATA: u64 = 4 << 20;
const MERGE: u64 = F_MRG_RXBUF | F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN | F_STATUS | F_MAC | F_CTRL_MAC_ADDR;

struct Lan {
    rig: Rig,
    far: CableEnd,
    nic: NetHandle,
    wakes: Arc<AtomicUsize>,
}

impl Lan {
    fn new(pairs: u16) -> Self {
        let (near, far) = cable(1500);
        let wakes = Arc::new(AtomicUsize::new(0));
        let w = wakes.clone();
        let wake: Notify = Arc::new(move || {
            w.fetch_add(1, Ordering::SeqCst);
        });
        let (device, nic) = Net::new(Box::new(near), &NetConfig { mac: MAC, pairs }, wake);
        Lan { rig: Rig::new(device), far, nic, wakes }
    }

    fn woken(&self) -> bool {
        self.wakes.swap(0, Ordering::SeqCst) > 0
    }

    /// What has come out of the guest.
    fn heard(&mut self) -> Vec<(Vec<u8>, Offload)> {
        let mut all = Vec::new();
        self.far.receive(&mut |f: Frame<'_>| {
            all.push((f.data.to_vec(), f.offload));
            Sent::Yes
        });
        all
    }

    /// Sends to the guest.
    fn say(&mut self, data: &[u8], offload: Offload) {
        assert_eq!(self.far.send(Frame { data, offload }), Sent::Yes);
        self.nic.pump();
    }

    fn command(&self, control: &mut Vq, class: u8, command: u8, data: &[u8]) -> u8 {
        self.rig.store(DATA, &[class, command]);
        self.rig.store(DATA + 16, data);
        self.rig.store(DATA + 8, &[0x55]);
        control.send(&self.rig, &[(DATA, 2, false), (DATA + 16, data.len() as u32, false), (DATA + 8, 1, true)]);
        assert!(control.used(&self.rig).is_some());
        self.rig.bytes(DATA + 8, 1)[0]
    }
}

fn header(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> Vec<u8> {
    [&[flags, gso, 0, 0][..], &size.to_le_bytes(), &start.to_le_bytes(), &offset.to_le_bytes(), &[0, 0]].concat()
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut f = [&to[..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5]].concat();
    f.extend((0..len.saturating_sub(14)).map(|i| i as u8));
    f
}

/// A TCP segment over IPv4 with `payload` bytes.
fn tcp(payload: usize) -> Vec<u8> {
    let mut f = [&OURS[..], &[2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0]].concat();
    f.extend((payload as u16 + 40).to_be_bytes());
    f.extend([
        0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 2, 10, 0, 2, 15, 0, 80, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10,
    ]);
    f.extend([1, 0, 0, 0, 0, 0]);
    f.extend((0..payload).map(|i| (i * 7) as u8));
    f
}

fn gso(size: u16) -> Offload {
    let segments = Some(Segments { kind: SegmentKind::Tcp4, size });
    Offload { checksum: Some((34, 16)), trusted: false, segments }
}

#[test]
fn identity_and_configuration() {
    let lan = Lan::new(2);
    let r = &lan.rig;
    assert_eq!(r.read_config(0), 0x1041_1af4);
    assert_eq!(r.read_config(8) >> 8, 0x02_0000);
    let offered = r.offered();
    assert_eq!(offered & MERGE, MERGE);
    assert!(offered & F_MQ != 0 && offered & F_MTU != 0);
    assert_eq!(r.read(0x2000, 4) as u32, u32::from_le_bytes([0x52, 0x54, 0, 0x12]));
    assert_eq!(r.read(0x2006, 2), 1, "link up");
    assert_eq!((r.read(0x2008, 2), r.read(0x200a, 2)), (2, 1500));
    assert!(Lan::new(1).rig.offered() & F_MQ == 0);
}

#[test]
fn a_packet_leaves_finished_for_a_plain_peer_and_as_it_is_for_another() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE | F_CSUM | F_HOST_TSO4);
    let data = tcp(3000);
    lan.rig.store(DATA, &header(1, 1, 1000, 34, 16));
    lan.rig.store(DATA + 0x1000, &data);
    let parts = [(DATA, 12, false), (DATA + 0x1000, 100, false), (DATA + 0x1064, data.len() as u32 - 100, false)];
    q[1].send(&lan.rig, &parts);
    assert_eq!(q[1].used(&lan.rig), Some((0, 0)));
    let heard = lan.heard();
    assert_eq!(heard.iter().map(|(f, _)| f.len()).collect::<Vec<_>>(), [1054; 3]);
    assert!(heard.iter().all(|(_, o)| o.checksum.is_none()));
    lan.far.set_accepts(Accepts::ALL);
    q[1].send(&lan.rig, &parts);
    assert_eq!(lan.heard(), [(data, gso(1000))]);
    assert_eq!((lan.nic.traffic().sent, lan.nic.traffic().sent_bytes), (2, 2 * 3054));
}

#[test]
fn a_large_frame_is_spread_over_buffers_that_appear_at_once() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE | F_GUEST_CSUM | F_GUEST_TSO4);
    assert_eq!(lan.far.peer_accepts(), Accepts { checksum: true, tcp4: true, tcp6: false });
    lan.rig.enable_msix();
    for i in 0..4 {
        q[0].add(&lan.rig, &[(DATA + i * 0x1000, 1500, true)]);
    }
    q[0].kick(&lan.rig);
    let data = tcp(3000);
    lan.say(&data, gso(1400));
    assert_eq!(q[0].used(&lan.rig), Some((0, 1500)));
    assert_eq!(q[0].used(&lan.rig), Some((1, 1500)));
    assert_eq!(q[0].used(&lan.rig), Some((2, 12 + 3054 - 3000)));
    assert_eq!(q[0].used(&lan.rig), None);
    let mut h = header(1, 1, 1400, 34, 16);
    h[2] = 54;
    h[10] = 3;
    assert_eq!(lan.rig.bytes(DATA, 12), h);
    let got = [lan.rig.bytes(DATA + 12, 1488), lan.rig.bytes(DATA + 0x1000, 1500), lan.rig.bytes(DATA + 0x2000, 66)];
    assert_eq!(got.concat(), data);
    assert_eq!(lan.rig.msi.0.lock().unwrap().len(), 1, "one interrupt");
}

#[test]
fn a_frame_waits_for_a_buffer_and_the_driver_wakes_the_pump() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE);
    lan.say(&frame(OURS, 100), Offload::default());
    lan.say(&frame(OURS, 3000), Offload::default());
    assert_eq!(q[0].used(&lan.rig), None);
    lan.woken();
    q[0].send(&lan.rig, &[(DATA, 2000, true)]);
    assert!(lan.woken());
    lan.nic.pump();
    assert_eq!(q[0].used(&lan.rig), Some((0, 112)));
    q[0].send(&lan.rig, &[(DATA + 0x1000, 2000, true)]);
    assert!(lan.woken());
    lan.nic.pump();
    assert_eq!(q[0].used(&lan.rig), None, "half of the next frame is no frame");
    q[0].send(&lan.rig, &[(DATA + 0x2000, 2000, true)]);
    assert!(lan.woken());
    lan.nic.pump();
    assert_eq!((q[0].used(&lan.rig), q[0].used(&lan.rig)), (Some((1, 2000)), Some((2, 1012))));
    q[0].send(&lan.rig, &[(DATA + 0x3000, 2000, true)]);
    assert!(!lan.woken(), "nobody waits");
}

#[test]
fn without_mergeable_buffers_a_frame_needs_one_that_is_large_enough() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(F_MAC);
    q[0].add(&lan.rig, &[(DATA, 12, true), (DATA + 0x100, 500, true)]);
    lan.say(&frame(OURS, 1000), Offload::default());
    assert_eq!((q[0].used(&lan.rig), lan.nic.traffic().received_dropped), (None, 1));
    lan.say(&frame(OURS, 400), Offload { trusted: true, ..Offload::default() });
    assert_eq!(q[0].used(&lan.rig), Some((0, 412)));
    assert_eq!(lan.rig.bytes(DATA, 12), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "no promise without the feature");
    assert_eq!(lan.rig.bytes(DATA + 0x100, 400), frame(OURS, 400));
}

#[test]
fn a_full_port_makes_the_queue_wait() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE);
    lan.rig.store(DATA, &header(0, 0, 0, 0, 0));
    lan.rig.store(DATA + 12, &frame([2; 6], 60000));
    for _ in 0..200 {
        q[1].send(&lan.rig, &[(DATA, 60012, false)]);
    }
    let first = std::iter::from_fn(|| q[1].used(&lan.rig)).count();
    assert!((50..100).contains(&first), "{first}");
    lan.woken();
    assert_eq!(lan.heard().len(), first);
    assert!(lan.woken(), "there is room again");
    lan.nic.pump();
    let mut all = first;
    for _ in 0..5 {
        all += lan.heard().len();
        lan.nic.pump();
    }
    assert_eq!(all, 200, "no packet was lost");
    assert_eq!(lan.nic.traffic().sent_dropped, 0);
}

#[test]
fn the_filter_is_the_drivers() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE | F_CTRL_RX_EXTRA);
    let seen = |lan: &mut Lan, q: &mut Vec<Vq>, f: &[u8]| {
        q[0].add(&lan.rig, &[(DATA + 0x1_0000, 4000, true)]);
        lan.say(f, Offload::default());
        q[0].used(&lan.rig).is_some()
    };
    let (other, group) = ([2, 9, 9, 9, 9, 9], [1, 0, 0x5e, 0, 0, 1]);
    assert!(seen(&mut lan, &mut q, &frame(other, 60)), "everything until the driver says otherwise");
    assert_eq!(lan.command(&mut q[2], 0, 0, &[0]), 0);
    assert!(!seen(&mut lan, &mut q, &frame(other, 60)) && !seen(&mut lan, &mut q, &frame(group, 60)));
    assert!(seen(&mut lan, &mut q, &frame(OURS, 60)) && seen(&mut lan, &mut q, &frame([0xff; 6], 60)));
    let tables = [&1u32.to_le_bytes()[..], &other, &1u32.to_le_bytes(), &group].concat();
    assert_eq!(lan.command(&mut q[2], 1, 0, &tables), 0);
    assert!(seen(&mut lan, &mut q, &frame(other, 60)) && seen(&mut lan, &mut q, &frame(group, 60)));
    assert_eq!(lan.command(&mut q[2], 1, 0, &[9, 0, 0, 0, 1]), 1, "a table that is cut short");
    assert_eq!(lan.command(&mut q[2], 1, 0, &[0xff; 16]), 1);
    assert_eq!(lan.command(&mut q[2], 1, 1, &[2, 0, 0, 0, 0, 7]), 0);
    assert!(seen(&mut lan, &mut q, &frame([2, 0, 0, 0, 0, 7], 60)) && !seen(&mut lan, &mut q, &frame(OURS, 60)));
    assert_eq!(lan.nic.mac(), MacAddr([2, 0, 0, 0, 0, 7]));
    lan.command(&mut q[2], 0, 5, &[1]);
    assert!(!seen(&mut lan, &mut q, &frame([0xff; 6], 60)), "no broadcasts");
    assert_eq!(lan.command(&mut q[2], 0, 9, &[1]), 1);
    lan.command(&mut q[2], 0, 0, &[1]);
    let tagged = [&OURS[..], &[2, 0, 0, 0, 0, 1, 0x81, 0, 0, 7, 8, 0], &[0; 50]].concat();
    assert!(!seen(&mut lan, &mut q, &tagged));
    assert_eq!(lan.command(&mut q[2], 2, 0, &[7, 0]), 0);
    assert!(seen(&mut lan, &mut q, &tagged));
    lan.command(&mut q[2], 2, 1, &[7, 0]);
    assert!(!seen(&mut lan, &mut q, &tagged));
    assert_eq!(lan.command(&mut q[2], 2, 0, &[0, 0x10]), 1, "there are 4096");
}

#[test]
fn replies_follow_the_queue_of_their_connection() {
    let mut lan = Lan::new(4);
    let mut q = lan.rig.start(MERGE | F_MQ | F_CSUM);
    assert_eq!(q.len(), 9);
    for pair in [0, 2, 4, 6] {
        for i in 0..4 {
            q[pair].add(&lan.rig, &[(DATA + 0x1_0000 + i * 0x1000, 2000, true)]);
        }
    }
    // Out on pair 3: addresses and ports the other way round.
    let mut out = tcp(10);
    let (a, b) = (out[26..30].to_vec(), out[30..34].to_vec());
    out[26..34].copy_from_slice(&[b, a].concat());
    out[34..38].copy_from_slice(&[0x1f, 0x90, 0, 80]);
    lan.rig.store(DATA, &header(0, 0, 0, 0, 0));
    lan.rig.store(DATA + 12, &out);
    let send = |lan: &Lan, q: &mut Vec<Vq>| q[7].send(&lan.rig, &[(DATA, 12 + out.len() as u32, false)]);
    assert_eq!(lan.command(&mut q[8], 4, 0, &[5, 0]), 1);
    assert_eq!(lan.command(&mut q[8], 4, 0, &[0, 0]), 1);
    assert_eq!(lan.command(&mut q[8], 4, 0, &[4, 0]), 0);
    lan.rig.store(DATA, &header(0, 0, 0, 0, 0));
    lan.rig.store(DATA + 12, &out);
    send(&lan, &mut q);
    lan.say(&tcp(10), Offload::default());
    assert!(q[6].used(&lan.rig).is_some() && q[0].used(&lan.rig).is_none());
    lan.say(&frame(OURS, 60), Offload::default());
    assert!(q[0].used(&lan.rig).is_some(), "what is no connection");
    lan.command(&mut q[8], 4, 0, &[1, 0]);
    lan.say(&tcp(10), Offload::default());
    assert!(q[0].used(&lan.rig).is_some());
}

#[test]
fn offloads_can_be_switched_at_run_time() {
    let lan = Lan::new(1);
    let features = MERGE | F_GUEST_CSUM | F_GUEST_TSO4 | F_CTRL_GUEST_OFFLOADS;
    let mut q = lan.rig.start(features);
    assert_eq!(lan.command(&mut q[2], 5, 0, &F_GUEST_CSUM.to_le_bytes()), 0);
    assert_eq!(lan.far.peer_accepts(), Accepts { checksum: true, tcp4: false, tcp6: false });
    assert_eq!(lan.command(&mut q[2], 5, 0, &F_GUEST_TSO6.to_le_bytes()), 1, "not negotiated");
    lan.rig.write(0x14, 1, 0);
    assert_eq!(lan.far.peer_accepts(), Accepts::default(), "forgotten by a reset");
}

#[test]
fn link_and_announcement_are_told() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE | F_GUEST_ANNOUNCE);
    let generation = lan.rig.read(0x15, 1);
    lan.nic.set_link(false);
    assert!(lan.woken());
    lan.nic.pump();
    assert_eq!((lan.rig.read(0x2006, 2), lan.rig.isr()), (0, 2));
    assert_ne!(lan.rig.read(0x15, 1), generation);
    q[0].add(&lan.rig, &[(DATA, 2000, true)]);
    lan.say(&frame(OURS, 60), Offload::default());
    assert_eq!(q[0].used(&lan.rig), None);
    lan.nic.set_link(true);
    lan.nic.announce();
    lan.nic.pump();
    assert_eq!(lan.rig.read(0x2006, 2), 3);
    assert_eq!(lan.command(&mut q[2], 3, 0, &[]), 0);
    assert_eq!(lan.rig.read(0x2006, 2), 1);
    lan.far = cable(1500).0;
    assert!(lan.woken(), "the other end was pulled out");
    lan.nic.pump();
    assert_eq!(lan.rig.read(0x2006, 2), 0);
}

#[test]
fn rules_are_kept_by_force() {
    for parts in [&[(DATA, 11, false)][..], &[(DATA, 12, false), (DATA, 12, true)], &[(DATA, 12, true)]] {
        let lan = Lan::new(1);
        let mut q = lan.rig.start(MERGE);
        q[1].send(&lan.rig, parts);
        assert_eq!(lan.rig.status() & 0x40, 0x40, "{parts:?}");
        lan.rig.start(MERGE);
        assert_eq!(lan.rig.status() & 0x40, 0);
    }
    for parts in [&[(DATA, 11, true)][..], &[(DATA, 12, false), (DATA, 2000, true)], &[(DATA, 2000, false)]] {
        let mut lan = Lan::new(1);
        let mut q = lan.rig.start(MERGE);
        q[0].send(&lan.rig, parts);
        lan.say(&frame(OURS, 60), Offload::default());
        assert_eq!(lan.rig.status() & 0x40, 0x40, "{parts:?}");
    }
    let lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE);
    q[2].send(&lan.rig, &[(DATA, 1, false), (DATA, 1, true)]);
    assert_eq!(lan.rig.status() & 0x40, 0x40);
}

#[test]
fn impossible_packets_are_dropped_and_counted() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE | F_CSUM | F_HOST_TSO4 | F_HOST_TSO6);
    let data = tcp(200);
    let headers = [
        header(1, 0, 0, 250, 16),
        header(1, 0, 0, 0xffff, 0xffff),
        header(0, 1, 100, 0, 0),
        header(1, 1, 0, 34, 16),
        header(1, 4, 100, 34, 16),
        header(1, 3, 100, 34, 16),
        header(1, 5, 100, 34, 16),
    ];
    for (i, h) in headers.iter().enumerate() {
        lan.rig.store(DATA, &[&h[..], &data].concat());
        q[1].send(&lan.rig, &[(DATA, 12 + data.len() as u32, false)]);
        assert!(q[1].used(&lan.rig).is_some());
        assert_eq!(lan.nic.traffic().sent_dropped, i as u64 + 1);
    }
    for len in [12, 25, 12 + 65536 + 18, 1 << 20] {
        lan.rig.store(DATA, &header(0, 0, 0, 0, 0));
        q[1].send(&lan.rig, &[(DATA, len, false)]);
    }
    assert!(lan.heard().is_empty());
    assert_eq!((lan.nic.traffic().sent_dropped, lan.rig.status()), (11, 0xf));
}

#[test]
fn a_frame_larger_than_the_ring_does_not_stop_up_the_port() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE);
    for i in 0..200 {
        q[0].add(&lan.rig, &[(DATA + i * 256, 256, true)]);
    }
    lan.say(&frame(OURS, 65000), Offload::default());
    assert_eq!(lan.nic.traffic().received_dropped, 1);
    lan.say(&frame(OURS, 100), Offload::default());
    assert_eq!(q[0].used(&lan.rig), Some((0, 112)));
}

#[test]
fn a_queue_reset_forgets_its_buffers() {
    let mut lan = Lan::new(1);
    let mut q = lan.rig.start(MERGE | F_RING_RESET);
    q[0].add(&lan.rig, &[(DATA, 500, true)]);
    lan.say(&frame(OURS, 1000), Offload::default());
    lan.rig.write(0x16, 2, 0);
    lan.rig.write(0x3a, 2, 1);
    let mut fresh = lan.rig.set_up(0);
    fresh.send(&lan.rig, &[(DATA + 0x1000, 2000, true)]);
    lan.nic.pump();
    assert_eq!(fresh.used(&lan.rig), Some((0, 1012)));
}

#[test]
fn random_drivers_do_no_harm() {
    for (pairs, features) in [(1, !F_MQ), (3, u64::MAX), (1, F_MAC | F_INDIRECT | F_EVENT_IDX), (1, MERGE)] {
        let lan = Lan::new(pairs);
        let Lan { rig, mut far, nic, .. } = lan;
        let mut sent = 0;
        fuzz(&rig, 0x1234 + u64::from(pairs), features, |r: &mut Random| {
            far.receive(&mut |_: Frame<'_>| Sent::Yes);
            let data = tcp(r.below(20000) as usize);
            let offload = if r.below(2) == 0 { gso(1 + r.below(3000) as u16) } else { Offload::default() };
            far.set_accepts(if r.below(2) == 0 { Accepts::ALL } else { Accepts::default() });
            if far.send(Frame { data: &data, offload }) == Sent::Yes {
                sent += 1;
            }
            nic.set_link(r.below(20) != 0);
            nic.pump();
        });
        assert!(sent > 100);
    }
}

#[test]
fn traffic_from_two_sides_meets() {
    let (near, mut far) = cable(1500);
    let (device, nic) = Net::new(Box::new(near), &NetConfig { mac: MAC, pairs: 1 }, Arc::new(|| ()));
    let rig = Rig::new(device);
    let mut q = rig.start(MERGE | F_EVENT_IDX);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                far.send(Frame::plain(&frame(OURS, 700)));
                far.receive(&mut |_: Frame<'_>| Sent::Yes);
                nic.pump();
            }
        });
        rig.store(DATA, &header(0, 0, 0, 0, 0));
        let (mut got, mut out) = (0, 0);
        for round in 0..3000 {
            q[0].send(&rig, &[(DATA + 0x1000 + (round % 8) * 0x1000, 2000, true)]);
            q[1].send(&rig, &[(DATA, 100, false)]);
            got += std::iter::from_fn(|| q[0].used(&rig)).count();
            out += std::iter::from_fn(|| q[1].used(&rig)).count();
            while round as usize - out.min(round as usize) > 100 {
                out += std::iter::from_fn(|| q[1].used(&rig)).count();
            }
            while round as usize - got.min(round as usize) > 100 {
                got += std::iter::from_fn(|| q[0].used(&rig)).count();
            }
        }
        stop.store(true, Ordering::SeqCst);
        assert!(got > 2800 && out > 2800 && rig.status() == 0xf);
    });
}
