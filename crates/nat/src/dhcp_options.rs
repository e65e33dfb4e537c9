//! Messages of DHCP reduced to the options that the servers look at.
//!
//! The decoder knows some hundred options, and counts on the lengths of several of them without having checked: what is not looked at never
//! reaches it.

use crate::wire::be16;

/// Bytes before the options of DHCP for IPv4 (RFC 2131 §2, §3), the magic number among them.
const HEADER4: usize = 240;
const PAD: u8 = 0;
const END: u8 = 255;
/// Requested address, message type, server (each with its length), client identifier (RFC 2132 §9).
const KEPT4: [(u8, Option<u8>); 4] = [(50, Some(4)), (53, Some(1)), (54, Some(4)), (61, None)];

/// Bytes before the options of DHCP for IPv6 (RFC 8415 §8).
const HEADER6: usize = 4;
/// Client, server, addresses without what is in them, rapid commit (RFC 8415 §21): the most bytes that are kept of each.
const KEPT6: [(u16, usize); 4] = [(1, usize::MAX), (2, usize::MAX), (3, 12), (14, 0)];

/// `message` with those of its options; `None` if it is cut off.
pub(crate) fn reduced4(message: &[u8]) -> Option<Vec<u8>> {
    let mut kept = message.get(..HEADER4)?.to_vec();
    let mut rest = &message[HEADER4..];
    loop {
        match *rest {
            [] | [END, ..] => break,
            [PAD, ref after @ ..] => rest = after,
            [code, len, ..] => {
                let option = rest.get(..2 + usize::from(len))?;
                if KEPT4.iter().any(|(c, l)| *c == code && l.is_none_or(|l| l == len)) {
                    kept.extend_from_slice(option);
                }
                rest = &rest[option.len()..];
            }
            [_] => return None,
        }
    }
    kept.push(END);
    Some(kept)
}

/// As [`reduced4`], for IPv6.
pub(crate) fn reduced6(message: &[u8]) -> Option<Vec<u8>> {
    let mut kept = message.get(..HEADER6)?.to_vec();
    let mut rest = &message[HEADER6..];
    while !rest.is_empty() {
        let (code, len) = (be16(rest, 0)?, be16(rest, 2)?);
        let data = rest.get(4..4 + usize::from(len))?;
        if let Some((_, most)) = KEPT6.iter().find(|(c, _)| *c == code) {
            let data = &data[..data.len().min(*most)];
            kept.extend(code.to_be_bytes());
            kept.extend((data.len() as u16).to_be_bytes());
            kept.extend_from_slice(data);
        }
        rest = &rest[4 + usize::from(len)..];
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use dhcproto::{Decodable, v4, v6};

    use super::*;

    #[test]
    fn only_what_is_looked_at_reaches_the_decoder() {
        let mut message = vec![1, 1, 6, 0];
        message.resize(HEADER4 - 4, 0);
        message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 0]);
        // Options whose lengths the decoder would trust: rapid commit, network interface, lease query, domain name.
        for option in [[80, 1, 9].as_slice(), &[94, 1, 1], &[151, 0], &[152, 1, 1], &[81, 1, 0], &[54, 1, 1]] {
            message.extend(option);
        }
        message.extend([50, 4, 10, 0, 2, 15, 61, 2, 7, 8, END, 1, 2, 3]);
        let request = v4::Message::from_bytes(&reduced4(&message).unwrap()).unwrap();
        let codes: Vec<u8> = request.opts().iter().map(|(code, _)| (*code).into()).collect();
        assert_eq!(codes.iter().filter(|c| **c != END).copied().collect::<Vec<_>>(), [50, 53, 61]);
        assert_eq!(
            (reduced4(&message[..HEADER4 - 1]), reduced4(&[&message[..], &[50]].concat()).is_some()),
            (None, true)
        );
        assert_eq!(reduced4(&[&message[..HEADER4], &[61, 9, 1]].concat()), None, "cut off");
    }

    #[test]
    fn and_of_the_other_family() {
        let mut message = vec![1, 0, 0, 7];
        for (code, data) in [(1u16, &[0, 3, 0, 1, 5, 5][..]), (11, &[1]), (16, &[0; 3]), (14, &[]), (13, &[0])] {
            message.extend([&code.to_be_bytes()[..], &(data.len() as u16).to_be_bytes(), data].concat());
        }
        // Addresses, in which is an option that is cut off.
        message.extend([0, 3, 0, 15, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0]);
        let request = v6::Message::from_bytes(&reduced6(&message).unwrap()).unwrap();
        assert!(matches!(request.opts().get(v6::OptionCode::IANA), Some(v6::DhcpOption::IANA(a)) if a.id == 9));
        assert_eq!(request.opts().iter().count(), 3);
        assert_eq!(reduced6(&message[..message.len() - 1]), None);
    }
}
