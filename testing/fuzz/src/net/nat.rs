//! The translator with a guest that means harm on one side and a world that does on the other.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;

use visor_nat::{BootFile, BootFiles, NatConfig, NatEngine, Time};
use visor_net::{Frame, Offload, Protocol, SegmentKind, Segments, Sent, checksum, headers};

use super::frames::{self, OUTSIDE};
use super::host::Outside;
use crate::{Input, Script};

/// One small file, under any name.
struct Files;

impl BootFiles for Files {
    fn open(&self, name: &str) -> io::Result<Box<dyn BootFile>> {
        if name.contains("..") { Err(io::ErrorKind::NotFound.into()) } else { Ok(Box::new(Files)) }
    }
}

impl BootFile for Files {
    fn size(&self) -> u64 {
        5000
    }
    fn read_at(&self, _offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(7);
        Ok(())
    }
}

/// Operations.
const FRAME: u8 = 0;
const LARGE: u8 = 1;
const FAR: u8 = 2;
const WAIT: u8 = 3;
const OTHERS: u8 = 4;

fn engine() -> NatEngine<Outside> {
    let config = NatConfig { max_tcp: 32, max_datagram: 32, boot_file: Some("boot".into()), ..NatConfig::default() };
    let mut engine = NatEngine::new(config, Outside::default()).expect("the defaults are right");
    engine.set_boot_files(Some(Box::new(Files)));
    engine.set_name("web", vec![[10, 0, 2, 15].into()]);
    let guest = SocketAddr::from(([10, 0, 2, 15], 80));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let bind = SocketAddr::from(([127, 0, 0, 1], 8080));
        engine.add_forward(protocol, bind, guest).expect("listening always works");
    }
    engine
}

fn drain(engine: &mut NatEngine<Outside>, now: Time) {
    // Pictures of what a guest's device would take in one go; more waits.
    let mut room = 256;
    for _ in 0..16 {
        let next = engine.poll(now, &mut |f: Frame<'_>| {
            assert!(f.data.len() >= 14, "a frame of {} bytes", f.data.len());
            room -= 1;
            if room > 0 { Sent::Yes } else { Sent::Full }
        });
        if next.is_some_and(|t| t > std::time::Duration::ZERO) || !engine.has_output() || room <= 0 {
            break;
        }
    }
}

fn drive(data: &[u8], fix: bool) {
    let mut input = Input::new(data);
    let (mut engine, mut now) = (engine(), Time(1));
    while !input.is_empty() {
        match input.u8() % (OTHERS + 1) {
            FRAME => {
                let mut frame = input.bytes().to_vec();
                if fix {
                    put_right(&mut frame);
                }
                engine.ingress(now, Frame::plain(&frame));
            }
            LARGE => {
                let kind = if input.u8() & 1 == 0 { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
                let segments = Some(Segments { kind, size: input.u16() });
                let checksum = Some((input.u8().into(), input.u8().into()));
                let offload = Offload { checksum, trusted: input.u8() & 1 != 0, segments };
                engine.ingress(now, Frame { data: input.bytes(), offload });
            }
            FAR => {
                let (n, what) = (usize::from(input.u8()), input.u8());
                let data = input.bytes();
                let host = engine.host();
                if let Some(id) = host.nth(n) {
                    host.far(id, what, data);
                }
            }
            WAIT => now = Time(now.0.saturating_add(u64::from(input.u32()) << (input.u8() % 24)).min(1 << 60)),
            _ => match input.u8() % 4 {
                0 => engine.reset_flows(now),
                1 => _ = engine.judge_again(now),
                2 => engine.host().closed ^= true,
                _ => _ = (engine.table(now), engine.leases(), engine.counters()),
            },
        }
        drain(&mut engine, now);
        let flows = engine.table(now).len();
        assert!(flows <= 64, "{flows} flows of 64");
    }
}

/// Lengths and checksums as the headers found in the frame demand.
fn put_right(frame: &mut [u8]) {
    let Some(h) = headers::Headers::parse(frame) else { return };
    let (net, transport, len) = (h.network, h.transport, frame.len());
    if transport < net || transport > len {
        return;
    }
    if h.v6 {
        frame[net + 4..net + 6].copy_from_slice(&((len - net - 40) as u16).to_be_bytes());
    } else {
        frame[net + 2..net + 4].copy_from_slice(&((len - net) as u16).to_be_bytes());
        frame[net + 10..net + 12].fill(0);
        let sum = !checksum::sum(&frame[net..transport]);
        frame[net + 10..net + 12].copy_from_slice(&sum.to_be_bytes());
    }
    let at = transport
        + match h.protocol {
            6 => 16,
            17 => 6,
            1 | 58 => 2,
            _ => return,
        };
    if at + 2 > len || h.fragment {
        return;
    }
    if h.protocol == 17 && transport + 6 <= len {
        frame[transport + 4..transport + 6].copy_from_slice(&((len - transport) as u16).to_be_bytes());
    }
    let pseudo = if h.protocol == 1 { 0 } else { checksum::pseudo(h.addresses(frame), h.protocol, len - transport) };
    frame[at..at + 2].fill(0);
    let sum = !checksum::add(checksum::sum(&frame[transport..]), pseudo);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

pub(super) fn run(data: &[u8]) {
    drive(data, false);
}

pub(super) fn run_fixed(data: &[u8]) {
    drive(data, true);
}

fn frame(s: Script, frame: &[u8]) -> Script {
    s.raw(&[FRAME]).bytes(frame)
}

fn far(s: Script, n: u8, what: u8, data: &[u8]) -> Script {
    s.raw(&[FAR, n, what]).bytes(data)
}

/// Frames of every protocol.
fn all() -> Vec<Vec<u8>> {
    use frames::{GUEST6, datagram, in_ip4, in_ip6, segment};
    let gateway6 = [0xfd, 0, 0, 0x0a, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2];
    let dns = [10, 0, 2, 3];
    let tftp = |data: &[u8]| frames::udp_to([10, 0, 2, 2], 2000, 69, data);
    let multicast = |last: u8| [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, last];
    let routers = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let link = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 0, 0, 1];
    let solicit = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &gateway6, &[1, 1], &frames::GUEST_MAC].concat();
    let dhcp6 = [
        1, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 6, 0, 4, 0, 23, 0, 24,
    ];
    let mut fragment = in_ip4(17, OUTSIDE, datagram(7, 7, &[1; 64]), 6);
    fragment[20] = 0x20;
    let mut last = fragment.clone();
    (last[20], last[21]) = (0, 9);
    vec![
        frames::arp([10, 0, 2, 2]),
        frames::dhcp(&[53, 1, 1, 61, 7, 1, 0x52, 0x54, 0, 0, 0, 1, 55, 4, 1, 3, 6, 66, 12, 2, b'v', b'm', 255]),
        frames::dhcp(&[53, 1, 3, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 81, 5, 0, 0, 0, 1, b'a', 255]),
        frames::dhcp(&[53, 1, 8, 93, 2, 0, 7, 60, 9, b'P', b'X', b'E', b'C', b'l', b'i', b'e', b'n', b't', 255]),
        frames::echo(OUTSIDE, b"ping"),
        frames::echo([10, 0, 2, 2], &[9; 1400]),
        frames::udp(b"data"),
        frames::udp_to(dns, 3000, 53, &frames::dns_question("example.org", 1)),
        frames::udp_to(dns, 3001, 53, &frames::dns_question("web.visor", 28)),
        in_ip4(6, dns, segment(53, 2, 9, 0, &[2, 4, 5, 0xb4], &[]), 16),
        tftp(b"\0\x01boot\0octet\0blksize\x001024\0tsize\x000\0timeout\x003\0"),
        tftp(&[0, 4, 0, 1]),
        tftp(b"\0\x02../etc/passwd\0octet\0"),
        fragment,
        last,
        in_ip6(58, link, routers, vec![133, 0, 0, 0, 0, 0, 0, 0], 2),
        in_ip6(58, GUEST6, multicast(2), solicit, 2),
        in_ip6(17, link, multicast(2), datagram(546, 547, &dhcp6), 6),
        in_ip6(58, GUEST6, gateway6, vec![128, 0, 0, 0, 0, 1, 0, 1, 5, 5], 2),
        in_ip6(6, GUEST6, [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], segment(80, 2, 1, 0, &[], &[]), 16),
    ]
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    use frames::{in_ip4, segment};
    let mut seeds: Vec<_> = all().iter().map(|f| frame(Script::new(), f).end()).collect();
    let tcp = |flags, seq, ack, data: &[u8]| in_ip4(6, OUTSIDE, segment(80, flags, seq, ack, &[], data), 16);
    let syn = in_ip4(6, OUTSIDE, segment(80, 2, 1000, 0, &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1], &[]), 16);
    // The engine's first sequence number depends on the simulated randomness alone: acknowledge it by what it is.
    let ack = first_ack(&syn);
    let open = frame(frame(Script::new(), &syn), &tcp(0x10, 1001, ack, &[]));
    // The two listeners are sockets 0 and 1.
    let talk = far(frame(open.clone(), &tcp(0x18, 1001, ack, b"GET / HTTP/1.0\r\n\r\n")), 2, 0, &[5; 900]);
    let close = frame(far(talk.clone(), 2, 2, &[]), &tcp(0x11, 1019, ack.wrapping_add(901), &[]));
    let reordered = frame(frame(open.clone(), &tcp(0x18, 1011, ack, b"second")), &tcp(0x18, 1001, ack, b"first 10 b"));
    let large = open.clone().raw(&[LARGE, 0, 100, 0, 34, 16, 1]).bytes(&tcp(0x18, 1001, ack, &[6; 600]));
    let udp = far(far(frame(Script::new(), &frames::udp(b"x")), 2, 4, &[9; 400]), 2, 5, &[1; 40]);
    let inbound = far(far(Script::new(), 0, 7, &[]), 1, 4, b"hello");
    let dns = frame(Script::new(), &frames::udp_to([10, 0, 2, 3], 3000, 53, &frames::dns_question("example.org", 1)));
    seeds.extend([
        talk.raw(&[WAIT, 0, 0, 0, 1, 8]).end(),
        close.raw(&[WAIT, 0, 0, 0, 1, 12]).end(),
        reordered.end(),
        large.end(),
        frame(far(open, 2, 3, &[]), &tcp(0x14, 1001, ack, &[])).raw(&[OTHERS, 0]).end(),
        udp.raw(&[OTHERS, 3]).end(),
        inbound.raw(&[WAIT, 0, 0, 0, 1, 4]).end(),
        far(dns, 2, 4, &dns_answer(&frames::dns_question("example.org", 1), &[192, 0, 2, 80])).end(),
    ]);
    seeds
}

/// The number that acknowledges the engine's answer to `syn`.
fn first_ack(syn: &[u8]) -> u32 {
    let mut engine = engine();
    let mut ack = 1;
    engine.ingress(Time(1), Frame::plain(syn));
    engine.poll(Time(1), &mut |f: Frame<'_>| {
        if f.data.get(23) == Some(&6) {
            ack = f.data.get(38..42).and_then(|b| b.try_into().ok()).map_or(1, u32::from_be_bytes).wrapping_add(1);
        }
        Sent::Yes
    });
    ack
}

/// An answer with one address to `question`.
fn dns_answer(question: &[u8], address: &[u8]) -> Vec<u8> {
    let mut m = question.to_vec();
    (m[2], m[3], m[7]) = (0x81, 0x80, 1);
    [&m[..], &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60], &(address.len() as u16).to_be_bytes(), address].concat()
}

/// Asks, and has the resolver answer with what the input says; the question's number is right.
pub(super) fn run_dns(data: &[u8]) {
    static QUESTION: OnceLock<Vec<u8>> = OnceLock::new();
    let question =
        QUESTION.get_or_init(|| frames::udp_to([10, 0, 2, 3], 3000, 53, &frames::dns_question("example.org", 1)));
    let mut engine = engine();
    engine.ingress(Time(1), Frame::plain(question));
    drain(&mut engine, Time(1));
    let host = engine.host();
    let asked = host.sockets.iter().find_map(|(id, s)| Some((*id, s.asked.clone()?.1)));
    let Some((id, asked)) = asked else { panic!("the question does not reach the resolver") };
    let mut answer = data.to_vec();
    answer.iter_mut().zip(&asked[..2]).for_each(|(to, from)| *to = *from);
    host.far(id, 4, &answer);
    drain(&mut engine, Time(2));
}

pub(super) fn dns_seeds() -> Vec<Vec<u8>> {
    let question = frames::dns_question("example.org", 1);
    let plain = dns_answer(&question, &[192, 0, 2, 80]);
    let mut refused = question.clone();
    (refused[2], refused[3]) = (0x81, 0x85);
    let mut cut = plain.clone();
    cut[2] |= 2;
    let mut looped = plain.clone();
    let at = question.len();
    (looped[at], looped[at + 1]) = (0xc0, at as u8);
    vec![plain, refused, cut, looped, dns_answer(&question, &[127, 0, 0, 1])]
}
