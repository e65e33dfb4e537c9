//! What stands between a guest and its switch.

use std::time::{Duration, Instant};

use visor_net::{Direction, FrameFilter};

use crate::conntrack::{Conntrack, ConntrackCounters};
use crate::packet::{Packet, classify};
use crate::{Action, Policy};

/// Judges the frames of one guest by the policy of its network. Stateful: answers pass because the question has.
pub struct PortFilter {
    policy: Policy,
    guest: String,
    table: Conntrack,
    clock: Box<dyn Fn() -> Duration + Send>,
    refused: u64,
}

impl PortFilter {
    /// The filter of `guest`.
    pub fn new(policy: Policy, guest: &str) -> Self {
        let start = Instant::now();
        Self::with_clock(policy, guest, move || start.elapsed())
    }

    /// As [`PortFilter::new`], with another clock: time since any fixed moment.
    pub fn with_clock(policy: Policy, guest: &str, clock: impl Fn() -> Duration + Send + 'static) -> Self {
        PortFilter { policy, guest: guest.into(), table: Conntrack::default(), clock: Box::new(clock), refused: 0 }
    }

    /// Frames that were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What the table of connections holds.
    pub fn connections(&self) -> ConntrackCounters {
        self.table.counters()
    }

    fn judge(&mut self, direction: Direction, frame: &[u8]) -> bool {
        let now = (self.clock)();
        match classify(frame) {
            Packet::Service => true,
            Packet::Flow { key, opens, flags, fragments } => {
                let known = self.table.known(now, &key, flags);
                if !known {
                    if direction == Direction::Outbound {
                        self.policy.learn(&self.guest, key.source.ip());
                    }
                    let allowed =
                        opens && self.policy.lock().decide(&self.guest, &key, direction).action() == Action::Accept;
                    if !allowed {
                        return false;
                    }
                    self.table.open(now, key);
                }
                if let Some(f) = fragments {
                    self.table.allow_fragments(now, f);
                }
                true
            }
            Packet::Fragment(f) => self.table.knows_fragment(now, &f),
            Packet::Error(key) => self.table.related(now, &key),
            // A protocol without connections is the guest's own affair on its way out, and needs a rule for everything to come in;
            // such rules are about addresses, which other protocols than IP have none of.
            Packet::Other => direction == Direction::Outbound,
            Packet::Broken => false,
        }
    }
}

impl FrameFilter for PortFilter {
    fn pass(&mut self, direction: Direction, frame: &[u8]) -> bool {
        let passes = self.judge(direction, frame);
        self.refused += u64::from(!passes);
        passes
    }
}
