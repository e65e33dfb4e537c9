//! Connections that have to wait: a machine that is paused, a reader that is slow, and devices with several queues.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/world.rs"]
mod world;

use std::time::Duration;

use lab::{Home, until};
use world::{BIG, big, serve, sha256};

/// Payload bytes that have been sent to the guest, of all its translations.
fn received(home: &Home, name: &str) -> u64 {
    let table = home.ok(&["net", "nat-table", name, "--json"]);
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    table.as_array().unwrap().iter().map(|row| row["translation"]["received"].as_u64().unwrap()).sum()
}

#[test]
fn a_download_survives_a_pause_and_slow_readers_on_both_sides() {
    let home = Home::new("hold");
    let port = serve("127.0.0.1");
    let at = format!("http://10.0.2.2:{port}");
    let script = format!(
        "(curl -sS -m 250 -o /tmp/paced {at}/paced; echo paced $(sha256sum < /tmp/paced)) &
         (curl -sS -m 250 --limit-rate 4M {at}/big | tee /tmp/slow | sha256sum | sed 's/^/slow /';
          curl -sS -m 250 -T /tmp/slow {at}/up/slowly | sed 's/^/up /'; echo all) &"
    );
    let web = home.start("web", &["--allow-host-loopback"], &script);
    // Under way, and far from its end.
    until("nothing is downloaded", || (received(&home, "web") > 1 << 20).then_some(()));
    home.ok(&["pause", "web"]);
    let before = received(&home, "web");
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(received(&home, "web"), before, "a paused guest gets nothing");
    assert!(before < 2 * BIG as u64, "all was there before the pause");
    home.ok(&["resume", "web"]);
    let (mut said, sum) = (web.before.clone(), sha256(&big()));
    for wanted in [format!("paced {sum}"), format!("slow {sum}"), format!("up {BIG} {sum}")] {
        while !said.contains(&wanted) {
            said += &web.line();
        }
    }
}

#[test]
fn four_queues_of_four_cpus_carry_the_same_bytes() {
    let home = Home::new("queues");
    let port = serve("127.0.0.1");
    let sum = sha256(&big());
    let at = format!("http://10.0.2.2:{port}");
    let get = "for i in 1 2 3 4; do (curl -sS -m 250 AT/big | sha256sum) & done; wait;".replace("AT", &at);
    let put = format!("curl -sS -m 250 -o /tmp/f {at}/big; curl -sS -m 250 -T /tmp/f {at}/up;");
    let queues = "ls -d /sys/class/net/eth0/queues/rx-* | wc -l; grep -c 'virtio.*-input.3' /proc/interrupts;";
    let options = ["--cpus", "4", "--allow-host-loopback"];
    let four = home.start("four", &options, &format!("{queues} {get} {put}"));
    assert!(four.before.starts_with("4\n1\n"), "{}", four.before);
    assert_eq!(four.before.matches(&sum).count(), 5, "{}", four.before);
}
