//! Headers written backwards in front of a payload that already stands in its buffer.

use std::net::{IpAddr, SocketAddr};

use visor_net::{Frame, MacAddr, Offload, SegmentKind, Segments};

use super::tcp::SYN;
use super::{ETH, ICMP, ICMP6, TCP, TYPE_IPV4, TYPE_IPV6, UDP, fill_checksum, fold, pseudo, sum};

/// Room in front of a payload that is enough for all headers: Ethernet, IPv6, TCP with the options of a SYN.
pub(crate) const HEADROOM: usize = 96;

/// Who talks to whom on the guest's cable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) from_mac: MacAddr,
    pub(crate) to_mac: MacAddr,
}

/// Header of a TCP segment to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpHeader {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// Options of a SYN: maximum segment size, and window scale if both sides use it.
    pub(crate) mss: u16,
    pub(crate) window_scale: Option<u8>,
}

/// How the checksum and the segmentation of a frame are to be left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Leave {
    /// The receiver fills in the checksum.
    pub(crate) checksum: bool,
    /// The receiver splits: most payload bytes of a segment.
    pub(crate) split: Option<u16>,
}

/// Writes Ethernet and IP headers in front of the `len` bytes at `at`; gives where the frame begins. `buffer[..at]` must have room.
pub(crate) fn ip(
    buffer: &mut [u8],
    at: usize,
    len: usize,
    protocol: u8,
    from: IpAddr,
    to: IpAddr,
    route: Route,
) -> usize {
    let (start, kind) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let h = &mut buffer[at - 20..at];
            h.fill(0);
            h[0] = 0x45;
            h[2..4].copy_from_slice(&((len + 20) as u16).to_be_bytes());
            // Never fragmented further: identification 0 is right (RFC 6864 §4.1).
            h[6] = 0x40;
            (h[8], h[9]) = (64, protocol);
            h[12..16].copy_from_slice(&from.octets());
            h[16..20].copy_from_slice(&to.octets());
            fill_checksum(0, h, 10);
            (at - 20, TYPE_IPV4)
        }
        (from, to) => {
            let h = &mut buffer[at - 40..at];
            h.fill(0);
            h[0] = 0x60;
            h[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            // Neighbour discovery wants 255 (RFC 4861 §7.1), everything else may have it.
            (h[6], h[7]) = (protocol, if protocol == ICMP6 { 255 } else { 64 });
            h[8..24].copy_from_slice(&octets(from));
            h[24..40].copy_from_slice(&octets(to));
            (at - 40, TYPE_IPV6)
        }
    };
    let h = &mut buffer[start - ETH..start];
    h[..6].copy_from_slice(&route.to_mac.0);
    h[6..12].copy_from_slice(&route.from_mac.0);
    h[12..].copy_from_slice(&kind.to_be_bytes());
    start - ETH
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Writes all headers of a TCP segment in front of the `len` payload bytes at `at`.
pub(crate) fn tcp<'a>(
    buffer: &'a mut [u8],
    at: usize,
    len: usize,
    h: &TcpHeader,
    route: Route,
    leave: Leave,
) -> Frame<'a> {
    let mut options = [0u8; 8];
    let option_len = match (h.flags & SYN != 0, h.window_scale) {
        (false, _) => 0,
        (true, None) => 4,
        (true, Some(_)) => 8,
    };
    let [mss_high, mss_low] = h.mss.to_be_bytes();
    options[..4].copy_from_slice(&[2, 4, mss_high, mss_low]);
    // No-operation, then window scale.
    options[4..].copy_from_slice(&[1, 3, 3, h.window_scale.unwrap_or(0)]);
    let begin = at - 20 - option_len;
    let t = &mut buffer[begin..at];
    t[0..2].copy_from_slice(&h.from.port().to_be_bytes());
    t[2..4].copy_from_slice(&h.to.port().to_be_bytes());
    t[4..8].copy_from_slice(&h.seq.to_be_bytes());
    t[8..12].copy_from_slice(&h.ack.to_be_bytes());
    (t[12], t[13]) = ((((20 + option_len) / 4) << 4) as u8, h.flags);
    t[14..16].copy_from_slice(&h.window.to_be_bytes());
    t[16..20].fill(0);
    t[20..].copy_from_slice(&options[..option_len]);
    let total = 20 + option_len + len;
    let pseudo = pseudo(h.from.ip(), h.to.ip(), TCP, total);
    if leave.checksum {
        buffer[begin + 16..begin + 18].copy_from_slice(&fold(pseudo).to_ne_bytes());
    } else {
        fill_checksum(pseudo, &mut buffer[begin..at + len], 16);
    }
    let start = ip(buffer, begin, total, TCP, h.from.ip(), h.to.ip(), route);
    let kind = if h.from.is_ipv4() { SegmentKind::Tcp4 } else { SegmentKind::Tcp6 };
    let segments = leave.split.filter(|&s| len > usize::from(s)).map(|size| Segments { kind, size });
    let checksum = leave.checksum.then_some(((begin - start) as u16, 16));
    Frame { data: &buffer[start..at + len], offload: Offload { checksum, trusted: true, segments } }
}

/// Writes the UDP header in front of the `len` bytes at `at`, checksum included; gives where it begins.
pub(crate) fn udp(buffer: &mut [u8], at: usize, len: usize, from: SocketAddr, to: SocketAddr) -> usize {
    let begin = at - 8;
    let total = len + 8;
    let h = &mut buffer[begin..at];
    h[0..2].copy_from_slice(&from.port().to_be_bytes());
    h[2..4].copy_from_slice(&to.port().to_be_bytes());
    h[4..6].copy_from_slice(&(total as u16).to_be_bytes());
    h[6..8].fill(0);
    let mut value = !fold(pseudo(from.ip(), to.ip(), UDP, total) + sum(&buffer[begin..at + len]));
    // 0 means "no checksum" (RFC 768); its other representation is sent instead.
    if value == 0 {
        value = 0xffff;
    }
    buffer[begin + 6..begin + 8].copy_from_slice(&value.to_ne_bytes());
    begin
}

/// A whole UDP frame with its payload copied, for answers that the engine gives itself.
pub(crate) fn udp_frame(payload: &[u8], from: SocketAddr, to: SocketAddr, route: Route) -> Vec<u8> {
    let mut buffer = vec![0; HEADROOM + payload.len()];
    buffer[HEADROOM..].copy_from_slice(payload);
    let begin = udp(&mut buffer, HEADROOM, payload.len(), from, to);
    let start = ip(&mut buffer, begin, payload.len() + 8, UDP, from.ip(), to.ip(), route);
    buffer.drain(..start);
    buffer
}

/// A whole ICMP or ICMPv6 frame around `message`, whose checksum (bytes 2 and 3) is filled in.
pub(crate) fn icmp_frame(message: &[u8], from: IpAddr, to: IpAddr, route: Route) -> Vec<u8> {
    let mut buffer = vec![0; HEADROOM + message.len()];
    buffer[HEADROOM..].copy_from_slice(message);
    let protocol = icmp_checksum(&mut buffer[HEADROOM..], from, to);
    let start = ip(&mut buffer, HEADROOM, message.len(), protocol, from, to, route);
    buffer.drain(..start);
    buffer
}

/// Fills in the checksum of an ICMP or ICMPv6 message; gives its protocol number.
pub(crate) fn icmp_checksum(message: &mut [u8], from: IpAddr, to: IpAddr) -> u8 {
    // Only ICMPv6 sums a pseudo-header (RFC 4443 §2.3).
    let (protocol, pseudo) = match from {
        IpAddr::V4(_) => (ICMP, 0),
        IpAddr::V6(_) => (ICMP6, pseudo(from, to, ICMP6, message.len())),
    };
    fill_checksum(pseudo, message, 2);
    protocol
}
