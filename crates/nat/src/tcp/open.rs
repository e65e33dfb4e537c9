//! How TCP connections come to be: a SYN of the guest, or a connection accepted for a forwarded port.

use std::net::SocketAddr;
use std::time::Duration;

use visor_net::{Direction, FlowKey, MacAddr, Protocol, Verdict};

use super::flow::{Flow, Key, State};
use super::{Fate, SCALE, Tcp, reset_stranger, token};
use crate::core::Core;
use crate::host::{Host, SocketId};
use crate::wire::tcp::{ACK, RST, SYN, Segment};

/// The host gives up connecting after about two minutes; if it does not say so, the flow ends then.
const CONNECT_LIMIT: Duration = Duration::from_secs(150);
/// Connections accepted in one go; more wait in the host's queue.
const ACCEPTS: usize = 64;

impl Tcp {
    /// A segment of a guest for a flow that does not exist yet.
    pub(super) fn stranger<H: Host>(&mut self, core: &mut Core<H>, key: Key, mac: MacAddr, segment: &Segment<'_>) {
        if !segment.has(SYN) || segment.has(ACK | RST) {
            return reset_stranger(core, &key, mac, segment);
        }
        let flow_key = FlowKey { protocol: Protocol::Tcp, source: key.guest, destination: key.remote };
        match core.policy.decide(&flow_key, Direction::Outbound) {
            Verdict::Allow => {}
            Verdict::Reject(_) => {
                core.counters.denied += 1;
                return reset_stranger(core, &key, mac, segment);
            }
            Verdict::Drop(_) => {
                core.counters.denied += 1;
                return;
            }
        }
        let Some(peer) = core.destination(key.remote, Protocol::Tcp) else {
            core.counters.forbidden += 1;
            return reset_stranger(core, &key, mac, segment);
        };
        self.make_room(core);
        let iss = core.host.random() as u32;
        let mut flow = Flow::new(State::Connecting, Direction::Outbound, mac, peer, iss, core.now);
        flow.take_syn(segment, core.mss(key.guest), SCALE);
        flow.set_timer(core.now + CONNECT_LIMIT);
        let owner = core.guests.owner(mac);
        let Some(id) = self.table.insert(key, flow, owner) else { return };
        match core.host.tcp_connect(token(id), peer) {
            Ok(socket) => {
                core.counters.opened += 1;
                let Some((key, flow)) = self.table.get_mut(id) else { return };
                flow.socket = Some(socket);
                // Within one host the handshake is over when the call returns: the guest has its answer before it looks for one.
                let fate = Self::connected(core, &key, flow);
                self.settle(core, id, fate);
            }
            Err(error) => {
                core.counters.refused += 1;
                if let Some((_, flow)) = self.table.remove(id) {
                    super::refuse(core, &key, &flow, error.kind());
                }
            }
        }
    }

    /// The host connected, or could not.
    pub(super) fn connected<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow) -> Fate {
        let Some(socket) = flow.socket else { return Fate::Remove };
        match core.host.tcp_connected(socket) {
            Ok(()) => {
                flow.state = State::SynReceived;
                flow.acks = 1;
                Fate::Keep
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Fate::Keep,
            Err(error) => {
                core.counters.refused += 1;
                super::refuse(core, key, flow, error.kind());
                Fate::Remove
            }
        }
    }

    /// Connections wait at a forwarded port. True if there may be more than were taken.
    pub(crate) fn accept<H: Host>(&mut self, core: &mut Core<H>, listener: SocketId, guest: SocketAddr) -> bool {
        for _ in 0..ACCEPTS {
            match core.host.accept(listener) {
                Ok((socket, peer)) => self.inbound(core, guest, socket, peer),
                Err(_) => return false,
            }
        }
        true
    }

    fn inbound<H: Host>(&mut self, core: &mut Core<H>, guest: SocketAddr, socket: SocketId, peer: SocketAddr) {
        let asked = FlowKey { protocol: Protocol::Tcp, source: peer, destination: guest };
        if core.policy.decide(&asked, Direction::Inbound) != Verdict::Allow {
            core.counters.denied += 1;
            return core.host.tcp_abort(socket);
        }
        self.make_room(core);
        let (Some(mac), Some(key)) = (core.guests.mac_of(guest.ip()), self.inbound_key(core, guest, peer)) else {
            core.counters.refused += 1;
            return core.host.tcp_abort(socket);
        };
        let iss = core.host.random() as u32;
        let mut flow = Flow::new(State::SynSent, Direction::Inbound, mac, peer, iss, core.now);
        flow.socket = Some(socket);
        flow.acks = 1;
        flow.mss = core.mss(guest);
        let Some(id) = self.table.insert(key, flow, core.guests.owner(mac)) else { return core.host.tcp_abort(socket) };
        core.host.watch(socket, token(id));
        core.counters.opened += 1;
        self.settle(core, id, Fate::Keep);
    }

    /// How the guest sees a peer: under its own address if that can be told from everything on the cable, else as the gateway;
    /// under another port if the right one is taken.
    fn inbound_key<H: Host>(&self, core: &mut Core<H>, guest: SocketAddr, peer: SocketAddr) -> Option<Key> {
        let mut key = Key { guest, remote: core.seen_from_guest(guest, peer) };
        for _ in 0..64 {
            if self.table.find(&key).is_none() {
                return Some(key);
            }
            key.remote.set_port(49152 + (core.host.random() as u16 & 0x3fff));
        }
        None
    }
}
