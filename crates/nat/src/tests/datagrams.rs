//! UDP, echo and fragments.

use std::io::ErrorKind;
use std::time::Duration;

use visor_net::{Frame, Protocol, Sent};

use super::frames::{GUEST, at, datagram, echo, icmp, ip, packet, udp};
use super::{ask, drain, engine, pattern};
use crate::wire::{self, ETH, be16};
use crate::{NatConfig, Time, Undelivered};

const FAR: &str = "192.0.2.9:99";

#[test]
fn one_socket_for_each_port_and_only_known_addresses_come_in() {
    let mut engine = engine(NatConfig::default());
    ask(&mut engine, Time(1), &udp("10.0.2.15:1000", FAR, b"one"));
    ask(&mut engine, Time(1), &udp("10.0.2.15:1000", "192.0.2.10:99", b"two"));
    ask(&mut engine, Time(1), &udp("10.0.2.15:1001", FAR, b"three"));
    assert_eq!(engine.host().sockets.len(), 2);
    let socket = *engine.host().sockets.keys().next().unwrap();
    let sent = engine.host().sim(socket).datagrams_out.clone();
    assert_eq!(sent, [(at(FAR), b"one".to_vec()), (at("192.0.2.10:99"), b"two".to_vec())]);
    for (from, comes) in [(FAR, true), ("192.0.2.9:4000", true), ("192.0.2.11:99", false), ("127.0.0.1:99", false)] {
        engine.host().far_datagram(socket, at(from), b"answer");
        let got = drain(&mut engine, Time(2));
        assert_eq!(got.len(), usize::from(comes), "{from}");
        if comes {
            assert_eq!(datagram(&got[0]), (at(from), at("10.0.2.15:1000"), b"answer".to_vec()));
        }
    }
    assert_eq!(engine.counters().datagrams_dropped, 2);
    let table = engine.table(Time(1_000_002));
    let flow = table.iter().find(|f| f.remote == at(FAR) && f.guest.port() == 1000).unwrap();
    assert_eq!((flow.sent, flow.received, flow.idle, flow.protocol), (3, 6, Duration::from_secs(1), Protocol::Udp));
    assert_eq!(table.len(), 4);
}

#[test]
fn datagrams_in_a_row_stay_in_order_and_apart() {
    let mut engine = engine(NatConfig::default());
    let mut want = Vec::new();
    for (n, (port, len)) in
        [(99, 64), (99, 64), (99, 64), (99, 10), (98, 10), (98, 1400), (98, 0), (98, 10)].iter().enumerate()
    {
        let data = pattern(*len, n as u64);
        let to = format!("192.0.2.9:{port}");
        engine.ingress(Time(1), Frame::plain(&udp("10.0.2.15:1000", &to, &data)));
        want.push((at(&to), data));
    }
    assert!(engine.has_output());
    drain(&mut engine, Time(1));
    let socket = engine.host().newest();
    assert!(engine.host().sim(socket).datagrams_out == want && !engine.has_output());
}

#[test]
fn quiet_flows_end_and_sockets_with_them() {
    let mut engine = engine(NatConfig::default());
    ask(&mut engine, Time(1), &udp("10.0.2.15:1000", FAR, b"one"));
    ask(&mut engine, Time(1), &udp("10.0.2.15:1000", "192.0.2.9:53", b"two"));
    let mut now = 1;
    for _ in 0..10 {
        now += 30_000_000;
        ask(&mut engine, Time(now), &udp("10.0.2.15:1000", FAR, b"on"));
    }
    assert_eq!(engine.table(Time(now)).len(), 1, "questions to a resolver end sooner");
    drain(&mut engine, Time(now) + Duration::from_secs(299));
    assert_eq!(engine.host().sockets.len(), 1);
    drain(&mut engine, Time(now) + Duration::from_secs(300));
    assert!(engine.host().sockets.is_empty() && engine.table(Time(now)).is_empty());
    assert_eq!(
        engine.poll(Time(now) + Duration::from_secs(301), &mut |_: Frame<'_>| Sent::Yes),
        None,
        "idle costs nothing"
    );
}

#[test]
fn errors_are_passed_on() {
    let mut engine = engine(NatConfig::default());
    ask(&mut engine, Time(1), &udp("10.0.2.15:1000", FAR, b"one"));
    let socket = engine.host().newest();
    for (why, code) in [(Undelivered::Port, [3, 3]), (Undelivered::Host, [3, 1]), (Undelivered::TooBig(1400), [3, 4])] {
        engine.host().far_error(socket, at(FAR), why);
        let got = drain(&mut engine, Time(2));
        let message = icmp(&got[0]);
        assert_eq!(message[..2], code);
        assert_eq!(be16(&message, 6), Some(if why == Undelivered::TooBig(1400) { 1400 } else { 0 }));
        let quoted = &message[8..];
        assert_eq!((quoted[9], &quoted[12..16], &quoted[16..20]), (17, &[10, 0, 2, 15][..], &[192, 0, 2, 9][..]));
        assert_eq!((be16(quoted, 20), be16(quoted, 22)), (Some(1000), Some(99)));
    }
    engine.host().far_error(socket, at("192.0.2.77:1"), Undelivered::Port);
    assert!(drain(&mut engine, Time(3)).is_empty(), "about a flow that is none");
    engine.host().fail = Some(ErrorKind::NetworkUnreachable);
    let got = ask(&mut engine, Time(4), &udp("[fd00:a:0:2::15]:1", "[2001:db8::1]:1", b"x"));
    assert_eq!(icmp(&got[0])[..2], [1, 0]);
}

#[test]
fn echo_goes_through_and_is_answered_by_the_router_itself() {
    let mut engine = engine(NatConfig::default());
    for (guest, own) in [(GUEST, "10.0.2.2"), (GUEST, "10.0.2.3"), ("fd00:a:0:2::15", "fd00:a:0:2::2")] {
        let got = ask(&mut engine, Time(1), &echo(guest, own, 7, 1, &pattern(3000, 1)));
        let pieces: usize = got.iter().map(|f| packet(f).payload.len()).sum();
        assert!(got.len() == 3 || own == "fd00:a:0:2::2", "in fragments");
        assert_eq!(pieces, 3008);
    }
    assert!(engine.host().sockets.is_empty());
    for (guest, far, kind) in [(GUEST, "192.0.2.9", 0), ("fd00:a:0:2::15", "2001:db8::9", 129)] {
        ask(&mut engine, Time(1), &echo(guest, far, 0x1234, 5, b"data"));
        let socket = engine.host().newest();
        let (to, mut message) = engine.host().sim(socket).datagrams_out[0].clone();
        assert_eq!((to.ip(), to.port(), &message[8..]), (far.parse().unwrap(), 0, &b"data"[..]));
        // The host answers under an identifier of its own.
        message[0] = kind;
        message[4..6].copy_from_slice(&[9, 9]);
        engine.host().far_datagram(socket, to, &message);
        let got = icmp(&drain(&mut engine, Time(2))[0]);
        assert_eq!((got[0], &got[4..]), (kind, &b"\x12\x34\0\x05data"[..]));
        // Nothing else that a raw socket sees reaches the guest.
        engine.host().far_datagram(socket, to, &[3, 3, 0, 0, 0, 0, 0, 0]);
        assert!(drain(&mut engine, Time(2)).is_empty());
    }
}

#[test]
fn fragments_of_the_guest_are_put_together() {
    let mut engine = engine(NatConfig::default());
    let data = pattern(4000, 3);
    let whole = udp("10.0.2.15:1000", FAR, &data);
    let payload = &whole[ETH + 20..];
    let piece = |offset: usize, len: usize, more: bool| {
        let mut frame = ip(wire::UDP, GUEST, "192.0.2.9", &payload[offset..offset + len]);
        let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        frame[ETH + 4..ETH + 8].copy_from_slice(&[0x77, 0x77, (field >> 8) as u8, field as u8]);
        wire::fill_checksum(0, &mut frame[ETH..ETH + 20], 10);
        frame
    };
    let rest = payload.len() - 2960;
    for frame in [piece(2960, rest, false), piece(0, 1480, true), piece(0, 1480, true), piece(1480, 1480, true)] {
        assert!(ask(&mut engine, Time(1), &frame).is_empty());
    }
    let socket = engine.host().newest();
    assert!(engine.host().sim(socket).datagrams_out == [(at(FAR), data.clone())]);
    // Overlaps are attacks.
    for frame in [piece(0, 1480, true), piece(1472, 1480, true), piece(1480, 1480, true), piece(2960, rest, false)] {
        ask(&mut engine, Time(2), &frame);
    }
    assert_eq!(engine.host().sim(socket).datagrams_out.len(), 1);
    // What does not come in time is forgotten.
    ask(&mut engine, Time(40_000_000), &piece(0, 1480, true));
    ask(&mut engine, Time(60_000_000), &piece(1480, 1480, true));
    ask(&mut engine, Time(60_000_000), &piece(2960, rest, false));
    assert_eq!(engine.host().sim(socket).datagrams_out.len(), 1);
}

#[test]
fn long_datagrams_reach_the_guest_in_fragments() {
    let mut engine = engine(NatConfig::default());
    for (guest, far) in [("10.0.2.15:1", FAR), ("[fd00:a:0:2::15]:1", "[2001:db8::9]:9")] {
        ask(&mut engine, Time(1), &udp(guest, far, b"x"));
        let socket = engine.host().newest();
        engine.host().far_datagram(socket, at(far), &pattern(5000, 4));
        let got = drain(&mut engine, Time(2));
        assert!(got.len() == 4 && got.iter().all(|f| f.len() <= 1514));
        let mut whole = vec![0; 5008];
        for frame in &got {
            let packet = packet(frame);
            let fragment = packet.fragment.unwrap();
            whole[fragment.offset..fragment.offset + packet.payload.len()].copy_from_slice(packet.payload);
        }
        assert!(whole[8..] == pattern(5000, 4));
        let pseudo = wire::pseudo(at(far).ip(), at(guest).ip(), wire::UDP, whole.len());
        assert!(wire::verify(pseudo, &whole));
    }
}

#[test]
fn a_full_guest_loses_nothing_that_was_received() {
    let mut engine = engine(NatConfig::default());
    ask(&mut engine, Time(1), &udp("10.0.2.15:1000", FAR, b"x"));
    let socket = engine.host().newest();
    for n in 0..100u8 {
        engine.host().far_datagram(socket, at(FAR), &[n]);
    }
    let mut got = Vec::new();
    for round in 2..100 {
        let mut room = 7;
        engine.poll(Time(round), &mut |f: Frame<'_>| {
            if room == 0 {
                return Sent::Full;
            }
            room -= 1;
            got.push(datagram(f.data).2[0]);
            Sent::Yes
        });
    }
    assert_eq!(got, (0..100).collect::<Vec<u8>>());
}

#[test]
fn forwarded_udp() {
    let mut engine = engine(NatConfig::default());
    engine.assign(Time(0), super::frames::MAC).unwrap();
    let forward = engine.add_forward(Protocol::Udp, at("127.0.0.1:0"), at("10.0.2.15:53")).unwrap();
    let socket = engine.host().newest();
    for (peer, seen) in [("198.51.100.7:4000", "198.51.100.7:4000"), ("127.0.0.1:4001", "10.0.2.2:4001")] {
        engine.host().far_datagram(socket, at(peer), b"question");
        let got = drain(&mut engine, Time(1));
        assert_eq!(datagram(&got[0]), (at(seen), at("10.0.2.15:53"), b"question".to_vec()));
        ask(&mut engine, Time(2), &udp("10.0.2.15:53", seen, b"answer"));
        assert_eq!(engine.host().sim(socket).datagrams_out.last(), Some(&(at(peer), b"answer".to_vec())));
    }
    assert!(engine.remove_forward(forward.id) && engine.host().sockets.is_empty() && engine.table(Time(3)).is_empty());
}
