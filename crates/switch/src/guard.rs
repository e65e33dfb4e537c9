//! What a port may say about itself: its source addresses, and whether it may hand out addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use visor_net::MacAddr;
use visor_net::headers::{self, Headers, UDP};
use visor_net::whole::ICMPV6;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

/// The checks of a port. The default lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Guard {
    /// The only Ethernet source address.
    pub mac: Option<MacAddr>,
    /// The only IP source addresses of their family; any of a family that has none here. The unspecified address and IPv6
    /// link-local ones pass as well, since autoconfiguration needs them.
    pub ips: Vec<IpAddr>,
    /// The port must not answer for DHCP servers and IPv6 routers.
    pub no_servers: bool,
}

impl Guard {
    /// Why `frame` must not come in, or `None` if it may.
    pub(crate) fn objection(&self, frame: &[u8]) -> Option<&'static str> {
        let Some(source) = frame.get(6..12).and_then(|s| s.first_chunk()).map(|s| MacAddr(*s)) else {
            return Some("cut short");
        };
        if source.is_multicast() {
            return Some("group address as source");
        }
        if self.mac.is_some_and(|m| m != source) {
            return Some("foreign Ethernet address");
        }
        if self.mac.is_none() && self.ips.is_empty() && !self.no_servers {
            return None;
        }
        let Some((kind, at)) = headers::ethertype(frame) else { return Some("too many VLAN tags") };
        match kind {
            ARP => self.arp(source, frame.get(at..).unwrap_or_default()),
            IPV4 | IPV6 => self.ip(frame),
            _ => None,
        }
    }

    fn ip(&self, frame: &[u8]) -> Option<&'static str> {
        let Some(h) = Headers::parse(frame) else { return Some("broken IP header") };
        if !source_address(&h, frame).is_some_and(|a| self.allows(a)) {
            return Some("foreign IP address");
        }
        (self.no_servers && serves(&h, frame)).then_some("answer of a DHCP server or router")
    }

    /// RFC 826: sender's hardware address at 8, protocol address at 14.
    fn arp(&self, source: MacAddr, packet: &[u8]) -> Option<&'static str> {
        if packet.len() < 28 || packet[..6] != [0, 1, 8, 0, 6, 4] {
            return Some("ARP of another kind");
        }
        if self.mac.is_some() && packet[8..14] != source.0 {
            return Some("ARP for a foreign Ethernet address");
        }
        let address = [packet[14], packet[15], packet[16], packet[17]];
        (!self.allows(IpAddr::from(address))).then_some("ARP for a foreign IP address")
    }

    fn allows(&self, address: IpAddr) -> bool {
        let own = match address {
            IpAddr::V4(a) => a == Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(a) => a == Ipv6Addr::UNSPECIFIED || a.is_unicast_link_local(),
        };
        own || self.ips.contains(&address) || !self.ips.iter().any(|i| i.is_ipv4() == address.is_ipv4())
    }
}

fn source_address(h: &Headers, frame: &[u8]) -> Option<IpAddr> {
    let addresses = h.addresses(frame);
    if h.v6 {
        addresses.first_chunk::<16>().map(|a| IpAddr::from(*a))
    } else {
        addresses.first_chunk::<4>().map(|a| IpAddr::from(*a))
    }
}

fn serves(h: &Headers, frame: &[u8]) -> bool {
    if h.protocol == ICMPV6 && h.v6 && !h.fragment {
        return frame.get(h.transport).is_some_and(|t| matches!(*t, ROUTER_ADVERTISEMENT | REDIRECT));
    }
    // A later fragment cannot be judged; the first one has been.
    h.protocol == UDP && h.ports(frame).is_some_and(|(from, _)| matches!(from, DHCP_SERVER | DHCPV6_SERVER))
}
