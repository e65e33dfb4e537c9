//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo answered for the engine's own addresses, errors reported to guests.

use std::net::IpAddr;

use visor_net::MacAddr;

use crate::core::Core;
use crate::host::{Host, Undelivered};
use crate::wire::emit::{Route, icmp_frame};
use crate::wire::ip::Packet;
use crate::wire::{self};

/// Echo request and reply.
pub(crate) const ECHO: (u8, u8) = (8, 0);
pub(crate) const ECHO6: (u8, u8) = (128, 129);
/// Bytes of a packet that an error quotes (RFC 1812 §4.3.2.3, RFC 4443 §2.4 c).
const QUOTE: usize = 548;

/// The packet that an error is about, when it is no longer at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    /// First bytes behind its IP header: ports, and of TCP the sequence number.
    pub(crate) head: [u8; 8],
}

/// Reports to a guest what became of a packet it sent earlier.
pub(crate) fn report<H: Host>(core: &mut Core<H>, mac: MacAddr, about: &About, why: Undelivered) {
    let mut buffer = [0; wire::emit::HEADROOM + 8];
    let at = wire::emit::HEADROOM;
    buffer[at..].copy_from_slice(&about.head);
    let route = Route { from_mac: MacAddr::default(), to_mac: MacAddr::default() };
    let start = wire::emit::ip(&mut buffer, at, 8, about.protocol, about.from, about.to, route) + wire::ETH;
    let quote = buffer[start..].to_vec();
    error(core, mac, about.from, &quote, why);
}

/// Reports what becomes of `packet`.
pub(crate) fn reject<H: Host>(core: &mut Core<H>, mac: MacAddr, packet: &Packet<'_>, why: Undelivered) {
    error(core, mac, packet.source, &packet.whole[..packet.whole.len().min(QUOTE)], why);
}

/// The hop limit of `packet` ran out here.
pub(crate) fn time_exceeded<H: Host>(core: &mut Core<H>, mac: MacAddr, packet: &Packet<'_>) {
    let kind = if packet.source.is_ipv4() { 11 } else { 3 };
    message(core, mac, packet.source, [kind, 0], 0, &packet.whole[..packet.whole.len().min(QUOTE)]);
}

fn error<H: Host>(core: &mut Core<H>, mac: MacAddr, to: IpAddr, quote: &[u8], why: Undelivered) {
    let v4 = to.is_ipv4();
    let (head, rest) = match why {
        Undelivered::Port => (if v4 { [3, 3] } else { [1, 4] }, 0),
        Undelivered::Host => (if v4 { [3, 1] } else { [1, 3] }, 0),
        Undelivered::Net => (if v4 { [3, 0] } else { [1, 0] }, 0),
        Undelivered::Prohibited => (if v4 { [3, 13] } else { [1, 1] }, 0),
        Undelivered::TooBig(mtu) => (if v4 { [3, 4] } else { [2, 0] }, u32::from(mtu)),
    };
    message(core, mac, to, head, rest, quote);
}

fn message<H: Host>(core: &mut Core<H>, mac: MacAddr, to: IpAddr, head: [u8; 2], rest: u32, quote: &[u8]) {
    let mut bytes = Vec::with_capacity(8 + quote.len());
    bytes.extend(head);
    bytes.extend([0, 0]);
    bytes.extend(rest.to_be_bytes());
    bytes.extend_from_slice(quote);
    let from = match core.config.gateway6() {
        Some(gateway) if to.is_ipv6() => gateway.into(),
        _ => core.config.gateway.into(),
    };
    let route = Route { from_mac: core.config.mac, to_mac: mac };
    core.reply(icmp_frame(&bytes, from, to, route));
}

/// Answers an echo request to one of the engine's own addresses.
pub(crate) fn echo<H: Host>(core: &mut Core<H>, mac: MacAddr, packet: &Packet<'_>) {
    let mut reply = packet.payload.to_vec();
    reply[0] = if packet.source.is_ipv4() { ECHO.1 } else { ECHO6.1 };
    let route = Route { from_mac: core.config.mac, to_mac: mac };
    // Fragments are made where the answer is longer than the cable's packets.
    crate::fragment::send(core, &reply, packet.protocol, packet.destination, packet.source, route);
}

/// Identifier and sequence number of an echo request. `None`: it is none.
pub(crate) fn echo_request(packet: &Packet<'_>) -> Option<(u16, u16)> {
    let request = if packet.source.is_ipv4() { ECHO.0 } else { ECHO6.0 };
    let p = packet.payload;
    if *p.first()? != request || *p.get(1)? != 0 {
        return None;
    }
    Some((wire::be16(p, 4)?, wire::be16(p, 6)?))
}
