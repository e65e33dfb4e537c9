//! The translator against a real kernel as its guest: a network namespace whose only way out is a tap device.
//!
//! The test starts itself again inside new user and network namespaces, so that it needs no privilege and changes nothing:
//! that process is the host, a third one in another network namespace is the guest.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use visor_host_net::{Nat, NatPort, Resolvers, TapPort};
use visor_nat::NatConfig;
use visor_net::{Accepts, Frame, NetPort, Protocol};

/// An address outside of every private network, on the host's loopback device.
const OUTSIDE: &str = "192.0.2.1";
const OUTSIDE6: &str = "2001:db8::1";
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// Runs a command line that must succeed; gives what it prints.
fn run(line: &str) -> String {
    let out = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{line}: {} {text} {}", out.status, String::from_utf8_lossy(&out.stderr));
    text
}

/// Carries frames between two ports in a thread of its own.
fn cable(mut nat: NatPort, mut tap: TapPort, offloads: bool) {
    let bell = Arc::new((Mutex::new(true), Condvar::new()));
    let ring = {
        let bell = Arc::clone(&bell);
        Arc::new(move || {
            *bell.0.lock().unwrap() = true;
            bell.1.notify_one();
        })
    };
    let accepts = if offloads { tap.peer_accepts() } else { Accepts::default() };
    nat.set_accepts(accepts);
    tap.set_accepts(if offloads { nat.peer_accepts() } else { Accepts::default() });
    nat.on_ready(ring.clone());
    tap.on_ready(ring);
    thread::spawn(move || {
        loop {
            let mut rung = bell.0.lock().unwrap();
            while !std::mem::take(&mut *rung) {
                rung = bell.1.wait(rung).unwrap();
            }
            drop(rung);
            loop {
                let up = tap.receive(&mut |f: Frame<'_>| nat.send(f));
                let down = nat.receive(&mut |f: Frame<'_>| tap.send(f));
                if up + down == 0 {
                    break;
                }
            }
        }
    });
}

struct Guest {
    child: Child,
}

impl Guest {
    /// A network namespace with the tap device inside, configured as a guest that knows its address.
    fn new(config: NatConfig, resolvers: Vec<SocketAddr>, offloads: bool) -> (Guest, Nat) {
        Self::behind(|| TapPort::open("tap%d").unwrap(), config, resolvers, offloads)
    }

    fn behind(
        open: impl FnOnce() -> TapPort,
        config: NatConfig,
        resolvers: Vec<SocketAddr>,
        offloads: bool,
    ) -> (Guest, Nat) {
        run("ip link set lo up");
        run(&format!("ip addr add {OUTSIDE}/32 dev lo; ip -6 addr add {OUTSIDE6}/128 dev lo nodad"));
        run("sysctl -qw net.ipv4.ping_group_range='0 0'; sysctl -qw net.ipv4.ip_forward=0");
        let child = Command::new("unshare").args(["-n", "sleep", "300"]).spawn().unwrap();
        let guest = Guest { child };
        let pid = guest.child.id();
        // The namespace is there once it differs from ours.
        let net = |p: &str| std::fs::read_link(format!("/proc/{p}/ns/net")).unwrap();
        while net(&pid.to_string()) == net("self") {
            thread::sleep(Duration::from_millis(5));
        }
        let tap = open();
        run(&format!("ip link set {} netns {pid} name eth0 address 52:54:00:00:00:01", tap.name()));
        let (nat, port) = Nat::with_resolvers(config, Resolvers::fixed(resolvers)).unwrap();
        cable(port, tap, offloads);
        guest.run("ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0");
        guest.run("ip route add default via 10.0.2.2");
        (guest, nat)
    }

    fn run(&self, line: &str) -> String {
        run(&format!("nsenter -t {} -n sh -c {}", self.child.id(), quote(line)))
    }

    /// Runs one of the guest's programs below.
    fn program(&self, name: &str) -> String {
        let exe = std::env::current_exe().unwrap();
        let pid = self.child.id();
        run(&format!("nsenter -t {pid} -n env NAT_GUEST={name} {} --exact guest --nocapture", exe.display()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn quote(line: &str) -> String {
    format!("'{}'", line.replace('\'', r"'\''"))
}

/// Starts this test again as the host of a namespace of its own. True: this is that process.
fn inside(test: &str) -> bool {
    if std::env::var("NAT_HOST").as_deref() == Ok(test) {
        return true;
    }
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["-Urn", "timeout", "120"])
        .arg(exe)
        .args(["--exact", test, "--nocapture"])
        .env("NAT_HOST", test)
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
    false
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut x = seed | 1;
    let next = |x: &mut u32| {
        *x ^= *x << 13;
        *x ^= *x >> 17;
        *x ^= *x << 5;
        *x as u8
    };
    (0..len).map(|_| next(&mut x)).collect()
}

/// Serves on `port` of all addresses: what comes in is read to its end, then `reply` bytes are sent.
fn server(port: u16, seed: u32, expect: usize, reply: usize) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                assert!(got == pattern(expect, seed), "what the guest sent ({} bytes)", got.len());
                stream.write_all(&pattern(reply, seed + 1)).unwrap();
            });
        }
    });
}

/// The guest's side of [`server`]: sends, closes its half, and reads to the end.
fn exchange(to: SocketAddr, seed: u32, send: usize, expect: usize) {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap();
    stream.write_all(&pattern(send, seed)).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == pattern(expect, seed + 1), "what the host sent ({} bytes)", got.len());
}

const UP: usize = 20 << 20;
const DOWN: usize = 30 << 20;

/// Programs that run in the guest's namespace.
#[test]
fn guest() {
    let outside = |port: u16| SocketAddr::new(OUTSIDE.parse().unwrap(), port);
    match std::env::var("NAT_GUEST").as_deref() {
        Ok("bulk") => exchange(outside(7001), 7, UP, DOWN),
        Ok("bulk6") => exchange(SocketAddr::new(OUTSIDE6.parse().unwrap(), 7001), 7, UP, DOWN),
        Ok("many") => {
            let one = move || exchange(outside(7002), 9, 100_000, 200_000);
            let all: Vec<_> = (0..50).map(|_| thread::spawn(one)).collect();
            all.into_iter().for_each(|t| t.join().unwrap());
        }
        Ok("refused") => {
            let error = TcpStream::connect(outside(9)).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
            udp.connect(outside(9)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            udp.send(b"x").unwrap();
            assert_eq!(udp.recv(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        }
        Ok("udp") => {
            let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            // The last ones travel in fragments.
            for len in [0, 1, 100, 1472, 1473, 9000, 60000] {
                udp.send_to(&pattern(len, 3), outside(7003)).unwrap();
                let mut got = vec![0; 65536];
                let (n, from) = udp.recv_from(&mut got).unwrap();
                assert_eq!((n, from), (len, outside(7003)));
                assert!(got[..n] == pattern(len, 3));
            }
        }
        Ok("loopback-shut") => {
            let error = TcpStream::connect("10.0.2.2:7002").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        Ok("loopback-open") => exchange("10.0.2.2:7002".parse().unwrap(), 9, 100_000, 200_000),
        Ok("serve") => {
            server(80, 11, 1000, 500_000);
            let udp = UdpSocket::bind("0.0.0.0:53").unwrap();
            let mut buffer = [0; 2000];
            let (n, from) = udp.recv_from(&mut buffer).unwrap();
            udp.send_to(&buffer[..n], from).unwrap();
            thread::sleep(Duration::from_secs(100));
        }
        Ok(other) => panic!("no program {other}"),
        Err(_) => {}
    }
}

fn echo_server(port: u16) {
    let udp = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((n, from)) = udp.recv_from(&mut buffer) {
            udp.send_to(&buffer[..n], from).unwrap();
        }
    });
}

fn all_protocols(offloads: bool) {
    all_protocols_behind(|| TapPort::open("tap%d").unwrap(), offloads);
}

fn all_protocols_behind(open: impl FnOnce() -> TapPort, offloads: bool) {
    let (guest, nat) = Guest::behind(open, NatConfig::default(), Vec::new(), offloads);
    server(7001, 7, UP, DOWN);
    server(7002, 9, 100_000, 200_000);
    echo_server(7003);
    guest.program("bulk");
    guest.program("many");
    guest.program("refused");
    guest.program("udp");
    guest.program("loopback-shut");
    nat.with(|engine, _| engine.set_allow_host_loopback(true));
    guest.program("loopback-open");
    // The kernel makes itself an address from the advertisement.
    let limit = std::time::Instant::now() + Duration::from_secs(60);
    while !guest.run("ip -6 addr show dev eth0 scope global -tentative").contains("fd00:a:0:2:") {
        assert!(std::time::Instant::now() < limit, "no IPv6 address");
        thread::sleep(Duration::from_millis(100));
    }
    guest.program("bulk6");
    let counters = nat.with(|engine, _| engine.counters());
    assert_eq!((counters.malformed, counters.bad_checksum, counters.evicted), (0, 0, 0), "{counters:?}");
    assert!(counters.opened >= 56, "{counters:?}");
    let flows = nat.with(|engine, now| engine.table(now));
    assert!(flows.iter().any(|f| f.protocol == Protocol::Udp && f.guest.ip() == IpAddr::V4(GUEST) && f.sent >= 70_000));
}

#[test]
fn every_protocol_with_offloads() {
    if inside("every_protocol_with_offloads") {
        all_protocols(true);
    }
}

#[test]
fn every_protocol_without_offloads() {
    if inside("every_protocol_without_offloads") {
        all_protocols(false);
    }
}

#[test]
fn every_protocol_over_a_pair_of_devices() {
    if inside("every_protocol_over_a_pair_of_devices") {
        all_protocols_behind(|| TapPort::pair("near").unwrap(), true);
    }
}

#[test]
fn forwarded_ports() {
    if !inside("forwarded_ports") {
        return;
    }
    let (guest, nat) = Guest::new(NatConfig::default(), Vec::new(), true);
    let exe = std::env::current_exe().unwrap();
    let pid = guest.child.id().to_string();
    let mut served = Command::new("nsenter")
        .args(["-t", &pid, "-n", "env", "NAT_GUEST=serve"])
        .arg(exe)
        .args(["--exact", "guest"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    guest.run("ping -c1 -W5 10.0.2.2 || true");
    let any = "127.0.0.1:0".parse().unwrap();
    let tcp = nat.with(|e, _| e.add_forward(Protocol::Tcp, any, SocketAddr::new(GUEST.into(), 80))).unwrap();
    let udp = nat.with(|e, _| e.add_forward(Protocol::Udp, any, SocketAddr::new(GUEST.into(), 53))).unwrap();
    let taken = nat.with(|e, _| e.add_forward(Protocol::Tcp, tcp.bind, SocketAddr::new(GUEST.into(), 81)));
    assert_eq!(taken.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    // The guest's server starts when it starts.
    let limit = std::time::Instant::now() + Duration::from_secs(30);
    while !guest.run("ss -ltun").contains(":80") || !guest.run("ss -ltun").contains(":53") {
        assert!(std::time::Instant::now() < limit);
        thread::sleep(Duration::from_millis(50));
    }
    exchange(tcp.bind, 11, 1000, 500_000);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(b"question", udp.bind).unwrap();
    let mut buffer = [0; 100];
    assert_eq!(socket.recv_from(&mut buffer).unwrap(), (8, udp.bind));
    assert!(nat.with(|e, _| e.remove_forward(tcp.id) && !e.remove_forward(tcp.id)));
    assert_eq!(TcpStream::connect(tcp.bind).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    served.kill().unwrap();
    served.wait().unwrap();
}

#[test]
fn well_known_programs() {
    if !inside("well_known_programs") {
        return;
    }
    let resolver = "127.0.0.1:5399".parse().unwrap();
    let (guest, nat) = Guest::new(NatConfig::default(), vec![resolver], true);
    nat.with(|e, _| e.set_name("web", vec![OUTSIDE.parse().unwrap()]));
    let out = guest.run(&format!("ping -c3 -i0.2 -W5 {OUTSIDE}; ping -c1 -W5 10.0.2.2; ping -c1 -s4000 -W5 {OUTSIDE}"));
    assert_eq!(out.matches(" 0% packet loss").count(), 3, "{out}");
    a_name_is_resolved(&guest, resolver);
    iperf_measures(&guest);
    // A DHCP client: it must be given what the guest has already.
    let out = guest.run("busybox udhcpc -i eth0 -n -q -f -s /bin/true 2>&1");
    assert!(out.contains("lease of 10.0.2.15 obtained"), "{out}");
    curl_keeps_a_file(&guest);
}

/// By the host's resolver, or by a name that the translator knows.
fn a_name_is_resolved(guest: &Guest, resolver: SocketAddr) {
    // A resolver of the host that knows one thing.
    let upstream = UdpSocket::bind(resolver).unwrap();
    thread::spawn(move || {
        let mut q = [0; 512];
        while let Ok((n, from)) = upstream.recv_from(&mut q) {
            let end = 12 + q[12..n].iter().position(|b| *b == 0).unwrap() + 5;
            let mut answer = q[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, 5]);
            upstream.send_to(&answer, from).unwrap();
        }
    });
    let ask = |name: &str| guest.run(&format!("dig +time=10 +tries=1 +short @10.0.2.3 {name}"));
    assert_eq!(ask("example.org"), "203.0.113.5\n");
    assert_eq!(ask("web.internal"), format!("{OUTSIDE}\n"));
}

fn iperf_measures(guest: &Guest) {
    for reverse in ["", "-R", "-P 8"] {
        let mut served =
            Command::new("iperf3").args(["-s", "-1", "-B", OUTSIDE]).stdout(Stdio::null()).spawn().unwrap();
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while !run("ss -ltn").contains(":5201") {
            assert!(std::time::Instant::now() < limit);
            thread::sleep(Duration::from_millis(20));
        }
        let out = guest.run(&format!("iperf3 -c {OUTSIDE} -n 20M {reverse}"));
        assert!(out.contains("receiver"), "{out}");
        served.wait().unwrap();
    }
}

fn curl_keeps_a_file(guest: &Guest) {
    let listener = TcpListener::bind((OUTSIDE, 8080)).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").unwrap();
        stream.write_all(&pattern(10_000_000, 21)).unwrap();
    });
    let file = std::env::temp_dir().join(format!("nat-curl-{}", std::process::id()));
    guest.run(&format!("curl -sS -m 60 -o {} http://{OUTSIDE}:8080/", file.display()));
    assert!(std::fs::read(&file).unwrap() == pattern(10_000_000, 21));
    std::fs::remove_file(&file).unwrap();
}
