use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use visor_net::cable::cable;
use visor_net::{Accepts, Direction, Frame, FrameFilter, MacAddr, NetPort, Offload, SegmentKind, Segments, Sent};

use crate::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const ALL: MacAddr = MacAddr::BROADCAST;
const START: Duration = Duration::from_secs(1);

fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x88, 0xb5], &[7; 46]].concat()
}

fn tagged(to: MacAddr, from: MacAddr, vlan: u16) -> Vec<u8> {
    [&to.0[..], &from.0, &[0x81, 0], &vlan.to_be_bytes(), &[0x88, 0xb5], &[7; 46]].concat()
}

/// A switch and the frames that left it.
struct Bench {
    switch: Switch,
    ports: Vec<PortId>,
}

impl Bench {
    fn new(configs: impl IntoIterator<Item = PortConfig>) -> Self {
        let mut switch = Switch::default();
        let ports = configs.into_iter().map(|c| switch.add_port(c)).collect();
        Bench { switch, ports }
    }

    fn plain(count: usize) -> Self {
        Self::new((0..count).map(|_| PortConfig::default()))
    }

    /// Sends at a time; gives (port index, frame) for each that left.
    fn at(&mut self, now: Duration, from: usize, data: &[u8]) -> Vec<(usize, Vec<u8>)> {
        let mut out = Vec::new();
        self.switch.input(now, self.ports[from], Frame::plain(data), &mut |to, f| {
            out.push((self.ports.iter().position(|p| *p == to).unwrap(), f.data.to_vec()));
            Sent::Yes
        });
        out
    }

    fn to(&mut self, from: usize, data: &[u8]) -> Vec<usize> {
        self.at(START, from, data).into_iter().map(|(p, _)| p).collect()
    }
}

fn port(vlans: Membership) -> PortConfig {
    PortConfig { vlans, ..PortConfig::default() }
}

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).unwrap()
}

#[test]
fn addresses_are_learnt_and_age() {
    let mut b = Bench::plain(3);
    assert_eq!(b.to(0, &frame(B, A)), [1, 2], "unknown: everywhere");
    assert_eq!(b.to(1, &frame(A, B)), [0]);
    assert_eq!(b.to(0, &frame(B, A)), [1]);
    assert_eq!(b.to(0, &frame(ALL, A)), [1, 2]);
    assert_eq!(b.to(0, &frame(A, C)), [0usize; 0], "to its own port");
    let late = START + AGEING;
    assert_eq!(b.at(late, 0, &frame(B, A)).len(), 2, "forgotten");
    assert_eq!(b.switch.table(late).len(), 1);
    b.at(late, 1, &frame(A, B));
    b.switch.remove_port(b.ports[1]);
    assert_eq!(b.at(late, 0, &frame(B, A)).len(), 1);
    assert_eq!(b.to(0, &frame(MacAddr([1, 0x80, 0xc2, 0, 0, 0]), A)), [0usize; 0], "spanning tree stays");
    assert_eq!(b.to(0, &[0; 13]), [0usize; 0]);
}

#[test]
fn a_flood_of_addresses_fills_only_its_ports_share() {
    let mut b = Bench::plain(3);
    b.to(1, &frame(ALL, B));
    for i in 0..5000u32 {
        let i = i.to_be_bytes();
        b.to(0, &frame(ALL, MacAddr([2, 9, i[0], i[1], i[2], i[3]])));
    }
    assert_eq!(b.switch.table(START).len(), 1025);
    assert_eq!(b.switch.table_refusals(), 5000 - 1024);
    b.to(2, &frame(ALL, C));
    assert_eq!((b.to(2, &frame(B, C)), b.to(1, &frame(C, B))), (vec![1], vec![2]));
    let late = START + AGEING;
    b.at(late, 0, &frame(ALL, A));
    assert_eq!(b.at(late, 1, &frame(A, B)).len(), 1, "room again when the old ones are too old");
}

#[test]
fn vlans_are_apart_and_trunks_see_tags() {
    let trunk = Membership::Trunk { native: None, allowed: Some(BTreeSet::from([vlan(10), vlan(20)])) };
    let native = Membership::Trunk { native: Some(vlan(10)), allowed: None };
    let access = |id| Membership::Access(vlan(id));
    let mut b = Bench::new([access(10), access(20), access(10), trunk, native].map(port));
    let out = b.at(START, 0, &frame(ALL, A));
    assert_eq!(out, [(2, frame(ALL, A)), (3, tagged(ALL, A, 10)), (4, frame(ALL, A))]);
    let out = b.at(START, 1, &frame(ALL, B));
    assert_eq!(out, [(3, tagged(ALL, B, 20)), (4, tagged(ALL, B, 20))]);
    assert_eq!(b.at(START, 3, &tagged(B, C, 20)), [(1, frame(B, C))]);
    assert_eq!(b.at(START, 3, &tagged(A, C, 20)).len(), 2, "learnt in another VLAN: unknown here");
    assert_eq!(b.to(3, &tagged(ALL, C, 30)), [0usize; 0], "not allowed");
    assert_eq!(b.to(3, &frame(ALL, C)), [0usize; 0], "no native VLAN");
    assert_eq!(b.to(0, &tagged(ALL, A, 10)), [0usize; 0], "no tags on access ports");
    assert_eq!(b.to(4, &frame(A, C)), [0]);
    assert!(b.switch.set_vlans(b.ports[2], access(20)));
    assert_eq!(b.to(0, &frame(ALL, A)), [3, 4]);
    assert!(VlanId::new(0).is_err() && VlanId::new(4095).is_err());
}

#[test]
fn a_tag_moves_the_place_of_the_checksum() {
    let mut b = Bench::new([port(Membership::default()), port(Membership::Trunk { native: None, allowed: None })]);
    let data = frame(ALL, A);
    let offload = Offload { checksum: Some((34, 16)), ..Offload::default() };
    let mut seen = Vec::new();
    b.switch.input(START, b.ports[0], Frame { data: &data, offload }, &mut |_, f| {
        seen.push((f.data.len(), f.offload.checksum));
        Sent::Yes
    });
    assert_eq!(seen, [(data.len() + 4, Some((38, 16)))]);
}

#[test]
fn equal_addresses_are_reported() {
    let twin = || PortConfig { guard: Guard { mac: Some(A), ..Guard::default() }, ..PortConfig::default() };
    let b = Bench::new([twin(), twin()]);
    assert_eq!(b.switch.conflicts(), [Conflict { mac: A, first: b.ports[0], second: b.ports[1], moves: 0 }]);
    let mut b = Bench::plain(2);
    for _ in 0..3 {
        b.to(0, &frame(ALL, A));
        b.to(1, &frame(ALL, A));
    }
    assert_eq!(b.switch.conflicts(), [Conflict { mac: A, first: b.ports[0], second: b.ports[1], moves: 5 }]);
    b.switch.remove_port(b.ports[1]);
    assert!(b.switch.conflicts().is_empty());
}

fn ip_from(address: [u8; 4], protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut f = [&ALL.0[..], &A.0, &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]].concat();
    f.extend(address);
    f.extend([10, 0, 0, 1]);
    f.extend(rest);
    f
}

fn arp(hardware: MacAddr, address: [u8; 4]) -> Vec<u8> {
    let mut f = [&ALL.0[..], &A.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &hardware.0, &address].concat();
    f.extend([0; 10]);
    f
}

#[test]
fn guards_refuse_lies() {
    let guard = Guard { mac: Some(A), ips: vec![IpAddr::from([10, 0, 0, 5])], no_servers: true };
    let mut b = Bench::new([PortConfig { guard, ..PortConfig::default() }, PortConfig::default()]);
    let mut passes = |f: &[u8]| !b.to(0, f).is_empty();
    assert!(passes(&frame(ALL, A)) && !passes(&frame(ALL, B)));
    let tcp = [0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0];
    assert!(passes(&ip_from([10, 0, 0, 5], 6, &tcp)) && !passes(&ip_from([10, 0, 0, 6], 6, &tcp)));
    assert!(passes(&ip_from([0; 4], 17, &[0, 68, 0, 67, 0, 8, 0, 0])), "DHCP asks from nowhere");
    assert!(!passes(&ip_from([10, 0, 0, 5], 17, &[0, 67, 0, 68, 0, 8, 0, 0])), "but does not answer");
    assert!(passes(&arp(A, [10, 0, 0, 5])) && !passes(&arp(A, [10, 0, 0, 1])) && !passes(&arp(B, [10, 0, 0, 5])));
    assert!(!passes(&arp(A, [10, 0, 0, 5])[..30]));
    let mut ra = [&ALL.0[..], &A.0, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 255, 0xfe, 0x80]].concat();
    ra.extend([0; 30]);
    ra.extend([134, 0, 0, 0, 0, 0, 0, 0]);
    assert!(!passes(&ra));
    ra[54] = 133;
    assert!(passes(&ra), "a solicitation");
    let mut broken = ip_from([10, 0, 0, 5], 6, &tcp);
    broken[14] = 0x41;
    assert!(!passes(&broken));
    let status = &b.switch.ports()[0];
    assert_eq!((status.refused, status.last_refusal), (8, Some("broken IP header")));
    assert_eq!(status.traffic.sent_dropped, 8);
}

#[test]
fn a_hub_joins_ports_and_adapts_to_each() {
    let hub = Hub::new(1500);
    let mut ports: Vec<_> = (0..3).map(|_| hub.plug(PortConfig::default())).collect();
    ports[1].set_accepts(Accepts::ALL);
    let mut data = [&ALL.0[..], &A.0, &[8, 0, 0x45, 0, 0x0b, 0xe0, 0, 0, 0x40, 0, 64, 6, 0, 0]].concat();
    data.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    data.extend([1; 3000]);
    let segments = Some(Segments { kind: SegmentKind::Tcp4, size: 1000 });
    let offload = Offload { checksum: Some((34, 16)), trusted: false, segments };
    assert_eq!(ports[0].send(Frame { data: &data, offload }), Sent::Yes);
    let sizes = |p: &mut SwitchPort| {
        let mut sizes = Vec::new();
        p.receive(&mut |f: Frame<'_>| {
            sizes.push(f.data.len());
            Sent::Yes
        });
        sizes
    };
    assert_eq!(sizes(&mut ports[1]), [3054]);
    assert_eq!(sizes(&mut ports[2]), [1054; 3]);
    assert_eq!(sizes(&mut ports[0]), [0usize; 0]);
    // A port that nobody empties loses frames, and holds up nobody.
    for _ in 0..5000 {
        assert_eq!(ports[0].send(Frame::plain(&frame(ALL, A))), Sent::Yes);
    }
    assert_eq!(sizes(&mut ports[1]).len(), 4096);
    assert_eq!(hub.ports()[1].traffic.received_dropped, 5000 - 4096);
    assert_eq!(hub.table()[0].mac, A);
    ports.pop();
    assert_eq!(hub.ports().len(), 2);
}

#[test]
fn filters_see_both_ways() {
    struct NoB;
    impl FrameFilter for NoB {
        fn pass(&mut self, way: Direction, frame: &[u8]) -> bool {
            frame[if way == Direction::Outbound { 0 } else { 6 }..][..6] != B.0
        }
    }
    let (near, mut far) = cable(1500);
    let mut near = Filtered::new(near, Arc::new(Mutex::new(NoB)));
    assert_eq!(near.send(Frame::plain(&frame(B, A))), Sent::Dropped);
    assert_eq!(near.send(Frame::plain(&frame(C, A))), Sent::Yes);
    far.send(Frame::plain(&frame(A, B)));
    far.send(Frame::plain(&frame(A, C)));
    let mut got = Vec::new();
    near.receive(&mut |f: Frame<'_>| {
        got.push(f.data.to_vec());
        Sent::Yes
    });
    assert_eq!(got, [frame(A, C)]);
    assert_eq!(far.receive(&mut |_: Frame<'_>| Sent::Yes), 1);
}

/// A file that others can look into.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn captures_hold_both_ways_and_end_at_their_limit() {
    let (near, mut far) = cable(1500);
    let slot = CaptureSlot::default();
    let mut near = Captured::new(near, slot.clone());
    near.send(Frame::plain(&frame(B, A)));
    let file = Shared::default();
    slot.start(Capture::begin(file.clone(), 24 + 2 * 76).unwrap());
    near.send(Frame::plain(&frame(C, A)));
    far.send(Frame::plain(&frame(A, C)));
    near.receive(&mut |_: Frame<'_>| Sent::Yes);
    near.send(Frame::plain(&frame(C, A)));
    assert_eq!(slot.stop().unwrap().finish().unwrap(), 2);
    near.send(Frame::plain(&frame(C, A)));
    let bytes = file.0.lock().unwrap().clone();
    assert_eq!(bytes[..8], [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0]);
    assert_eq!((bytes.len(), &bytes[40..100], &bytes[116..176]), (176, &frame(C, A)[..], &frame(A, C)[..]));
    assert_eq!(bytes[32..40], [60, 0, 0, 0, 60, 0, 0, 0]);
}

#[test]
fn random_frames_do_no_harm() {
    let guard = Guard { mac: None, ips: vec![IpAddr::from([10, 0, 0, 5])], no_servers: true };
    let trunk = Membership::Trunk { native: Some(vlan(3)), allowed: None };
    let guarded = PortConfig { guard, vlans: trunk.clone(), ..PortConfig::default() };
    let mut b = Bench::new([guarded, port(Membership::Access(vlan(3))), port(trunk)]);
    let mut x = 7u64;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 40) as usize
    };
    let mut out = 0;
    for _ in 0..30_000 {
        let len = next() % 120;
        let mut f: Vec<u8> = (0..len).map(|_| next() as u8 & [1, 0xff, 0x0f][next() % 3]).collect();
        if len > 20 && next() % 2 == 0 {
            let kinds = [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]];
            f[12..14].copy_from_slice(&kinds[next() % 5]);
            f[16..18].copy_from_slice(&kinds[next() % 5]);
            f[14] = [0x45, 0x60, 0x4f, 0][next() % 4];
        }
        out += b.to(next() % 3, &f).len();
    }
    assert!(out > 1000);
}
