//! ARP, DHCP, neighbour discovery and the resolver, as transcripts.
//!
//! The transcripts in `golden/` are compared byte by byte; `UPDATE_GOLDEN=1` writes them anew.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable, v6};
use hickory_proto::op::{Message as Dns, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use visor_net::MacAddr;

use super::frames::{GUEST, MAC, at, datagram, icmp, ip, packet, route, udp};
use super::sim::SimHost;
use super::{ask, drain, engine};
use crate::wire::arp::Arp;
use crate::wire::emit::{Route, icmp_frame, udp_frame};
use crate::{Lease, NatConfig, NatEngine, Time};

/// A conversation, as text.
#[derive(Default)]
struct Transcript(String);

impl Transcript {
    fn frame(&mut self, arrow: char, what: &str, frame: &[u8]) {
        writeln!(self.0, "{arrow} {what}: {} bytes", frame.len()).unwrap();
        for line in frame.chunks(32) {
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            writeln!(self.0, "  {}", hex.join(" ")).unwrap();
        }
    }

    /// Asks, notes both sides, and gives the answers.
    fn ask(&mut self, engine: &mut NatEngine<SimHost>, what: &str, frame: &[u8]) -> Vec<Vec<u8>> {
        self.frame('>', what, frame);
        let answers = ask(engine, Time(1), frame);
        for answer in &answers {
            self.frame('<', "answer", answer);
        }
        answers
    }

    fn check(self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden").join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &self.0).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        assert!(golden == self.0, "{name} differs:\n{}", self.0);
    }
}

#[test]
fn arp() {
    let mut engine = engine(NatConfig::default());
    let mut transcript = Transcript::default();
    let zero = MacAddr::default();
    let ask_for = |target: [u8; 4], sender: [u8; 4], mac: MacAddr| {
        let arp =
            Arp { request: true, sender_mac: MAC, sender: sender.into(), target_mac: zero, target: target.into() };
        let mut frame = arp.emit();
        frame[..6].fill(0xff);
        frame[6..12].copy_from_slice(&mac.0);
        frame
    };
    for (what, last, answered) in [("the router", 2, true), ("the resolver", 3, true), ("a neighbour", 99, false)] {
        let answers = transcript.ask(&mut engine, what, &ask_for([10, 0, 2, last], [10, 0, 2, 15], MAC));
        assert_eq!(answers.len(), usize::from(answered), "{what}");
    }
    let probe = transcript.ask(&mut engine, "a probe (RFC 5227)", &ask_for([10, 0, 2, 2], [0; 4], MAC));
    let reply = Arp::parse(&probe[0][14..]).unwrap();
    assert_eq!((reply.request, reply.sender_mac), (false, engine.config().mac));
    transcript.check("arp.txt");
    let spoofed = engine.counters().spoofed;
    assert!(ask(&mut engine, Time(1), &ask_for([10, 0, 2, 2], [10, 0, 2, 16], MAC)).is_empty());
    assert!(ask(&mut engine, Time(1), &ask_for([10, 0, 2, 2], [10, 0, 2, 15], MacAddr([2; 6]))).is_empty());
    assert_eq!(engine.counters().spoofed, spoofed + 2);
}

fn dhcp(kind: MessageType, mac: MacAddr, options: Vec<DhcpOption>) -> Vec<u8> {
    let zero = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, zero, zero, zero, zero, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    for option in options {
        message.opts_mut().insert(option);
    }
    let route = Route { from_mac: mac, to_mac: MacAddr::BROADCAST };
    udp_frame(&message.to_vec().unwrap(), at("0.0.0.0:68"), at("255.255.255.255:67"), route)
}

fn answer(frames: &[Vec<u8>]) -> (MessageType, Ipv4Addr, Message) {
    assert_eq!(frames.len(), 1);
    let message = Message::from_bytes(&datagram(&frames[0]).2).unwrap();
    (message.opts().msg_type().unwrap(), message.yiaddr(), message)
}

#[test]
fn dhcp_for_a_guest_alone() {
    let mut engine = engine(NatConfig::default());
    let mut transcript = Transcript::default();
    let offer = transcript.ask(&mut engine, "discover", &dhcp(MessageType::Discover, MAC, vec![]));
    let (kind, address, message) = answer(&offer);
    assert_eq!((kind, address), (MessageType::Offer, GUEST.parse().unwrap()));
    let option = |code| message.opts().get(code).cloned();
    assert_eq!(option(OptionCode::Router), Some(DhcpOption::Router(vec![[10, 0, 2, 2].into()])));
    assert_eq!(option(OptionCode::DomainNameServer), Some(DhcpOption::DomainNameServer(vec![[10, 0, 2, 3].into()])));
    assert_eq!(option(OptionCode::SubnetMask), Some(DhcpOption::SubnetMask([255, 255, 255, 0].into())));
    assert!(engine.leases().is_empty(), "an offer is no lease");
    let wish = DhcpOption::RequestedIpAddress(address);
    let server = DhcpOption::ServerIdentifier([10, 0, 2, 2].into());
    let frame = dhcp(MessageType::Request, MAC, vec![wish.clone(), server]);
    let (kind, address, _) = answer(&transcript.ask(&mut engine, "request", &frame));
    assert_eq!((kind, address), (MessageType::Ack, GUEST.parse().unwrap()));
    assert_eq!(engine.leases(), [Lease { mac: MAC, address, reserved: false }]);
    let wrong = DhcpOption::RequestedIpAddress([192, 168, 0, 9].into());
    let frame = dhcp(MessageType::Request, MAC, vec![wrong]);
    assert_eq!(answer(&transcript.ask(&mut engine, "another network's address", &frame)).0, MessageType::Nak);
    let elsewhere = DhcpOption::ServerIdentifier([10, 0, 2, 77].into());
    let frame = dhcp(MessageType::Request, MAC, vec![wish, elsewhere]);
    assert!(transcript.ask(&mut engine, "for another server", &frame).is_empty());
    transcript.check("dhcp4.txt");
}

#[test]
fn dhcp_for_many_keeps_addresses_over_restarts() {
    let config = NatConfig::shared(Ipv4Addr::new(172, 30, 0, 0), 24).unwrap();
    let macs: Vec<MacAddr> = (0..20).map(|n| MacAddr([2, 0, 0, 0, 1, n])).collect();
    let mut first = engine(config.clone());
    let mut given = Vec::new();
    for mac in &macs {
        let (_, address, _) = answer(&ask(&mut first, Time(1), &dhcp(MessageType::Discover, *mac, vec![])));
        let wish = DhcpOption::RequestedIpAddress(address);
        assert_eq!(answer(&ask(&mut first, Time(1), &dhcp(MessageType::Request, *mac, vec![wish]))).1, address);
        given.push(address);
    }
    assert_eq!(given.iter().collect::<std::collections::BTreeSet<_>>().len(), macs.len());
    let mut second = engine(config);
    assert!(first.leases().iter().all(|l| second.restore_lease(Time(0), l)));
    for (mac, address) in macs.iter().zip(&given).rev() {
        assert_eq!(answer(&ask(&mut second, Time(1), &dhcp(MessageType::Discover, *mac, vec![]))).1, *address);
    }
    // Nobody gets another's address by asking for it, nor by asking in its name.
    let thief = MacAddr([2, 0, 0, 0, 9, 9]);
    let wish = DhcpOption::RequestedIpAddress(given[3]);
    assert_eq!(
        answer(&ask(&mut second, Time(1), &dhcp(MessageType::Request, thief, vec![wish.clone()]))).0,
        MessageType::Nak
    );
    let mut forged = dhcp(MessageType::Release, macs[3], vec![]);
    forged[6..12].copy_from_slice(&thief.0);
    assert!(ask(&mut second, Time(1), &forged).is_empty());
    assert_eq!(second.leases().len(), macs.len());
    assert_eq!(second.counters().spoofed, 1);
}

#[test]
fn router_advertisement_and_neighbours() {
    let mut engine = engine(NatConfig::default());
    let mut transcript = Transcript::default();
    let local: IpAddr = "fe80::5054:ff:fe00:1".parse().unwrap();
    let routers: IpAddr = "ff02::2".parse().unwrap();
    let all = Route { to_mac: MacAddr([0x33, 0x33, 0, 0, 0, 2]), ..route() };
    let ask_routers = icmp_frame(&[133, 0, 0, 0, 0, 0, 0, 0], local, routers, all);
    let answers = transcript.ask(&mut engine, "router solicitation", &ask_routers);
    let message = icmp(&answers[0]);
    assert_eq!((message[0], packet(&answers[0]).destination), (134, local));
    let prefix: std::net::Ipv6Addr = "fd00:a:0:2::".parse().unwrap();
    assert!(message.windows(16).any(|w| w == prefix.octets()));
    for (target, answered) in
        [("fe80::2", true), ("fd00:a:0:2::2", true), ("fd00:a:0:2::3", true), ("fd00:a:0:2::9", false)]
    {
        let target: std::net::Ipv6Addr = target.parse().unwrap();
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        let frame = icmp_frame(&message, local, "ff02::1:ff00:2".parse().unwrap(), all);
        let answers = transcript.ask(&mut engine, "neighbour solicitation", &frame);
        assert_eq!(answers.len(), usize::from(answered), "{target}");
    }
    transcript.check("nd.txt");
    // Advertised again before what was said becomes invalid.
    let again = drain(&mut engine, Time(1_800_000_001));
    assert_eq!(icmp(&again[0])[0], 134);
    // From beyond the link nothing counts.
    let mut far = ask_routers.clone();
    far[14 + 7] = 64;
    assert!(ask(&mut engine, Time(2_000_000_000), &far).is_empty());
}

#[test]
fn dhcp6() {
    let mut engine = engine(NatConfig::default());
    let mut transcript = Transcript::default();
    let send = |transcript: &mut Transcript, engine: &mut _, kind, options: Vec<v6::DhcpOption>| {
        let mut message = v6::Message::new_with_id(kind, [1, 2, 3]);
        options.into_iter().for_each(|o| {
            message.opts_mut().insert(o);
        });
        let all = Route { to_mac: MacAddr([0x33, 0x33, 0, 1, 0, 2]), ..route() };
        let (from, to) = (at("[fe80::5054:ff:fe00:1]:546"), at("[ff02::1:2]:547"));
        let frame = udp_frame(&message.to_vec().unwrap(), from, to, all);
        let answers = transcript.ask(engine, &format!("{kind:?}"), &frame);
        assert_eq!(answers.len(), 1);
        v6::Message::from_bytes(&datagram(&answers[0]).2).unwrap()
    };
    let client = v6::DhcpOption::ClientId(vec![0, 1, 2, 3]);
    let info = send(&mut transcript, &mut engine, v6::MessageType::InformationRequest, vec![]);
    let dns = v6::DhcpOption::DomainNameServers(vec!["fd00:a:0:2::3".parse().unwrap()]);
    assert_eq!(info.opts().get(v6::OptionCode::DomainNameServers), Some(&dns));
    let ia = v6::DhcpOption::IANA(v6::IANA { id: 5, t1: 0, t2: 0, opts: v6::DhcpOptions::new() });
    let advertised = send(&mut transcript, &mut engine, v6::MessageType::Solicit, vec![client.clone(), ia.clone()]);
    assert_eq!(advertised.msg_type(), v6::MessageType::Advertise);
    let server = advertised.opts().get(v6::OptionCode::ServerId).unwrap().clone();
    let reply = send(&mut transcript, &mut engine, v6::MessageType::Request, vec![client, server, ia]);
    let Some(v6::DhcpOption::IANA(ia)) = reply.opts().get(v6::OptionCode::IANA) else { panic!("{reply:?}") };
    let Some(v6::DhcpOption::IAAddr(address)) = ia.opts.get(v6::OptionCode::IAAddr) else { panic!("{ia:?}") };
    assert_eq!(address.addr, "fd00:a:0:2:0:1:0:f".parse::<std::net::Ipv6Addr>().unwrap());
    transcript.check("dhcp6.txt");
}

fn question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Dns::new(id, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

#[test]
fn names_of_guests() {
    let mut engine = engine(NatConfig::default());
    let mut transcript = Transcript::default();
    engine.set_name("Web", vec!["10.0.2.15".parse().unwrap(), "fd00:a:0:2::15".parse().unwrap()]);
    let mut ask_name = |name: &str, kind: RecordType| {
        let frame = udp("10.0.2.15:5353", "10.0.2.3:53", &question(7, name, kind));
        let answers = transcript.ask(&mut engine, name, &frame);
        let answer = Dns::from_vec(&datagram(&answers[0]).2).unwrap();
        assert_eq!(answer.metadata.id, 7);
        let data: Vec<RData> = answer.answers.iter().map(|r| r.data.clone()).collect();
        (answer.metadata.response_code, data.iter().map(|d| d.to_string()).collect::<Vec<_>>())
    };
    let fine = ResponseCode::NoError;
    assert_eq!(ask_name("web.", RecordType::A), (fine, vec!["10.0.2.15".into()]));
    assert_eq!(ask_name("WEB.internal.", RecordType::AAAA), (fine, vec!["fd00:a:0:2::15".into()]));
    assert_eq!(ask_name("web.internal.", RecordType::MX), (fine, vec![]));
    assert_eq!(ask_name("db.internal.", RecordType::A), (ResponseCode::NXDomain, vec![]));
    assert_eq!(ask_name("15.2.0.10.in-addr.arpa.", RecordType::PTR), (fine, vec!["web.internal.".into()]));
    assert_eq!(ask_name("16.2.0.10.in-addr.arpa.", RecordType::PTR), (ResponseCode::NXDomain, vec![]));
    transcript.check("dns.txt");
    assert!(engine.host().sockets.is_empty(), "nobody else was asked");
}

#[test]
fn questions_go_out_and_only_their_answers_come_back() {
    let mut engine = engine(NatConfig::default());
    let query = question(99, "example.org.", RecordType::A);
    assert!(ask(&mut engine, Time(1), &udp("10.0.2.15:5353", "10.0.2.3:53", &query)).is_empty());
    let socket = engine.host().newest();
    let resolver = at("192.0.2.53:53");
    let (to, asked) = engine.host().sim(socket).datagrams_out[0].clone();
    assert_eq!((to, &asked[2..]), (resolver, &query[2..]));
    assert_ne!(asked[..2], query[..2], "an identifier of its own");
    let mut right = asked.clone();
    right[2] |= 0x80;
    let forge = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut wrong = right.clone();
        change(&mut wrong);
        wrong
    };
    for (from, wrong) in [
        (at("192.0.2.66:53"), right.clone()),
        (at("192.0.2.53:54"), right.clone()),
        (resolver, forge(&|m| m[1] ^= 1)),
        (resolver, forge(&|m| m[14] ^= 1)),
        (resolver, forge(&|m| m[2] &= 0x7f)),
        (resolver, forge(&|m| m.truncate(11))),
    ] {
        engine.host().far_datagram(socket, from, &wrong);
        assert!(drain(&mut engine, Time(2)).is_empty());
    }
    engine.host().far_datagram(socket, resolver, &right);
    let answers = drain(&mut engine, Time(3));
    let (from, to, data) = datagram(&answers[0]);
    assert_eq!((from, to), (at("10.0.2.3:53"), at("10.0.2.15:5353")));
    assert_eq!((&data[..2], &data[2..]), (&query[..2], &right[2..]));
    assert!(engine.host().sockets.is_empty(), "the socket is gone");
}

#[test]
fn slow_resolvers_are_passed_over() {
    let mut engine = engine(NatConfig::default());
    engine.host().resolvers = vec![at("192.0.2.53:53"), at("[2001:db8::53]:53")];
    ask(&mut engine, Time(1), &udp("10.0.2.15:5353", "10.0.2.3:53", &question(1, "a.example.", RecordType::A)));
    let mut tried = Vec::new();
    let mut now = 1;
    let failed = loop {
        if let Some(sim) = engine.host().sockets.values().next() {
            tried.push(sim.datagrams_out[0].0);
        }
        now += 2_600_000;
        let frames = drain(&mut engine, Time(now));
        if let Some(frame) = frames.first() {
            break Dns::from_vec(&datagram(frame).2).unwrap();
        }
    };
    assert_eq!(tried, [at("192.0.2.53:53"), at("[2001:db8::53]:53"), at("192.0.2.53:53"), at("[2001:db8::53]:53")]);
    assert_eq!((failed.metadata.response_code, failed.metadata.id), (ResponseCode::ServFail, 1));
    engine.host().resolvers.clear();
    let none =
        ask(&mut engine, Time(now), &udp("10.0.2.15:1", "10.0.2.3:53", &question(1, "b.example.", RecordType::A)));
    assert_eq!(none.len(), 1, "without a resolver the guest hears so at once");
}

#[test]
fn what_is_no_question() {
    let mut engine = engine(NatConfig::default());
    let send = |engine: &mut _, data: &[u8]| ask(engine, Time(1), &udp("10.0.2.15:5353", "10.0.2.3:53", data));
    assert!(send(&mut engine, &[0; 11]).is_empty());
    assert!(send(&mut engine, &[0xff; 40]).is_empty(), "an answer");
    let mut cut = question(5, "example.org.", RecordType::A);
    cut.truncate(20);
    let refused = send(&mut engine, &cut);
    assert_eq!(Dns::from_vec(&datagram(&refused[0]).2).unwrap().metadata.response_code, ResponseCode::FormErr);
    assert!(engine.host().sockets.is_empty());
    let _ = ip(17, GUEST, "10.0.2.3", &[]);
}
