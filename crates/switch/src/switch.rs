//! The switch as a state machine.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use visor_net::{Frame, MAX_FRAME, MacAddr, Sent, Traffic};

use crate::guard::Guard;
use crate::table::{AGEING, Table};
use crate::vlan::{Membership, VlanId, retagged};

/// Most conflicts that are remembered.
const MAX_CONFLICTS: usize = 64;

/// A port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct PortId(pub u32);

/// A port to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortConfig {
    /// Name for people.
    pub name: String,
    /// Its VLANs.
    pub vlans: Membership,
    /// What it may say.
    pub guard: Guard,
}

/// What is known about a port.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PortStatus {
    /// The port.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Its VLANs.
    pub vlans: Membership,
    /// What has passed, seen from whatever is behind the port.
    pub traffic: Traffic,
    /// Frames refused because of their source, and why the last one was.
    pub refused: u64,
    /// See `refused`.
    pub last_refusal: Option<&'static str>,
}

/// A learnt address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct TableEntry {
    /// Its VLAN.
    pub vlan: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// Where it is.
    pub port: PortId,
    /// Since its last frame.
    pub age: Duration,
}

/// The same address behind two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// The address.
    pub mac: MacAddr,
    /// Where it was.
    pub first: PortId,
    /// Where it is too.
    pub second: PortId,
    /// How often it was seen to move between the two; 0 if both are configured with it.
    pub moves: u64,
}

struct Port {
    config: PortConfig,
    traffic: Traffic,
    refused: u64,
    last_refusal: Option<&'static str>,
}

/// See the crate's documentation.
#[derive(Default)]
pub struct Switch {
    ports: BTreeMap<PortId, Port>,
    next: u32,
    table: Table,
    conflicts: VecDeque<Conflict>,
    scratch: Vec<u8>,
}

impl Switch {
    /// Adds a port. If another one is configured with the same address, that is a [`Conflict`].
    pub fn add_port(&mut self, config: PortConfig) -> PortId {
        let id = PortId(self.next);
        self.next += 1;
        let twin = |p: &Port| config.guard.mac.is_some() && p.config.guard.mac == config.guard.mac;
        let twin = self.ports.iter().find(|(_, p)| twin(p)).map(|(id, _)| *id);
        if let (Some(first), Some(mac)) = (twin, config.guard.mac) {
            self.note(Conflict { mac, first, second: id, moves: 0 });
        }
        self.ports.insert(id, Port { config, traffic: Traffic::default(), refused: 0, last_refusal: None });
        id
    }

    /// Removes a port and what was learnt behind it.
    pub fn remove_port(&mut self, id: PortId) {
        self.ports.remove(&id);
        self.table.forget(id);
        self.conflicts.retain(|c| c.first != id && c.second != id);
    }

    /// Changes the VLANs of a port while it works; what was learnt behind it is forgotten. False if there is no such port.
    pub fn set_vlans(&mut self, id: PortId, vlans: Membership) -> bool {
        self.table.forget(id);
        self.ports.get_mut(&id).map(|p| p.config.vlans = vlans).is_some()
    }

    /// Takes a frame that comes in at `from` and gives it to `out` for each port where it leaves. `out` says what became of it
    /// there; it must cut up what the receiver does not take whole. `now` is the time since any fixed moment.
    pub fn input(
        &mut self,
        now: Duration,
        from: PortId,
        frame: Frame<'_>,
        out: &mut dyn FnMut(PortId, Frame<'_>) -> Sent,
    ) -> Sent {
        let Some(vlan) = self.admit(from, frame.data) else { return Sent::Dropped };
        let (Some(to), Some(source)) = (address(frame.data, 0), address(frame.data, 6)) else { return Sent::Dropped };
        if let Some(first) = self.table.learn(vlan, source, from, now) {
            self.moved(source, first, from);
        }
        // Addresses that never leave a link: spanning tree, pause, LLDP (IEEE 802.1Q-2022 §8.6.3).
        if to.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && to.0[5] < 0x10 {
            return Sent::Dropped;
        }
        match self.table.find(vlan, to, now).filter(|_| !to.is_multicast()) {
            Some(port) if port == from => return Sent::Yes,
            Some(port) => {
                self.leave(port, vlan, frame, out);
            }
            None => {
                let all: Vec<PortId> = self.ports.keys().copied().filter(|p| *p != from).collect();
                for port in all {
                    self.leave(port, vlan, frame, out);
                }
            }
        }
        Sent::Yes
    }

    /// All ports.
    pub fn ports(&self) -> Vec<PortStatus> {
        let status = |(id, p): (&PortId, &Port)| PortStatus {
            id: *id,
            name: p.config.name.clone(),
            vlans: p.config.vlans.clone(),
            traffic: p.traffic,
            refused: p.refused,
            last_refusal: p.last_refusal,
        };
        self.ports.iter().map(status).collect()
    }

    /// The learnt addresses in order.
    pub fn table(&self, now: Duration) -> Vec<TableEntry> {
        let mut all: Vec<_> = self
            .table
            .entries()
            .map(|(vlan, mac, p)| TableEntry { vlan, mac, port: p.port, age: now.saturating_sub(p.seen) })
            .filter(|e| e.age < AGEING)
            .collect();
        all.sort();
        all
    }

    /// Addresses that were not learnt, because their port had its share of the table: their frames go to all ports.
    pub fn table_refusals(&self) -> u64 {
        self.table.refused
    }

    /// Equal addresses, oldest first; of many, the latest 64.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.conflicts.iter().copied().collect()
    }

    /// Checks a frame that comes in; gives its VLAN.
    fn admit(&mut self, from: PortId, frame: &[u8]) -> Option<VlanId> {
        let port = self.ports.get_mut(&from)?;
        let vlan = port.config.vlans.classify(frame).filter(|_| (14..=MAX_FRAME).contains(&frame.len()));
        if vlan.is_none() {
            port.traffic.sent_dropped += 1;
            return None;
        }
        if let Some(why) = port.config.guard.objection(frame) {
            port.traffic.sent_dropped += 1;
            port.refused += 1;
            port.last_refusal = Some(why);
            return None;
        }
        port.traffic.sent += 1;
        port.traffic.sent_bytes += frame.len() as u64;
        vlan
    }

    fn leave(&mut self, to: PortId, vlan: VlanId, frame: Frame<'_>, out: &mut dyn FnMut(PortId, Frame<'_>) -> Sent) {
        let Some(port) = self.ports.get_mut(&to).filter(|p| p.config.vlans.carries(vlan)) else { return };
        let tagged = port.config.vlans.tags(vlan);
        let sent = retagged(frame, vlan, tagged, &mut self.scratch, |f| out(to, f));
        if sent == Sent::Yes {
            port.traffic.received += 1;
            port.traffic.received_bytes += frame.data.len() as u64;
        } else {
            port.traffic.received_dropped += 1;
        }
    }

    /// An address has been seen at another port while it was fresh at the first. Once is a guest that was moved; back again is
    /// two guests with the same address.
    fn moved(&mut self, mac: MacAddr, first: PortId, second: PortId) {
        let same = |c: &&mut Conflict| {
            let pair = (c.first, c.second);
            c.mac == mac && (pair == (first, second) || pair == (second, first))
        };
        match self.conflicts.iter_mut().find(same) {
            Some(c) => c.moves += 1,
            None => self.note(Conflict { mac, first, second, moves: 1 }),
        }
    }

    fn note(&mut self, conflict: Conflict) {
        if conflict.moves == 0 {
            tracing::warn!(mac = %conflict.mac, "two ports of a switch have the same Ethernet address");
        }
        if self.conflicts.len() == MAX_CONFLICTS {
            self.conflicts.pop_front();
        }
        self.conflicts.push_back(conflict);
    }
}

fn address(frame: &[u8], at: usize) -> Option<MacAddr> {
    frame.get(at..)?.first_chunk().map(|a| MacAddr(*a))
}
