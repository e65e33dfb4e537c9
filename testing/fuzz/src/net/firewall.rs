//! Rules, and frames that they are applied to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use visor_firewall::{Address, Guest, HOME, Policy, PortFilter, Reach, Rule, RuleSet};
use visor_net::{Direction, FrameFilter};
use visor_network::ForwardSpec;

use super::frames;
use crate::{Input, Script};

/// As a user writes rules and forwarded ports, as they are stored, and written back.
pub(super) fn run_rules(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        for line in text.lines().take(64) {
            if let Ok(rule) = line.parse::<Rule>() {
                assert_eq!(rule.to_string().parse::<Rule>().ok().as_ref(), Some(&rule), "`{line}`");
            }
            if let Ok(forward) = line.parse::<ForwardSpec>() {
                let _ = forward.to_string();
            }
        }
    }
    if let Ok(rules) = serde_json::from_slice::<RuleSet>(data) {
        let back = serde_json::to_vec(&rules).expect("rules can be written");
        assert_eq!(serde_json::from_slice::<RuleSet>(&back).ok(), Some(rules));
    }
}

const RULES: &[&str] = &[
    "service http",
    "port 8080/tcp from 10.0.0.0/8",
    "port 5000-5010/udp",
    "source @web",
    "ping",
    "reject ping",
    "drop port 22/tcp from fd00::/8",
    "all",
    "service ssh from 192.0.2.7",
];

pub(super) fn rule_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> = RULES.iter().map(|r| r.as_bytes().to_vec()).collect();
    seeds.push(b"8080:80\n127.0.0.1:53:53/udp\n[::1]:0:80\n:22\n".to_vec());
    let rules = RuleSet { inbound: RULES.iter().filter_map(|r| r.parse().ok()).collect(), outbound: vec![] };
    seeds.push(serde_json::to_vec(&rules).unwrap_or_default());
    seeds
}

pub(super) fn run_filter(data: &[u8]) {
    let policy = Policy::new(Reach::Direct);
    let mut guest = Guest::default();
    guest.addresses.insert(Address { vlan: HOME, ip: frames::GUEST.into() });
    let rules = RULES.iter().filter_map(|r| r.parse().ok());
    rules.for_each(|r| _ = guest.firewall.add(visor_firewall::Scope::Runtime, Direction::Inbound, r));
    policy.set_guest("web", guest);
    let now = Arc::new(AtomicU64::new(0));
    let clock = now.clone();
    let mut filter =
        PortFilter::with_clock(policy, "web", move || Duration::from_millis(clock.load(Ordering::Relaxed)));
    let mut input = Input::new(data);
    while !input.is_empty() {
        let way = if input.u8() & 1 == 0 { Direction::Outbound } else { Direction::Inbound };
        now.fetch_add(input.u16().into(), Ordering::Relaxed);
        let frame = input.bytes();
        if !filter.pass(way, frame)
            && let Some(answer) = filter.answer()
        {
            assert!(answer.len() <= frame.len() + 128, "{} bytes of answer to {}", answer.len(), frame.len());
        }
    }
    let _ = (filter.refused(), filter.connections());
}

pub(super) fn filter_seeds() -> Vec<Vec<u8>> {
    let echo6 = frames::in_ip6(58, frames::GUEST6, [0x20; 16], vec![128, 0, 0, 0, 0, 1, 0, 1], 2);
    let inner = frames::ip4(17, frames::GUEST, frames::OUTSIDE, &frames::datagram(40000, 9, b"x"));
    let unreachable = frames::in_ip4(1, frames::GUEST, [&[3, 3, 0, 0, 0, 0, 0, 0], &inner[..]].concat(), 2);
    let all = [
        frames::udp(b"x"),
        frames::tcp(b"data"),
        frames::echo(frames::OUTSIDE, b"x"),
        frames::arp([10, 0, 2, 2]),
        echo6,
        unreachable,
    ];
    let mut seeds: Vec<_> =
        all.iter().map(|f| Script::new().raw(&[0, 1, 0]).bytes(f).raw(&[1, 1, 0]).bytes(f).end()).collect();
    seeds.push(all.iter().fold(Script::new(), |s, f| s.raw(&[0, 1, 0]).bytes(f)).end());
    seeds
}
