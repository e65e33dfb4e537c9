use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visor_net::whole::{self, Ends};
use visor_net::{Direction, FlowKey, FlowPolicy, FrameFilter, MacAddr, Protocol, Verdict};

use crate::*;

const WEB: &str = "10.0.3.5";
const DB: &str = "10.0.3.6";
const CLIENT: &str = "10.0.3.7";
const OUTSIDE: &str = "198.51.100.1";

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

fn flow(protocol: Protocol, from: &str, to: &str, port: u16) -> FlowKey {
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    FlowKey { protocol, source: at(from, 40000), destination: at(to, port) }
}

fn at_home(address: &str) -> Address {
    Address { vlan: HOME, ip: address.parse::<IpAddr>().unwrap() }
}

fn guest(address: &str) -> Guest {
    Guest { addresses: BTreeSet::from([at_home(address)]), ..Guest::default() }
}

/// A network with the guests web, db and client.
fn network() -> Policy {
    let p = Policy::new(Reach::Direct);
    p.set_guest("web", guest(WEB));
    p.set_guest("db", guest(DB));
    p.set_guest("client", guest(CLIENT));
    p
}

fn passes(p: &Policy, from: &str, to: &str, port: u16) -> bool {
    p.decide(&flow(Protocol::Tcp, from, to, port), Direction::Inbound) == Verdict::Allow
}

fn allow(p: &Policy, name: &str, text: &str) -> bool {
    p.guest(name, |g| g.firewall.add(Scope::Runtime, Direction::Inbound, rule(text))).unwrap()
}

#[test]
fn rules_are_text_and_back() {
    for text in [
        "service http",
        "port 8080/tcp",
        "port 5000-5010/udp from 10.0.0.0/8",
        "drop ping",
        "reject service ssh from 192.0.2.7",
        "source @web",
        "source fd00::/8",
        "everything",
        "drop everything",
    ] {
        assert_eq!(rule(text).to_string(), text);
        let json = serde_json::to_string(&rule(text)).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule(text));
    }
    assert_eq!(rule("accept port 80"), rule("port 80/tcp"));
    assert_eq!(rule("source 10.1.2.3/8"), rule("source 10.0.0.0/8"));
    for text in
        ["", "service", "port 0", "port 9-8/tcp", "port 80/sctp", "port 65536", "source", "source x", "source @"]
    {
        assert!(text.parse::<Rule>().is_err(), "{text}");
    }
    let error = "service htp".parse::<Rule>().unwrap_err();
    assert_eq!(error.to_string(), "no service is called `htp`");
    let error = "service https-alt".parse::<Rule>().unwrap_err();
    assert_eq!(error.to_string(), "no service is called `https-alt`; there are http, http3, https");
}

#[test]
fn services_are_the_well_known_ones() {
    assert!(SERVICES.is_sorted_by_key(|s| s.name));
    assert_eq!(service("ssh").unwrap().ports, [(Protocol::Tcp, 22, 22)]);
    assert_eq!(service_of(Protocol::Udp, 443).unwrap().name, "http3");
    assert_eq!(service_of(Protocol::Tcp, 5901).unwrap().name, "vnc-server");
    assert_eq!(service_of(Protocol::Tcp, 1), None);
}

#[test]
fn nothing_comes_in_and_everything_goes_out_by_default() {
    let p = network();
    assert!(!passes(&p, OUTSIDE, WEB, 80));
    let out = flow(Protocol::Tcp, WEB, OUTSIDE, 443);
    assert_eq!(p.decide(&out, Direction::Outbound), Verdict::Allow);
    p.guest("web", |g| {
        g.firewall.add(Scope::Runtime, Direction::Outbound, rule("reject port 25 from 198.51.100.0/24"))
    })
    .unwrap();
    assert_eq!(p.decide(&out, Direction::Outbound), Verdict::Allow);
    let mail = flow(Protocol::Tcp, WEB, OUTSIDE, 25);
    let reason = Arc::from("rule `reject port 25/tcp from 198.51.100.0/24`");
    assert_eq!(p.decide(&mail, Direction::Outbound), Verdict::Reject(reason));
    let stranger = flow(Protocol::Tcp, OUTSIDE, "10.0.3.99", 80);
    assert_eq!(p.decide(&stranger, Direction::Inbound), Verdict::Drop("no guest has this address".into()));
}

#[test]
fn runtime_and_permanent_are_firewalld_s() {
    let p = network();
    assert!(allow(&p, "web", "service http"));
    assert!(!allow(&p, "web", "service http"), "there already");
    assert!(passes(&p, OUTSIDE, WEB, 80) && !passes(&p, OUTSIDE, DB, 80) && !passes(&p, OUTSIDE, WEB, 81));
    p.guest("web", |g| {
        g.firewall.add(Scope::Permanent, Direction::Inbound, rule("service https"));
    })
    .unwrap();
    assert!(!passes(&p, OUTSIDE, WEB, 443), "permanent is not runtime");
    let preview = p.guest("web", |g| g.firewall.preview()).unwrap();
    assert_eq!(preview, Reload { dropped: vec![rule("service http")], added: vec![rule("service https")] });
    assert_eq!(p.guest("web", |g| g.firewall.reload()).unwrap(), preview);
    assert!(!passes(&p, OUTSIDE, WEB, 80) && passes(&p, OUTSIDE, WEB, 443));
    p.guest("web", |g| {
        g.firewall.add(Scope::Runtime, Direction::Inbound, rule("ping"));
        g.firewall.runtime_to_permanent();
        assert_eq!(g.firewall.reload(), Reload::default());
        assert!(g.firewall.remove(Scope::Runtime, Direction::Inbound, &rule("ping")));
        assert!(!g.firewall.remove(Scope::Runtime, Direction::Inbound, &rule("ping")));
    })
    .unwrap();
    let stored = p.guest("web", |g| serde_json::to_string(g.firewall.permanent()).unwrap()).unwrap();
    assert_eq!(stored, r#"{"inbound":["service https","ping"],"outbound":[]}"#);
    let firewall = Firewall::new(serde_json::from_str(&stored).unwrap());
    assert_eq!(firewall.runtime().inbound.len(), 2);
}

#[test]
fn refusing_rules_go_first() {
    let p = network();
    allow(&p, "web", "everything");
    allow(&p, "web", "drop source 198.51.100.0/24");
    assert!(passes(&p, CLIENT, WEB, 22) && !passes(&p, OUTSIDE, WEB, 22));
}

#[test]
fn groups_open_what_guests_never_had_to() {
    let p = network();
    p.create_group("webs").unwrap();
    p.create_group("dbs").unwrap();
    assert_eq!(p.create_group("webs"), Err(PolicyError::GroupExists("webs".into())));
    assert!(p.create_group("a b").is_err());
    p.group("webs", |r| r.add(Direction::Inbound, rule("service http"))).unwrap();
    p.group("dbs", |r| r.add(Direction::Inbound, rule("service postgresql from @webs"))).unwrap();
    assert!(!passes(&p, CLIENT, WEB, 80));
    assert_eq!(p.set_member("webs", "web", true), Ok(true));
    assert_eq!(p.set_member("dbs", "db", true), Ok(true));
    assert_eq!(p.set_member("dbs", "nobody", true), Err(PolicyError::Guest("nobody".into())));
    assert!(passes(&p, CLIENT, WEB, 80) && passes(&p, WEB, DB, 5432) && !passes(&p, CLIENT, DB, 5432));
    assert_eq!(p.remove_group("webs"), Err(PolicyError::GroupUsed { group: "webs".into(), by: "web".into() }));
    assert_eq!(p.set_member("webs", "web", false), Ok(true));
    assert!(!passes(&p, WEB, DB, 5432), "no member any more");
    assert_eq!(p.remove_group("webs"), Err(PolicyError::GroupUsed { group: "webs".into(), by: "@dbs".into() }));
    p.remove_guest("db");
    p.remove_group("dbs").unwrap();
    p.remove_group("webs").unwrap();
    assert!(p.groups().is_empty());
}

#[test]
fn why_names_the_rule_and_the_command() {
    let p = network();
    let why = |protocol, from, to, port| p.why(&flow(protocol, from, to, port));
    let e = why(Protocol::Tcp, CLIENT, WEB, 80);
    assert_eq!((e.allowed, e.command.as_deref()), (false, Some("visor fw add web --service http")));
    assert_eq!(e.because, "no rule of web or of its security groups allows port 80/tcp from 10.0.3.7");
    assert_eq!(why(Protocol::Udp, CLIENT, WEB, 7777).command.unwrap(), "visor fw add web --port 7777/udp");
    assert_eq!(why(Protocol::Icmp, CLIENT, WEB, 0).command.unwrap(), "visor fw add web --ping");
    allow(&p, "web", "drop service ssh from 10.0.3.7");
    let e = why(Protocol::Tcp, CLIENT, WEB, 22);
    assert_eq!(e.because, "the rule `drop service ssh from 10.0.3.7` of web refuses it");
    assert_eq!(e.command.unwrap(), "visor fw rm web --drop --service ssh --source 10.0.3.7");
    p.create_group("g").unwrap();
    p.group("g", |r| r.add(Direction::Inbound, rule("port 8000-8010"))).unwrap();
    p.set_member("g", "web", true).unwrap();
    let e = why(Protocol::Tcp, CLIENT, WEB, 8005);
    assert_eq!((e.allowed, e.rule.as_deref()), (true, Some("port 8000-8010/tcp")));
    assert_eq!(e.command.unwrap(), "visor sg revoke g --port 8000-8010/tcp");
    p.guest("web", |g| g.firewall.add(Scope::Runtime, Direction::Outbound, rule("reject everything"))).unwrap();
    let e = why(Protocol::Tcp, WEB, DB, 80);
    assert_eq!(e.command.unwrap(), "visor fw rm web --reject --outbound", "the sender's side has the first say");
    assert!(why(Protocol::Tcp, CLIENT, OUTSIDE, 80).allowed);
    assert!(!why(Protocol::Tcp, OUTSIDE, "10.0.3.99", 80).allowed);
    // In a network behind a translator a port must be forwarded.
    let p = Policy::new(Reach::Forwarded);
    p.set_guest("vm", guest("10.0.2.15"));
    let ask = flow(Protocol::Tcp, OUTSIDE, "10.0.2.15", 80);
    assert_eq!(p.why(&ask).command.unwrap(), "visor port add vm 80/tcp");
    p.guest("vm", |g| g.forwards.insert((Protocol::Tcp, 80))).unwrap();
    assert!(p.why(&ask).allowed && passes(&p, OUTSIDE, "10.0.2.15", 80));
    assert!(passes(&p, OUTSIDE, "10.0.2.99", 80), "the only guest has any address");
}

/// A frame of a guest or for one.
fn frame(from: &str, to: &str, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let ends = Ends { ethernet: [MacAddr([2; 6]); 2], ip: [from, to].map(|a| a.parse().unwrap()) };
    let mut frame = whole::packet(&ends, protocol, rest);
    // May be made one of several fragments.
    frame[18..22].copy_from_slice(&[0, 1, 0, 0]);
    frame
}

fn tcp(from: (&str, u16), to: (&str, u16), flags: u8) -> Vec<u8> {
    frame(from.0, to.0, 6, &whole::tcp([from.1, to.1], 0, 0, flags, &[]))
}

const SYN: u8 = 2;
const ACK: u8 = 16;

struct Port {
    filter: PortFilter,
    now: Arc<AtomicU64>,
}

impl Port {
    fn new(p: &Policy, name: &str) -> Self {
        let now = Arc::new(AtomicU64::new(1000));
        let clock = now.clone();
        let read = move || Duration::from_secs(clock.load(Ordering::SeqCst));
        Port { filter: PortFilter::with_clock(p.clone(), name, read), now }
    }

    fn out(&mut self, f: &[u8]) -> bool {
        self.filter.pass(Direction::Outbound, f)
    }

    fn take(&mut self, f: &[u8]) -> bool {
        self.filter.pass(Direction::Inbound, f)
    }
}

#[test]
fn answers_pass_because_the_question_has() {
    let p = network();
    let mut web = Port::new(&p, "web");
    let (a, b) = ((WEB, 40000), (OUTSIDE, 80));
    assert!(!web.take(&tcp(b, a, SYN | ACK)), "an answer to nothing");
    assert!(web.out(&tcp(a, b, SYN)) && web.take(&tcp(b, a, SYN | ACK)) && web.out(&tcp(a, b, ACK)));
    assert!(!web.take(&tcp((CLIENT, 1), (WEB, 22), SYN)));
    allow(&p, "web", "service ssh");
    assert!(web.take(&tcp((CLIENT, 1), (WEB, 22), SYN)) && web.out(&tcp((WEB, 22), (CLIENT, 1), SYN | ACK)));
    p.guest("web", |g| g.firewall.reload()).unwrap();
    assert!(web.take(&tcp((CLIENT, 1), (WEB, 22), ACK)), "what is open stays open");
    assert!(!web.take(&tcp((CLIENT, 2), (WEB, 22), SYN)));
    // Over: after a while the ports mean a new connection.
    web.take(&tcp((CLIENT, 1), (WEB, 22), 4));
    assert!(!web.take(&tcp((CLIENT, 1), (WEB, 22), SYN)));
    web.now.fetch_add(8000, Ordering::SeqCst);
    assert!(!web.take(&tcp(b, a, ACK)), "forgotten");
}

#[test]
fn datagrams_pings_errors_and_fragments() {
    let p = network();
    let mut web = Port::new(&p, "web");
    let udp = |from: u16, to: u16| whole::udp(from, to, &[]);
    let question = frame(WEB, OUTSIDE, 17, &udp(5000, 53));
    assert!(web.out(&question) && web.take(&frame(OUTSIDE, WEB, 17, &udp(53, 5000))));
    assert!(!web.take(&frame(OUTSIDE, WEB, 17, &udp(53, 5001))));
    assert!(web.take(&frame("10.0.3.1", "255.255.255.255", 17, &udp(67, 68))), "a lease");
    let echo = |kind: u8, id: u8| vec![kind, 0, 0, 0, 0, id, 0, 1];
    assert!(!web.take(&frame(OUTSIDE, WEB, 1, &echo(8, 3))));
    assert!(web.out(&frame(WEB, OUTSIDE, 1, &echo(8, 3))) && web.take(&frame(OUTSIDE, WEB, 1, &echo(0, 3))));
    assert!(!web.take(&frame(OUTSIDE, WEB, 1, &echo(0, 4))));
    let error = |quoted: &[u8]| frame(OUTSIDE, WEB, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &quoted[14..]].concat());
    assert!(web.take(&error(&question)));
    assert!(!web.take(&error(&frame(WEB, OUTSIDE, 17, &udp(5002, 53)))) && !web.take(&error(&question[..30])));
    let mut first = frame(OUTSIDE, WEB, 17, &udp(53, 5000));
    first[20] = 0x20;
    let mut later = frame(OUTSIDE, WEB, 17, &[9; 8]);
    later[21] = 1;
    assert!(!web.take(&later) && web.take(&first) && web.take(&later));
    later[19] = 2;
    assert!(!web.take(&later), "of another packet");
    let arp = [&[2; 12][..], &[8, 6], &[0; 28]].concat();
    assert!(web.take(&arp) && web.out(&arp));
    let odd = [&[2; 12][..], &[0x88, 0xb5], &[0; 28]].concat();
    assert!(web.out(&odd) && !web.take(&odd));
    assert!(web.filter.refused() > 5);
}

#[test]
fn two_guests_of_a_network_keep_state_each() {
    let p = network();
    let (mut web, mut db) = (Port::new(&p, "web"), Port::new(&p, "db"));
    let syn = tcp((WEB, 5), (DB, 5432), SYN);
    assert!(web.out(&syn) && !db.take(&syn));
    allow(&p, "db", "service postgresql from 10.0.3.5");
    assert!(web.out(&syn) && db.take(&syn));
    let answer = tcp((DB, 5432), (WEB, 5), SYN | ACK);
    assert!(db.out(&answer) && web.take(&answer));
    assert!(!web.take(&tcp((DB, 6), (WEB, 80), SYN)));
}

#[test]
fn an_address_belongs_to_one_guest_of_each_vlan_and_none_of_the_networks_own() {
    let p = network();
    // The switch tells a trunk's VLAN by the tag; untagged frames belong to none here.
    let trunk = |f: &[u8]| visor_net::headers::vlan(f);
    let tagged = |vlan: u8, f: &[u8]| [&f[..12], &[0x81, 0, 0, vlan], &f[12..]].concat();
    let syn = tcp((DB, 7), (OUTSIDE, 80), SYN);
    let mut web = Port::new(&p, "web");
    assert!(!web.out(&syn), "db's address in the same VLAN");
    let mut web = PortFilter::new(p.clone(), "web").with_vlans(trunk);
    assert!(!web.pass(Direction::Outbound, &syn), "no VLAN");
    assert!(web.pass(Direction::Outbound, &tagged(10, &syn)), "nobody has it there");
    let mut client = PortFilter::new(p.clone(), "client").with_vlans(|_| Some(10));
    assert!(!client.pass(Direction::Outbound, &syn), "taken in that VLAN");
    let mut client = PortFilter::new(p.clone(), "client").with_vlans(|_| Some(20));
    assert!(client.pass(Direction::Outbound, &syn), "and free in another");
    // An answer belongs to the VLAN of its question.
    let answer = tcp((OUTSIDE, 80), (DB, 7), SYN | ACK);
    assert!(!web.pass(Direction::Inbound, &tagged(20, &answer)) && web.pass(Direction::Inbound, &tagged(10, &answer)));
    // Members of a group are known by their addresses in the VLAN of who asks.
    p.create_group("g").unwrap();
    p.set_member("g", "web", true).unwrap();
    allow(&p, "client", "service http from @g");
    let ask = tcp((DB, 9), (CLIENT, 80), SYN);
    assert!(!client.pass(Direction::Inbound, &ask));
    let mut client = PortFilter::new(p.clone(), "client").with_vlans(|_| Some(10));
    assert!(client.pass(Direction::Inbound, &ask));
    // What is the network's own is nobody's.
    let router = "fd00::2".parse().unwrap();
    p.reserve(HOME, router);
    assert!(!p.learn("web", HOME, router) && p.learn("web", 10, router));
}

#[test]
fn a_flood_fills_a_bounded_table_and_the_oldest_goes() {
    let p = network();
    let mut web = Port::new(&p, "web");
    let busy = tcp((WEB, 1), (OUTSIDE, 1), SYN);
    web.out(&busy);
    for i in 0..20_000u32 {
        let port = 2 + (i % 60_000) as u16;
        web.now.fetch_add(u64::from(i % 500 == 0), Ordering::SeqCst);
        assert!(web.out(&tcp((WEB, port), (CLIENT, 80), SYN)));
        if i % 100 == 0 {
            assert!(web.out(&busy));
        }
    }
    let c = web.filter.connections();
    assert_eq!(c.connections, MAX_CONNECTIONS);
    assert!(c.evicted >= 20_000 - MAX_CONNECTIONS as u64 - 10);
    assert!(web.take(&tcp((OUTSIDE, 1), (WEB, 1), ACK)), "the busy one is still there");
    assert!(!web.take(&tcp((CLIENT, 80), (WEB, 2), ACK)), "the oldest is not");
}

#[test]
fn random_frames_do_no_harm() {
    let p = network();
    allow(&p, "web", "everything");
    let mut web = Port::new(&p, "web");
    let mut x = 9u64;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 40) as usize
    };
    let mut passed = 0;
    for _ in 0..50_000 {
        let len = next() % 150;
        let mut f: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        if len > 60 {
            let kinds = [[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]];
            f[12..14].copy_from_slice(&kinds[next() % 4]);
            f[14] = [0x45, 0x60][next() % 2];
            f[20] = [6, 17, 1, 58, 44, 0][next() % 6];
            f[23] = [6, 17, 1, 2][next() % 4];
        }
        let way = if next() % 2 == 0 { Direction::Inbound } else { Direction::Outbound };
        passed += usize::from(web.filter.pass(way, &f));
    }
    assert!(passed > 1000);
}
