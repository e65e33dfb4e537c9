//! Datagrams from the host's sockets on their way to guests.
//!
//! They are received in batches, and go to the guest from the buffers they were received into. When the guest takes no more,
//! the rest of the batch waits, and everything else waits in the sockets, which drop what is too much.

use std::collections::VecDeque;
use std::net::SocketAddr;

use visor_net::{Direction, FlowKey, Frame, FrameSink, MacAddr, Offload, Protocol, Sent, Verdict};

use crate::core::Core;
use crate::datagram::{Datagrams, Key, Via};
use crate::host::{BATCH, Batch, Host};
use crate::table::Id;
use crate::wire::emit::{self, HEADROOM, Route};
use crate::wire::{self};

/// What waits, and where.
pub(crate) struct Inbox {
    ready: VecDeque<Via>,
    batch: Batch,
    /// Whose datagrams the batch holds, and which is next.
    current: Option<(Via, usize)>,
}

impl Inbox {
    pub(crate) fn new(batch: Batch) -> Inbox {
        Inbox { ready: VecDeque::new(), batch, current: None }
    }

    /// Notes that a socket has something.
    pub(crate) fn readable(&mut self, via: Via) {
        if !self.ready.contains(&via) {
            self.ready.push_back(via);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.current.is_none()
    }

    /// Forgets a forwarded port.
    pub(crate) fn forget(&mut self, via: Via) {
        self.ready.retain(|v| *v != via);
        if self.current.is_some_and(|(v, _)| v == via) {
            self.current = None;
        }
    }
}

impl Datagrams {
    /// Hands what waits to the guest. False if `sink` is full.
    pub(crate) fn flush<H: Host>(&mut self, core: &mut Core<H>, sink: &mut dyn FrameSink) -> bool {
        loop {
            if let Some((via, mut next)) = self.inbox.current.take() {
                while next < self.inbox.batch.received.len() {
                    if !self.deliver(core, via, next, sink) {
                        self.inbox.current = Some((via, next));
                        return false;
                    }
                    next += 1;
                }
            }
            let Some(via) = self.inbox.ready.pop_front() else { return true };
            self.receive(core, via);
        }
    }

    fn receive<H: Host>(&mut self, core: &mut Core<H>, via: Via) {
        let socket = match via {
            Via::Mapped(id) => match self.sockets.get(id) {
                Some((_, socket)) => socket.id,
                None => return,
            },
            Via::Forward { socket, .. } => socket,
        };
        self.inbox.batch.received.clear();
        if core.host.datagram_receive(socket, &mut self.inbox.batch).is_err() {
            self.inbox.batch.received.clear();
        }
        for _ in 0..BATCH {
            let Some((to, why)) = core.host.datagram_error(socket) else { break };
            self.undelivered(core, via, to, why);
        }
        // A full batch means that there may be more; others have their turn first.
        if self.inbox.batch.received.len() >= BATCH {
            self.inbox.ready.push_back(via);
        }
        self.inbox.current = Some((via, 0));
    }

    /// Hands one datagram of the batch to the guest. False if `sink` is full.
    fn deliver<H: Host>(&mut self, core: &mut Core<H>, via: Via, index: usize, sink: &mut dyn FrameSink) -> bool {
        let (len, from) = self.inbox.batch.received[index];
        let Some((key, id, mac)) = self.flow_of(core, via, from) else {
            core.counters.datagrams_dropped += 1;
            return true;
        };
        let route = Route { from_mac: core.config.mac, to_mac: mac };
        let Some(buffer) = self.inbox.batch.buffers.get_mut(index) else { return true };
        let len = len.min(buffer.len() - HEADROOM);
        let (begin, protocol) = match key.protocol {
            Protocol::Icmp => {
                let Some(protocol) = restore_echo(&mut buffer[HEADROOM..HEADROOM + len], &key) else {
                    core.counters.datagrams_dropped += 1;
                    return true;
                };
                (HEADROOM, protocol)
            }
            _ => (emit::udp(buffer, HEADROOM, len, key.remote, key.guest), wire::UDP),
        };
        let total = HEADROOM + len - begin;
        let header = if key.guest.is_ipv4() { 20 } else { 40 };
        if total + header > usize::from(core.config.mtu) {
            crate::fragment::send(
                core,
                &buffer[begin..HEADROOM + len],
                protocol,
                key.remote.ip(),
                key.guest.ip(),
                route,
            );
        } else {
            let start = emit::ip(buffer, begin, total, protocol, key.remote.ip(), key.guest.ip(), route);
            let offload = Offload { trusted: true, ..Offload::default() };
            if sink.frame(Frame { data: &buffer[start..HEADROOM + len], offload }) == Sent::Full {
                return false;
            }
            core.counters.frames_out += 1;
        }
        if let Some((_, flow)) = self.flows.get_mut(id) {
            flow.used = core.now;
            flow.received += len as u64;
        }
        true
    }

    /// The flow that a datagram from `from` belongs to; one from a forwarded port opens it.
    fn flow_of<H: Host>(&mut self, core: &mut Core<H>, via: Via, from: SocketAddr) -> Option<(Key, Id, MacAddr)> {
        let (protocol, guest) = match via {
            Via::Mapped(id) => self.sockets.get(id)?.0,
            Via::Forward { guest, .. } => (Protocol::Udp, guest),
        };
        let mut remote = core.seen_from_guest(guest, from);
        if protocol == Protocol::Icmp {
            remote.set_port(0);
        }
        let key = Key { protocol, guest, remote };
        if let Some(id) = self.flows.find(&key) {
            let (_, flow) = self.flows.get(id)?;
            // Two peers can look alike to the guest; the flow is with the first.
            let same = flow.via == via && (protocol == Protocol::Icmp || flow.peer.port() == from.port());
            return same.then_some((key, id, flow.mac));
        }
        let mac = core.guests.mac_of(guest.ip())?;
        match via {
            Via::Mapped(socket) => self.knows(socket, remote.ip()).then_some(())?,
            Via::Forward { .. } => {
                let asked = FlowKey { protocol, source: from, destination: guest };
                if core.policy.decide(&asked, Direction::Inbound) != Verdict::Allow {
                    core.counters.denied += 1;
                    return None;
                }
            }
        }
        let id = self.insert(core, key, via, from, mac)?;
        Some((key, id, mac))
    }
}

/// Makes the host's echo reply the guest's: its identifier and its checksum. `None`: it is no echo reply.
fn restore_echo(message: &mut [u8], key: &Key) -> Option<u8> {
    let reply = if key.guest.is_ipv4() { crate::icmp::ECHO.1 } else { crate::icmp::ECHO6.1 };
    if message.len() < 8 || message[0] != reply || message[1] != 0 {
        return None;
    }
    message[4..6].copy_from_slice(&key.guest.port().to_be_bytes());
    Some(emit::icmp_checksum(message, key.remote.ip(), key.guest.ip()))
}
