//! The console's output, kept for whoever attaches to it later, and passed on to all who have.
//!
//! Readers keep their place by themselves: whoever is too slow misses bytes, and holds up neither the machine nor the others.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes kept.
const KEPT: usize = 256 << 10;

/// The console of one machine.
#[derive(Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    kept: VecDeque<u8>,
    /// Bytes that ever came.
    end: u64,
    closed: bool,
}

/// A reader's place: bytes that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes, and how many before them were missed.
    Bytes(Vec<u8>, u64),
    /// None in time.
    Nothing,
    /// The machine has ended, and everything was read.
    End,
}

impl Hub {
    /// Output has come.
    pub(super) fn push(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut s = self.lock();
        s.kept.extend(bytes);
        let over = s.kept.len().saturating_sub(KEPT);
        s.kept.drain(..over);
        s.end += bytes.len() as u64;
        drop(s);
        self.changed.notify_all();
    }

    /// No more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// A place from which about the last `most` bytes can be read: where a line begins, unless lines are longer.
    pub(super) fn tail(&self, most: usize) -> Place {
        let s = self.lock();
        let skipped = s.kept.len().saturating_sub(most);
        let line = match skipped {
            0 => 0,
            _ => s.kept.range(skipped..).position(|b| *b == b'\n').map_or(0, |i| i + 1),
        };
        Place(s.end - (s.kept.len() - skipped - line) as u64)
    }

    /// Up to `most` bytes from `place` on, which moves behind them; waits for some.
    pub(super) fn read(&self, place: &mut Place, most: usize, patience: Duration) -> Read {
        let mut s = self.lock();
        if s.end == place.0 && !s.closed {
            s = self.changed.wait_timeout(s, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
        if s.end == place.0 {
            return if s.closed { Read::End } else { Read::Nothing };
        }
        let first = s.end - s.kept.len() as u64;
        let missed = first.saturating_sub(place.0);
        let from = (place.0.max(first) - first) as usize;
        let bytes: Vec<u8> = s.kept.range(from..).take(most).copied().collect();
        place.0 = first + (from + bytes.len()) as u64;
        Read::Bytes(bytes, missed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn readers_have_their_own_places() {
        let hub = Hub::default();
        hub.push(b"one\ntwo\nthree");
        let (mut all, mut last) = (hub.tail(KEPT), hub.tail(7));
        assert_eq!(hub.read(&mut all, 4, NOW), Read::Bytes(b"one\n".to_vec(), 0));
        assert_eq!(hub.read(&mut last, 100, NOW), Read::Bytes(b"three".to_vec(), 0), "from the beginning of a line");
        assert_eq!(hub.read(&mut last, 100, NOW), Read::Nothing);
        hub.push(b"!");
        hub.close();
        assert_eq!(hub.read(&mut last, 100, NOW), Read::Bytes(b"!".to_vec(), 0));
        assert_eq!(hub.read(&mut last, 100, NOW), Read::End);
        assert_eq!(hub.read(&mut all, 100, NOW), Read::Bytes(b"two\nthree!".to_vec(), 0));
    }

    #[test]
    fn who_is_too_slow_misses_bytes() {
        let hub = Hub::default();
        hub.push(b"lost");
        let mut slow = hub.tail(4);
        hub.push(&vec![b'x'; KEPT]);
        assert_eq!(hub.read(&mut slow, 3, NOW), Read::Bytes(b"xxx".to_vec(), 4));
        assert_eq!(hub.read(&mut slow, KEPT, NOW), Read::Bytes(vec![b'x'; KEPT - 3], 0));
        assert_eq!(hub.read(&mut hub.tail(100), 10, NOW), Read::Bytes(vec![b'x'; 10], 0), "one long line");
    }
}
