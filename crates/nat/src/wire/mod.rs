//! Ethernet, ARP, IP, ICMP, UDP and TCP on the wire: parsing without copying, and headers written in front of a payload.
//!
//! Every parser is total: whatever the bytes, it gives a value or `None`.

pub(crate) mod arp;
pub(crate) mod emit;
pub(crate) mod ip;
pub(crate) mod tcp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header.
pub(crate) const ETH: usize = 14;
/// EtherType of IPv4.
pub(crate) const TYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub(crate) const TYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub(crate) const TYPE_IPV6: u16 = 0x86dd;

/// IP protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

/// The 16-bit big-endian number at `at`; `None` past the end.
pub(crate) fn be16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

/// The 32-bit big-endian number at `at`; `None` past the end.
pub(crate) fn be32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// The IPv4 address at `at`.
pub(crate) fn v4(data: &[u8], at: usize) -> Option<Ipv4Addr> {
    be32(data, at).map(Ipv4Addr::from)
}

/// The IPv6 address at `at`.
pub(crate) fn v6(data: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(data.get(at..at + 16)?).ok()?))
}

/// Sum of the 16-bit words of `data` (RFC 1071), in the host's byte order, not folded. An odd last byte counts as followed by 0.
///
/// Words of 32 bits are summed into 64: no carry is lost below 16 GiB, and compilers make vector code of it.
pub(crate) fn sum(data: &[u8]) -> u64 {
    let (words, tail) = data.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    total += u64::from(u32::from_ne_bytes(last));
    total
}

/// Folds a sum to 16 bits, still in the host's byte order.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1).
pub(crate) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u64 {
    let addresses = match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => sum(&s.octets()) + sum(&d.octets()),
        (IpAddr::V6(s), IpAddr::V6(d)) => sum(&s.octets()) + sum(&d.octets()),
        _ => 0,
    };
    addresses + sum(&[0, protocol]) + sum(&(len as u32).to_be_bytes())
}

/// True if the checksum inside `data` fits `pseudo`.
pub(crate) fn verify(pseudo: u64, data: &[u8]) -> bool {
    fold(pseudo + sum(data)) == 0xffff
}

/// Stores the checksum of `data` at byte `at` of it, whose present content does not count.
pub(crate) fn fill_checksum(pseudo: u64, data: &mut [u8], at: usize) {
    data[at..at + 2].fill(0);
    let value = !fold(pseudo + sum(data));
    data[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}
