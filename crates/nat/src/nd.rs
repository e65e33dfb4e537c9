//! Neighbour discovery (RFC 4861): who has the router's addresses, and which network guests make their addresses in (RFC 4862).

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use visor_net::MacAddr;

use crate::Time;
use crate::core::Core;
use crate::host::Host;
use crate::wire::emit::{Route, icmp_frame};
use crate::wire::ip::Packet;
use crate::wire::v6;

/// All nodes of the link, and the Ethernet address for them (RFC 2464 §7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
/// How long what an advertisement says is valid, in seconds, and how often it is repeated: guests that nobody tells forget.
const LIFETIME: u16 = 9000;
const INTERVAL: Duration = Duration::from_secs(1800);

/// When the next unasked advertisement is due. Nothing is sent before a guest has asked the first time.
#[derive(Default)]
pub(crate) struct Advertiser {
    pub(crate) next: Option<Time>,
}

impl Advertiser {
    /// Repeats the advertisement when it is time.
    pub(crate) fn timers<H: Host>(&mut self, core: &mut Core<H>) {
        if self.next.is_some_and(|t| t <= core.now) {
            advertise(core, ALL_NODES, ALL_NODES_MAC);
            self.next = Some(core.now + INTERVAL);
        }
    }

    /// A message of neighbour discovery. Its hop limit must prove that it comes from the link.
    pub(crate) fn input<H: Host>(&mut self, core: &mut Core<H>, mac: MacAddr, packet: &Packet<'_>) {
        let data = packet.payload;
        if packet.hops != 255 || data.get(1) != Some(&0) {
            core.counters.malformed += 1;
            return;
        }
        match data[0] {
            133 => {
                let unspecified = packet.source == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
                match packet.source {
                    IpAddr::V6(ip) if !unspecified => advertise(core, ip, mac),
                    _ => advertise(core, ALL_NODES, ALL_NODES_MAC),
                }
                self.next = Some(core.now + INTERVAL);
            }
            135 => solicited(core, mac, packet),
            // Advertisements and redirects of guests are their own affair: addresses are learned from what guests send.
            _ => {}
        }
    }
}

/// Somebody asks who has an address.
fn solicited<H: Host>(core: &mut Core<H>, mac: MacAddr, packet: &Packet<'_>) {
    let Some(target) = v6(packet.payload, 8) else {
        core.counters.malformed += 1;
        return;
    };
    if !core.config.is_own(target.into()) {
        return;
    }
    let mut message = vec![136, 0, 0, 0];
    // Router, solicited, override (RFC 4861 §4.4); who checks for duplicates has no address to be answered at.
    let (to, to_mac, flags) = match packet.source {
        IpAddr::V6(ip) if ip != Ipv6Addr::UNSPECIFIED => (ip, mac, 0xe0),
        _ => (ALL_NODES, ALL_NODES_MAC, 0xa0),
    };
    message.extend([flags, 0, 0, 0]);
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(core.config.mac.0);
    let route = Route { from_mac: core.config.mac, to_mac };
    core.reply(icmp_frame(&message, target.into(), to.into(), route));
}

/// Sends a router advertisement.
fn advertise<H: Host>(core: &mut Core<H>, to: Ipv6Addr, to_mac: MacAddr) {
    let (Some(prefix), Some(dns)) = (core.config.address6(0), core.config.dns6()) else { return };
    let seconds = u32::from(LIFETIME).to_be_bytes();
    let mut m = vec![134, 0, 0, 0];
    // Hop limit 64; other configuration (resolver) by DHCPv6.
    m.extend([64, 0x40]);
    // A router of lifetime 0 is no default router (RFC 4861 §4.2).
    m.extend(if core.config.closed { 0 } else { LIFETIME }.to_be_bytes());
    m.extend([0; 8]);
    // Source link-layer address.
    m.extend([1, 1]);
    m.extend(core.config.mac.0);
    // MTU.
    m.extend([5, 1, 0, 0]);
    m.extend(u32::from(core.config.mtu).to_be_bytes());
    // Prefix: on the link, for stateless configuration.
    m.extend([3, 4, 64, 0xc0]);
    m.extend(seconds);
    m.extend(seconds);
    m.extend([0; 4]);
    m.extend(prefix.octets());
    // Resolver (RFC 8106 §5.1).
    m.extend([25, 3, 0, 0]);
    m.extend(seconds);
    m.extend(dns.octets());
    let route = Route { from_mac: core.config.mac, to_mac };
    let from = core.config.link_local();
    core.reply(icmp_frame(&m, from.into(), to.into(), route));
}
