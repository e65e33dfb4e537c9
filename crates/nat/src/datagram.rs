//! UDP and ICMP echo through the host's sockets.
//!
//! One socket for each port (or echo identifier) of a guest, whoever it talks to: endpoint-independent mapping (RFC 4787 REQ-1).
//! In from outside comes only what answers a flow, or comes from an address that the guest has sent to from that port
//! (address-dependent filtering, REQ-8), so that protocols which answer from another port work.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use visor_net::{Direction, FlowKey, MacAddr, Protocol, Verdict};

use crate::core::{Core, Kind, token};
use crate::host::{Batch, Host, SocketId, Undelivered};
use crate::icmp::{self, About};
use crate::listing::Translation;
use crate::outbox::{self, Outbox};
use crate::table::{Id, Table};
use crate::timers::Timers;
use crate::wire::ip::Packet;
use crate::{Time, wire};

/// Far addresses remembered for one socket.
const MAX_PEERS: usize = 32;
/// Questions to a resolver are answered at once or not at all.
const DNS_IDLE: Duration = Duration::from_secs(20);

/// Name of a flow on the guest's cable. Of ICMP the guest's port is the identifier and the remote's is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) protocol: Protocol,
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// Which socket carries a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// One of the guest's own.
    Mapped(Id),
    /// A forwarded port.
    Forward { socket: SocketId, guest: SocketAddr },
}

pub(crate) struct Flow {
    pub(crate) via: Via,
    pub(crate) peer: SocketAddr,
    pub(crate) mac: MacAddr,
    created: Time,
    pub(crate) used: Time,
    sent: u64,
    pub(crate) received: u64,
    sequence: u16,
}

pub(crate) struct Socket {
    pub(crate) id: SocketId,
    users: u32,
    /// Addresses that were sent to, as the guest names them.
    peers: Vec<IpAddr>,
}

/// All flows of UDP and ICMP echo.
pub(crate) struct Datagrams {
    pub(crate) flows: Table<Key, Flow>,
    pub(crate) sockets: Table<(Protocol, SocketAddr), Socket>,
    timers: Timers,
    pub(crate) inbox: crate::inbox::Inbox,
    pub(crate) outbox: Outbox,
}

impl Datagrams {
    pub(crate) fn new(limit: usize) -> Datagrams {
        Datagrams {
            flows: Table::new(limit),
            sockets: Table::new(limit),
            timers: Timers::default(),
            inbox: crate::inbox::Inbox::new(Batch::new()),
            outbox: Outbox::default(),
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// A datagram of a guest, for somewhere beyond the engine.
    pub(crate) fn outbound<H: Host>(
        &mut self,
        core: &mut Core<H>,
        mac: MacAddr,
        packet: &Packet<'_>,
        key: Key,
        data: &[u8],
    ) {
        let id = match self.flows.find(&key) {
            Some(id) => id,
            None => match self.open(core, mac, packet, key) {
                Some(id) => id,
                None => return,
            },
        };
        self.flows.touch(id);
        let Some((_, flow)) = self.flows.get_mut(id) else { return };
        flow.used = core.now;
        flow.sent += data.len() as u64;
        if key.protocol == Protocol::Icmp {
            flow.sequence = wire::be16(data, 6).unwrap_or(0);
        }
        let small =
            key.protocol == Protocol::Udp && (1..=outbox::SMALL).contains(&data.len()) && !self.outbox.is_first();
        if small && self.outbox.add(id, data) {
            return;
        }
        self.send_collected(core);
        if small && self.outbox.add(id, data) {
            return;
        }
        self.send(core, id, data, data.len());
    }

    /// Hands what was collected to the host.
    pub(crate) fn send_collected<H: Host>(&mut self, core: &mut Core<H>) {
        let Some((id, size)) = self.outbox.close() else { return };
        let data = std::mem::take(&mut self.outbox.data);
        self.send(core, id, &data, size);
        self.outbox.data = data;
    }

    /// Sends `data` in datagrams of `size` bytes.
    fn send<H: Host>(&mut self, core: &mut Core<H>, id: Id, data: &[u8], size: usize) {
        let Some((_, flow)) = self.flows.get(id) else { return };
        let (via, peer) = (flow.via, flow.peer);
        let Some(socket) = self.socket_of(via) else { return };
        let sent = match data.len() > size {
            true => core.host.datagrams_send(socket, peer, data, size),
            false => core.host.datagram_send(socket, peer, data),
        };
        if let Err(error) = sent {
            self.unsent(core, id, via, socket, error.kind());
        }
    }

    fn socket_of(&self, via: Via) -> Option<SocketId> {
        match via {
            Via::Mapped(id) => self.sockets.get(id).map(|(_, s)| s.id),
            Via::Forward { socket, .. } => Some(socket),
        }
    }

    fn open<H: Host>(&mut self, core: &mut Core<H>, mac: MacAddr, packet: &Packet<'_>, key: Key) -> Option<Id> {
        let asked = FlowKey { protocol: key.protocol, source: key.guest, destination: key.remote };
        match core.policy.decide(&asked, Direction::Outbound) {
            Verdict::Allow => {}
            verdict => {
                core.counters.denied += 1;
                if matches!(verdict, Verdict::Reject(_)) {
                    icmp::reject(core, mac, packet, Undelivered::Prohibited);
                }
                return None;
            }
        }
        let Some(peer) = core.destination(key.remote, key.protocol) else {
            core.counters.forbidden += 1;
            icmp::reject(core, mac, packet, Undelivered::Prohibited);
            return None;
        };
        self.make_room(core);
        let owner = core.guests.owner(mac);
        let socket = match self.socket(core, key.protocol, key.guest, peer.is_ipv6(), owner) {
            Ok(socket) => socket,
            Err(kind) => {
                core.counters.refused += 1;
                icmp::reject(core, mac, packet, unsendable(kind).unwrap_or(Undelivered::Net));
                return None;
            }
        };
        self.insert(core, key, Via::Mapped(socket), peer, mac)
    }

    /// Adds a flow over a socket that exists.
    pub(crate) fn insert<H: Host>(
        &mut self,
        core: &mut Core<H>,
        key: Key,
        via: Via,
        peer: SocketAddr,
        mac: MacAddr,
    ) -> Option<Id> {
        self.make_room(core);
        let now = core.now;
        let flow = Flow { via, peer, mac, created: now, used: now, sent: 0, received: 0, sequence: 0 };
        let id = self.flows.insert(key, flow, core.guests.owner(mac))?;
        if let Via::Mapped(socket) = via
            && let Some((_, socket)) = self.sockets.get_mut(socket)
        {
            socket.users += 1;
            if !socket.peers.contains(&key.remote.ip()) {
                if socket.peers.len() >= MAX_PEERS {
                    socket.peers.remove(0);
                }
                socket.peers.push(key.remote.ip());
            }
        }
        core.counters.opened += 1;
        self.timers.add(now + idle_limit(core, &key), id);
        Some(id)
    }

    /// The guest's socket for one of its ports.
    fn socket<H: Host>(
        &mut self,
        core: &mut Core<H>,
        protocol: Protocol,
        guest: SocketAddr,
        v6: bool,
        owner: u16,
    ) -> Result<Id, ErrorKind> {
        if let Some(id) = self.sockets.find(&(protocol, guest)) {
            return Ok(id);
        }
        let socket = Socket { id: SocketId(u32::MAX), users: 0, peers: Vec::new() };
        let id = self.sockets.insert((protocol, guest), socket, owner).ok_or(ErrorKind::OutOfMemory)?;
        match core.host.datagram_open(token(Kind::Datagram, id), protocol, v6) {
            Ok(host_id) => {
                if let Some((_, socket)) = self.sockets.get_mut(id) {
                    socket.id = host_id;
                }
                Ok(id)
            }
            Err(error) => {
                self.sockets.remove(id);
                Err(error.kind())
            }
        }
    }

    fn make_room<H: Host>(&mut self, core: &mut Core<H>) {
        if self.flows.is_full()
            && let Some(id) = self.flows.victim()
        {
            core.counters.evicted += 1;
            self.remove(core, id);
        }
    }

    /// Forgets a flow, and its socket if it was the last one there.
    pub(crate) fn remove<H: Host>(&mut self, core: &mut Core<H>, id: Id) {
        let Some((_, flow)) = self.flows.remove(id) else { return };
        if let Via::Mapped(socket_id) = flow.via
            && let Some((_, socket)) = self.sockets.get_mut(socket_id)
        {
            socket.users -= 1;
            if socket.users == 0 {
                core.host.close(socket.id);
                self.sockets.remove(socket_id);
            }
        }
        let flows = &self.flows;
        self.timers.tidy(|id| flows.get(id).is_some(), flows.len());
    }

    /// The host did not take a datagram: tells the guest why.
    fn unsent<H: Host>(&mut self, core: &mut Core<H>, id: Id, via: Via, socket: SocketId, kind: ErrorKind) {
        if kind == ErrorKind::WouldBlock {
            core.counters.datagrams_dropped += 1;
            return;
        }
        let mut told = false;
        // An error that waits here may belong to an earlier datagram.
        for _ in 0..4 {
            let Some((to, why)) = core.host.datagram_error(socket) else { break };
            told |= self.undelivered(core, via, to, why);
        }
        if !told && let Some(why) = unsendable(kind) {
            self.tell(core, id, why);
        }
    }

    /// The network reports about a datagram to `to`. True if it belongs to a flow, whose guest is told.
    pub(crate) fn undelivered<H: Host>(
        &mut self,
        core: &mut Core<H>,
        via: Via,
        to: SocketAddr,
        why: Undelivered,
    ) -> bool {
        let (protocol, guest) = match via {
            Via::Mapped(id) => match self.sockets.get(id) {
                Some((key, _)) => *key,
                None => return false,
            },
            Via::Forward { guest, .. } => (Protocol::Udp, guest),
        };
        let mut remote = core.seen_from_guest(guest, to);
        if protocol == Protocol::Icmp {
            remote.set_port(0);
        }
        let Some(id) = self.flows.find(&Key { protocol, guest, remote }) else { return false };
        self.tell(core, id, why);
        true
    }

    /// Reports to the guest of a flow what became of a datagram.
    fn tell<H: Host>(&self, core: &mut Core<H>, id: Id, why: Undelivered) {
        let Some((&Key { protocol, guest, remote }, flow)) = self.flows.get(id).map(|(k, f)| (k, f)) else { return };
        let mut head = [0; 8];
        let number = match protocol {
            Protocol::Icmp => {
                head[0] = if guest.is_ipv4() { icmp::ECHO.0 } else { icmp::ECHO6.0 };
                head[4..6].copy_from_slice(&guest.port().to_be_bytes());
                head[6..].copy_from_slice(&flow.sequence.to_be_bytes());
                if guest.is_ipv4() { wire::ICMP } else { wire::ICMP6 }
            }
            _ => {
                head[..2].copy_from_slice(&guest.port().to_be_bytes());
                head[2..4].copy_from_slice(&remote.port().to_be_bytes());
                head[5] = 8;
                wire::UDP
            }
        };
        let about = About { from: guest.ip(), to: remote.ip(), protocol: number, head };
        icmp::report(core, flow.mac, &about, why);
    }

    /// True if `remote` may answer on a guest's socket although no flow is with exactly it.
    pub(crate) fn knows(&self, socket: Id, remote: IpAddr) -> bool {
        self.sockets.get(socket).is_some_and(|(_, s)| s.peers.contains(&remote))
    }

    /// Forgets flows that were quiet for too long.
    pub(crate) fn timers<H: Host>(&mut self, core: &mut Core<H>) {
        while let Some(id) = self.timers.due(core.now) {
            let Some((key, flow)) = self.flows.get(id) else { continue };
            let end = flow.used + idle_limit(core, key);
            if end > core.now {
                self.timers.add(end, id);
            } else {
                core.counters.expired += 1;
                self.remove(core, id);
            }
        }
    }

    /// Appends all flows to a listing.
    pub(crate) fn list<H: Host>(&self, core: &mut Core<H>, now: Time, list: &mut Vec<Translation>) {
        for (_, key, flow) in self.flows.iter() {
            list.push(Translation {
                protocol: key.protocol,
                guest: key.guest,
                host: self.socket_of(flow.via).and_then(|s| core.host.local_address(s)),
                remote: flow.peer,
                inbound: matches!(flow.via, Via::Forward { .. }),
                state: "open".into(),
                age: now.since(flow.created),
                idle: now.since(flow.used),
                sent: flow.sent,
                received: flow.received,
            });
        }
    }
}

fn idle_limit<H>(core: &Core<H>, key: &Key) -> Duration {
    match (key.protocol, key.remote.port()) {
        (Protocol::Icmp, _) => core.config.icmp_idle,
        (_, 53) => DNS_IDLE.min(core.config.udp_idle),
        _ => core.config.udp_idle,
    }
}

/// What to tell a guest about an error of its datagram; `None`: nothing.
fn unsendable(kind: ErrorKind) -> Option<Undelivered> {
    match kind {
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable | ErrorKind::Unsupported => Some(Undelivered::Net),
        ErrorKind::HostUnreachable => Some(Undelivered::Host),
        ErrorKind::PermissionDenied => Some(Undelivered::Prohibited),
        ErrorKind::ConnectionRefused => Some(Undelivered::Port),
        _ => None,
    }
}
