//! The header before each packet (virtio 1.2 §5.1.6).

use visor_net::headers::Headers;
use visor_net::{Frame, Offload, SegmentKind, Segments};

/// Bytes of the header; `num_buffers` is there always, since the device is a modern one.
pub(super) const HEADER: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Congestion notification in the segments: nothing special is needed for it.
const GSO_ECN: u8 = 0x80;

/// What the driver says about a packet. `None` for what cannot be.
pub(super) fn parse(h: &[u8; HEADER]) -> Option<Offload> {
    let word = |at: usize| u16::from_le_bytes([h[at], h[at + 1]]);
    let checksum = (h[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8)));
    let kind = match h[1] & !GSO_ECN {
        GSO_NONE => None,
        GSO_TCPV4 => Some(SegmentKind::Tcp4),
        GSO_TCPV6 => Some(SegmentKind::Tcp6),
        _ => return None,
    };
    let segments = kind.map(|kind| Segments { kind, size: word(4) });
    // §5.1.6.2.1: segments need the checksum's place.
    if segments.is_some() && checksum.is_none() {
        return None;
    }
    Some(Offload { checksum, trusted: false, segments })
}

/// What the driver is told about `frame`, which the driver takes as it is.
pub(super) fn emit(frame: &Frame<'_>, checksums: bool, buffers: u16) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    let mut put = |at: usize, value: u16| h[at..at + 2].copy_from_slice(&value.to_le_bytes());
    put(10, buffers);
    let mut checksum = frame.offload.checksum;
    let mut gso = GSO_NONE;
    if let Some(s) = frame.offload.segments {
        gso = if s.kind == SegmentKind::Tcp4 { GSO_TCPV4 } else { GSO_TCPV6 };
        put(4, s.size);
        if let Some(parts) = Headers::parse(frame.data) {
            put(2, parts.tcp_payload(frame.data).unwrap_or(0) as u16);
            // §5.1.6.4.1: segments need the checksum's place.
            checksum = checksum.or(Some((parts.transport as u16, 16)));
        }
    }
    let mut flags = 0;
    if let Some((start, offset)) = checksum {
        flags = NEEDS_CSUM;
        put(6, start);
        put(8, offset);
    } else if frame.offload.trusted && checksums {
        flags = DATA_VALID;
    }
    h[0] = flags;
    h[1] = gso;
    h
}
