//! Guest time: the host's monotonic clock, less the time the machine was paused.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use visor_device::{Clock, Nanos};

/// Guest time, which stands still until [`GuestClock::resume`] and while paused.
#[derive(Debug)]
pub(crate) struct GuestClock(RwLock<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// Guest time at `since`, or simply guest time while the clock stands.
    base: Nanos,
    since: Option<Instant>,
}

impl GuestClock {
    /// A clock at 0 that stands.
    pub(crate) fn new() -> Self {
        GuestClock(RwLock::new(State { base: 0, since: None }))
    }

    pub(crate) fn resume(&self) {
        let mut s = self.0.write().unwrap_or_else(PoisonError::into_inner);
        s.since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn pause(&self) {
        let mut s = self.0.write().unwrap_or_else(PoisonError::into_inner);
        s.base = s.now();
        s.since = None;
    }
}

impl State {
    fn now(&self) -> Nanos {
        // u64 nanoseconds last 584 years.
        self.base + self.since.map_or(0, |at| at.elapsed().as_nanos() as u64)
    }
}

impl Clock for GuestClock {
    fn now(&self) -> Nanos {
        self.0.read().unwrap_or_else(PoisonError::into_inner).now()
    }

    fn wall(&self) -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stands_while_paused() {
        let c = GuestClock::new();
        assert_eq!(c.now(), 0);
        c.resume();
        std::thread::sleep(Duration::from_millis(2));
        c.pause();
        let at = c.now();
        assert!(at >= 2_000_000);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(c.now(), at);
        c.resume();
        assert!(c.now() >= at);
    }
}
