//! A guest and the world, in a network namespace of the test's own: IPv6 from router advertisement to TCP, real programs, and
//! ports that lead to the guest.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/tools.rs"]
mod tools;
#[path = "common/world.rs"]
mod world;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use common::{run, stderr, stdout, visor};
use netns::{WORLD4, WORLD6, inside};
use world::{big, serve, serve_dns, serve_tftp, sha256};

const PATIENCE: Duration = Duration::from_secs(300);
/// Waits for an IPv6 address that has been checked for duplicates.
const SLAAC: &str =
    "for i in $(seq 600); do ip -6 -o addr show eth0 | grep fd00 | grep -qv tentative && break; sleep 0.2; done; ";

/// `visor run` with the arguments that all guests here have.
fn guest(options: &[&str], script: &str) -> std::process::Command {
    let disc = tools::disc();
    let disc = format!("{},ro,format=raw", disc.display());
    let script = format!("{}{script}", tools::MOUNT);
    let mut args = vec!["run", "--engine", "soft", "--timeout", "900s", "--disk", &disc];
    args.extend(options);
    args.extend(["tiny", "--", "sh", "-c", &script]);
    visor(&args)
}

fn prepare() {
    let out = run(&["image", "build", "tiny"]);
    assert!(out.status.success(), "{}", stderr(&out));
    tools::disc();
}

#[track_caller]
fn holds(out: &std::process::Output, wanted: &[&str]) {
    let text = stdout(out);
    for w in wanted {
        assert!(text.contains(w), "no {w:?} in\n{text}\n{}", stderr(out));
    }
}

#[test]
fn ipv6_works_from_the_routers_advertisement_to_tcp() {
    prepare();
    inside("ipv6_works_from_the_routers_advertisement_to_tcp", || {
        serve_dns(WORLD4, vec![WORLD6.parse().unwrap()]);
        let (web, files, loopback) = (serve(WORLD6), serve_tftp(WORLD6), serve("::1"));
        let script = format!(
            "{SLAAC}ip -6 -o addr show eth0; ip -6 route | grep default;
             ping6 -c 2 -W 20 fd00:a:0:2::2 | grep received; ping6 -c 2 -W 20 {WORLD6} | grep received;
             t dig +short AAAA world.test @fd00:a:0:2::3; t dig +tcp +short AAAA world.test @10.0.2.3;
             t dig A nowhere.test @10.0.2.3 | grep -o 'status: [A-Z]*';
             curl -sS -m 200 -o /tmp/big http://world.test:{web}/big; sha256sum < /tmp/big;
             curl -sS -m 200 -T /tmp/big http://world.test:{web}/up;
             curl -sS -m 60 tftp://[{WORLD6}]:{files}/file;
             curl -sS -m 20 http://[fd00:a:0:2::2]:{loopback}/; echo loopback $?; curl -sS -m 20 http://[{WORLD6}]:9/; echo closed $?
             mkdir -p /tmp/d; printf '#!/bin/sh\\necho $reason $new_ip6_address $new_dhcp6_name_servers\\n' > /tmp/s; chmod +x /tmp/s;
             t dhclient -6 -1 -d -nw -pf /tmp/d/p -lf /tmp/d/l -sf /tmp/s eth0 2>/dev/null & sleep 0.1; wait_for=/tmp/d/l;
             for i in $(seq 300); do grep -q iaaddr $wait_for 2>/dev/null && break; sleep 0.2; done; grep iaaddr /tmp/d/l"
        );
        let out = guest(&[], &script).output().unwrap();
        let sum = sha256(&big());
        let uploaded = format!("{} {sum}", world::BIG);
        holds(
            &out,
            &[
                "inet6 fd00:a:0:2:5054:ff:fe",
                "default via fe80::2",
                "0% packet loss\n2 packets transmitted, 2 packets received",
                "2001:db8::1\n2001:db8::1\nstatus: NXDOMAIN",
                &format!("{sum}  -"),
                &uploaded,
                "a datagram",
                "iaaddr fd00:a:0:2:0:1:",
            ],
        );
        let text = stdout(&out);
        assert!(!text.contains("hello") && !text.contains("loopback 0"), "the host's loopback is closed: {text}");
        assert!(text.contains("closed 7"), "a refused connection is refused at once: {text}");
    });
}

#[test]
fn datagrams_and_connections_come_in_over_ipv4_and_ipv6() {
    prepare();
    inside("datagrams_and_connections_come_in_over_ipv4_and_ipv6", || {
        let script = "for p in 9004 9006; do mkfifo /tmp/$p; \
                      (t nc.openbsd -n -u -l $p < /tmp/$p | tee /tmp/$p.log > /tmp/$p) & done; httpd -p 80 -h /etc; echo up; cat";
        let wanted = ["127.0.0.1:5004:9004/udp", "[::1]:5006:9006/udp", "[::1]:5080:80"];
        let options: Vec<&str> = wanted.iter().flat_map(|w| ["-p", w]).collect();
        let mut child = guest(&options, script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|l| l.unwrap() == "up"), "the guest did not come up");
        for to in ["127.0.0.1:5004", "[::1]:5006"] {
            let to: SocketAddr = to.parse().unwrap();
            let socket = UdpSocket::bind((to.ip(), 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut data = [0; 100];
            // Before the guest listens it refuses; datagrams may get lost.
            let answered = (0..30).any(|_| {
                let sent = socket.send_to(b"a question", to).is_ok();
                sent && socket.recv_from(&mut data).is_ok_and(|(n, from)| &data[..n] == b"a question" && from == to)
            });
            assert!(answered, "{to}");
        }
        let out = common::run_outside("curl", &["-sS", "-g", "-m", "60", "http://[::1]:5080/hostname"]);
        assert_eq!(stdout(&out), "visor\n", "{}", stderr(&out));
        drop(child.stdin.take());
        child.wait().unwrap();
    });
}

#[test]
fn real_programs_work_through_the_translator() {
    prepare();
    inside("real_programs_work_through_the_translator", || {
        serve_dns(WORLD4, vec![WORLD4.parse().unwrap()]);
        let web = serve(WORLD4);
        let server = |address: &str| {
            let mut iperf = tools::on_host("usr/bin/iperf3");
            iperf.args(["-s", "-B", address, "-p", "5201"]).stdout(Stdio::null()).spawn().unwrap()
        };
        let mut iperf = server(WORLD4);
        let listener = std::net::TcpListener::bind((WORLD4, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = std::thread::spawn(move || {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut listener.accept().unwrap().0, &mut text).unwrap();
            text
        });
        let script = format!(
            "t dig +short world.test; wget -q -O /tmp/w http://world.test:{web}/big; sha256sum < /tmp/w;
             curl -sS -o /tmp/c http://world.test:{web}/big; sha256sum < /tmp/c;
             echo through nc | t nc.openbsd -N {WORLD4} {port};
             for o in '' -R '-P 4' '-u -b 10M'; do t iperf3 -c {WORLD4} -n 4M $o | grep -c receiver; done; echo done"
        );
        let out = guest(&[], &script).output().unwrap();
        let sum = format!("{}  -\n", sha256(&big()));
        holds(&out, &[&format!("{WORLD4}\n{sum}{sum}"), "done"]);
        // One line for a stream, and one for the sum of four.
        holds(&out, &["1\n1\n5\n1\ndone"]);
        assert_eq!(taken.join().unwrap(), "through nc\n");
        iperf.kill().unwrap();
        iperf.wait().unwrap();
    });
}
