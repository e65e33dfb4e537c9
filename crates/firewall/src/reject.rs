//! What somebody is told whose packet was refused: of TCP a reset (RFC 9293 §3.10.7.1), else that it was "administratively prohibited"
//! (RFC 1812 §5.2.7.1, RFC 4443 §3.1).

use visor_net::checksum::{pseudo, sum};
use visor_net::headers::{Headers, TCP};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ETH: usize = 14;
/// Bytes of the refused packet that are quoted.
const QUOTE: usize = 128;
const ACK: u8 = 16;

/// The frame that answers `frame`, as from where that was to go. `None` for what must not be answered: fragments, what is meant for many,
/// frames with tags, and errors.
pub(crate) fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let h = Headers::parse(frame)?;
    let (to, from) = (frame.get(..6)?, frame.get(6..12)?);
    let addresses = h.addresses(frame);
    let (source, destination) = addresses.split_at_checked(addresses.len() / 2)?;
    if h.network != ETH || h.fragment || to[0] & 1 != 0 || many(destination) || many(source) {
        return None;
    }
    let (protocol, mut body) = if h.protocol == TCP { (TCP, reset(frame, &h)?) } else { prohibited(frame, &h)? };
    let back = [destination, source].concat();
    let seed = if protocol == ICMP { 0 } else { pseudo(&back, protocol, body.len()) };
    let check = !visor_net::checksum::add(seed, sum(&body));
    let at = if protocol == TCP { 16 } else { 2 };
    body[at..at + 2].copy_from_slice(&check.to_be_bytes());
    let mut out = [from, to, frame.get(12..14)?].concat();
    out.extend(header(&back, protocol, body.len(), h.v6));
    out.extend(body);
    Some(out)
}

/// Multicast, broadcast and "nobody".
fn many(address: &[u8]) -> bool {
    match address.len() {
        4 => address[0] >= 224 || address[0] == 0,
        _ => address.first() == Some(&0xff) || address.iter().all(|b| *b == 0),
    }
}

/// A TCP segment that resets the connection which `frame` was to open.
fn reset(frame: &[u8], h: &Headers) -> Option<Vec<u8>> {
    let t = frame.get(h.transport..h.transport + 20)?;
    if t[13] & 4 != 0 {
        return None;
    }
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&t[2..4]);
    segment[2..4].copy_from_slice(&t[..2]);
    let acknowledged = t[13] & ACK != 0;
    if acknowledged {
        segment[4..8].copy_from_slice(&t[8..12]);
    } else {
        // The SYN counts as one byte.
        let next = u32::from_be_bytes([t[4], t[5], t[6], t[7]]).wrapping_add(1);
        segment[8..12].copy_from_slice(&next.to_be_bytes());
    }
    segment[12] = 5 << 4;
    segment[13] = if acknowledged { 4 } else { 4 | ACK };
    Some(segment)
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

fn header(addresses: &[u8], protocol: u8, len: usize, v6: bool) -> Vec<u8> {
    let len = len as u16;
    if v6 {
        let mut h = vec![0x60, 0, 0, 0];
        h.extend(len.to_be_bytes());
        h.extend([protocol, 64]);
        h.extend(addresses);
        return h;
    }
    let mut h = vec![0x45, 0];
    h.extend((len + 20).to_be_bytes());
    h.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    h.extend(addresses);
    let check = !sum(&h);
    h[10..12].copy_from_slice(&check.to_be_bytes());
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(v6: bool, protocol: u8, body: &[u8]) -> Vec<u8> {
        let (a, b): (Vec<u8>, Vec<u8>) =
            if v6 { (vec![0xfd; 16], vec![0x20; 16]) } else { (vec![10, 0, 3, 4], vec![10, 0, 3, 5]) };
        let kind = if v6 { [0x86, 0xdd] } else { [8, 0] };
        let ip = header(&[a, b].concat(), protocol, body.len(), v6);
        [&[2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 4][..], &kind, &ip, body].concat()
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
            let udp = [0x9c, 0x40, 0, 53, 0, 8, 0, 0];
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
