//! IPv4 (RFC 791) and IPv6 (RFC 8200) packets as they come from a guest.

use std::net::IpAddr;

use super::{be16, be32, fold, sum, v4, v6};

/// Extension headers of IPv6 followed before a packet is refused.
const MAX_EXTENSIONS: usize = 8;

/// An IP packet whose header has been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Protocol number of `payload`.
    pub(crate) protocol: u8,
    /// Time to live or hop limit.
    pub(crate) hops: u8,
    /// What follows the IP headers, cut to the length the header states.
    pub(crate) payload: &'a [u8],
    /// The packet from its IP header on, as ICMP errors quote it.
    pub(crate) whole: &'a [u8],
    /// Set if this is a fragment.
    pub(crate) fragment: Option<Fragment>,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) ident: u32,
    /// Offset of its payload in bytes.
    pub(crate) offset: usize,
    /// More fragments follow.
    pub(crate) more: bool,
}

/// Parses an IPv4 packet; Ethernet padding behind it is cut off.
pub(crate) fn parse_v4(data: &[u8]) -> Option<Packet<'_>> {
    let first = *data.first()?;
    let header_len = usize::from(first & 15) * 4;
    let total = usize::from(be16(data, 2)?);
    if first >> 4 != 4 || header_len < 20 || total < header_len {
        return None;
    }
    let whole = data.get(..total)?;
    let header = &whole[..header_len];
    if fold(sum(header)) != 0xffff {
        return None;
    }
    let flags = be16(header, 6)?;
    let (more, offset) = (flags & 0x2000 != 0, usize::from(flags & 0x1fff) * 8);
    let fragment = (more || offset != 0).then_some(Fragment { ident: u32::from(be16(header, 4)?), offset, more });
    Some(Packet {
        source: v4(header, 12)?.into(),
        destination: v4(header, 16)?.into(),
        protocol: header[9],
        hops: header[8],
        payload: &whole[header_len..],
        whole,
        fragment,
    })
}

/// Parses an IPv6 packet and walks over its extension headers.
pub(crate) fn parse_v6(data: &[u8]) -> Option<Packet<'_>> {
    if data.first()? >> 4 != 6 {
        return None;
    }
    let whole = data.get(..40 + usize::from(be16(data, 4)?))?;
    let mut packet = Packet {
        source: v6(whole, 8)?.into(),
        destination: v6(whole, 24)?.into(),
        protocol: whole[6],
        hops: whole[7],
        payload: &whole[40..],
        whole,
        fragment: None,
    };
    for _ in 0..MAX_EXTENSIONS {
        match packet.protocol {
            // Hop-by-hop options, routing, destination options (RFC 8200 §4.3 to §4.6).
            0 | 43 | 60 => {
                let len = (usize::from(*packet.payload.get(1)?) + 1) * 8;
                packet.protocol = packet.payload[0];
                packet.payload = packet.payload.get(len..)?;
            }
            44 => {
                let (next, field) = (*packet.payload.first()?, be16(packet.payload, 2)?);
                let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
                // A fragment header that says "whole" is legal (RFC 6946) and needs no reassembly.
                if more || offset != 0 {
                    packet.fragment = Some(Fragment { ident: be32(packet.payload, 4)?, offset, more });
                }
                packet.protocol = next;
                packet.payload = packet.payload.get(8..)?;
                if offset != 0 {
                    return Some(packet);
                }
            }
            _ => return Some(packet),
        }
    }
    None
}
