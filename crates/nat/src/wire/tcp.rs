//! TCP segments (RFC 9293 §3.1) with the options that this engine speaks: maximum segment size and window scale (RFC 7323 §2).

use super::{be16, be32};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

/// A segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// As on the wire: not scaled.
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Parses what follows the IP header. The checksum is not looked at.
    pub(crate) fn parse(data: &'a [u8]) -> Option<Segment<'a>> {
        let header_len = usize::from(data.get(12)? >> 4) * 4;
        if header_len < 20 {
            return None;
        }
        let mut segment = Segment {
            source_port: be16(data, 0)?,
            destination_port: be16(data, 2)?,
            seq: be32(data, 4)?,
            ack: be32(data, 8)?,
            flags: data[13],
            window: be16(data, 14)?,
            mss: None,
            window_scale: None,
            payload: data.get(header_len..)?,
        };
        // Both options count in SYN segments only.
        if segment.has(SYN) {
            segment.options(&data[20..header_len]);
        }
        Some(segment)
    }

    /// True if any of `flags` is set.
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    fn options(&mut self, mut rest: &[u8]) {
        while let Some(&kind) = rest.first() {
            let len = match kind {
                0 => return,
                1 => 1,
                _ => match rest.get(1) {
                    Some(&len) if len >= 2 => usize::from(len),
                    _ => return,
                },
            };
            let Some(option) = rest.get(..len) else { return };
            match (kind, len) {
                (2, 4) => self.mss = be16(option, 2),
                // RFC 7323 §2.3: more than 14 counts as 14.
                (3, 3) => self.window_scale = Some(option[2].min(14)),
                _ => {}
            }
            rest = &rest[len..];
        }
    }
}

/// `a` lies before `b` in sequence space.
pub(crate) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}
