//! Small datagrams in a row, on their way to one far end.
//!
//! Hosts can send several datagrams of one size with one call, and carry them as one through most of their network. What comes
//! in a row is collected until the engine is polled, at the latest; only the first goes at once, and after a poll that found many
//! not even that: more are on their way.

use crate::table::Id;

/// Longer datagrams are not collected: they would need fragments, which such calls do not make.
pub(crate) const SMALL: usize = 1200;
/// Datagrams of one call (Linux: `UDP_MAX_SEGMENTS`).
const MOST: usize = 64;
/// Bytes of one call.
const BYTES: usize = 60 << 10;

/// Datagrams between two polls after which more are expected.
const DENSE: usize = 8;

/// What was collected.
#[derive(Default)]
pub(crate) struct Outbox {
    flow: Option<Id>,
    /// A datagram went since the last poll.
    busy: bool,
    /// Datagrams collected since the last poll.
    collected: usize,
    /// The last poll found many.
    dense: bool,
    size: usize,
    /// All of `size` bytes.
    pub(crate) data: Vec<u8>,
}

impl Outbox {
    /// True for the first datagram since the last poll: it goes at once, since it may be the only one.
    pub(crate) fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.busy, true)
    }

    /// The engine is polled, and what was collected has gone.
    pub(crate) fn polled(&mut self) {
        self.dense = std::mem::take(&mut self.collected) >= DENSE;
        self.busy = self.dense;
    }

    /// Adds a datagram. False if it does not go with those that are here.
    pub(crate) fn add(&mut self, flow: Id, data: &[u8]) -> bool {
        if self.flow.is_none() {
            self.flow = Some(flow);
            self.size = data.len();
            self.data.clear();
        }
        let full = self.data.len() + data.len() > BYTES || self.data.len() >= MOST * self.size;
        if self.flow != Some(flow) || data.len() != self.size || full {
            return false;
        }
        self.data.extend_from_slice(data);
        self.collected += 1;
        true
    }

    /// Ends the collection; gives whose it is, and the size of its datagrams.
    pub(crate) fn close(&mut self) -> Option<(Id, usize)> {
        Some((self.flow.take()?, self.size))
    }

    /// True while something is collected, or expected.
    pub(crate) fn collects(&self) -> bool {
        self.flow.is_some() || self.dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_in_a_row_announce_more() {
        let id = Id { index: 1, generation: 0 };
        let mut outbox = Outbox::default();
        for (datagrams, dense) in [(DENSE - 1, false), (DENSE, true), (1, false), (0, false)] {
            (0..datagrams).for_each(|_| assert!(outbox.add(id, b"x")));
            outbox.close();
            outbox.polled();
            assert_eq!((outbox.collects(), outbox.is_first()), (dense, !dense), "{datagrams}");
        }
    }

    #[test]
    fn what_goes_together() {
        let id = |index| Id { index, generation: 0 };
        let mut outbox = Outbox::default();
        assert!(outbox.add(id(1), b"abc") && outbox.add(id(1), b"def"));
        assert!(!outbox.add(id(2), b"abc") && !outbox.add(id(1), b"ab") && outbox.collects());
        assert_eq!((outbox.close(), &outbox.data[..]), (Some((id(1), 3)), &b"abcdef"[..]));
        assert!(outbox.close().is_none() && outbox.add(id(2), b"x"));
        assert_eq!((1..100).filter(|_| outbox.add(id(2), b"y")).count(), MOST - 1);
        outbox.close();
        assert_eq!((0..100).filter(|_| outbox.add(id(3), &[0; SMALL])).count(), BYTES / SMALL);
    }
}
