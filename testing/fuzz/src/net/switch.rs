//! The switch, and what it looks at in frames.

use std::net::IpAddr;
use std::time::Duration;

use visor_net::headers::{self, Headers};
use visor_net::offload::adapt;
use visor_net::{Accepts, Frame, MacAddr, Offload, SegmentKind, Segments, Sent};
use visor_switch::{Guard, Membership, PortConfig, Switch, VlanId};

use super::frames;
use crate::{Input, Script};

pub(super) fn run(data: &[u8]) {
    let mut switch = Switch::default();
    let vlan = |n| VlanId::new(n).expect("a number of a VLAN");
    let trunk = Membership::Trunk { native: Some(vlan(1)), allowed: Some([vlan(1), vlan(7)].into()) };
    let guard =
        Guard { mac: Some(MacAddr(frames::GUEST_MAC)), ips: vec![IpAddr::from(frames::GUEST)], no_servers: true };
    let all = [
        (Membership::Access(vlan(1)), guard),
        (Membership::Access(vlan(7)), Guard::default()),
        (trunk, Guard { no_servers: true, ..Guard::default() }),
        (Membership::Trunk { native: None, allowed: None }, Guard::default()),
    ];
    let ports: Vec<_> =
        all.map(|(vlans, guard)| switch.add_port(PortConfig { name: "port".into(), vlans, guard })).to_vec();
    let mut input = Input::new(data);
    let mut now = Duration::ZERO;
    while !input.is_empty() {
        let (op, port) = (input.u8(), ports[input.below(ports.len())]);
        now += Duration::from_millis(u64::from(input.u16()) << (op & 7));
        if op == 0xff {
            let id = VlanId::new(input.u16() & 0xfff);
            if let Ok(id) = id {
                switch.set_vlans(port, Membership::Access(id));
            }
        }
        let frame = Frame::plain(input.bytes());
        switch
            .input(now, port, frame, &mut |_, f: Frame<'_>| if f.data.len() & 1 == 0 { Sent::Yes } else { Sent::Full });
    }
    let _ = (switch.ports(), switch.table(now), switch.conflicts());
    assert!(switch.table(now).len() <= 1 << 16);
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let tag = |f: &[u8], id: u16| [&f[..12], &[0x81, 0], &id.to_be_bytes(), &f[12..]].concat();
    let udp = frames::udp(b"hello");
    let twice = tag(&tag(&udp, 7), 1);
    let server = frames::ethernet(
        [0xff; 6],
        0x0800,
        &frames::ip4(17, [10, 0, 2, 2], [255; 4], &frames::datagram(67, 68, &[2; 240])),
    );
    let mut all = vec![
        udp.clone(),
        tag(&udp, 7),
        tag(&udp, 0),
        twice,
        server,
        frames::arp([10, 0, 2, 2]),
        frames::tcp(&[5; 300]),
    ];
    all.push(frames::in_ip6(58, frames::GUEST6, [0xff; 16], vec![134; 40], 2));
    let one = |s: Script, (n, f): (usize, &Vec<u8>)| s.raw(&[0, n as u8, 5, 0]).bytes(f);
    let mut seeds: Vec<_> = all.iter().enumerate().map(|f| one(Script::new(), f).end()).collect();
    seeds.push(all.iter().enumerate().fold(Script::new(), one).end());
    seeds
}

/// Headers of one frame, and its segments.
pub(super) fn run_headers(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, size) = (input.u8(), input.u16());
    let checksum = (kind & 2 != 0).then(|| (input.u16() & 0x7f, input.u16() & 0x1f));
    let kind4 = if kind & 1 == 0 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
    let segments = (kind & 4 != 0).then_some(Segments { kind: kind4, size });
    let frame = input.rest();
    if let Some(h) = Headers::parse(frame) {
        let _ = (h.addresses(frame).len(), h.ports(frame), h.tcp_payload(frame));
    }
    let _ = (headers::ethertype(frame), headers::vlan(frame));
    let accepts = Accepts { checksum: kind & 8 != 0, ..Accepts::default() };
    let mut bytes = 0;
    adapt(Frame { data: frame, offload: Offload { checksum, trusted: false, segments } }, accepts, &mut |f: Frame<
        '_,
    >| {
        bytes += f.data.len();
        Sent::Yes
    });
    assert!(bytes <= (frame.len() + 1) * 200, "{bytes} bytes of {}", frame.len());
}
