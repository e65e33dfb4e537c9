//! What a frame says about the connection it belongs to.

use std::net::{IpAddr, SocketAddr};

use visor_net::headers::{self, Headers, TCP, UDP};
use visor_net::whole::{ICMP, ICMPV6};
use visor_net::{FlowKey, Protocol};

const IGMP: u8 = 2;
/// Bytes of an IP header and the first eight of what follows, as an ICMP error quotes them.
const MAX_QUOTE: usize = 128;

/// A frame, as a firewall sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Needed for the network itself: ARP, neighbour discovery, group membership, answers of DHCP servers. Passes.
    Service,
    /// Part of a connection. `opens`: it may be the first packet of one.
    Flow {
        key: FlowKey,
        opens: bool,
        /// TCP's flags.
        flags: u8,
        /// More fragments follow that have no ports.
        fragments: Option<Fragment>,
    },
    /// A later fragment.
    Fragment(Fragment),
    /// An error about a packet of a connection.
    Error(FlowKey),
    /// Anything else: not IP, or a protocol without connections.
    Other,
    /// Cannot be understood.
    Broken,
}

/// What fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) id: u32,
}

pub(crate) fn classify(frame: &[u8]) -> Packet {
    match headers::ethertype(frame) {
        Some((0x0806, _)) => return Packet::Service,
        Some((0x0800 | 0x86dd, _)) => {}
        Some(_) => return Packet::Other,
        None => return Packet::Broken,
    }
    let Some(h) = Headers::parse(frame) else { return Packet::Broken };
    let Some((source, destination)) = addresses(&h, frame) else { return Packet::Broken };
    let fragment = h.fragmented.then(|| Fragment { source, destination, id: fragment_id(&h, frame) });
    if let Some(f) = fragment.filter(|_| h.fragment) {
        return Packet::Fragment(f);
    }
    let rest = frame.get(h.transport..).unwrap_or_default();
    match h.protocol {
        TCP | UDP => match ports(rest) {
            None => Packet::Broken,
            // Answers of DHCP servers come from an address that was never asked.
            Some((67, 68)) | Some((547, 546)) if h.protocol == UDP => Packet::Service,
            Some((from, to)) => {
                let protocol = if h.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
                let flags = if h.protocol == TCP { rest.get(13).copied().unwrap_or(0) } else { 0 };
                let key = key(protocol, source, from, destination, to);
                // Only SYN without ACK opens a TCP connection.
                let opens = h.protocol == UDP || flags & 0x12 == 0x02;
                Packet::Flow { key, opens, flags, fragments: fragment }
            }
        },
        ICMP if !h.v6 => icmp(rest, source, destination, fragment, [8, 0], &[3, 11, 12], false),
        ICMPV6 if h.v6 => match rest.first() {
            // Neighbour discovery and multicast listeners.
            Some(130..=137 | 143) => Packet::Service,
            _ => icmp(rest, source, destination, fragment, [128, 129], &[1, 2, 3, 4], true),
        },
        IGMP => Packet::Service,
        _ => Packet::Other,
    }
}

/// The address that the sender of a frame says is its own: of ARP the sender's, of neighbour advertisements what they advertise, of
/// other IP packets their source.
pub(crate) fn claimed(frame: &[u8]) -> Option<IpAddr> {
    const ADVERTISEMENT: u8 = 136;
    let (kind, at) = headers::ethertype(frame)?;
    if kind == 0x0806 {
        return frame.get(at + 14..at + 18)?.first_chunk::<4>().map(|a| IpAddr::from(*a));
    }
    let h = Headers::parse(frame)?;
    let rest = frame.get(h.transport..).unwrap_or_default();
    if h.protocol == ICMPV6 && h.v6 && !h.fragment && rest.first() == Some(&ADVERTISEMENT) {
        return rest.get(8..24)?.first_chunk::<16>().map(|a| IpAddr::from(*a));
    }
    addresses(&h, frame).map(|(source, _)| source)
}

fn key(protocol: Protocol, source: IpAddr, from: u16, destination: IpAddr, to: u16) -> FlowKey {
    FlowKey { protocol, source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) }
}

/// Echo has the identifier as the port of the side that asks.
fn icmp(
    rest: &[u8],
    source: IpAddr,
    destination: IpAddr,
    fragments: Option<Fragment>,
    [request, reply]: [u8; 2],
    errors: &[u8],
    v6: bool,
) -> Packet {
    let (Some(kind), Some(id)) = (rest.first().copied(), rest.get(4..6)) else { return Packet::Broken };
    let id = u16::from_be_bytes([id[0], id[1]]);
    if kind == request {
        let key = key(Protocol::Icmp, source, id, destination, 0);
        return Packet::Flow { key, opens: true, flags: 0, fragments };
    }
    if kind == reply {
        return Packet::Flow {
            key: key(Protocol::Icmp, source, 0, destination, id),
            opens: false,
            flags: 0,
            fragments,
        };
    }
    if errors.contains(&kind) {
        return quoted(rest.get(8..).unwrap_or_default(), v6).map_or(Packet::Broken, Packet::Error);
    }
    Packet::Other
}

/// The connection of a packet that an ICMP error quotes.
fn quoted(packet: &[u8], v6: bool) -> Option<FlowKey> {
    let mut frame = vec![0; 12];
    frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(&packet[..packet.len().min(MAX_QUOTE)]);
    let h = Headers::parse(&frame)?;
    let (source, destination) = addresses(&h, &frame)?;
    let rest = frame.get(h.transport..)?;
    match h.protocol {
        TCP | UDP if !h.fragment => {
            let (from, to) = ports(rest)?;
            let protocol = if h.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
            Some(key(protocol, source, from, destination, to))
        }
        ICMP | ICMPV6 if !h.fragment => {
            let id = rest.get(4..6)?;
            let id = u16::from_be_bytes([id[0], id[1]]);
            // A quoted request was sent by its source; of a quoted reply the destination had asked.
            let request = matches!(rest.first()?, 8 | 128);
            Some(if request {
                key(Protocol::Icmp, source, id, destination, 0)
            } else {
                key(Protocol::Icmp, source, 0, destination, id)
            })
        }
        _ => None,
    }
}

pub(crate) fn ports(rest: &[u8]) -> Option<(u16, u16)> {
    let p = rest.get(..4)?;
    Some((u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])))
}

pub(crate) fn addresses(h: &Headers, frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let a = h.addresses(frame);
    if h.v6 {
        let (s, d) = (a.first_chunk::<16>()?, a.last_chunk::<16>()?);
        Some((IpAddr::from(*s), IpAddr::from(*d)))
    } else {
        let (s, d) = (a.first_chunk::<4>()?, a.last_chunk::<4>()?);
        Some((IpAddr::from(*s), IpAddr::from(*d)))
    }
}

/// IPv4's identification. Of IPv6 the fragment header's, the last four bytes before what follows it; extensions after the fragment
/// header belong to the first fragment only, which is judged by its ports anyway.
fn fragment_id(h: &Headers, frame: &[u8]) -> u32 {
    if h.v6 {
        let id = frame.get(h.transport.saturating_sub(4)..h.transport).and_then(|b| b.first_chunk::<4>());
        id.map_or(0, |b| u32::from_be_bytes(*b))
    } else {
        let id = frame.get(h.network + 4..h.network + 6).and_then(|b| b.first_chunk::<2>());
        id.map_or(0, |b| u32::from(u16::from_be_bytes(*b)))
    }
}
