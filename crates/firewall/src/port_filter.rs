//! What stands between a guest and its switch.

use std::time::{Duration, Instant};

use visor_net::{Direction, FrameFilter};

use crate::conntrack::{Conntrack, ConntrackCounters};
use crate::packet::{Packet, claimed, classify};
use crate::reject::answer;
use crate::{Action, HOME, Policy};

/// The VLAN that a frame belongs to, if it belongs to one.
type VlanOf = Box<dyn Fn(&[u8]) -> Option<u16> + Send>;

/// Judges the frames of one guest by the policy of its network. Stateful: answers pass because the question has.
pub struct PortFilter {
    policy: Policy,
    guest: String,
    table: Conntrack,
    vlan: VlanOf,
    clock: Box<dyn Fn() -> Duration + Send>,
    refused: u64,
    /// For the sender of what was refused last.
    answer: Option<Vec<u8>>,
    /// The policy's revision by which the connections were judged.
    revision: u64,
}

impl PortFilter {
    /// The filter of `guest`.
    pub fn new(policy: Policy, guest: &str) -> Self {
        let start = Instant::now();
        Self::with_clock(policy, guest, move || start.elapsed())
    }

    /// As [`PortFilter::new`], with another clock: time since any fixed moment.
    pub fn with_clock(policy: Policy, guest: &str, clock: impl Fn() -> Duration + Send + 'static) -> Self {
        let revision = policy.lock().revision;
        PortFilter {
            policy,
            guest: guest.into(),
            table: Conntrack::default(),
            vlan: Box::new(|_| Some(HOME)),
            clock: Box::new(clock),
            refused: 0,
            answer: None,
            revision,
        }
    }

    /// Says how frames at this port tell their VLAN; those that belong to none are refused. Without it all are in [`HOME`].
    #[must_use]
    pub fn with_vlans(mut self, vlan: impl Fn(&[u8]) -> Option<u16> + Send + 'static) -> Self {
        self.vlan = Box::new(vlan);
        self
    }

    /// Frames that were refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// What the table of connections holds.
    pub fn connections(&self) -> ConntrackCounters {
        self.table.counters()
    }

    /// A rule has gone: what it alone allowed ends. A refused packet tells the ends nothing; they time out.
    fn judge_again(&mut self) {
        let state = self.policy.lock();
        if state.revision != self.revision {
            self.revision = state.revision;
            let guest = &self.guest;
            self.table.retain(|(vlan, key), way| state.decide(guest, *vlan, key, way).action() == Action::Accept);
        }
    }

    /// Whether the address that a frame of the guest claims is nobody else's: with another's it would get what is meant for that one.
    fn own(&self, vlan: u16, frame: &[u8]) -> bool {
        claimed(frame).is_none_or(|address| self.policy.learn(&self.guest, vlan, address))
    }

    fn judge(&mut self, direction: Direction, frame: &[u8]) -> bool {
        let now = (self.clock)();
        self.judge_again();
        let Some(vlan) = (self.vlan)(frame) else { return false };
        match classify(frame) {
            Packet::Service => direction == Direction::Inbound || self.own(vlan, frame),
            Packet::Flow { key, opens, flags, fragments } => {
                let known = self.table.known(now, &(vlan, key), flags);
                if !known {
                    let own = direction == Direction::Inbound || self.policy.learn(&self.guest, vlan, key.source.ip());
                    if !own || !opens {
                        return false;
                    }
                    let action = self.policy.lock().decide(&self.guest, vlan, &key, direction).action();
                    if action != Action::Accept {
                        self.answer = (action == Action::Reject).then(|| answer(frame)).flatten();
                        return false;
                    }
                    self.table.open(now, (vlan, key), direction);
                }
                if let Some(f) = fragments {
                    self.table.allow_fragments(now, vlan, f);
                }
                true
            }
            Packet::Fragment(f) => self.table.knows_fragment(now, vlan, &f),
            Packet::Error(key) => self.table.related(now, &(vlan, key)),
            // A protocol without connections is the guest's own affair on its way out, and needs a rule for everything to come in;
            // such rules are about addresses, which other protocols than IP have none of.
            Packet::Other => direction == Direction::Outbound && self.own(vlan, frame),
            Packet::Broken => false,
        }
    }
}

impl FrameFilter for PortFilter {
    fn pass(&mut self, direction: Direction, frame: &[u8]) -> bool {
        self.answer = None;
        let passes = self.judge(direction, frame);
        self.refused += u64::from(!passes);
        passes
    }

    fn answer(&mut self) -> Option<Vec<u8>> {
        self.answer.take()
    }
}
