//! Guests that mean harm: bounded tables, no panic whatever comes, nothing reached that is forbidden.

use std::net::Ipv4Addr;

use visor_net::{Frame, MAX_FRAME, MacAddr, Offload, Sent};

use super::frames::{GUEST, MAC, Tcp, at, echo, ip, packet, udp};
use super::{Random, ask, drain, engine, pattern};
use crate::wire::tcp::{ACK, SYN};
use crate::wire::{self, ETH};
use crate::{NatConfig, Time};

#[test]
fn the_hosts_loopback_is_out_of_reach() {
    let mut engine = engine(NatConfig::default());
    for to in ["10.0.2.2:22", "127.0.0.1:22", "0.0.0.0:22", "169.254.169.254:80", "10.0.2.99:22", "10.0.2.3:22"] {
        ask(&mut engine, Time(1), &Tcp::new("10.0.2.15:40000", to).frame(SYN, 1, 0, &[]));
        ask(&mut engine, Time(1), &udp("10.0.2.15:40000", to, b"x"));
        ask(&mut engine, Time(1), &echo(GUEST, at(to).ip().to_string().as_str(), 1, 1, b"x"));
        assert!(engine.host().sockets.is_empty(), "{to}");
    }
    for to in ["[::1]:22", "[::ffff:127.0.0.1]:22", "[fd00:a:0:2::2]:22", "[fe80::1]:22", "[::127.0.0.1]:22"] {
        ask(&mut engine, Time(1), &Tcp::new("[fd00:a:0:2::15]:40000", to).frame(SYN, 1, 0, &[]));
        ask(&mut engine, Time(1), &udp("[fd00:a:0:2::15]:40000", to, b"x"));
        assert!(engine.host().sockets.is_empty(), "{to}");
    }
    assert!(engine.counters().forbidden > 10);
    engine.set_allow_host_loopback(true);
    ask(&mut engine, Time(1), &Tcp::new("10.0.2.15:40000", "10.0.2.2:22").frame(SYN, 1, 0, &[]));
    let socket = engine.host().newest();
    assert_eq!(engine.host().sim(socket).to, Some(at("127.0.0.1:22")));
}

#[test]
fn a_closed_network_leads_nowhere() {
    let config = NatConfig::host_only([10, 9, 0, 0].into(), 24).unwrap();
    assert_eq!(config.host_address(), Ipv4Addr::new(10, 9, 0, 1));
    assert_eq!(config.gateway, Ipv4Addr::new(10, 9, 0, 2), "the host's address is nobody's here");
    let mut engine = engine(config);
    let mut obstacle = |to: &str| engine.obstacle(to.parse().unwrap(), visor_net::Protocol::Tcp);
    for to in ["198.51.100.1:80", "[2001:db8::1]:80"] {
        assert_eq!(obstacle(to), Some("this network has no way out"), "{to}");
    }
    assert_eq!(
        obstacle("10.9.0.2:53"),
        Some("the router's address leads to the host's own services, which is not allowed here")
    );
    assert_eq!(obstacle("10.9.0.7:80"), None, "a neighbour is no affair of a translator");
}

#[test]
fn foreign_senders_are_dropped() {
    let mut engine = engine(NatConfig::default());
    ask(&mut engine, Time(1), &udp("10.0.2.15:1", "192.0.2.9:9", b"x"));
    let good = udp("10.0.2.15:2", "192.0.2.9:9", b"x");
    let mut other_mac = good.clone();
    other_mac[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    let mut group = good.clone();
    group[6] |= 1;
    let mut ours = good.clone();
    ours[6..12].copy_from_slice(&NatConfig::default().mac.0);
    for frame in
        [udp("10.0.2.16:2", "192.0.2.9:9", b"x"), udp("8.8.8.8:2", "192.0.2.9:9", b"x"), other_mac, group, ours]
    {
        let before = engine.counters().spoofed;
        assert!(ask(&mut engine, Time(1), &frame).is_empty());
        assert_eq!((engine.counters().spoofed, engine.host().sockets.len()), (before + 1, 1));
    }
    let mut wrong = good;
    *wrong.last_mut().unwrap() ^= 1;
    ask(&mut engine, Time(1), &wrong);
    assert_eq!((engine.counters().bad_checksum, engine.host().sockets.len()), (1, 1));
}

#[test]
fn a_flood_pushes_out_its_own() {
    let config = NatConfig { max_tcp: 100, max_datagram: 50, ..NatConfig::shared([10, 9, 0, 0].into(), 24).unwrap() };
    let mut engine = engine(config.clone());
    let (quiet, loud) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
    let one = engine.assign(Time(0), quiet).unwrap();
    let two = engine.assign(Time(0), loud).unwrap();
    let from = |mut frame: Vec<u8>, mac: MacAddr| {
        frame[..6].copy_from_slice(&config.mac.0);
        frame[6..12].copy_from_slice(&mac.0);
        frame
    };
    let syn = |ip, n: u16| Tcp::new(&format!("{ip}:{n}"), "192.0.2.9:80").frame(SYN, 1, 0, &[]);
    let datagram = |ip, n: u16| udp(&format!("{ip}:{n}"), "192.0.2.9:80", b"x");
    for n in 1..=20 {
        ask(&mut engine, Time(n), &from(syn(one, n as u16), quiet));
        ask(&mut engine, Time(n), &from(datagram(one, n as u16), quiet));
    }
    for n in 1..=20_000u64 {
        engine.ingress(Time(100 + n), Frame::plain(&from(syn(two, n as u16), loud)));
        engine.ingress(Time(100 + n), Frame::plain(&from(datagram(two, n as u16), loud)));
        if n % 100 == 0 {
            drain(&mut engine, Time(100 + n));
        }
    }
    let table = engine.table(Time(30_000));
    assert_eq!((table.len(), engine.host().sockets.len()), (150, 150));
    assert_eq!(table.iter().filter(|f| f.guest.ip() == one).count(), 40, "the quiet guest lost none");
    assert_eq!(engine.counters().evicted, 20_000 - 80 + 20_000 - 30);
    // A guest that takes nothing makes nothing grow.
    for n in 1..=5000u16 {
        engine.ingress(
            Time(40_000),
            Frame::plain(&from(echo(&two.to_string(), "10.9.0.1", 1, n, &pattern(1400, 1)), loud)),
        );
    }
    assert!(engine.counters().replies_dropped > 3000);
}

#[test]
fn ten_thousand_flows_fit_into_64_mib() {
    let mut engine = engine(NatConfig::default());
    let before = allocated();
    for n in 0..10_000u16 {
        let tcp = Tcp::new(&format!("10.0.2.15:{}", 10_000 + n), "192.0.2.9:80");
        let got = ask(&mut engine, Time(u64::from(n)), &tcp.frame(SYN, 1000, 0, &[]));
        let ack = super::frames::segment(&got[0]).seq.wrapping_add(1);
        ask(&mut engine, Time(u64::from(n)), &tcp.frame(ACK, 1001, ack, &[]));
    }
    assert_eq!(engine.table(Time(10_000)).iter().filter(|f| f.state == "established").count(), 10_000);
    let flows = allocated() - before;
    println!("{} bytes for each flow, the simulated host's included", flows / 10_000);
    assert!(flows < 64 << 20, "{flows} bytes");
    // They expire on time, and give their memory back.
    drain(&mut engine, Time(7_499_000_000));
    assert_eq!(engine.table(Time(0)).len(), 10_000);
    drain(&mut engine, Time(7_501_000_000));
    assert_eq!((engine.table(Time(0)).len(), engine.counters().expired), (0, 10_000));
    assert!(engine.host().sockets.is_empty());
}

/// Anonymous memory of this process in bytes.
fn allocated() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Frames of every protocol, to be spoiled.
fn seeds() -> Vec<Vec<u8>> {
    let mut option = Tcp::new("10.0.2.15:40001", "192.0.2.9:80").frame(SYN, 1, 0, &[]);
    option[ETH + 20 + 20] = 3;
    let arp = wire::arp::Arp {
        request: true,
        sender_mac: MAC,
        sender: GUEST.parse().unwrap(),
        target_mac: MAC,
        target: [10, 0, 2, 2].into(),
    };
    let mut arp = arp.emit();
    arp[..6].fill(0xff);
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4];
    dhcp.resize(28, 0);
    dhcp.extend(MAC.0);
    dhcp.resize(236, 0);
    dhcp.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 3, 1, 3, 6, 255]);
    let dhcp6 = [1, 0, 0, 1, 0, 1, 0, 4, 1, 2, 3, 4, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\x01\0\x01";
    vec![
        arp,
        option,
        Tcp::new("10.0.2.15:40000", "192.0.2.9:80").frame(SYN, 1000, 0, &[]),
        Tcp::new("10.0.2.15:40000", "192.0.2.9:80").frame(ACK, 1001, 5, b"payload"),
        udp("0.0.0.0:68", "255.255.255.255:67", &dhcp),
        udp("[fe80::1]:546", "[ff02::1:2]:547", &dhcp6),
        udp("10.0.2.15:1", "10.0.2.3:53", dns),
        udp("[fd00:a:0:2::15]:1", "[fd00:a:0:2::3]:53", dns),
        udp("10.0.2.15:9", "192.0.2.9:9", b"data"),
        echo(GUEST, "10.0.2.2", 1, 1, b"data"),
        echo(GUEST, "192.0.2.9", 1, 1, b"data"),
        echo("fd00:a:0:2::15", "2001:db8::1", 1, 1, b"data"),
        ip(wire::ICMP6, "fe80::1", "ff02::2", &[133, 0, 0, 0, 0, 0, 0, 0]),
        ip(wire::ICMP6, "fe80::1", "fe80::2", &[135; 24]),
        ip(44, "fd00:a:0:2::15", "2001:db8::1", &[17, 0, 0, 1, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8]),
        ip(0, "fd00:a:0:2::15", "2001:db8::1", &[17, 0, 1, 4, 0, 0, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0]),
    ]
}

#[test]
fn spoiled_frames_do_no_harm() {
    let seeds = seeds();
    let config = NatConfig { max_tcp: 64, max_datagram: 64, ..NatConfig::default() };
    let mut engine = engine(config);
    let mut random = Random::new(20_261_121);
    let mut now = 0;
    for _ in 0..150_000 {
        let mut frame = seeds[random.below(seeds.len() as u64) as usize].clone();
        for _ in 0..random.below(6) {
            let place = random.below(frame.len() as u64) as usize;
            match random.below(6) {
                0 => frame.truncate(place),
                1 => frame.extend(pattern(random.below(64) as usize, random.next())),
                2 => frame[place] = [0, 1, 0x7f, 0x80, 0xff][random.below(5) as usize],
                _ => frame[place] ^= 1 << random.below(8),
            }
            if frame.is_empty() {
                break;
            }
        }
        // Half of them claim to be right, so that parsers behind the checksum are reached.
        let offload = Offload { trusted: random.below(2) == 0, ..Offload::default() };
        repair(&mut frame);
        now += random.below(2_000_000);
        engine.ingress(Time(now), Frame { data: &frame, offload });
        let mut room = random.below(8);
        engine.poll(Time(now), &mut |f: Frame<'_>| {
            assert!(f.data.len() >= ETH && f.data.len() <= MAX_FRAME);
            room = room.saturating_sub(1);
            if room == 0 { Sent::Full } else { Sent::Yes }
        });
        if random.below(20) == 0 {
            news(&mut engine, &mut random);
        }
    }
    let counters = engine.counters();
    assert!(
        counters.malformed > 1000 && counters.opened > 1000 && counters.evicted + counters.expired > 100,
        "{counters:?}"
    );
    assert!(engine.table(Time(now)).len() <= 128);
}

/// Makes an IPv4 header's checksum right again.
fn repair(frame: &mut [u8]) {
    if frame.len() >= ETH + 20 && frame[12..14] == [8, 0] && frame[ETH] == 0x45 {
        wire::fill_checksum(0, &mut frame[ETH..ETH + 20], 10);
    }
}

/// The far ends do something.
fn news(engine: &mut crate::NatEngine<super::sim::SimHost>, random: &mut Random) {
    let host = engine.host();
    let Some(&socket) = host.sockets.keys().nth(random.below(host.sockets.len() as u64) as usize) else { return };
    let junk = pattern(random.below(3000) as usize, random.next());
    if host.sim(socket).protocol.is_some() {
        let from = host.sim(socket).datagrams_out.last().map_or(at("192.0.2.9:9"), |d| d.0);
        return host.far_datagram(socket, from, &junk);
    }
    match random.below(4) {
        0 => host.far_sends(socket, &junk),
        1 => host.far_ends(socket),
        2 => host.far_resets(socket),
        _ => drop(host.far_reads(socket, 5000)),
    }
}

#[test]
fn hop_limits_end_at_the_router() {
    let mut engine = engine(NatConfig::default());
    let mut frame = udp("10.0.2.15:1", "192.0.2.9:33434", b"trace");
    frame[ETH + 8] = 1;
    wire::fill_checksum(0, &mut frame[ETH..ETH + 20], 10);
    let got = ask(&mut engine, Time(1), &frame);
    assert_eq!((packet(&got[0]).payload[..2].to_vec(), packet(&got[0]).source), (vec![11, 0], [10, 0, 2, 2].into()));
    assert!(engine.host().sockets.is_empty());
}
