//! Segments that came before their turn.
//!
//! Keeping them is a kindness to guests behind a switch that drops: without it each loss costs a whole window. What is kept is
//! little, for one flow and for all together; the rest is sent again by the guest.

use crate::wire::tcp::before;

/// Most bytes kept for one flow.
const MAX_BYTES: usize = 256 << 10;
/// Most segments.
const MAX_SEGMENTS: usize = 256;
/// Most bytes for all flows together.
pub(crate) const MAX_TOTAL: usize = 8 << 20;

/// Segments of one flow, by sequence number.
#[derive(Default)]
pub(crate) struct Reorder {
    segments: Vec<(u32, Box<[u8]>)>,
    bytes: usize,
}

impl Reorder {
    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a segment, if there is room.
    pub(crate) fn keep(&mut self, seq: u32, data: &[u8], total: &mut usize) {
        let room = MAX_BYTES.saturating_sub(self.bytes).min(MAX_TOTAL.saturating_sub(*total));
        if data.is_empty() || data.len() > room || self.segments.len() >= MAX_SEGMENTS {
            return;
        }
        let place = self.segments.partition_point(|(s, _)| before(*s, seq));
        match self.segments.get(place) {
            Some((s, old)) if *s == seq && old.len() >= data.len() => return,
            _ => self.segments.insert(place, (seq, data.into())),
        }
        self.bytes += data.len();
        *total += data.len();
    }

    /// The bytes from `seq` on, if some are here. What lies before `seq` is dropped.
    pub(crate) fn next(&mut self, seq: u32, total: &mut usize) -> Option<Box<[u8]>> {
        while let Some((at, data)) = self.segments.first() {
            if before(seq, *at) {
                return None;
            }
            let old = seq.wrapping_sub(*at) as usize;
            let (_, data) = match old < data.len() {
                true => self.forget(total)?,
                false => {
                    self.forget(total)?;
                    continue;
                }
            };
            return Some(if old == 0 { data } else { data[old..].into() });
        }
        None
    }

    fn forget(&mut self, total: &mut usize) -> Option<(u32, Box<[u8]>)> {
        let first = (!self.segments.is_empty()).then(|| self.segments.remove(0))?;
        self.bytes -= first.1.len();
        *total -= first.1.len();
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_and_once() {
        let (mut reorder, mut total) = (Reorder::default(), 0);
        let start = u32::MAX - 2;
        let at = |n: u32| start.wrapping_add(n);
        reorder.keep(at(6), b"ghi", &mut total);
        reorder.keep(at(3), b"def", &mut total);
        reorder.keep(at(3), b"de", &mut total);
        reorder.keep(at(4), b"efg", &mut total);
        assert_eq!((reorder.next(at(2), &mut total), total), (None, 9));
        assert_eq!(reorder.next(at(3), &mut total).as_deref(), Some(&b"def"[..]));
        assert_eq!(reorder.next(at(6), &mut total).as_deref(), Some(&b"g"[..]));
        assert_eq!(reorder.next(at(7), &mut total).as_deref(), Some(&b"hi"[..]));
        assert_eq!((reorder.next(at(9), &mut total), total, reorder.bytes()), (None, 0, 0));
        for n in 0..400 {
            reorder.keep(at(1000 + n * 2000), &[7; 2000], &mut total);
        }
        assert!(total <= MAX_BYTES && total > MAX_BYTES - 2000);
        let mut full = MAX_TOTAL;
        Reorder::default().keep(0, b"x", &mut full);
        assert_eq!(full, MAX_TOTAL);
    }
}
