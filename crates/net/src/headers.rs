//! Where the headers of a frame lie: Ethernet II with VLAN tags, IPv4, IPv6 with extension headers, TCP and UDP.

/// VLAN tag (IEEE 802.1Q), service tag (802.1ad).
const TPID: [u16; 2] = [0x8100, 0x88a8];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// Most IPv6 extension headers that are looked through.
const MAX_EXTENSIONS: usize = 8;

/// Where an IP packet's parts lie in a frame. All offsets are within the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Offset of the IP header: 14, or more with VLAN tags.
    pub network: usize,
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Offset of what follows the IP header and its extensions.
    pub transport: usize,
    /// Protocol number of that.
    pub protocol: u8,
    /// Not the first fragment: there is no transport header.
    pub fragment: bool,
    /// The packet is one of several fragments.
    pub fragmented: bool,
}

impl Headers {
    /// Finds the IP packet in `frame`. `None` if there is none, or its header is cut short or contradicts itself.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (kind, network) = ethertype(frame)?;
        match kind {
            IPV4 => v4(frame, network),
            IPV6 => v6(frame, network),
            _ => None,
        }
    }

    /// The source and destination addresses as they stand in the header: 8 or 32 bytes.
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let (at, len) = if self.v6 { (self.network + 8, 32) } else { (self.network + 12, 8) };
        frame.get(at..at + len).unwrap_or_default()
    }

    /// Source and destination port, for TCP and UDP.
    pub fn ports(&self, frame: &[u8]) -> Option<(u16, u16)> {
        if self.fragment || !matches!(self.protocol, TCP | UDP) {
            return None;
        }
        Some((word(frame, self.transport)?, word(frame, self.transport + 2)?))
    }

    /// Offset of the TCP payload. `None` if it is not TCP or the header is cut short.
    pub fn tcp_payload(&self, frame: &[u8]) -> Option<usize> {
        if self.protocol != TCP || self.fragment {
            return None;
        }
        let len = usize::from(*frame.get(self.transport + 12)? >> 4) * 4;
        let end = self.transport + len;
        (len >= 20 && end <= frame.len()).then_some(end)
    }
}

/// The type of what the frame carries, and where that begins, VLAN tags skipped.
pub fn ethertype(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    for _ in 0..3 {
        let kind = word(frame, at)?;
        if !TPID.contains(&kind) {
            return Some((kind, at + 2));
        }
        at += 4;
    }
    None
}

/// The VLAN identifier of the frame's outer tag, if it has one.
pub fn vlan(frame: &[u8]) -> Option<u16> {
    TPID.contains(&word(frame, 12)?).then(|| word(frame, 14).map(|tci| tci & 0xfff))?
}

fn v4(frame: &[u8], network: usize) -> Option<Headers> {
    let first = *frame.get(network)?;
    let transport = network + usize::from(first & 15) * 4;
    if first >> 4 != 4 || transport < network + 20 || transport > frame.len() {
        return None;
    }
    let fragment = word(frame, network + 6)?;
    Some(Headers {
        network,
        v6: false,
        transport,
        protocol: *frame.get(network + 9)?,
        fragment: fragment & 0x1fff != 0,
        fragmented: fragment & 0x3fff != 0,
    })
}

fn v6(frame: &[u8], network: usize) -> Option<Headers> {
    if *frame.get(network)? >> 4 != 6 || frame.len() < network + 40 {
        return None;
    }
    let mut h = Headers {
        network,
        v6: true,
        transport: network + 40,
        protocol: frame[network + 6],
        fragment: false,
        fragmented: false,
    };
    for _ in 0..MAX_EXTENSIONS {
        let at = h.transport;
        let len = match h.protocol {
            // Hop-by-hop options, routing, destination options (RFC 8200 §4).
            0 | 43 | 60 => 8 + 8 * usize::from(*frame.get(at + 1)?),
            44 => {
                let offset = word(frame, at + 2)?;
                h.fragmented = true;
                h.fragment = offset & 0xfff8 != 0;
                8
            }
            _ => return Some(h),
        };
        h.protocol = *frame.get(at)?;
        h.transport = at + len;
        if h.transport > frame.len() {
            return None;
        }
        if h.fragment {
            return Some(h);
        }
    }
    None
}

pub(crate) fn word(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, rest: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &kind.to_be_bytes(), rest].concat()
    }

    #[test]
    fn layers_are_found() {
        let mut ip = vec![0x46, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1];
        ip.extend([0, 53, 4, 0, 0, 8, 0, 0]);
        let f = frame(IPV4, &ip);
        let h = Headers::parse(&f).unwrap();
        assert_eq!((h.network, h.transport, h.protocol, h.fragmented), (14, 38, 17, false));
        assert_eq!((h.ports(&f), h.addresses(&f)), (Some((53, 1024)), &[10, 0, 0, 1, 10, 0, 0, 2][..]));
        let tagged = frame(0x8100, &[&[0x20, 7, 8, 0][..], &ip].concat());
        assert_eq!((vlan(&tagged), Headers::parse(&tagged).unwrap().network), (Some(7), 18));
        assert_eq!(vlan(&f), None);
    }

    #[test]
    fn v6_extensions_are_skipped() {
        let mut ip = vec![0x60, 0, 0, 0, 0, 28, 0, 64];
        ip.extend([1; 32]);
        ip.extend([44, 0, 0, 0, 0, 0, 0, 0]); // hop-by-hop
        ip.extend([6, 0, 0, 1, 0, 0, 0, 9]); // first fragment of several
        ip.extend([0; 20]);
        let h = Headers::parse(&frame(IPV6, &ip)).unwrap();
        assert_eq!((h.transport, h.protocol, h.fragment, h.fragmented), (70, 6, false, true));
    }

    #[test]
    fn nothing_panics_on_any_bytes() {
        let mut x = 1u64;
        for len in 0..200 {
            for kind in [IPV4, IPV6, 0x8100] {
                let rest: Vec<u8> = (0..len)
                    .map(|_| {
                        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let b = (x >> 56) as u8;
                        if b < 100 { [0x45, 0x60, 0, 44, 60, 6][b as usize % 6] } else { b }
                    })
                    .collect();
                let f = frame(kind, &rest);
                for cut in 0..f.len().min(80) {
                    if let Some(h) = Headers::parse(&f[..cut]) {
                        assert!(h.transport <= cut);
                        let _ = (h.ports(&f[..cut]), h.tcp_payload(&f[..cut]), h.addresses(&f[..cut]));
                    }
                }
            }
        }
    }
}
