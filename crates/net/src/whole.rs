//! Whole frames around a payload, for whoever answers in another's place, and for tests.

use std::net::IpAddr;

use crate::MacAddr;
use crate::checksum::{add, pseudo, sum};
use crate::headers::{TCP, UDP};

/// ICMP's protocol number.
pub const ICMP: u8 = 1;
/// ICMPv6's protocol number.
pub const ICMPV6: u8 = 58;

/// Who a frame is from and for: sender, receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Ethernet addresses.
    pub ethernet: [MacAddr; 2],
    /// IP addresses, both of one family.
    pub ip: [IpAddr; 2],
}

/// An unfragmented IP packet in a frame. The checksums of its header and of TCP, UDP, ICMP and ICMPv6 are filled in, if `payload` has
/// room for them; more than 65,515 bytes of it are cut off.
pub fn packet(ends: &Ends, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(65_515)];
    let ([from, to], [source, destination]) = (ends.ethernet, ends.ip);
    let mut frame = [to.0, from.0].concat();
    let addresses = [octets(source), octets(destination)].concat();
    let len = payload.len() as u16;
    if source.is_ipv4() {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((len + 20).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(&addresses);
        let check = !sum(&frame[14..]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    } else {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        // Neighbours are believed only at their full hop limit (RFC 4861 §7.1).
        frame.extend([protocol, if protocol == ICMPV6 { 255 } else { 64 }]);
        frame.extend(&addresses);
    }
    let start = frame.len();
    frame.extend(payload);
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP | ICMPV6 => 2,
        _ => return frame,
    };
    let seed = if protocol == ICMP { 0 } else { pseudo(&addresses, protocol, payload.len()) };
    if let Some(field) = frame.get_mut(start + at..start + at + 2) {
        field.fill(0);
        let check = match !add(seed, sum(&frame[start..])) {
            // RFC 768: zero means that there is none.
            0 if protocol == UDP => 0xffff,
            check => check,
        };
        frame[start + at..start + at + 2].copy_from_slice(&check.to_be_bytes());
    }
    frame
}

/// A UDP header and its data, for [`packet`].
pub fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = [from, to, (data.len() + 8) as u16, 0].map(u16::to_be_bytes).concat();
    datagram.extend(data);
    datagram
}

/// A TCP header without options and its data, for [`packet`]. The window is of 64 KiB.
pub fn tcp(ports: [u16; 2], sequence: u32, acknowledgement: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut segment = ports.map(u16::to_be_bytes).concat();
    segment.extend([sequence, acknowledgement].map(u32::to_be_bytes).concat());
    segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(data);
    segment
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::Headers;

    #[test]
    fn checksums_hold_in_every_kind_of_packet() {
        let ethernet = [MacAddr([2; 6]), MacAddr([4; 6])];
        for ip in [["10.0.0.1", "10.0.0.2"], ["fd00::1", "fd00::2"]] {
            let ends = Ends { ethernet, ip: ip.map(|a| a.parse().unwrap()) };
            let icmp = if ends.ip[0].is_ipv4() { ICMP } else { ICMPV6 };
            let bodies = [(TCP, tcp([1, 2], 3, 4, 2, b"odd")), (UDP, udp(5, 6, b"x")), (icmp, vec![8, 0, 9, 9, 0, 1])];
            for (protocol, body) in bodies {
                let frame = packet(&ends, protocol, &body);
                let h = Headers::parse(&frame).unwrap();
                assert_eq!((h.protocol, frame.len() - h.transport), (protocol, body.len()));
                assert!(h.v6 || sum(&frame[14..34]) == 0xffff);
                let seed = if protocol == ICMP { 0 } else { pseudo(h.addresses(&frame), protocol, body.len()) };
                assert_eq!(add(seed, sum(&frame[h.transport..])), 0xffff, "{protocol}");
                assert_eq!(frame[..12], [[4; 6], [2; 6]].concat());
            }
            assert_eq!(packet(&ends, UDP, &[1, 2]).len(), packet(&ends, 99, &[1, 2]).len(), "no room for a checksum");
        }
    }
}
