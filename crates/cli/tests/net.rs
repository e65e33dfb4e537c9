//! Networks as a user meets them: `visor run tiny` on the software engine, with servers of this test on the host's loopback.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/world.rs"]
mod world;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use common::{run, stderr, stdout, visor};
use world::{BIG, big, serve, serve_tftp, sha256};

const PATIENCE: Duration = Duration::from_secs(300);
/// Waits for the lease.
const LEASE: &str = "for i in $(seq 300); do ip -4 addr show eth0 2>/dev/null | grep -q 10.0.2.15 && grep -q nameserver \
                     /etc/resolv.conf && break; sleep 0.2; done; ";

fn image() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let out = run(&["image", "build", "tiny"]);
        assert!(out.status.success(), "{}", stderr(&out));
    });
}

/// `visor run OPTIONS tiny -- sh -c SCRIPT`, after the guest has its lease.
fn guest(options: &[&str], script: &str) -> std::process::Output {
    image();
    let script = format!("{LEASE}{script}");
    let mut args = vec!["run", "--engine", "soft", "--timeout", "280s"];
    args.extend(options);
    args.extend(["tiny", "--", "sh", "-c", &script]);
    run(&args)
}

#[test]
fn a_guest_gets_an_address_and_reaches_the_host_it_may_reach() {
    let port = serve("127.0.0.1");
    let udp_port = serve_tftp("127.0.0.1");
    let capture = common::file("net.pcap", b"");
    let script = format!(
        "ip -4 -o addr show eth0 | awk '{{print $4}}'; ip route | grep default; cat /etc/resolv.conf;
         ping -c 2 -W 20 10.0.2.2 | grep received;
         curl -sS -m 200 -o /tmp/big http://10.0.2.2:{port}/big; sha256sum < /tmp/big;
         wget -q -O - http://10.0.2.2:{port}/; curl -sS -m 200 -T /tmp/big http://10.0.2.2:{port}/up;
         curl -sS -m 60 tftp://10.0.2.2:{udp_port}/file"
    );
    let out = guest(&["--allow-host-loopback", "--capture", capture.to_str().unwrap()], &script);
    let text = stdout(&out);
    let sum = sha256(&big());
    for wanted in [
        "10.0.2.15/24",
        "default via 10.0.2.2",
        "nameserver 10.0.2.3",
        "2 packets received",
        &format!("{sum}  -"),
        "hello from the host",
        &format!("{BIG} {sum}"),
        "a datagram",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}\n{}", stderr(&out));
    }
    let pcap = std::fs::read(&capture).unwrap();
    assert_eq!(pcap[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
    assert!(pcap.len() > 2 * BIG, "{} bytes captured", pcap.len());
}

#[test]
fn the_hosts_loopback_is_closed_unless_it_is_opened() {
    let port = serve("127.0.0.1");
    let out = guest(
        &[],
        &format!("curl -sS -m 30 http://10.0.2.2:{port}/; echo status $?; ping -c 1 -W 20 10.0.2.2 | grep received"),
    );
    let text = stdout(&out);
    assert!(!text.contains("hello") && !text.contains("status 0") && text.contains("status "), "{text}");
    assert!(text.contains("1 packets received"), "the router itself answers: {text}");
}

/// A user's directories of their own, so that networks of the test are nobody else's. The image stays where it is.
struct Home(std::path::PathBuf);

impl Home {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("visor-home-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Home(path)
    }

    fn visor(&self, args: &[&str]) -> std::process::Command {
        let mut command = visor(args);
        command.env("XDG_DATA_HOME", self.0.join("data")).env("XDG_RUNTIME_DIR", self.0.join("run"));
        command
    }

    fn run(&self, args: &[&str]) -> (String, String, Option<i32>) {
        let out = self.visor(args).output().unwrap();
        (stdout(&out), stderr(&out), out.status.code())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.run(&["net", "rm", "--force", "lab"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn guests_of_a_shared_network_have_addresses_by_mac_and_find_each_other() {
    image();
    let home = Home::new();
    let (out, err, status) = home.run(&["net", "create", "lab", "--subnet", "10.0.77.0/24"]);
    assert_eq!((out.as_str(), status), ("lab\n", Some(0)), "{err}");
    assert_eq!(home.run(&["net", "create", "lab"]).2, Some(125), "it is there already");
    let (_, err, _) = home.run(&["run", "--net", "nowhere", "tiny"]);
    assert!(err.contains("no network is called `nowhere`; there are lab"), "{err}");
    let lease = "for i in $(seq 300); do ip -4 addr show eth0 2>/dev/null | grep -q 10.0.77. && grep -q nameserver \
                 /etc/resolv.conf && break; sleep 0.2; done; ";
    let script = format!("{lease}mkdir -p /tmp/www; echo one > /tmp/www/name; httpd -p 80 -h /tmp/www; echo up; cat");
    let options = ["run", "--engine", "soft", "--timeout", "280s", "--net", "lab"];
    let server =
        [&options[..], &["--name", "one", "--mac", "52:54:00:00:00:01", "tiny", "--", "sh", "-c", &script]].concat();
    let mut one = home.visor(&server).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(one.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap() == "up"), "the first guest did not come up");
    let script = format!(
        "{lease}ip -4 -o addr show eth0 | awk '{{print $4}}'; ping -c 2 -W 20 one | grep received; wget -q -O - http://one/name;
         ping -c 1 -W 20 10.0.77.1 | grep received"
    );
    let client =
        [&options[..], &["--name", "two", "--mac", "52:54:00:00:00:02", "tiny", "--", "sh", "-c", &script]].concat();
    let (out, err, _) = home.run(&client);
    for wanted in ["10.0.77.4/24", "2 packets received", "one\n", "1 packets received"] {
        assert!(out.contains(wanted), "no {wanted:?} in\n{out}\n{err}");
    }
    // The network notices soon that the second guest is gone.
    let end = Instant::now() + PATIENCE;
    let mut list = home.run(&["net", "ls"]).0;
    while list.contains("two (") && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        list = home.run(&["net", "ls"]).0;
    }
    assert!(list.contains("running") && list.contains("one (10.0.77.3)") && !list.contains("two ("), "{list}");
    let (why, _, status) = home.run(&["net", "why", "lab", "198.51.100.1", "one:22"]);
    assert!(status == Some(1) && why.starts_with("refused: no rule of one"), "{why}");
    assert_eq!(home.run(&["net", "why", "lab", "10.0.77.4", "one:80"]).2, Some(0));
    // The same address again is told of.
    let twin = [&options[..], &["--name", "twin", "--mac", "52:54:00:00:00:01", "tiny", "--", "true"]].concat();
    let (_, err, _) = home.run(&twin);
    assert!(err.contains("the guest one of this network has the same Ethernet address"), "{err}");
    let (_, err, status) = home.run(&["net", "rm", "lab"]);
    assert!(status == Some(125) && err.contains("guests are plugged into lab: one"), "{err}");
    drop(one.stdin.take());
    one.wait().unwrap();
    let end = Instant::now() + PATIENCE;
    while home.run(&["net", "rm", "lab"]).2 != Some(0) {
        assert!(Instant::now() < end, "the network cannot be removed");
    }
    assert_eq!(home.run(&["net", "ls", "--json"]).0.trim(), "[]");
}

#[test]
fn without_a_network_there_is_no_device() {
    image();
    let out =
        run(&["run", "--engine", "soft", "--timeout", "280s", "--net", "none", "tiny", "--", "ls", "/sys/class/net"]);
    assert_eq!(stdout(&out), "lo\n", "{}", stderr(&out));
    let out = run(&["run", "--net", "none", "-p", "80", "tiny"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("--publish needs a network"), "{}", stderr(&out));
}

/// A guest with a web server that lives as long as its standard input.
struct Server {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Ports of the host, as visor tells them.
    ports: Vec<u16>,
}

impl Server {
    fn start(options: &[&str], name: &str, script: &str) -> Self {
        image();
        let script = format!(
            "{LEASE}mkdir -p /tmp/www; echo {name} > /tmp/www/name; httpd -p 80 -h /tmp/www; {script} echo up; cat"
        );
        let mut args = vec!["run", "--engine", "soft", "--timeout", "280s"];
        args.extend(options);
        args.extend(["tiny", "--", "sh", "-c", &script]);
        let mut child =
            visor(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let wanted = options.iter().filter(|o| **o == "-p").count();
        let mut ports = Vec::new();
        while ports.len() < wanted {
            let mut line = String::new();
            assert!(errors.read_line(&mut line).unwrap() > 0, "visor ended");
            let port = line.split(" -> ").next().and_then(|l| l.rsplit(':').next()).and_then(|p| p.parse::<u16>().ok());
            ports.extend(port);
        }
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap() == "up"), "the guest did not come up");
        Server { child, stdin, ports }
    }

    fn stop(mut self) {
        drop(self.stdin.take());
        self.child.wait().unwrap();
    }
}

fn get(port: u16, path: &str) -> String {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { break };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        if !text.is_empty() {
            return text;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    String::new()
}

#[test]
fn forwarded_ports_lead_to_each_guest_and_guests_do_not_see_each_other() {
    let one = Server::start(&["-p", "80", "-p", "9000/udp"], "one", "");
    let two = Server::start(
        &["-p", ":80"],
        "two",
        "ip -4 -o addr show eth0 | grep -q ' 10.0.2.15/' && cp /tmp/www/name /tmp/www/same;",
    );
    assert!(get(one.ports[0], "/name").ends_with("\r\n\r\none\n"));
    assert!(get(two.ports[0], "/name").ends_with("\r\n\r\ntwo\n"));
    assert!(get(two.ports[0], "/same").ends_with("\r\n\r\ntwo\n"), "the same address as the other");
    assert!(get(one.ports[0], "/same").contains(" 404 "));
    // What is not forwarded is not there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    // A port that is taken names its holder.
    let taken = run(&["run", "-p", &format!("{}:80", one.ports[0]), "tiny", "--", "true"]);
    assert_eq!(taken.status.code(), Some(125));
    let told = format!("is taken by visor (process {})", one.child.id());
    assert!(stderr(&taken).contains(&told), "{}", stderr(&taken));
    one.stop();
    assert!(get(two.ports[0], "/name").ends_with("two\n"), "the other goes on");
    two.stop();
}
