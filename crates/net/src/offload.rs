//! Doing what a sender has left undone ([`Offload`]) for a receiver that does not take it so: checksums and segmentation.

use crate::checksum::{add, pseudo, sum};
use crate::headers::{Headers, TCP, word};
use crate::{Accepts, Frame, MAX_FRAME, Offload, SegmentKind, Segments, Sent};

/// Least payload of a segment. Less than any stack asks for, and enough that one frame cannot become tens of thousands.
pub const MIN_SEGMENT: u16 = 8;

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

impl Accepts {
    /// Everything.
    pub const ALL: Accepts = Accepts { checksum: true, tcp4: true, tcp6: true };

    /// Whether a frame with `offload` can be handed over as it is.
    pub fn takes(&self, offload: &Offload) -> bool {
        let segments = match offload.segments.map(|s| s.kind) {
            None => true,
            Some(SegmentKind::Tcp4) => self.tcp4,
            Some(SegmentKind::Tcp6) => self.tcp6,
        };
        segments && (self.checksum || offload.checksum.is_none() && offload.segments.is_none())
    }

    /// What both take.
    pub fn and(self, other: Accepts) -> Accepts {
        Accepts {
            checksum: self.checksum && other.checksum,
            tcp4: self.tcp4 && other.tcp4,
            tcp6: self.tcp6 && other.tcp6,
        }
    }
}

/// Gives `frame` to `out` in a form that `accepts` allows: as it is, with its checksum filled in, or as several frames.
///
/// [`Sent::Full`] and [`Sent::Dropped`] of `out` end it; after `Full` in the middle of several frames the whole may be offered
/// again, since TCP takes a repeated segment in its stride. A frame whose offload contradicts its contents is
/// [`Sent::Dropped`].
pub fn adapt(frame: Frame<'_>, accepts: Accepts, out: &mut dyn FnMut(Frame<'_>) -> Sent) -> Sent {
    if !(14..=MAX_FRAME).contains(&frame.data.len()) || !sane(&frame) {
        return Sent::Dropped;
    }
    if accepts.takes(&frame.offload) {
        return out(frame);
    }
    match frame.offload.segments {
        Some(segments) => split(frame, segments, accepts, out),
        None => {
            let mut data = frame.data.to_vec();
            if let Some(place) = frame.offload.checksum {
                fill(&mut data, place);
            }
            out(Frame { data: &data, offload: Offload { trusted: true, ..Offload::default() } })
        }
    }
}

/// Fills in a checksum whose field holds the pseudo-header's sum. The place must lie in `data` ([`adapt`] checks that).
pub fn fill(data: &mut [u8], (start, offset): (u16, u16)) {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    let Some(covered) = data.get(start..) else { return };
    let mut value = !sum(covered);
    // UDP says with 0 that there is none (RFC 768); for the others both zeroes mean the same.
    if value == 0 {
        value = 0xffff;
    }
    if let Some(field) = data.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Whether what is said about the frame can be true.
fn sane(frame: &Frame<'_>) -> bool {
    let checksum = frame.offload.checksum.is_none_or(|(start, offset)| {
        start >= 14 && usize::from(start) + usize::from(offset) + 2 <= frame.data.len() && offset.is_multiple_of(2)
    });
    let segments = frame.offload.segments.is_none_or(|s| {
        s.size >= MIN_SEGMENT
            && Headers::parse(frame.data).is_some_and(|h| {
                h.v6 == (s.kind == SegmentKind::Tcp6) && !h.fragmented && h.tcp_payload(frame.data).is_some()
            })
    });
    checksum && segments
}

/// Cuts a frame of several TCP segments, as a network card does.
fn split(frame: Frame<'_>, segments: Segments, accepts: Accepts, out: &mut dyn FnMut(Frame<'_>) -> Sent) -> Sent {
    let data = frame.data;
    let Some(h) = Headers::parse(data) else { return Sent::Dropped };
    let Some(header) = h.tcp_payload(data) else { return Sent::Dropped };
    let payload = &data[header..];
    let size = usize::from(segments.size).max(1);
    let count = payload.len().div_ceil(size).max(1);
    let mut piece = Vec::with_capacity(header + size);
    for i in 0..count {
        let part = &payload[i * size..payload.len().min((i + 1) * size)];
        piece.clear();
        piece.extend_from_slice(&data[..header]);
        piece.extend_from_slice(part);
        finish(&mut piece, &h, i, i * size, i + 1 == count);
        let place = (h.transport as u16, 16);
        let offload = if accepts.checksum {
            Offload { checksum: Some(place), ..Offload::default() }
        } else {
            fill(&mut piece, place);
            Offload { trusted: true, ..Offload::default() }
        };
        match out(Frame { data: &piece, offload }) {
            Sent::Yes => {}
            other => return other,
        }
    }
    Sent::Yes
}

/// Makes the headers of segment number `index`, whose payload begins at `offset` of the whole, those of a packet of its own. The
/// checksum field of TCP gets the pseudo-header's sum.
fn finish(p: &mut [u8], h: &Headers, index: usize, offset: usize, last: bool) {
    let (len, n, t) = (p.len(), h.network, h.transport);
    let put = |p: &mut [u8], at: usize, v: u16| p[at..at + 2].copy_from_slice(&v.to_be_bytes());
    if h.v6 {
        put(p, n + 4, (len - n - 40) as u16);
    } else {
        let id = word(p, n + 4).unwrap_or(0).wrapping_add(index as u16);
        put(p, n + 2, (len - n) as u16);
        put(p, n + 4, id);
        put(p, n + 10, 0);
        let sum = !sum(&p[n..t]);
        put(p, n + 10, sum);
    }
    let seq = u32::from_be_bytes([p[t + 4], p[t + 5], p[t + 6], p[t + 7]]).wrapping_add(offset as u32);
    p[t + 4..t + 8].copy_from_slice(&seq.to_be_bytes());
    if !last {
        p[t + 13] &= !FIN_PSH;
    }
    if index > 0 {
        p[t + 13] &= !CWR;
    }
    let pseudo = add(0, pseudo(h.addresses(p), TCP, len - t));
    put(p, t + 16, pseudo);
}
