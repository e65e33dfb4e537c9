//! TCP segment by segment: opening, half-close, resets, windows, retransmission, forwarded ports.

use std::io::ErrorKind;
use std::sync::Arc;

use visor_net::{Accepts, Direction, FlowKey, FlowPolicy, Frame, Protocol, Segments, Sent, Verdict};

use super::frames::{MAC, Tcp, at, icmp, segment};
use super::sim::{End, SimHost};
use super::{ask, drain, engine, pattern};
use crate::wire::tcp::{ACK, FIN, PSH, RST, SYN};
use crate::{NatConfig, NatEngine, Time};

const FAR: &str = "192.0.2.9:80";

/// A guest's connection whose handshake is done: next numbers of the guest and of the engine.
struct Open {
    tcp: Tcp,
    seq: u32,
    ack: u32,
    socket: u32,
}

fn open(engine: &mut NatEngine<SimHost>, window: u16) -> Open {
    let mut tcp = Tcp::new("10.0.2.15:40000", FAR);
    tcp.window = window;
    let got = ask(engine, Time(1), &tcp.frame(SYN, 1000, 0, &[]));
    let answer = segment(&got[0]);
    assert_eq!((answer.flags, answer.ack, answer.mss), (SYN | ACK, 1001, Some(1460)));
    assert_eq!(answer.window_scale, None, "only if the guest offers it");
    let ack = answer.seq.wrapping_add(1);
    assert!(ask(engine, Time(2), &tcp.frame(ACK, 1001, ack, &[])).is_empty());
    let socket = engine.host().newest();
    Open { tcp, seq: 1001, ack, socket }
}

#[test]
fn the_handshake_waits_for_the_host() {
    let mut engine = engine(NatConfig::default());
    engine.host().answer = None;
    let tcp = Tcp::new("10.0.2.15:40000", FAR);
    let syn = tcp.frame(SYN, 1000, 0, &[]);
    assert!(ask(&mut engine, Time(1), &syn).is_empty() && ask(&mut engine, Time(2), &syn).is_empty());
    assert_eq!(engine.table(Time(3))[0].state, "connecting");
    let socket = engine.host().newest();
    engine.host().decide(socket, Ok(()));
    let got = drain(&mut engine, Time(3));
    assert_eq!((segment(&got[0]).flags, got.len()), (SYN | ACK, 1));
    // It is repeated until the guest answers, and the guest may repeat its SYN.
    assert_eq!(drain(&mut engine, Time(1_100_000)).len(), 1);
    assert_eq!(segment(&ask(&mut engine, Time(1_200_000), &syn)[0]).flags, SYN | ACK);
    assert_eq!(engine.host().sockets.len(), 1);
}

#[test]
fn refusals() {
    for (kind, reset) in [(ErrorKind::ConnectionRefused, true), (ErrorKind::HostUnreachable, false)] {
        for at_once in [false, true] {
            let mut engine = engine(NatConfig::default());
            engine.host().answer = Some(Err(kind));
            engine.host().fail = at_once.then_some(kind);
            let tcp = Tcp::new("10.0.2.15:40000", FAR);
            let got = ask(&mut engine, Time(1), &tcp.frame(SYN, 1000, 0, &[]));
            if reset {
                assert_eq!((segment(&got[0]).flags, segment(&got[0]).ack), (RST | ACK, 1001));
            } else {
                let message = icmp(&got[0]);
                assert_eq!((&message[..2], &message[28..36]), (&[3, 1][..], &tcp.frame(SYN, 1000, 0, &[])[34..42]));
            }
            assert!(engine.host().sockets.is_empty() && engine.table(Time(2)).is_empty());
        }
    }
}

#[test]
fn strangers_are_reset() {
    let mut engine = engine(NatConfig::default());
    let tcp = Tcp::new("10.0.2.15:40000", FAR);
    let got = ask(&mut engine, Time(1), &tcp.frame(ACK, 5, 77, b"abc"));
    assert_eq!((segment(&got[0]).flags, segment(&got[0]).seq), (RST, 77));
    let got = ask(&mut engine, Time(1), &tcp.frame(FIN, 5, 0, b"abc"));
    assert_eq!((segment(&got[0]).flags, segment(&got[0]).ack), (RST | ACK, 9));
    assert!(ask(&mut engine, Time(1), &tcp.frame(RST, 5, 0, &[])).is_empty());
}

#[test]
fn the_guest_closes_its_half_first() {
    let mut engine = engine(NatConfig::default());
    let c = open(&mut engine, 60000);
    let got = ask(&mut engine, Time(3), &c.tcp.frame(FIN | PSH | ACK, c.seq, c.ack, b"question"));
    assert_eq!((segment(&got[0]).flags, segment(&got[0]).ack), (ACK, c.seq + 9));
    assert_eq!(engine.table(Time(4))[0].state, "close-wait");
    let sim = engine.host().sim(c.socket);
    assert!(sim.tx_end && sim.tx == b"question");
    engine.host().far_sends(c.socket, b"answer");
    engine.host().far_ends(c.socket);
    let got = drain(&mut engine, Time(5));
    assert_eq!(segment(&got[0]).payload, b"answer");
    let fin = segment(&got[1]);
    assert_eq!((fin.flags, fin.seq), (FIN | ACK, c.ack.wrapping_add(6)));
    assert_eq!(engine.table(Time(4))[0].state, "last-ack");
    ask(&mut engine, Time(6), &c.tcp.frame(ACK, c.seq + 9, fin.seq.wrapping_add(1), &[]));
    assert_eq!(engine.host().ended[&c.socket].0, End::Closed);
    assert!(engine.host().ended[&c.socket].1.rx.is_empty(), "nothing is left unread, which would reset the far end");
}

#[test]
fn the_acknowledgement_of_a_fin_waits_a_little_for_the_far_ends() {
    let mut engine = engine(NatConfig::default());
    // The far end closes as well: one segment says both.
    let c = open(&mut engine, 60000);
    let fin = c.tcp.frame(FIN | ACK, c.seq, c.ack, &[]);
    engine.ingress(Time(3), Frame::plain(&fin));
    assert!(engine.has_put_off() && !engine.has_answers() && drain(&mut engine, Time(4)).is_empty());
    engine.host().far_ends(c.socket);
    let got = drain(&mut engine, Time(900));
    assert_eq!((got.len(), segment(&got[0]).flags, segment(&got[0]).ack), (1, FIN | ACK, c.seq + 1));
    assert!(drain(&mut engine, Time(2000)).is_empty() && !engine.has_put_off());
    assert!(ask(&mut engine, Time(2001), &c.tcp.frame(ACK, c.seq + 1, c.ack + 1, &[])).is_empty());
    assert_eq!(engine.host().ended[&c.socket].0, End::Closed);
    // It does not: the guest has its acknowledgement within a millisecond, once, and may repeat its FIN before.
    for again in [false, true] {
        let mut engine = super::engine(NatConfig::default());
        let c = open(&mut engine, 60000);
        let fin = c.tcp.frame(FIN | ACK, c.seq, c.ack, &[]);
        assert!(ask(&mut engine, Time(3), &fin).is_empty());
        let mut sink = |_: Frame<'_>| Sent::Yes;
        let next = engine.poll(Time(4), &mut sink);
        assert!(next.is_some_and(|d| d.as_micros() <= 1000), "{next:?}");
        let got = if again { ask(&mut engine, Time(500), &fin) } else { drain(&mut engine, Time(1100)) };
        assert_eq!((got.len(), segment(&got[0]).flags, segment(&got[0]).ack), (1, ACK, c.seq + 1));
        assert!(drain(&mut engine, Time(5000)).is_empty());
        assert_eq!(engine.table(Time(5000))[0].state, "close-wait");
        // Data of the far end goes on coming.
        engine.host().far_sends(c.socket, b"answer");
        assert_eq!(segment(&drain(&mut engine, Time(6000))[0]).payload, b"answer");
    }
}

#[test]
fn the_far_end_closes_first() {
    let mut engine = engine(NatConfig::default());
    let c = open(&mut engine, 60000);
    engine.host().far_ends(c.socket);
    let got = drain(&mut engine, Time(3));
    assert_eq!((segment(&got[0]).flags, segment(&got[0]).seq), (FIN | ACK, c.ack));
    ask(&mut engine, Time(4), &c.tcp.frame(ACK, c.seq, c.ack + 1, &[]));
    assert_eq!(engine.table(Time(4))[0].state, "fin-wait-2");
    // The guest goes on sending for as long as it likes.
    ask(&mut engine, Time(100_000_000), &c.tcp.frame(PSH | ACK, c.seq, c.ack + 1, b"more"));
    assert_eq!(engine.host().sim(c.socket).tx, b"more");
    let fin = c.tcp.frame(FIN | ACK, c.seq + 4, c.ack + 1, &[]);
    assert_eq!(segment(&ask(&mut engine, Time(100_000_001), &fin)[0]).ack, c.seq + 5);
    assert_eq!(engine.host().ended[&c.socket].0, End::Closed);
    // A lost last acknowledgement is repeated; a new connection from the same port may follow at once.
    assert_eq!(segment(&ask(&mut engine, Time(100_000_002), &fin)[0]).ack, c.seq + 5);
    let again = ask(&mut engine, Time(100_000_003), &c.tcp.frame(SYN, c.seq + 100_000, 0, &[]));
    assert_eq!(segment(&again[0]).flags, SYN | ACK);
}

#[test]
fn resets_go_through_both_ways() {
    let mut engine = engine(NatConfig::default());
    let c = open(&mut engine, 60000);
    // Inside of the window, but not exact: challenged (RFC 5961 §3).
    let got = ask(&mut engine, Time(3), &c.tcp.frame(RST, c.seq + 10, 0, &[]));
    assert_eq!((segment(&got[0]).flags, engine.host().sockets.len()), (ACK, 1));
    assert!(ask(&mut engine, Time(3), &c.tcp.frame(RST, c.seq.wrapping_sub(10), 0, &[])).is_empty());
    assert_eq!(segment(&ask(&mut engine, Time(3), &c.tcp.frame(SYN, c.seq + 7, 0, &[]))[0]).flags, ACK);
    assert!(ask(&mut engine, Time(3), &c.tcp.frame(RST, c.seq, 0, &[])).is_empty());
    assert_eq!(engine.host().ended[&c.socket].0, End::Aborted);
    let c = open(&mut engine, 60000);
    engine.host().far_resets(c.socket);
    let got = drain(&mut engine, Time(4));
    assert_eq!((segment(&got[0]).flags, segment(&got[0]).seq), (RST | ACK, c.ack));
    assert!(engine.host().sockets.is_empty() && engine.table(Time(5)).is_empty());
    let c = open(&mut engine, 60000);
    engine.host().sim(c.socket).broken = true;
    let got = ask(&mut engine, Time(5), &c.tcp.frame(PSH | ACK, c.seq, c.ack, b"into the void"));
    assert_eq!(segment(&got[0]).flags, RST | ACK);
}

#[test]
fn a_shut_window_is_probed_until_it_opens() {
    let mut engine = engine(NatConfig::default());
    let mut c = open(&mut engine, 1000);
    engine.host().far_sends(c.socket, &pattern(3000, 1));
    let got = drain(&mut engine, Time(3));
    assert_eq!((got.len(), segment(&got[0]).payload.len()), (1, 1000));
    c.tcp.window = 0;
    ask(&mut engine, Time(4), &c.tcp.frame(ACK, c.seq, c.ack + 1000, &[]));
    let mut now = 4;
    let mut probes = 0;
    while now < 200_000_000 {
        now += 250_000;
        for frame in drain(&mut engine, Time(now)) {
            let probe = segment(&frame);
            assert_eq!((probe.seq, probe.payload.len()), (c.ack + 999, 0));
            probes += 1;
            ask(&mut engine, Time(now), &c.tcp.frame(ACK, c.seq, c.ack + 1000, &[]));
        }
    }
    assert!((5..20).contains(&probes), "{probes} probes, ever rarer");
    c.tcp.window = 60000;
    let got = ask(&mut engine, Time(now), &c.tcp.frame(ACK, c.seq, c.ack + 1000, &[]));
    let rest: Vec<u8> = got.iter().flat_map(|f| segment(f).payload.to_vec()).collect();
    assert!(rest == pattern(3000, 1)[1000..]);
}

#[test]
fn a_far_end_that_does_not_read_shuts_the_guests_window() {
    let mut engine = engine(NatConfig::default());
    engine.host().room = 10_000;
    let c = open(&mut engine, 60000);
    let data = pattern(12_000, 2);
    let (mut seq, mut window) = (c.seq, 60000);
    for piece in data.chunks(1000) {
        let got = ask(&mut engine, Time(3), &c.tcp.frame(ACK, seq, c.ack, piece));
        let answer = segment(got.last().unwrap());
        (seq, window) = (answer.ack, answer.window);
    }
    assert_eq!((seq - c.seq, window), (10_000, 0));
    // A probe finds it shut still.
    let probe = ask(&mut engine, Time(4), &c.tcp.frame(ACK, seq, c.ack, &data[10_000..10_001]));
    assert_eq!((segment(&probe[0]).ack, segment(&probe[0]).window), (seq, 0));
    assert!(engine.host().far_reads(c.socket, 6000) == data[..6000]);
    let got = drain(&mut engine, Time(5));
    // An update, and three duplicates that make the guest send again what was dropped.
    assert_eq!(got.len(), 4);
    assert_eq!((segment(&got[0]).ack, segment(&got[0]).window), (seq, 6000));
    ask(&mut engine, Time(6), &c.tcp.frame(ACK, seq, c.ack, &data[10_000..]));
    assert!(engine.host().far_reads(c.socket, 12_000) == data[6000..]);
}

#[test]
fn lost_segments_are_sent_again() {
    let mut engine = engine(NatConfig::default());
    let c = open(&mut engine, 60000);
    engine.host().far_sends(c.socket, &pattern(14_600, 3));
    let got = drain(&mut engine, Time(3));
    assert_eq!(got.len(), 10);
    // The third is lost: three duplicates bring it back.
    ask(&mut engine, Time(4), &c.tcp.frame(ACK, c.seq, c.ack + 2920, &[]));
    for n in 0..3 {
        let got = ask(&mut engine, Time(5), &c.tcp.frame(ACK, c.seq, c.ack + 2920, &[]));
        assert_eq!(got.len(), usize::from(n == 2));
        for frame in got {
            assert!(segment(&frame).seq == c.ack + 2920 && segment(&frame).payload == &pattern(14_600, 3)[2920..4380]);
        }
    }
    // Then everything behind it is lost too: the timer brings it back, slowly at first.
    let got = drain(&mut engine, Time(1_000_000));
    assert_eq!((got.len(), segment(&got[0]).seq), (1, c.ack + 2920));
    let got = ask(&mut engine, Time(1_000_001), &c.tcp.frame(ACK, c.seq, c.ack + 14_600, &[]));
    assert!(got.is_empty() && engine.host().sim(c.socket).rx.is_empty(), "acknowledged bytes are thrown away");
    // A guest that is gone is given up.
    engine.host().far_sends(c.socket, b"hello?");
    let mut now = 2_000_000;
    while !engine.table(Time(now)).is_empty() {
        now += 10_000_000;
        assert!(now < 3_000_000_000);
        drain(&mut engine, Time(now));
    }
    assert_eq!(engine.host().ended[&c.socket].0, End::Aborted);
}

#[test]
fn whole_frames_for_guests_that_split() {
    let mut engine = engine(NatConfig::default());
    let c = open(&mut engine, 60000);
    engine.set_accepts(Accepts { checksum: true, tcp4: true, tcp6: true });
    engine.host().far_sends(c.socket, &pattern(200_000, 1));
    let mut frames = Vec::new();
    engine.poll(Time(3), &mut |f: Frame<'_>| {
        frames.push((f.data.to_vec(), f.offload));
        Sent::Yes
    });
    let (data, offload) = &frames[0];
    assert_eq!((frames.len(), data.len()), (1, 54 + 41 * 1460));
    assert_eq!(offload.segments, Some(Segments { kind: visor_net::SegmentKind::Tcp4, size: 1460 }));
    assert_eq!(offload.checksum, Some((34, 16)));
    // Filled in as the receiver does it, the checksum is right.
    let mut done = data.clone();
    let sum = !crate::wire::fold(crate::wire::sum(&done[34..]));
    done[50..52].copy_from_slice(&sum.to_ne_bytes());
    assert!(segment(&done).payload == &pattern(200_000, 1)[..41 * 1460]);
}

#[test]
fn small_segments_in_a_row_go_to_the_host_together() {
    let mut engine = engine(NatConfig::default());
    let c = open(&mut engine, 60000);
    let data = pattern(40 * 1460, 5);
    let mut at = 0;
    for piece in data.chunks(1460) {
        engine.ingress(Time(3), Frame::plain(&c.tcp.frame(ACK, c.seq + at, c.ack, piece)));
        at += 1460;
    }
    assert_eq!(engine.host().sim(c.socket).sends, 0);
    let got = drain(&mut engine, Time(4));
    assert_eq!((got.len(), segment(&got[0]).ack), (1, c.seq + at));
    let sim = engine.host().sim(c.socket);
    assert!(sim.sends == 1 && sim.tx == data);
    // Whatever else comes finds everything before it done: a repetition, a gap, the end.
    let last = c.seq + at;
    for (seq, piece) in [(last, &b"abc"[..]), (last, b"abc"), (last + 5, b"fgh"), (last + 3, b"de")] {
        engine.ingress(Time(5), Frame::plain(&c.tcp.frame(ACK, seq, c.ack, piece)));
    }
    engine.ingress(Time(5), Frame::plain(&c.tcp.frame(ACK, last + 8, c.ack, b"ij")));
    engine.ingress(Time(5), Frame::plain(&c.tcp.frame(FIN | ACK, last + 10, c.ack, b"k")));
    let sim = engine.host().sim(c.socket);
    assert!(sim.tx_end && sim.tx.make_contiguous().ends_with(b"abcdefghijk"));
    assert_eq!(segment(drain(&mut engine, Time(6)).last().unwrap()).ack, last + 12);
}

#[test]
fn collected_segments_that_the_host_does_not_take_are_asked_for_again() {
    let mut engine = engine(NatConfig::default());
    engine.host().room = 50_000;
    let c = open(&mut engine, 60000);
    engine.host().room = 5000;
    engine.host().sim(c.socket).room = 5000;
    for n in 0..10 {
        engine.ingress(Time(3), Frame::plain(&c.tcp.frame(ACK, c.seq + n * 1000, c.ack, &[7; 1000])));
    }
    let got = drain(&mut engine, Time(4));
    assert_eq!((segment(&got[0]).ack, segment(&got[0]).window), (c.seq + 5000, 0));
    assert_eq!(engine.host().far_reads(c.socket, 5000).len(), 5000);
    assert_eq!(drain(&mut engine, Time(5)).len(), 4);
    // A flow that breaks takes only itself along.
    engine.host().sim(c.socket).broken = true;
    engine.ingress(Time(6), Frame::plain(&c.tcp.frame(ACK, c.seq + 5000, c.ack, &[7; 1000])));
    assert_eq!(segment(&drain(&mut engine, Time(6))[0]).flags, RST | ACK);
    assert!(engine.table(Time(7)).is_empty());
}

#[test]
fn cables_that_carry_the_largest_packets() {
    for (guest, far) in [("10.0.2.15:40000", FAR), ("[fd00:a:0:2::15]:40000", "[2001:db8::9]:80")] {
        let mut engine = engine(NatConfig { mtu: 65535, ..NatConfig::default() });
        let mut tcp = Tcp::new(guest, far);
        tcp.window = 65535;
        let mut syn = tcp.frame(SYN, 1000, 0, &[]);
        // A guest that offers all that an MTU of 65535 allows.
        let option = syn.len() - 4;
        syn[option..].copy_from_slice(&[2, 4, 0xff, 0xff]);
        let got = engine.ingress(
            Time(1),
            Frame { data: &syn, offload: visor_net::Offload { trusted: true, ..Default::default() } },
        );
        assert_eq!(got, Sent::Yes);
        let syn_ack = drain(&mut engine, Time(1));
        let ack = segment(&syn_ack[0]).seq.wrapping_add(1);
        ask(&mut engine, Time(2), &tcp.frame(ACK, 1001, ack, &[]));
        let socket = engine.host().newest();
        let data = pattern(150_000, 8);
        engine.host().far_sends(socket, &data);
        engine.host().far_ends(socket);
        let mut received = Vec::new();
        let mut frames = drain(&mut engine, Time(3));
        while !frames.is_empty() {
            for frame in &frames {
                received.extend_from_slice(segment(frame).payload);
            }
            frames = ask(&mut engine, Time(4), &tcp.frame(ACK, 1001, ack.wrapping_add(received.len() as u32), &[]));
        }
        assert!(received == data, "{} bytes", received.len());
        assert_eq!(engine.table(Time(5))[0].state, "fin-wait-1");
    }
}

#[test]
fn forwarded_ports() {
    let mut engine = engine(NatConfig::default());
    let forward = engine.add_forward(Protocol::Tcp, at("0.0.0.0:0"), at("10.0.2.15:22")).unwrap();
    assert_ne!(forward.bind.port(), 0);
    let listener = engine.host().newest();
    let early = engine.host().far_connects(listener, at("198.51.100.7:4000"));
    assert!(drain(&mut engine, Time(1)).is_empty() && engine.host().ended[&early].0 == End::Aborted, "no guest yet");
    engine.assign(Time(1), MAC).unwrap();
    for (peer, seen) in [("198.51.100.7:4000", "198.51.100.7:4000"), ("127.0.0.1:5000", "10.0.2.2:5000")] {
        let socket = engine.host().far_connects(listener, at(peer));
        engine.host().far_sends(socket, b"hello");
        let got = drain(&mut engine, Time(2));
        let syn = segment(&got[0]);
        assert_eq!((syn.flags, syn.source_port, got.len()), (SYN, at(seen).port(), 1));
        assert_eq!(super::frames::packet(&got[0]).source, at(seen).ip());
        let tcp = Tcp::new("10.0.2.15:22", seen);
        let got = ask(&mut engine, Time(3), &tcp.frame(SYN | ACK, 500, syn.seq + 1, &[]));
        assert_eq!(segment(&got[0]).payload, b"hello");
        ask(&mut engine, Time(4), &tcp.frame(ACK | PSH, 501, syn.seq + 6, b"world"));
        assert_eq!(engine.host().sim(socket).tx, b"world");
    }
    assert!(engine.table(Time(5)).iter().all(|f| f.inbound && f.state == "established"));
    // The guest refuses.
    let socket = engine.host().far_connects(listener, at("198.51.100.7:4001"));
    let syn = segment(&drain(&mut engine, Time(5))[0]).seq;
    ask(&mut engine, Time(6), &Tcp::new("10.0.2.15:22", "198.51.100.7:4001").frame(RST | ACK, 0, syn + 1, &[]));
    assert_eq!(engine.host().ended[&socket].0, End::Aborted);
    assert!(engine.remove_forward(forward.id));
    assert_eq!(engine.table(Time(7)).len(), 2, "connections go on");
    assert!(engine.add_forward(Protocol::Tcp, at("0.0.0.0:0"), at("10.0.3.1:22")).is_err());
    assert!(engine.add_forward(Protocol::Icmp, at("0.0.0.0:0"), at("10.0.2.15:22")).is_err());
}

/// Port 80 is open, 81 rejected, everything else dropped.
struct Ports;

impl FlowPolicy for Ports {
    fn decide(&self, flow: &FlowKey, direction: Direction) -> Verdict {
        assert_eq!(direction, Direction::Outbound);
        match flow.destination.port() {
            80 => Verdict::Allow,
            81 => Verdict::Reject("closed".into()),
            _ => Verdict::Drop("hidden".into()),
        }
    }
}

/// Allows nothing.
struct Nothing;

impl FlowPolicy for Nothing {
    fn decide(&self, _: &FlowKey, _: Direction) -> Verdict {
        Verdict::Reject("closed".into())
    }
}

#[test]
fn the_policy_is_asked() {
    let mut engine = engine(NatConfig::default());
    engine.set_policy(Arc::new(Ports));
    let c = open(&mut engine, 60000);
    let try_port = |engine: &mut _, port: u16| {
        let tcp = Tcp::new("10.0.2.15:41000", &format!("192.0.2.9:{port}"));
        ask(engine, Time(2), &tcp.frame(SYN, 1, 0, &[]))
    };
    assert_eq!(segment(&try_port(&mut engine, 81)[0]).flags, RST | ACK);
    assert!(try_port(&mut engine, 82).is_empty());
    let got = ask(&mut engine, Time(2), &super::frames::udp("10.0.2.15:1", "192.0.2.9:81", b"x"));
    assert_eq!(icmp(&got[0])[..2], [3, 13]);
    assert_eq!((engine.counters().denied, engine.judge_again(Time(3))), (3, 0));
    engine.set_policy(Arc::new(Nothing));
    assert_eq!(engine.judge_again(Time(3)), 1);
    assert_eq!(segment(&drain(&mut engine, Time(3))[0]).flags, RST | ACK);
    assert_eq!(engine.host().ended[&c.socket].0, End::Aborted);
}
