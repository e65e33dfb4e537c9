//! Malformed frames of every protocol, from guests and from outside; what other processes say on cables.

mod cable;
mod firewall;
pub(crate) mod frames;
mod host;
mod nat;
mod requests;
mod switch;

use crate::Target;

/// The networks.
pub(crate) const TARGETS: &[Target] = &[
    Target::new("nat", "the translator: frames of guests, and what the world answers", nat::run, nat::seeds)
        .inputs(3000)
        .heap(64 << 20),
    Target::new("nat-fixed", "the same, with lengths and checksums put right", nat::run_fixed, nat::seeds)
        .inputs(3000)
        .heap(64 << 20),
    Target::new("dns-outside", "answers of resolvers to the translator", nat::run_dns, nat::dns_seeds),
    Target::new("switch", "frames in a switch with VLANs and source checks", switch::run, switch::seeds),
    Target::new("port-filter", "frames before a guest's firewall", firewall::run_filter, firewall::filter_seeds),
    Target::new("firewall-rules", "rules as text and as stored", firewall::run_rules, firewall::rule_seeds),
    Target::new("headers", "header parsing and segmentation of single frames", switch::run_headers, switch::seeds),
    Target::new("cable", "messages on a cable to another process", cable::run, cable::seeds),
    Target::new(
        "network-requests",
        "requests to a network's process and to a guest's network",
        requests::run,
        requests::seeds,
    ),
];
