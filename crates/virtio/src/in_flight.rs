//! How many requests of a device are under way: a bound, so that a driver cannot pile them up by resetting the device, and the
//! memory that requests were left in a queue because of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Chain, Queues};

/// Requests under way, and whether some wait for them.
#[derive(Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    /// Requests wait in a queue for others to complete.
    stalled: AtomicBool,
}

impl InFlight {
    /// A request has started.
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Gives `start` what the driver has put into `queue`, while fewer than `budget` requests are under way.
    pub(crate) fn pump(&self, queues: &OnceLock<Arc<Queues>>, queue: u16, budget: usize, start: impl Fn(Chain)) {
        let Some(queues) = queues.get() else { return };
        for _ in 0..16 * u32::from(queues.size(queue)) {
            if self.count.load(Ordering::SeqCst) >= budget {
                self.stalled.store(true, Ordering::SeqCst);
                // A completion just before the line above has not seen it.
                if self.count.load(Ordering::SeqCst) >= budget {
                    return;
                }
            }
            let Some(chain) = queues.next(queue) else { return };
            start(chain);
        }
        self.stalled.store(true, Ordering::SeqCst);
    }

    /// A request has completed. Gives the queues, from `first` on, in which others may wait for that.
    pub(crate) fn finish(&self, queues: &OnceLock<Arc<Queues>>, first: u16) -> Range<u16> {
        self.count.fetch_sub(1, Ordering::SeqCst);
        match queues.get() {
            Some(queues) if self.stalled.swap(false, Ordering::SeqCst) => first..queues.count(),
            _ => 0..0,
        }
    }
}
