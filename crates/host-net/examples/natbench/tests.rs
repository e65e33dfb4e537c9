//! What is measured, and the table.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::{ALL, Contender, FAR, UPLINK, UPLINK_GATEWAY};
use crate::guest::Guest;
use crate::server::{CLOSE, ECHO, KEEP, SINK, SOURCE};

/// One line of the table; figures that a translator cannot give stay empty.
#[derive(Default)]
struct Row {
    up: Option<(f64, f64)>,
    down: Option<(f64, f64)>,
    many: Option<(f64, f64)>,
    udp: Option<(f64, f64)>,
    connects: Option<(f64, f64)>,
    latency: Option<f64>,
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server() -> Server {
    let exe = std::env::current_exe().expect("a path");
    let mut child = Command::new(exe).arg("server").stdout(Stdio::piped()).spawn().expect("the far ends");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("the far ends");
    Server(child)
}

fn sh(line: &str) {
    let status = Command::new("sh").args(["-c", line]).status().expect("a shell");
    assert!(status.success(), "{line}");
}

/// Runs all tests of all translators whose names contain `only`, each for `seconds`.
pub(crate) fn compare(seconds: f64, only: &str) {
    sh("ip link set lo up");
    sh(&format!("ip addr add {FAR}/32 dev lo"));
    // passt wants an interface with a default route, whose address it gives to its guest.
    sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    sh(&format!("ip addr add {UPLINK}/24 dev up0 && ip route add default via {UPLINK_GATEWAY}"));
    let _server = server();
    let names = ALL.into_iter().filter(|n| n.contains(only));
    println!("bytes, datagrams and connections for each second of CPU (for each second of time in parentheses)");
    println!(
        "{:24}{:>17}{:>17}{:>17}{:>19}{:>19}{:>9}",
        "", "up GB", "down GB", "100 down GB", "64-byte UDP 1000", "connects 1000", "rtt µs"
    );
    for name in names {
        match Contender::start(name) {
            Ok(contender) => line(name, &measure(contender, Duration::from_secs_f64(seconds))),
            Err(why) => println!("{name:24} cannot run: {why}"),
        }
    }
    if only.is_empty() || "flows".contains(only) {
        flows();
    }
}

fn line(name: &str, row: &Row) {
    let cell = |v: Option<(f64, f64)>, unit: f64| {
        v.map_or("-".into(), |(cpu, time)| format!("{:.2} ({:.2})", cpu / unit, time / unit))
    };
    println!(
        "{name:24}{:>17}{:>17}{:>17}{:>19}{:>19}{:>9}",
        cell(row.up, 1e9),
        cell(row.down, 1e9),
        cell(row.many, 1e9),
        cell(row.udp, 1e3),
        cell(row.connects, 1e3),
        row.latency.map_or("-".into(), |l| format!("{l:.0}"))
    );
}

fn measure(mut c: Contender, time: Duration) -> Row {
    if std::env::var_os("ONLY_DOWN").is_some() { return Row { down: bulk(&mut c, SOURCE, 1, time), ..Row::default() }; }
    if std::env::var_os("ONLY_MANY").is_some() { return Row { down: bulk(&mut c, SOURCE, 100, time), ..Row::default() }; }
    let mut row = Row { up: bulk(&mut c, SINK, 1, time), down: bulk(&mut c, SOURCE, 1, time), ..Row::default() };
    row.many = bulk(&mut c, SOURCE, 100, time);
    if c.name.starts_with("smoltcp") {
        return row;
    }
    row.udp = udp(&mut c, time);
    row.latency = latency(&mut c);
    row.connects = connects(&mut c, time);
    row
}

/// Work done for each second of CPU and of time, over what happens in `run`.
fn rate(c: &mut Contender, run: impl FnOnce(&mut Guest<'_>) -> u64) -> Option<(f64, f64)> {
    let (before, begin) = (c.cpu(), Instant::now());
    let net = c.net;
    let mut guest = Guest::new(&mut *c.link, net);
    let work = run(&mut guest) as f64;
    let time = begin.elapsed().as_secs_f64();
    guest.reset();
    let cpu = c.cpu() - before;
    (work > 0.0).then(|| (work / cpu, work / time))
}

/// Bytes of `count` connections to `port`.
fn bulk(c: &mut Contender, port: u16, count: u16, time: Duration) -> Option<(f64, f64)> {
    rate(c, |guest| {
        let first = 20_000 + count * 3 + port;
        for n in 0..count {
            guest.connect(first + n, port);
        }
        let end = Instant::now() + time;
        let mut rounds = 0u32;
        while rounds % 16 != 0 || Instant::now() < end {
            rounds = rounds.wrapping_add(1);
            let sent = port == SINK && guest.pump();
            if guest.take() == 0 && !sent {
                guest.wait();
            }
        }
        guest.conns.values().map(|c| c.acked + c.received).sum()
    })
}

/// Datagrams that came back.
fn udp(c: &mut Contender, time: Duration) -> Option<(f64, f64)> {
    rate(c, |guest| {
        let end = Instant::now() + time;
        let (mut sent, mut base) = (0u64, guest.echoes);
        while Instant::now() < end {
            while sent.saturating_sub(guest.echoes - base) < 64 && guest.datagram(30_000, ECHO, 64) {
                sent += 1;
            }
            if guest.take() == 0 {
                let before = guest.echoes;
                guest.wait();
                guest.take();
                if guest.echoes == before {
                    // The rest was lost.
                    (sent, base) = (0, guest.echoes);
                }
            }
        }
        guest.echoes
    })
}

/// Median of single round trips to the far end and back, in microseconds.
fn latency(c: &mut Contender) -> Option<f64> {
    let net = c.net;
    let mut guest = Guest::new(&mut *c.link, net);
    let mut all = Vec::new();
    for _ in 0..2000 {
        let (before, begin) = (guest.echoes, Instant::now());
        guest.datagram(30_001, ECHO, 64);
        while guest.echoes == before && begin.elapsed() < Duration::from_millis(100) {
            if guest.take() == 0 {
                guest.wait();
            }
        }
        all.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

/// Connections made and closed, 16 at a time.
fn connects(c: &mut Contender, time: Duration) -> Option<(f64, f64)> {
    rate(c, |guest| {
        let end = Instant::now() + time;
        let (mut port, mut done) = (1024u16, 0);
        while Instant::now() < end {
            while guest.conns.len() < 16 {
                port = if port > 60_000 { 1024 } else { port + 1 };
                guest.connect(port, CLOSE);
            }
            if guest.take() == 0 {
                guest.wait();
            }
            let before = guest.conns.len();
            guest.conns.retain(|_, c| !c.closed);
            done += (before - guest.conns.len()) as u64;
        }
        done
    })
}

/// Memory that ten thousand flows take in this process, the kernel's sockets aside.
fn flows() {
    let mut c = Contender::start("core, 64 KiB frames").expect("a translator");
    let before = c.memory();
    let (net, nat) = (c.net, c.nat.clone().expect("the translator"));
    let mut guest = Guest::new(&mut *c.link, net);
    for n in 0..10_000u16 {
        guest.connect(10_000 + n, KEEP);
        if n % 64 == 0 {
            while guest.take() > 0 {}
        }
    }
    let end = Instant::now() + Duration::from_secs(20);
    while guest.conns.values().filter(|c| c.open).count() < 10_000 && Instant::now() < end {
        if guest.take() == 0 {
            guest.wait();
        }
    }
    let open = nat.with(|engine, now| engine.table(now)).len();
    drop(guest);
    println!("{open} flows: {:.1} MiB, the guest's table included", c.memory() - before);
}
