//! Tests inside a network of their own: a user, network and mount namespace that the test makes itself, with addresses on its
//! loopback that are none of the guest's, and a resolver's configuration. Nothing of it reaches the host.
#![allow(dead_code, reason = "every test file uses its part")]

use std::process::Command;

/// Set for the process inside.
const INSIDE: &str = "VISOR_TEST_NAMESPACE";

/// Addresses of the namespace's loopback that stand for the world.
pub(crate) const WORLD4: &str = "198.51.100.1";
pub(crate) const WORLD6: &str = "2001:db8::1";

/// Runs `body` in a namespace: this test again, as a process of its own. `name` is the test's name.
pub(crate) fn inside(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        prepare();
        return body();
    }
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed inside its namespace (it needs user namespaces)");
}

/// Runs a command of the host, which must succeed.
pub(crate) fn sh(script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn prepare() {
    let resolver = crate::common::file("resolv.conf", format!("nameserver {WORLD4}\n").as_bytes());
    sh(&format!(
        "ip link set lo up
         ip addr add {WORLD4}/32 dev lo
         ip -6 addr add {WORLD6}/128 dev lo nodad
         echo 0 0 > /proc/sys/net/ipv4/ping_group_range
         mount --bind {} $(readlink -f /etc/resolv.conf)",
        resolver.display()
    ));
}
