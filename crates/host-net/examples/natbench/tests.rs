//! What is measured, and the table.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::{ALL, Contender, FAR, UPLINK, UPLINK_GATEWAY};
use crate::guest::Guest;
use crate::server::{CLOSE, ECHO, KEEP, SINK, SOURCE};

/// What was measured: work for each second of CPU, and for each second of time.
type Rate = (f64, f64);

/// The columns, and what a unit of each is.
const COLUMNS: [(&str, f64); 5] =
    [("up GB", 1e9), ("down GB", 1e9), ("100 down GB", 1e9), ("64-byte UDP 1000", 1e3), ("connects 1000", 1e3)];

/// One round of a translator; figures that it cannot give stay empty.
#[derive(Clone, Default)]
struct Row {
    rates: [Option<Rate>; 5],
    latency: Option<f64>,
    /// CPU of a ping's way to the far end and back, in microseconds.
    ping: Option<f64>,
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

/// Runs all tests of all translators whose names contain `only`, each for `seconds`, in `rounds` rounds.
pub(crate) fn compare(seconds: f64, rounds: usize, only: &str) {
    sh("ip link set lo up");
    sh(&format!("ip addr add {FAR}/32 dev lo"));
    // Echo requests go through sockets that this range allows.
    sh("echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
    // passt wants an interface with a default route, whose address it gives to its guest.
    sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    sh(&format!("ip addr add {UPLINK}/24 dev up0 && ip route add default via {UPLINK_GATEWAY}"));
    let _server = server();
    if only.is_empty() || "flows".contains(only) {
        flows();
    }
    let names: Vec<_> = ALL.into_iter().filter(|n| n.contains(only)).collect();
    let mut rows = vec![Vec::new(); names.len()];
    for _ in 0..rounds {
        for (name, rows) in names.iter().zip(&mut rows) {
            match Contender::start(name) {
                Ok(contender) => rows.push(measure(contender, Duration::from_secs_f64(seconds))),
                Err(why) => eprintln!("{name} cannot run: {why}"),
            }
        }
    }
    println!("work for each second of CPU (for each second of time in parentheses), medians of {rounds}");
    print!("{:24}", "");
    COLUMNS.iter().for_each(|(c, _)| print!("{c:>19}"));
    println!("{:>9}{:>13}", "rtt µs", "ping CPU µs");
    let medians: Vec<Row> = rows.iter().map(|r| median_row(r)).collect();
    for (name, row) in names.iter().zip(&medians) {
        line(name, row);
    }
    println!();
    for (ours, theirs) in [
        ("core, 64 KiB frames", "passt, MTU 65520"),
        ("stream, MTU 65520", "passt, MTU 65520"),
        ("stream, MTU 1500", "qemu user, MTU 1500"),
        ("core, 64 KiB frames", "smoltcp, 64 KiB frames"),
        ("core, 1500 bytes", "smoltcp, 1500 bytes"),
    ] {
        let find = |name| names.iter().position(|n| *n == name).map(|at| &medians[at]);
        if let (Some(a), Some(b)) = (find(ours), find(theirs)) {
            let ratio = |i: usize| Some(format!("{:.1}x", a.rates[i]?.0 / b.rates[i]?.0));
            print!("{:48}", format!("{ours} / {theirs}"));
            (0..COLUMNS.len()).for_each(|i| print!("{:>12}", ratio(i).unwrap_or("-".into())));
            println!();
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn median_row(rows: &[Row]) -> Row {
    let rate = |i: usize| {
        let all = || rows.iter().filter_map(|r| r.rates[i]);
        Some((median(all().map(|r| r.0).collect())?, median(all().map(|r| r.1).collect())?))
    };
    let of = |get: fn(&Row) -> Option<f64>| median(rows.iter().filter_map(get).collect());
    Row { rates: std::array::from_fn(rate), latency: of(|r| r.latency), ping: of(|r| r.ping) }
}

fn line(name: &str, row: &Row) {
    print!("{name:24}");
    for (rate, (_, unit)) in row.rates.iter().zip(COLUMNS) {
        let cell = rate.map_or("-".into(), |(cpu, time)| format!("{:.2} ({:.2})", cpu / unit, time / unit));
        print!("{cell:>19}");
    }
    let number = |n: Option<f64>| n.map_or("-".into(), |n| format!("{n:.0}"));
    println!("{:>9}{:>13}", number(row.latency), number(row.ping));
}

fn measure(mut c: Contender, time: Duration) -> Row {
    let mut row = Row::default();
    row.rates[0] = bulk(&mut c, SINK, 1, time);
    row.rates[1] = bulk(&mut c, SOURCE, 1, time);
    row.rates[2] = bulk(&mut c, SOURCE, 100, time);
    // The translator of smoltcp is here for TCP's sake.
    if c.name.starts_with("smoltcp") {
        return row;
    }
    row.rates[3] = udp(&mut c, time);
    row.latency = latency(&mut c);
    row.ping = pings(&mut c);
    row.rates[4] = connects(&mut c, time);
    row
}

/// Work done for each second of CPU and of time, over what happens in `run`.
fn rate(c: &mut Contender, run: impl FnOnce(&mut Guest<'_>) -> u64) -> Option<Rate> {
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
fn bulk(c: &mut Contender, port: u16, count: u16, time: Duration) -> Option<Rate> {
    rate(c, |guest| {
        let first = 20_000 + count * 3 + port;
        for n in 0..count {
            guest.connect(first + n, port);
        }
        let end = Instant::now() + time;
        let mut rounds = 0u32;
        while !rounds.is_multiple_of(16) || Instant::now() < end {
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
fn udp(c: &mut Contender, time: Duration) -> Option<Rate> {
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
    median(all)
}

/// CPU of a single ping that is answered by the host's kernel, in microseconds: what the translator adds to it, the kernel's work and
/// the guest's frames included.
fn pings(c: &mut Contender) -> Option<f64> {
    let (before, count) = (c.cpu(), 2000);
    let net = c.net;
    let mut guest = Guest::new(&mut *c.link, net);
    for number in 0..count {
        let (seen, begin) = (guest.echoes, Instant::now());
        guest.ping(number);
        while guest.echoes == seen {
            if begin.elapsed() > Duration::from_secs(2) {
                return None;
            }
            if guest.take() == 0 {
                guest.wait();
            }
        }
    }
    Some((c.cpu() - before) / f64::from(count) * 1e6)
}

/// Connections made and closed, 16 at a time.
fn connects(c: &mut Contender, time: Duration) -> Option<Rate> {
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
    println!("{open} flows: {:.1} MiB, the guest's table included\n", c.memory() - before);
}
