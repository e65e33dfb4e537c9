//! Modes of networks: host-only, internal, on a bridge of the host, and VLANs. What needs privileges runs in a namespace of the
//! test's own.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/lab.rs"]
mod lab;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/world.rs"]
mod world;

use common::{run_outside, stdout};
use lab::{Home, until};
use netns::{inside, sh};

const SERVER: &str = "mkdir -p /tmp/www; hostname > /tmp/www/name; httpd -p 80 -h /tmp/www";

/// A guest's script that gives it an address which nobody hands out. The DHCP client may come up only after the first attempt to stop
/// it, and would take the address away.
fn address(a: &str) -> String {
    format!(
        "systemctl stop dhcp@eth0.service; sleep 3; systemctl stop dhcp@eth0.service; ip addr flush dev eth0; \
         ip link set eth0 up; ip addr add {a}/24 dev eth0;"
    )
}

#[test]
fn a_host_only_network_is_the_guests_and_the_hosts_alone() {
    let name = "a_host_only_network_is_the_guests_and_the_hosts_alone";
    drop(Home::new("image"));
    inside(name, || {
        let home = Home::new("hostonly");
        let (_, told, _) = home.run(&["net", "create", "closed", "--mode", "host-only", "--subnet", "10.0.90.0/24"]);
        assert!(told.contains("the host is 10.0.90.1 by its interface visor0"), "{told}");
        let script = format!(
            "{SERVER}; ping -c 1 -W 20 10.0.90.1 | grep -o '1 packets received'; wget -q -O - http://{} 2>&1 | tail -1;
             nslookup world.test | grep -o NXDOMAIN",
            netns::WORLD4
        );
        let guest = home.start("web", &["--net", "closed"], &script);
        for wanted in ["1 packets received", "NXDOMAIN"] {
            assert!(guest.before.contains(wanted), "{}", guest.before);
        }
        assert!(guest.before.contains("can't connect to remote host"), "{}", guest.before);
        let got = run_outside("curl", &["-sS", "-m", "60", "http://10.0.90.3/name"]);
        assert_eq!(stdout(&got), "web\n");
        // Another network's guest is not reached, nor the world by this one.
        let why = home.run(&["net", "why", "web", &format!("{}:80", netns::WORLD4)]);
        assert!(why.2 == Some(1) && why.0.contains("this network has no way out"), "{}", why.0);
        assert!(home.ok(&["net", "ls"]).contains("the host is 10.0.90.1 by its interface visor0"));
        drop(guest);
        home.ok(&["net", "rm", "--force", "closed"]);
        until("the interface stays", || {
            (!run_outside("ip", &["link", "show", "visor0"]).status.success()).then_some(())
        });
    });
}

#[test]
fn the_hosts_user_gets_in_by_a_shell() {
    drop(Home::new("image"));
    inside("the_hosts_user_gets_in_by_a_shell", || {
        let home = Home::new("shell");
        home.ok(&["net", "create", "lab", "--subnet", "10.0.91.0/24"]);
        let world = world::serve(netns::WORLD4);
        let guest = home.start("web", &["--net", "lab"], SERVER);
        let other = home.start("other", &["--net", "lab"], "");
        let inside = |command: &[&str]| home.run(&[&["net", "shell", "lab", "--"], command].concat());
        assert_eq!(inside(&["curl", "-sS", "-m", "60", "http://web/name"]).0, "web\n");
        let (out, err, _) =
            inside(&["sh", "-c", "ping -c 1 -W 60 10.0.91.3 | grep -o '1 received'; echo $VISOR_NET; exit 7"]);
        assert_eq!(out, "1 received\nlab\n", "{err}");
        assert_eq!(inside(&["sh", "-c", "exit 7"]).2, Some(7));
        // The same where /dev/net/tun is no tap device: as on systems that keep it from their users.
        let shell = home.visor(&["net", "shell", "lab", "--", "curl", "-sS", "-m", "60", "http://web/name"]);
        let hidden = "mount --bind /dev/null /dev/net/tun && exec \"$@\"";
        let mut without = std::process::Command::new("unshare");
        without.args(["--mount", "sh", "-ec", hidden, "sh"]).arg(shell.get_program()).args(shell.get_args());
        without.envs(shell.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let out = without.output().unwrap();
        assert_eq!(common::stdout(&out), "web\n", "{}", common::stderr(&out));
        // The way out is the guests', however many they are.
        let url = format!("http://{}:{world}/", netns::WORLD4);
        assert_eq!(inside(&["curl", "-sS", "-m", "60", &url]).0, "hello from the host\n");
        // The host itself is outside.
        assert!(!run_outside("curl", &["-sS", "-m", "2", "http://10.0.91.3/name"]).status.success());
        home.ok(&["net", "create", "alone", "--mode", "internal"]);
        let (_, err, status) = home.run(&["net", "shell", "alone", "--", "true"]);
        assert!(status == Some(125) && err.contains("this network has no place for the host"), "{err}");
        drop((guest, other));
    });
}

#[test]
fn guests_stand_on_a_bridge_of_the_host_with_their_vlans() {
    drop(Home::new("image"));
    inside("guests_stand_on_a_bridge_of_the_host_with_their_vlans", || {
        let home = Home::new("bridge");
        let (_, err, status) = home.run(&["net", "create", "lan", "--mode", "bridge", "--bridge", "br7"]);
        assert!(status == Some(125) && err.contains("br7"), "{err}");
        assert!(!home.ok(&["net", "ls"]).contains("lan"));
        sh("ip link add br7 type bridge; ip addr add 192.0.2.1/24 dev br7; ip link set br7 up");
        for network in ["lan", "other"] {
            home.ok(&["net", "create", network, "--mode", "bridge", "--bridge", "br7"]);
        }
        let plain = format!("{} {SERVER}", address("192.0.2.7"));
        let plain = home.start("plain", &["--net", "lan", "--fw-allow", "http"], &plain);
        let url = "http://192.0.2.7/name";
        until(url, || (stdout(&run_outside("curl", &["-sS", "-m", "5", url])) == "plain\n").then_some(()));
        // VLAN 10 crosses the host's bridge with its tag, and only VLAN 10 sees it.
        let tagged = format!("{} {SERVER}", address("192.0.10.7"));
        let tagged = home.start("tagged", &["--net", "lan", "--vlan", "10", "--fw-allow", "http"], &tagged);
        let asks = format!("{} curl -sS -m 100 http://192.0.10.7/name", address("192.0.10.8"));
        let same = home.start("same", &["--net", "other", "--vlan", "10"], &asks);
        assert_eq!(same.before, "tagged\n");
        drop(same);
        let list = home.ok(&["net", "ls"]);
        assert!(list.contains("on the host's bridge br7") && list.contains("tagged (VLAN 10)"), "{list}");
        // Closed but for what is allowed.
        assert!(!run_outside("ping", &["-c", "1", "-W", "2", "192.0.2.7"]).status.success());
        drop((plain, tagged));
    });
}

#[test]
fn vlans_separate_guests_and_a_trunk_sees_their_tags() {
    let home = Home::new("vlans");
    home.ok(&["net", "create", "lan", "--mode", "internal"]);
    // The same address in two VLANs is two guests' own.
    let server = format!("{} {SERVER}", address("10.10.0.1"));
    let ten = format!("{server}; ip addr add 10.10.0.9/24 dev eth0");
    let ten = home.start("ten", &["--net", "lan", "--vlan", "10"], &ten);
    let other = home.start("other", &["--net", "lan", "--vlan", "20"], &server);
    let both = "curl -sS -m 100 http://10.10.0.1/name; curl -s -m 5 http://10.10.0.9/name || echo unreachable";
    let peer = home.start("peer", &["--net", "lan", "--vlan", "20"], &format!("{} {both}", address("10.10.0.2")));
    assert_eq!(peer.before, "other\nunreachable\n", "the neighbour of its own VLAN, and nobody else");
    drop(peer);
    let file = home.0.join("trunk.pcap");
    let options = ["--net", "lan", "--trunk", "10,20", "--capture", file.to_str().unwrap()];
    let script = "systemctl stop dhcp@eth0.service; ip link set eth0 up
        modprobe 8021q
        for v in 10 20; do ip link add link eth0 name eth0.$v type vlan id $v; ip link set eth0.$v up; done
        # Each has a DHCP client by now, which takes addresses away that are not its own.
        sleep 2; for v in 10 20; do systemctl stop dhcp@eth0.$v.service; ip link set eth0.$v up; done
        ip addr add 10.10.0.3/24 dev eth0.10; curl -sS -m 100 http://10.10.0.1/name; ip addr del 10.10.0.3/24 dev eth0.10
        ip addr add 10.10.0.3/24 dev eth0.20; curl -sS -m 100 http://10.10.0.1/name; echo end";
    let trunk = home.start("trunk", &options, script);
    assert_eq!(trunk.before, "ten\nother\nend\n");
    drop(trunk);
    let bytes = std::fs::read(&file).unwrap();
    for vlan in [10, 20] {
        assert!(bytes.windows(6).any(|w| w == [0x81, 0, 0, vlan, 8, 0]), "no frame of VLAN {vlan}");
    }
    let list = home.ok(&["net", "ls"]);
    assert!(list.contains("ten (VLAN 10)") && list.contains("other (VLAN 20)"), "{list}");
    drop((ten, other));
}
