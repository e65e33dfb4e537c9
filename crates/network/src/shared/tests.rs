use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use visor_net::whole::{self, Ends};
use visor_net::{Frame, MacAddr, NetPort, Network, Sent};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A network's process as a thread; ends and is forgotten when dropped.
struct Running {
    place: Place,
    root: PathBuf,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(spec: &SharedSpec) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let root = std::env::temp_dir().join(format!("visor-net-{}-{number}", std::process::id()));
        let places = Places::new(&root.join("data"), &root.join("run"));
        let place = places.named("lan").unwrap();
        place.create(spec).unwrap();
        assert!(place.create(spec).is_err());
        assert_eq!(places.all().len(), 1);
        let mut running = Running { place, root, thread: None };
        running.run();
        running
    }

    fn run(&mut self) {
        let place = self.place.clone();
        self.thread = Some(std::thread::spawn(move || serve(&place).unwrap()));
        let end = Instant::now() + PATIENCE;
        while ask(&self.place, &Question::Status).is_err() {
            assert!(Instant::now() < end, "the network does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn stop(&mut self) {
        ask(&self.place, &Question::Stop).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }

    fn plug(&self, guest: &str, last: u8) -> std::io::Result<(Box<dyn NetPort>, Welcome)> {
        let network = SharedNetwork::new(self.place.clone(), Plug::default());
        let port = network.plug(guest, mac(last))?;
        Ok((port, network.welcome().unwrap()))
    }

    fn guests(&self) -> Vec<GuestStatus> {
        match ask(&self.place, &Question::Status).unwrap() {
            Answer::Status(s) => s.guests,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

fn spec(mode: Mode) -> SharedSpec {
    SharedSpec {
        mode,
        subnet: "10.0.3.0/24".parse().unwrap(),
        isolated: false,
        allow_host_loopback: false,
        bridge: None,
        vlan: None,
    }
}

fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, last])
}

/// An ARP request of `from`, who has `address`, for `wanted`.
fn who_has(from: u8, address: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    let mut f =
        [&MacAddr::BROADCAST.0[..], &mac(from).0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac(from).0, &address].concat();
    f.extend([0; 6]);
    f.extend(wanted);
    f.resize(60, 0);
    f
}

/// Waits for a frame for which `pick` holds.
fn wait(port: &mut dyn NetPort, pick: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let end = Instant::now() + PATIENCE;
    let mut found = None;
    while found.is_none() && Instant::now() < end {
        port.receive(&mut |f: Frame<'_>| {
            if pick(f.data) {
                found = Some(f.data.to_vec());
            }
            Sent::Yes
        });
        std::thread::sleep(Duration::from_millis(5));
    }
    found
}

fn octets(w: &Welcome) -> [u8; 4] {
    match w.address {
        Some(std::net::IpAddr::V4(a)) => a.octets(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_network_whose_files_are_gone_ends_with_its_last_guest() {
    for gone in [|lan: &Running| lan.root.join("data"), |lan: &Running| lan.root.join("run")] {
        let mut lan = Running::start(&spec(Mode::NatNetwork));
        let (one, _) = lan.plug("one", 1).unwrap();
        std::fs::remove_dir_all(gone(&lan)).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let thread = lan.thread.take().unwrap();
        assert!(!thread.is_finished(), "a guest is on it");
        drop(one);
        thread.join().unwrap();
    }
}

#[test]
fn guests_get_addresses_by_mac_and_see_each_other_and_the_router() {
    let mut lan = Running::start(&spec(Mode::NatNetwork));
    let (mut one, first) = lan.plug("one", 1).unwrap();
    let (mut two, second) = lan.plug("two", 2).unwrap();
    assert_ne!(first.address, second.address);
    assert!(lan.plug("one", 3).err().unwrap().to_string().contains("a guest called one"));
    assert!(lan.plug("Bad Name", 3).is_err());
    assert_eq!(lan.guests().len(), 2);
    one.send(Frame::plain(&who_has(1, octets(&first), octets(&second))));
    let asked = wait(&mut *two, |f| f[12..14] == [8, 6] && f[38..42] == octets(&second));
    assert!(asked.is_some(), "the question reaches the neighbour");
    one.send(Frame::plain(&who_has(1, octets(&first), [10, 0, 3, 1])));
    assert!(wait(&mut *one, |f| f[12..14] == [8, 6] && f[20..22] == [0, 2]).is_some(), "the router answers");
    // A lie does not come through: the next frame does.
    one.send(Frame::plain(&who_has(1, octets(&second), [10, 0, 3, 7])));
    one.send(Frame::plain(&who_has(1, octets(&first), [10, 0, 3, 8])));
    let next = wait(&mut *two, |f| f[12..14] == [8, 6] && (f[41] == 7 || f[41] == 8)).unwrap();
    assert_eq!(next[41], 8);
    drop((one, two));
    let end = Instant::now() + PATIENCE;
    while !lan.guests().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(lan.guests().is_empty(), "who is pulled out is gone");
    lan.stop();
    lan.run();
    let (_two, again) = lan.plug("two", 2).unwrap();
    assert_eq!(again.address, second.address, "the lease outlives the network's process");
}

#[test]
fn equal_addresses_are_told() {
    let lan = Running::start(&spec(Mode::NatNetwork));
    let (_one, first) = lan.plug("one", 1).unwrap();
    assert!(first.warnings.is_empty());
    let (_two, second) = lan.plug("two", 1).unwrap();
    assert!(second.warnings[0].contains("the guest one of this network has the same Ethernet address"));
}

#[test]
fn an_internal_network_has_no_router() {
    let lan = Running::start(&spec(Mode::Internal));
    let (mut one, welcome) = lan.plug("one", 1).unwrap();
    assert_eq!(welcome.address, None);
    let (mut two, _) = lan.plug("two", 2).unwrap();
    one.send(Frame::plain(&who_has(1, [10, 9, 9, 1], [10, 9, 9, 2])));
    assert!(wait(&mut *two, |f| f[12..14] == [8, 6]).is_some());
    let network = SharedNetwork::new(lan.place.clone(), Plug { forwards: vec!["80".into()], ..Plug::default() });
    assert!(network.plug("three", mac(3)).is_err());
}

/// A UDP datagram over IPv4.
fn udp(from: u8, to: u8, [source, destination]: [([u8; 4], u16); 2], payload: &[u8]) -> Vec<u8> {
    let ends = Ends { ethernet: [mac(from), mac(to)], ip: [source.0.into(), destination.0.into()] };
    whole::packet(&ends, 17, &whole::udp(source.1, destination.1, payload))
}

/// A neighbour advertisement (RFC 4861 §4.4) for `address` from its owner.
fn advertisement(from: u8, to: u8, address: std::net::Ipv6Addr) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    body.extend(address.octets());
    body.extend([2, 1]);
    body.extend(mac(from).0);
    let all_nodes = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let ends = Ends { ethernet: [mac(from), mac(to)], ip: [address.into(), all_nodes.into()] };
    whole::packet(&ends, whole::ICMPV6, &body)
}

#[test]
fn no_guest_answers_for_the_router_the_resolver_or_another_guest() {
    let lan = Running::start(&spec(Mode::NatNetwork));
    let (mut one, a) = lan.plug("one", 1).unwrap();
    let (mut two, b) = lan.plug("two", 2).unwrap();
    let (a, b) = (octets(&a), octets(&b));
    // The question that two's answers belong to, as its firewall sees it.
    two.send(Frame::plain(&udp(2, 1, [(b, 4000), (a, 4001)], b"question")));
    assert!(wait(&mut *one, |f| f.ends_with(b"question")).is_some());
    let mut lies = vec![
        // ARP that says it is the router, or the other guest.
        who_has(1, [10, 0, 3, 1], b),
        who_has(1, b, [10, 0, 3, 9]),
        // An answer of the resolver, one of the DHCP server, one to itself.
        udp(1, 2, [([10, 0, 3, 2], 53), (b, 4000)], b"poison"),
        udp(1, 2, [(a, 67), (b, 68)], b"poison"),
        udp(1, 2, [(b, 4001), (b, 4000)], b"poison"),
    ];
    // Neighbour advertisements for the router, the resolver, and the router's link-local address.
    let own = ["fd00:a00:300:18::2", "fd00:a00:300:18::3", "fe80::2"];
    lies.extend(own.map(|a| advertisement(1, 2, a.parse().unwrap())));
    // That the other one's link-local address is its own comes through once, and not when it is taken.
    two.send(Frame::plain(&advertisement(2, 1, "fe80::22".parse().unwrap())));
    assert!(wait(&mut *one, |f| f[12..14] == [0x86, 0xdd]).is_some());
    lies.push(advertisement(1, 2, "fe80::22".parse().unwrap()));
    for lie in &lies {
        one.send(Frame::plain(lie));
    }
    one.send(Frame::plain(&udp(1, 2, [(a, 4001), (b, 4000)], b"honest")));
    let first = wait(&mut *two, |f| f[6..12] == mac(1).0).unwrap();
    assert_eq!(&first[42..48], b"honest", "what lies does not come through");
}

#[test]
fn what_a_firewall_rejects_is_answered() {
    let lan = Running::start(&SharedSpec { isolated: true, ..spec(Mode::NatNetwork) });
    let (mut one, a) = lan.plug("one", 1).unwrap();
    let (_two, b) = lan.plug("two", 2).unwrap();
    one.send(Frame::plain(&udp(1, 2, [(octets(&a), 4001), (octets(&b), 4000)], b"x")));
    let told = wait(&mut *one, |f| f[12..14] == [8, 0] && f[23] == 1).unwrap();
    assert_eq!((&told[34..36], &told[26..30]), (&[3, 13][..], &octets(&b)[..]));
}

#[test]
fn ports_are_forwarded_while_a_guest_is_there_and_why_is_answered() {
    let lan = Running::start(&spec(Mode::NatNetwork));
    let network = SharedNetwork::new(lan.place.clone(), Plug { forwards: vec!["8080".into()], ..Plug::default() });
    let port = network.plug("web", mac(1)).unwrap();
    let welcome = network.welcome().unwrap();
    let bind: std::net::SocketAddr = welcome.forwards[0].split(" -> ").next().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(bind).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let _ = stream.write(b"x");
    let _ = stream.read(&mut [0; 1]);
    let why = |source: &str, port: u16| {
        let destination = std::net::SocketAddr::new(welcome.address.unwrap(), port);
        let q = Question::Why { protocol: visor_net::Protocol::Tcp, source: source.parse().unwrap(), destination };
        match ask(&lan.place, &q).unwrap() {
            Answer::Value(v) => (v["allowed"] == true, v["because"].as_str().unwrap().to_owned()),
            other => panic!("{other:?}"),
        }
    };
    assert!(why("198.51.100.1", 8080).0 && !why("198.51.100.1", 80).0);
    assert_eq!(why("10.0.3.77", 80), (true, "the rule `source 10.0.3.0/24` of web allows it".into()));
    let Answer::Value(table) = ask(&lan.place, &Question::NatTable).unwrap() else { panic!("no table") };
    assert!(table.is_array());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wish = format!("{}:80", taken.local_addr().unwrap());
    let network = SharedNetwork::new(lan.place.clone(), Plug { forwards: vec![wish], ..Plug::default() });
    let error = network.plug("other", mac(2)).err().unwrap().to_string();
    assert!(error.contains("is taken by"), "{error}");
    drop(port);
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(bind).is_ok() {
        assert!(Instant::now() < end, "the port stays forwarded");
        std::thread::sleep(Duration::from_millis(10));
    }
}
