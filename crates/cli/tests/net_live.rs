//! Changing networks while guests run: ports, firewall, security groups, captures, and asking why.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/tools.rs"]
mod tools;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use lab::{Home, PATIENCE, until};

const SERVER: &str = "mkdir -p /tmp/www; hostname > /tmp/www/name; httpd -p 80 -h /tmp/www";

/// The answer of a web server at a port of the host; `None` if nobody listens there.
fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /name HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The port that `port add` names.
fn port_of(told: &str) -> u16 {
    let first = told.lines().next().unwrap();
    first.split(" -> ").next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// Another's reader takes the capture for what it is: tcpdump finds the handshake, the request, the answer and the end.
fn dissected(file: &std::path::Path, port: u16) {
    let mut tcpdump = tools::on_host("usr/bin/tcpdump");
    let out = tcpdump.args(["-nn", "-A", "-r", file.to_str().unwrap(), "tcp"]).output().unwrap();
    let (said, complaints) = (common::stdout(&out), common::stderr(&out));
    assert!(out.status.success() && complaints.contains("link-type EN10MB"), "{complaints}");
    for wanted in ["> 10.0.2.15.80: Flags [S],", "Flags [S.]", "GET /name HTTP/1.0", "200 OK", "Flags [F.]"] {
        assert!(said.contains(wanted), "no {wanted} on port {port} in\n{said}");
    }
    assert!(!said.contains("truncated") && !said.contains("bad-"), "{said}");
    // So does Wireshark: request and answer put together, nothing malformed, lost or sent twice. Sums of TCP are left to whoever
    // receives, and stand so in the capture.
    let tshark = |filter: &str| {
        let mut tshark = tools::tshark();
        let out =
            tshark.args(["-oip.check_checksum:TRUE", "-n", "-r"]).arg(file).args(["-Y", filter]).output().unwrap();
        assert!(out.status.success(), "{}", common::stderr(&out));
        common::stdout(&out)
    };
    for (filter, least) in [
        ("http.request.uri == \"/name\"", 1),
        ("http.response.code == 200", 1),
        ("tcp.flags.fin == 1", 2),
        ("ip.checksum.status == 1", 8),
    ] {
        let found = tshark(filter);
        assert!(found.lines().count() >= least, "{filter}: {found}");
    }
    let lost = "tcp.analysis.retransmission || tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment";
    assert_eq!(tshark(&format!("_ws.malformed || _ws.short || ip.checksum.status == 0 || {lost}")), "");
}

#[test]
fn ports_are_forwarded_again_when_the_machine_is_started_again() {
    let home = Home::new("ports");
    let web = home.start("web", &[], SERVER);
    let kept = port_of(&home.ok(&["port", "add", "web", ":80", "--permanent"]));
    let other = port_of(&home.ok(&["port", "add", "web", ":80"]));
    assert!(get(kept).unwrap().ends_with("web\n") && get(other).unwrap().ends_with("web\n"));
    drop(web);
    assert!(get(kept).is_none());
    let listed = home.ok(&["port", "ls", "web"]);
    assert!(listed.contains(&format!(":{kept} ")) && listed.contains("when it starts"), "{listed}");
    // Its next life, in another process.
    let web = home.start("web", &[], SERVER);
    assert!(get(kept).unwrap().ends_with("web\n"), "the same port");
    assert!(get(other).is_none(), "what was not permanent is gone");
    let listed = home.ok(&["port", "ls", "web"]);
    assert!(listed.contains("permanently") && !listed.contains(&format!(":{other} ")), "{listed}");
    home.ok(&["port", "rm", "web", "80", "--permanent"]);
    assert!(get(kept).is_none());
    drop(web);
    let web = home.start("web", &[], "");
    assert!(!home.ok(&["port", "ls", "web"]).contains("127.0.0.1"));
    drop(web);
}

#[test]
fn a_machine_behind_its_own_translator_changes_while_it_runs() {
    let home = Home::new("live");
    let web = home.start("web", &[], SERVER);
    // Nothing leads to it, and it is said what would.
    let (why, _, status) = home.run(&["net", "why", "198.51.100.1", "web:80"]);
    assert_eq!(status, Some(1));
    assert!(
        why.contains("no port of the host leads to port 80/tcp of web") && why.contains("visor port add web 80/tcp")
    );
    let port = port_of(&home.ok(&["port", "add", "web", ":80"]));
    assert!(get(port).unwrap().ends_with("web\n"));
    let list = home.ok(&["port", "ls", "web"]);
    assert!(list.contains(&format!("127.0.0.1:{port}")) && list.contains("10.0.2.15:80"), "{list}");
    // A port that is taken names its holder and another way.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let wish = format!("{}:80", taken.local_addr().unwrap().port());
    let (_, err, status) = home.run(&["port", "add", "web", &wish]);
    let holder = format!("(process {})", std::process::id());
    assert!(status == Some(125) && err.contains(&holder) && err.contains("visor port add web :80"), "{err}");
    // A translation shows while it is used.
    let mut open = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let table = until("no translation", || {
        let table = home.ok(&["net", "nat-table", "web"]);
        table
            .lines()
            .any(|l| l.contains("10.0.2.15:80") && l.contains(" in ") && l.contains("established"))
            .then_some(table)
    });
    assert!(table.starts_with("OF") && table.contains("web  tcp"), "{table}");
    assert!(home.ok(&["net", "nat-table", "--json"]).contains("\"remote\""));
    // A rule that refuses ends it, and keeps others out.
    home.ok(&["fw", "add", "web", "--service", "http", "--reject"]);
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(open.read(&mut [0; 10]).map_or(true, |n| n == 0), "the connection ends");
    assert!(get(port).is_none_or(|t| t.is_empty()), "refused");
    let (_, warned, _) = home.run(&["fw", "reload", "web"]);
    assert!(warned.contains("the reload drops `reject service http`"), "{warned}");
    assert!(get(port).unwrap().ends_with("web\n"), "in force again is what is permanent");
    // What passes is captured.
    let file = home.0.join("web.pcap");
    let capture = home.visor(&["net", "capture", "web", "-o", file.to_str().unwrap(), "--time", "600s"]).spawn();
    let mut capture = capture.unwrap();
    until("no capture", || (std::fs::metadata(&file).is_ok_and(|m| m.len() >= 24)).then_some(()));
    assert!(get(port).is_some());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(capture.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(capture.wait().unwrap().success());
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes[..4] == [0x4d, 0x3c, 0xb2, 0xa1] && bytes.windows(9).any(|w| w == b"GET /name"), "the request");
    dissected(&file, port);
    home.ok(&["port", "rm", "web", "80"]);
    assert!(get(port).is_none());
    let (_, err, status) = home.run(&["port", "rm", "web", "80"]);
    assert!(status == Some(125) && err.contains("is not forwarded"), "{err}");
    drop(web);
}

#[test]
fn permanent_rules_outlive_the_guest_and_a_reload_drops_the_others() {
    let home = Home::new("permanent");
    home.ok(&["net", "create", "lab", "--isolated"]);
    // Before the guest is there.
    home.ok(&["fw", "add", "web", "--service", "http", "--permanent"]);
    let client = home.start("client", &["--net", "lab"], "");
    let web = home.start("web", &["--net", "lab"], SERVER);
    let why = |port: &str, allowed: bool| {
        let (out, err, status) = home.run(&["net", "why", "client", &format!("web:{port}")]);
        assert_eq!(status, Some(i32::from(!allowed)), "{port}: {out}{err}");
    };
    why("80", true);
    why("22", false);
    home.ok(&["fw", "add", "web", "--service", "ssh"]);
    why("22", true);
    home.ok(&["fw", "add", "web", "--port", "9000-9010/udp", "--permanent"]);
    let listed = home.ok(&["fw", "ls", "web"]);
    for wanted in ["permanent  service http", "runtime    service ssh", "reload     port 9000-9010/udp"] {
        assert!(listed.contains(wanted), "{listed}");
    }
    let (_, told, _) = home.run(&["fw", "reload", "web", "--dry-run"]);
    assert!(told.contains("would drop `service ssh`") && told.contains("would add `port 9000-9010/udp`"), "{told}");
    why("22", true);
    home.ok(&["fw", "reload", "web"]);
    why("22", false);
    let (_, warned, _) = home.run(&["fw", "add", "web", "--service", "http"]);
    assert!(warned.contains("there already"), "{warned}");
    // The same name, the same address, the same rules in its next life.
    let address = |name: &str| {
        let list = home.ok(&["net", "ls"]);
        list.split(&format!("{name} (")).nth(1).and_then(|l| l.split(')').next()).map(str::to_owned)
    };
    let before = address("client").unwrap();
    drop((web, client));
    until("they are still there", || (address("web").is_none() && address("client").is_none()).then_some(()));
    let web = home.start("web", &["--net", "lab", "--fw-allow", "ssh"], "");
    let listed = home.ok(&["fw", "ls", "web"]);
    assert!(listed.contains("permanent  port 9000-9010/udp") && listed.contains("permanent  service ssh"), "{listed}");
    assert!(!before.is_empty());
    // What it was started with is not kept anywhere, so that it can only be taken away until the next start.
    let (_, warned, status) = home.run(&["fw", "rm", "web", "--service", "ssh", "--permanent"]);
    assert!(status == Some(0) && warned.contains("web was started with the rule `service ssh`"), "{warned}");
    let (_, told, _) = home.run(&["fw", "rm", "web", "--service", "http", "--permanent"]);
    assert!(!told.contains("warning"), "{told}");
    drop(web);
}

#[test]
fn rules_that_a_guest_was_started_with_are_stored_when_somebody_asks() {
    let home = Home::new("asked");
    home.ok(&["net", "create", "lab", "--isolated"]);
    let web = home.start("web", &["--net", "lab", "--fw-allow", "ssh"], "");
    // Then it is there without the option too, and goes for good.
    let (_, told, status) = home.run(&["fw", "add", "web", "--service", "ssh", "--permanent"]);
    assert!(status == Some(0) && !told.contains("there already"), "{told}");
    let gone = |home: &Home| {
        until("it is still there", || {
            let list = home.ok(&["net", "ls"]);
            (!list.contains("web (")).then_some(())
        });
    };
    drop(web);
    gone(&home);
    let web = home.start("web", &["--net", "lab"], "");
    let listed = home.ok(&["fw", "ls", "web"]);
    assert!(listed.contains("permanent  service ssh"), "{listed}");
    home.ok(&["fw", "rm", "web", "--service", "ssh", "--permanent"]);
    drop(web);
    gone(&home);
    let web = home.start("web", &["--net", "lab", "--fw-allow", "imap"], "");
    // What is in force becomes permanent, and what was only given goes with the guest all the same.
    home.ok(&["fw", "add", "web", "--service", "smtp"]);
    home.ok(&["fw", "runtime-to-permanent", "web"]);
    drop(web);
    gone(&home);
    let web = home.start("web", &["--net", "lab"], "");
    let listed = home.ok(&["fw", "ls", "web"]);
    assert!(listed.contains("permanent  service smtp"), "{listed}");
    assert!(!listed.contains("service imap") && !listed.contains("service ssh"), "{listed}");
    drop(web);
}

#[test]
fn security_groups_open_what_the_guests_know_nothing_of() {
    let home = Home::new("groups");
    home.ok(&["net", "create", "lab", "--isolated"]);
    let db = home.start("db", &["--net", "lab"], SERVER);
    // Asks again and again, so that what changes shows.
    // What the firewall does not let pass gets no answer.
    let ask = "while :; do if curl -sS -m 5 -o /tmp/got http://db/name 2>/dev/null; then echo got $(cat /tmp/got); \
               else echo refused; fi; sleep 0.5; done &";
    let one = home.start("one", &["--net", "lab"], ask);
    one.says("refused");
    for group in ["db", "web"] {
        home.ok(&["sg", "create", group]);
    }
    home.ok(&["sg", "allow", "db", "--service", "http", "--source", "@web"]);
    home.ok(&["sg", "attach", "db", "db"]);
    one.says("refused");
    let (why, _, status) = home.run(&["net", "why", "one", "db:80"]);
    assert!(status == Some(1) && why.contains("no rule of db or of its security groups allows port 80/tcp"), "{why}");
    home.ok(&["sg", "attach", "web", "one"]);
    one.says("got db");
    let why = home.ok(&["net", "why", "one", "db:80"]);
    assert!(why.contains("rule `service http from @web` of the security group db"), "{why}");
    let listed = home.ok(&["sg", "ls"]);
    assert!(listed.contains("service http from @web"), "{listed}");
    let (_, err, status) = home.run(&["sg", "rm", "web"]);
    assert!(status == Some(125) && err.contains("visor sg detach web one"), "{err}");
    home.ok(&["sg", "detach", "web", "one"]);
    one.says("refused");
    let (_, err, _) = home.run(&["sg", "attach", "wbe", "one"]);
    assert!(err.contains("did you mean `web`?"), "{err}");
    drop((one, db));
    std::thread::sleep(Duration::from_millis(10));
}
