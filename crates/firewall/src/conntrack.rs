//! Connections that were allowed: their packets pass in both directions. Bounded; the oldest goes when it is full.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use visor_net::{Direction, FlowKey, Protocol};

use crate::packet::Fragment;

/// Most connections of one guest.
pub const MAX_CONNECTIONS: usize = 8192;
/// Most packets whose later fragments are let pass.
const MAX_FRAGMENTS: usize = 64;
/// How long fragments of a packet may be apart.
const FRAGMENT_TIME: Duration = Duration::from_secs(30);

/// Idle times, the shortest that the standards allow or more: RFC 5382 §5, RFC 4787 §4.3, RFC 5508 §3.2.
const ESTABLISHED: Duration = Duration::from_secs(7440);
const OPENING: Duration = Duration::from_secs(240);
const CLOSING: Duration = Duration::from_secs(60);
const UDP: Duration = Duration::from_secs(300);
const ICMP: Duration = Duration::from_secs(60);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ConntrackCounters {
    /// Connections now.
    pub connections: usize,
    /// Connections that had to go because the table was full.
    pub evicted: u64,
}

/// A connection, in the VLAN in which it is.
pub type Tracked = (u16, FlowKey);

/// The table of one guest.
#[derive(Debug, Default)]
pub struct Conntrack {
    entries: HashMap<Tracked, Entry>,
    /// In the order in which they came or were last looked at.
    order: VecDeque<(Tracked, Duration)>,
    fragments: VecDeque<(u16, Fragment, Duration)>,
    evicted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Which way it was opened.
    way: Direction,
    seen: Duration,
    /// Answered.
    both: bool,
    /// FIN of the side that opened, and of the other; RST counts for both.
    closed: [bool; 2],
}

impl Entry {
    fn lifetime(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
            Protocol::Tcp if self.closed[0] && self.closed[1] => CLOSING,
            Protocol::Tcp if self.both => ESTABLISHED,
            Protocol::Tcp => OPENING,
        }
    }
}

impl Conntrack {
    /// Whether a packet of `key` with TCP `flags` belongs to a connection that was allowed.
    pub fn known(&mut self, now: Duration, key: &Tracked, flags: u8) -> bool {
        let forward = self.entries.contains_key(key);
        let key = if forward { *key } else { reversed(key) };
        let Some(e) = self.entries.get_mut(&key) else { return false };
        // The same ports may be used for a new connection once the old one is over.
        let anew = e.closed == [true; 2] && flags & (SYN | ACK) == SYN;
        if anew || now.saturating_sub(e.seen) >= e.lifetime(key.1.protocol) {
            self.entries.remove(&key);
            return false;
        }
        e.seen = now;
        e.both |= !forward;
        e.closed[usize::from(!forward)] |= flags & FIN != 0;
        if flags & RST != 0 {
            e.closed = [true; 2];
        }
        true
    }

    /// Whether an error about a packet of `key` may pass: there is such a connection.
    pub fn related(&self, now: Duration, key: &Tracked) -> bool {
        let live =
            |k: &Tracked| self.entries.get(k).is_some_and(|e| now.saturating_sub(e.seen) < e.lifetime(k.1.protocol));
        live(key) || live(&reversed(key))
    }

    /// Forgets the connections for which `keep` does not hold.
    pub fn retain(&mut self, mut keep: impl FnMut(&Tracked, Direction) -> bool) {
        self.entries.retain(|key, e| keep(key, e.way));
    }

    /// Notes a connection that was allowed; `way`: who opened it, seen from the guest.
    pub fn open(&mut self, now: Duration, key: Tracked, way: Direction) {
        while self.entries.len() >= MAX_CONNECTIONS {
            self.make_room(now);
        }
        // Entries of connections that were removed are passed over later; the queue stays in proportion.
        if self.order.len() >= 2 * MAX_CONNECTIONS {
            let entries = &self.entries;
            let mut kept = std::collections::HashSet::new();
            self.order.retain(|(k, _)| entries.contains_key(k) && kept.insert(*k));
        }
        self.entries.insert(key, Entry { way, seen: now, both: false, closed: [false; 2] });
        self.order.push_back((key, now));
    }

    /// Notes that the fragments of a packet may pass.
    pub(crate) fn allow_fragments(&mut self, now: Duration, vlan: u16, fragment: Fragment) {
        if self.fragments.len() >= MAX_FRAGMENTS {
            self.fragments.pop_front();
        }
        self.fragments.push_back((vlan, fragment, now));
    }

    /// Whether a later fragment may pass: the first one has.
    pub(crate) fn knows_fragment(&self, now: Duration, vlan: u16, fragment: &Fragment) -> bool {
        self.fragments.iter().any(|(v, f, at)| *v == vlan && f == fragment && now.saturating_sub(*at) < FRAGMENT_TIME)
    }

    /// What was counted.
    pub fn counters(&self) -> ConntrackCounters {
        ConntrackCounters { connections: self.entries.len(), evicted: self.evicted }
    }

    /// Removes the oldest connection. One that was used since it was queued gets a second chance, some times.
    fn make_room(&mut self, now: Duration) {
        let mut chances = 8;
        while let Some((key, queued)) = self.order.pop_front() {
            let Some(e) = self.entries.get(&key) else { continue };
            let dead = now.saturating_sub(e.seen) >= e.lifetime(key.1.protocol);
            if !dead && e.seen > queued && chances > 0 {
                chances -= 1;
                self.order.push_back((key, e.seen));
                continue;
            }
            self.evicted += u64::from(!dead);
            self.entries.remove(&key);
            return;
        }
        self.entries.clear();
    }
}

fn reversed((vlan, key): &Tracked) -> Tracked {
    (*vlan, FlowKey { protocol: key.protocol, source: key.destination, destination: key.source })
}
