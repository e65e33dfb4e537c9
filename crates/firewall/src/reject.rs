//! What somebody is told whose packet was refused: of TCP a reset (RFC 9293 §3.10.7.1), else that it was "administratively prohibited"
//! (RFC 1812 §5.2.7.1, RFC 4443 §3.1).

use std::net::{IpAddr, Ipv4Addr};

use visor_net::MacAddr;
use visor_net::headers::{Headers, TCP};
use visor_net::whole::{Ends, ICMP, ICMPV6, packet, tcp};

use crate::packet::{addresses, ports};

const ETH: usize = 14;
/// Bytes of the refused packet that are quoted.
const QUOTE: usize = 128;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The frame that answers `frame`, as from where that was to go. `None` for what must not be answered: fragments, what is meant for many,
/// frames with tags, and errors.
pub(crate) fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let h = Headers::parse(frame)?;
    let mac = |at: usize| Some(MacAddr(*frame.get(at..)?.first_chunk()?));
    let (to, from) = (mac(0)?, mac(6)?);
    let (source, destination) = addresses(&h, frame)?;
    if h.network != ETH || h.fragment || to.is_multicast() || many(destination) || many(source) {
        return None;
    }
    let (protocol, body) = if h.protocol == TCP { (TCP, reset(frame, &h)?) } else { prohibited(frame, &h)? };
    Some(packet(&Ends { ethernet: [to, from], ip: [destination, source] }, protocol, &body))
}

/// Multicast, broadcast and "nobody".
fn many(address: IpAddr) -> bool {
    let nobody = |a: Ipv4Addr| a.octets()[0] >= 224 || a.octets()[0] == 0;
    match address {
        IpAddr::V4(a) => nobody(a),
        IpAddr::V6(a) => a.is_multicast() || a.is_unspecified(),
    }
}

/// A TCP segment that resets the connection which `frame` was to open.
fn reset(frame: &[u8], h: &Headers) -> Option<Vec<u8>> {
    let t = frame.get(h.transport..h.transport + 20)?;
    if t[13] & 4 != 0 {
        return None;
    }
    let (from, to) = ports(t)?;
    let word = |at: usize| u32::from_be_bytes([t[at], t[at + 1], t[at + 2], t[at + 3]]);
    Some(match t[13] & ACK != 0 {
        true => tcp([to, from], word(8), 0, RST, &[]),
        // The SYN counts as one byte.
        false => tcp([to, from], 0, word(4).wrapping_add(1), RST | ACK, &[]),
    })
}

/// An ICMP error about `frame`; none about an error.
fn prohibited(frame: &[u8], h: &Headers) -> Option<(u8, Vec<u8>)> {
    let kind = frame.get(h.transport)?;
    let error = (h.protocol == ICMP && *kind != 8) || (h.protocol == ICMPV6 && *kind < 128);
    if error {
        return None;
    }
    let (protocol, head) = if h.v6 { (ICMPV6, [1, 1]) } else { (ICMP, [3, 13]) };
    let quote = frame.get(h.network..)?;
    let mut message = vec![head[0], head[1], 0, 0, 0, 0, 0, 0];
    message.extend(&quote[..quote.len().min(QUOTE)]);
    Some((protocol, message))
}

#[cfg(test)]
mod tests {
    use visor_net::checksum::{pseudo, sum};

    use super::*;

    fn frame(v6: bool, protocol: u8, body: &[u8]) -> Vec<u8> {
        let ip = if v6 { ["fd00::4", "fd00::5"] } else { ["10.0.3.4", "10.0.3.5"] };
        let ethernet = [MacAddr([2, 0, 0, 0, 0, 4]), MacAddr([2, 0, 0, 0, 0, 5])];
        packet(&Ends { ethernet, ip: ip.map(|a| a.parse().unwrap()) }, protocol, body)
    }

    fn holds(answer: &[u8]) -> Headers {
        let h = Headers::parse(answer).unwrap();
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 5]);
        let body = &answer[h.transport..];
        let seed = if h.protocol == ICMP { 0 } else { pseudo(h.addresses(answer), h.protocol, body.len()) };
        assert_eq!(visor_net::checksum::add(seed, sum(body)), 0xffff);
        assert!(h.v6 || sum(&answer[14..34]) == 0xffff);
        h
    }

    #[test]
    fn connections_are_reset_and_others_told() {
        let mut syn = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 0xff, 0, 0, 0, 0, 0];
        for v6 in [false, true] {
            let reset = answer(&frame(v6, TCP, &syn)).unwrap();
            let h = holds(&reset);
            let t = &reset[h.transport..];
            assert_eq!((&t[..4], &t[8..12], t[13]), (&[0, 80, 0x9c, 0x40][..], &[0, 0, 0, 10][..], 0x14));
            let udp = visor_net::whole::udp(40000, 53, &[]);
            let told = answer(&frame(v6, 17, &udp)).unwrap();
            let h = holds(&told);
            let kind = if v6 { [1, 1] } else { [3, 13] };
            assert_eq!(told[h.transport..h.transport + 2], kind);
            assert_eq!(told[h.transport + 8..], frame(v6, 17, &udp)[14..]);
        }
        syn[13] = 4;
        assert_eq!(answer(&frame(false, TCP, &syn)), None, "a reset is not answered");
        assert_eq!(answer(&frame(false, ICMP, &[3, 13, 0, 0, 0, 0, 0, 0])), None, "nor is an error");
        let mut all = frame(false, 17, &[0; 8]);
        all[..6].fill(0xff);
        assert_eq!(answer(&all), None, "nor is what is meant for many");
    }

    #[test]
    fn spoiled_frames_do_no_harm() {
        let whole = frame(true, TCP, &[1; 20]);
        for len in 0..whole.len() {
            let _ = answer(&whole[..len]);
            let mut spoiled = whole.clone();
            spoiled[len] ^= 0xff;
            let _ = answer(&spoiled);
        }
    }
}
