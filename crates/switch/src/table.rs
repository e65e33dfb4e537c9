//! The table of learnt addresses (IEEE 802.1Q-2022 §8.8): bounded, with a share for each port, and ageing.

use std::collections::HashMap;
use std::time::Duration;

use visor_net::MacAddr;

use crate::{PortId, VlanId};

/// How long an address is remembered after its last frame.
pub const AGEING: Duration = Duration::from_secs(300);
/// Most addresses of one port.
pub(crate) const PER_PORT: usize = 1024;

/// Where an address was seen last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) port: PortId,
    pub(crate) seen: Duration,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: HashMap<(VlanId, MacAddr), Place>,
    counts: HashMap<PortId, usize>,
    /// Addresses that were not learnt because their port had its share.
    pub(crate) refused: u64,
    swept: Duration,
}

impl Table {
    /// Notes that `mac` is behind `port`. Gives the port where it was while that is still fresh.
    pub(crate) fn learn(&mut self, vlan: VlanId, mac: MacAddr, port: PortId, now: Duration) -> Option<PortId> {
        if mac.is_multicast() {
            return None;
        }
        if let Some(place) = self.places.get_mut(&(vlan, mac)) {
            let old = std::mem::replace(place, Place { port, seen: now });
            if old.port == port {
                return None;
            }
            self.uncount(old.port);
            *self.counts.entry(port).or_default() += 1;
            return (now.saturating_sub(old.seen) < AGEING).then_some(old.port);
        }
        if self.counts.get(&port).is_some_and(|n| *n >= PER_PORT) {
            self.sweep(now);
        }
        let count = self.counts.entry(port).or_default();
        if *count >= PER_PORT {
            self.refused += 1;
            return None;
        }
        *count += 1;
        self.places.insert((vlan, mac), Place { port, seen: now });
        None
    }

    /// The port behind which `mac` is.
    pub(crate) fn find(&self, vlan: VlanId, mac: MacAddr, now: Duration) -> Option<PortId> {
        let place = self.places.get(&(vlan, mac))?;
        (now.saturating_sub(place.seen) < AGEING).then_some(place.port)
    }

    /// Forgets what is behind `port`.
    pub(crate) fn forget(&mut self, port: PortId) {
        self.places.retain(|_, p| p.port != port);
        self.counts.remove(&port);
    }

    /// All entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (VlanId, MacAddr, Place)> + '_ {
        self.places.iter().map(|((vlan, mac), place)| (*vlan, *mac, *place))
    }

    /// Removes what is too old, at most once a second: a full table must not cost a pass for each frame.
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        self.places.retain(|_, p| now.saturating_sub(p.seen) < AGEING);
        self.counts.clear();
        for p in self.places.values() {
            *self.counts.entry(p.port).or_default() += 1;
        }
    }

    fn uncount(&mut self, port: PortId) {
        if let Some(n) = self.counts.get_mut(&port) {
            *n = n.saturating_sub(1);
        }
    }
}
