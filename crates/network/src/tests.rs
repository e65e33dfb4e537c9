use std::net::{Ipv6Addr, TcpListener};

use visor_net::{Direction, Frame, MacAddr, NetPort, Network, Protocol, Sent};

use crate::*;

fn forward(text: &str) -> (Protocol, String, u16) {
    let f: ForwardSpec = text.parse().unwrap();
    (f.protocol, f.bind.to_string(), f.port)
}

#[test]
fn forwards_are_written_as_people_do() {
    assert_eq!(forward("8080:80"), (Protocol::Tcp, "127.0.0.1:8080".into(), 80));
    assert_eq!(forward("80"), (Protocol::Tcp, "127.0.0.1:0".into(), 80));
    assert_eq!(forward(":80"), (Protocol::Tcp, "127.0.0.1:0".into(), 80));
    assert_eq!(forward("0:80/udp"), (Protocol::Udp, "127.0.0.1:0".into(), 80));
    assert_eq!(forward("0.0.0.0:5353:53/udp"), (Protocol::Udp, "0.0.0.0:5353".into(), 53));
    assert_eq!(forward("[::1]:8080:80/tcp"), (Protocol::Tcp, "[::1]:8080".into(), 80));
    assert_eq!(forward("[::1]:80").1, "[::1]:0");
    assert_eq!(forward("localhost::80").1, "127.0.0.1:0");
    for text in ["127.0.0.1:8080:80/tcp", "[::1]:0:53/udp"] {
        assert_eq!(text.parse::<ForwardSpec>().unwrap().to_string(), text);
    }
    for bad in ["", "80/sctp", "0", "8080:0", "x:80", "70000:80", "1.2.3:8080:80", "+1:80", "-1:80", "8080:80:"] {
        assert!(bad.parse::<ForwardSpec>().is_err(), "{bad}");
    }
}

#[test]
fn a_taken_port_names_its_holder() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let forwards = vec![ForwardSpec { protocol: Protocol::Tcp, bind: at, port: 80 }];
    let spec = NatSpec { guest: "vm".into(), forwards, ..NatSpec::default() };
    let Err(NetworkError::Taken { holder: Some(holder), .. }) = NatNetwork::open(spec) else { panic!("not taken") };
    assert_eq!(holder.pid, std::process::id());
    assert_eq!(port_holder(Protocol::Tcp, (Ipv6Addr::LOCALHOST, 1).into()), None);
}

#[test]
fn forwards_and_rules_change_while_it_lives() {
    let net = NatNetwork::open(NatSpec { guest: "vm".into(), ..NatSpec::default() }).unwrap();
    let guest = "10.0.2.15:80".parse().unwrap();
    let outside = "198.51.100.1".parse().unwrap();
    let why = || net.why(Protocol::Tcp, outside, guest);
    assert_eq!(why().command.unwrap(), "visor port add vm 80/tcp");
    let status = net.add_forward("80".parse().unwrap()).unwrap();
    assert!(status.bind.port() > 0 && status.guest == guest && why().allowed);
    assert_eq!(net.forwards(), [status]);
    let again = net.add_forward(ForwardSpec { protocol: Protocol::Tcp, bind: status.bind, port: 81 });
    assert!(matches!(again, Err(NetworkError::Taken { .. })));
    net.remove_forward(Protocol::Tcp, 80).unwrap();
    assert!(net.remove_forward(Protocol::Tcp, 80).is_err() && !why().allowed && net.forwards().is_empty());
    let rule = "service http".parse().unwrap();
    assert!(net.change_rule(visor_firewall::Scope::Runtime, Direction::Inbound, &rule, true) && !why().allowed);
    assert!(why().because.contains("but no port of the host leads to port 80/tcp of vm"), "{}", why().because);
    assert_eq!(net.reload(true).dropped, [rule]);
    net.reload(false);
    assert!(!why().allowed && net.firewall().runtime().inbound.is_empty());
}

#[test]
fn what_a_guest_was_started_with_is_stored_only_when_somebody_asks() {
    use visor_firewall::{Rule, RuleSet, Scope};
    let root = std::env::temp_dir().join(format!("visor-network-rules-{}", std::process::id()));
    let store = Store::new(&root);
    let rule = |text: &str| text.parse::<Rule>().unwrap();
    let set = |texts: &[&str]| RuleSet { inbound: texts.iter().map(|t| rule(t)).collect(), ..RuleSet::default() };
    let given = set(&["service http", "service ssh"]);
    let spec = NatSpec { guest: "web".into(), rules: given, store: Some(store.clone()), ..NatSpec::default() };
    let net = NatNetwork::open(spec).unwrap();
    let change = |scope, text: &str, add| {
        let direction = Direction::Inbound;
        net.request(&GuestRequest::ChangeRule { scope, direction, rule: rule(text), add }).unwrap() == true
    };
    let stored = || store.rules("web").inbound;
    assert!(change(Scope::Permanent, "service http", true), "that it is given is not enough");
    assert!(!change(Scope::Permanent, "service http", true) && stored() == set(&["service http"]).inbound);
    // A change of another rule leaves it.
    assert!(change(Scope::Permanent, "port 9000/udp", true) && change(Scope::Permanent, "port 9000/udp", false));
    assert_eq!(stored(), set(&["service http"]).inbound);
    // What is in force becomes permanent: of what was given, only what was stored already is stored.
    assert!(change(Scope::Runtime, "service smtp", true));
    net.request(&GuestRequest::RuntimeToPermanent).unwrap();
    assert_eq!(stored(), set(&["service http", "service smtp"]).inbound);
    let permanent = net.firewall().permanent().inbound.clone();
    assert_eq!(permanent, set(&["service http", "service ssh", "service smtp"]).inbound);
    // Removed, it is removed from both.
    assert!(change(Scope::Permanent, "service http", false) && stored() == set(&["service smtp"]).inbound);
    assert!(change(Scope::Permanent, "service ssh", false) && !change(Scope::Permanent, "service ssh", false));
    assert_eq!(net.firewall().permanent().inbound, set(&["service smtp"]).inbound);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn one_device_is_plugged_in_and_captured() {
    let net = NatNetwork::open(NatSpec { guest: "vm".into(), ..NatSpec::default() }).unwrap();
    let mac = random_mac();
    assert!(!mac.is_multicast() && mac != random_mac());
    let mut port = net.plug("vm", mac).unwrap();
    assert!(net.plug("vm", mac).is_err());
    let path = std::env::temp_dir().join(format!("visor-network-{}.pcap", std::process::id()));
    net.start_capture(&path).unwrap();
    // Who has 10.0.2.2?
    let mut arp = [&MacAddr::BROADCAST.0[..], &mac.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac.0].concat();
    arp.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
    arp.resize(60, 0);
    assert_eq!(port.send(Frame::plain(&arp)), Sent::Yes);
    let mut answers = Vec::new();
    port.receive(&mut |f: Frame<'_>| {
        answers.push(f.data.to_vec());
        Sent::Yes
    });
    assert!(answers.iter().any(|a| a[12..14] == [8, 6] && a[20..22] == [0, 2]), "{answers:?}");
    let packets = net.stop_capture().unwrap().unwrap();
    assert_eq!(packets, 1 + answers.len() as u64);
    assert!(std::fs::metadata(&path).unwrap().len() > 24 + 2 * 16);
    std::fs::remove_file(path).unwrap();
}
