//! The engine: its life, its knobs, and what it shows.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use visor_net::{Accepts, Direction, FlowKey, FlowPolicy, Frame, FrameSink, MacAddr, Protocol, Sent, Verdict};

use crate::core::{Core, Kind, parts, token};
use crate::datagram::{Datagrams, Via};
use crate::dns::Dns;
use crate::forward::{Forward, ForwardId};
use crate::fragment::Reassembly;
use crate::host::{Event, Host};
use crate::listing::{Counters, Translation};
use crate::nd::Advertiser;
use crate::table::Id;
use crate::tcp::Tcp;
use crate::tftp::{BootFiles, Tftp};
use crate::{ConfigError, Lease, NatConfig, Time};

/// Forwarded ports of one network.
const MAX_FORWARDS: usize = 1024;

/// A translator for one Ethernet network.
pub struct NatEngine<H> {
    pub(crate) core: Core<H>,
    pub(crate) tcp: Tcp,
    pub(crate) datagrams: Datagrams,
    pub(crate) dns: Dns,
    pub(crate) reassembly: Reassembly,
    pub(crate) advertiser: Advertiser,
    pub(crate) tftp: Tftp,
    pub(crate) forwards: Vec<Forward>,
    next_forward: u32,
    events: Vec<Event>,
    /// Forwarded ports where more connections wait than were taken at once.
    waiting: Vec<ForwardId>,
}

impl<H: Host> NatEngine<H> {
    /// An engine on `host`'s sockets.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the parts of `config` do not fit together.
    pub fn new(config: NatConfig, host: H) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(NatEngine {
            tcp: Tcp::new(config.max_tcp),
            datagrams: Datagrams::new(config.max_datagram),
            dns: Dns::new(),
            reassembly: Reassembly::default(),
            advertiser: Advertiser::default(),
            tftp: Tftp::default(),
            forwards: Vec::new(),
            next_forward: 0,
            events: Vec::new(),
            waiting: Vec::new(),
            core: Core::new(config, host),
        })
    }

    /// Takes a frame of a guest. What answers it comes out of [`NatEngine::poll`].
    pub fn ingress(&mut self, now: Time, frame: Frame<'_>) -> Sent {
        self.core.now = now;
        self.core.counters.frames_in += 1;
        match self.receive(frame) {
            Some(()) => Sent::Yes,
            None => Sent::Dropped,
        }
    }

    /// Takes the news of the host's sockets, and hands frames for guests to `sink` until there are no more or it is full. Gives
    /// the time after which the next call is due even if nothing happens: zero if there is more to do at once, `None` for never.
    /// After a full sink, call again when it has room.
    pub fn poll(&mut self, now: Time, sink: &mut dyn FrameSink) -> Option<Duration> {
        self.core.now = now;
        self.tcp.unstage(&mut self.core);
        self.datagrams.send_collected(&mut self.core);
        self.datagrams.outbox.polled();
        self.tcp.put_off = false;
        self.news();
        self.tcp.timers(&mut self.core);
        self.datagrams.timers(&mut self.core);
        self.dns.timers(&mut self.core);
        self.advertiser.timers(&mut self.core);
        self.tftp.timers(&mut self.core);
        // What comes later may make answers, which go last.
        let _ = self.core.flush(sink)
            && self.datagrams.flush(&mut self.core, sink)
            && self.tcp.flush(&mut self.core, sink)
            && self.core.flush(sink);
        if !self.waiting.is_empty() {
            return Some(Duration::ZERO);
        }
        let flows = [self.tcp.next_timer(), self.datagrams.next_timer()];
        let own = [self.dns.next_timer(), self.advertiser.next, self.tftp.next_timer()];
        flows.into_iter().chain(own).flatten().min().map(|t| t.since(now))
    }

    /// True if a frame waits for a guest or a datagram for the host, so that [`NatEngine::poll`] should be called soon.
    pub fn has_output(&self) -> bool {
        self.has_answers() || self.has_collected()
    }

    /// True if datagrams for the host are being collected, or many are expected: others in a row go along if [`NatEngine::poll`]
    /// comes a little later, but it must come.
    pub fn has_collected(&self) -> bool {
        self.datagrams.outbox.collects()
    }

    /// True if something is put off, so that [`NatEngine::poll`] should be called within a millisecond.
    pub fn has_put_off(&self) -> bool {
        self.tcp.put_off
    }

    /// True if a frame waits for a guest.
    pub fn has_answers(&self) -> bool {
        self.core.has_replies() || self.tcp.has_ready() || !self.datagrams.inbox.is_empty() || !self.waiting.is_empty()
    }

    fn news(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        self.core.host.events(&mut events);
        for event in &events {
            self.event(event);
        }
        self.events = events;
        for id in std::mem::take(&mut self.waiting) {
            self.forwarded(id);
        }
    }

    fn event(&mut self, event: &Event) {
        let Some((kind, index, generation)) = parts(event.token) else { return };
        match kind {
            Kind::Tcp => {
                if let Some(id) = self.tcp.table.named(index, generation) {
                    self.tcp.event(&mut self.core, id, event);
                }
            }
            Kind::Datagram => {
                if let Some(id) = self.datagrams.sockets.named(index, generation) {
                    self.datagrams.inbox.readable(Via::Mapped(id));
                }
            }
            Kind::Query => {
                if let Some(id) = self.dns.named(index, generation) {
                    self.dns.receive(&mut self.core, id);
                }
            }
            Kind::Forward => self.forwarded(ForwardId(index)),
        }
    }

    fn forwarded(&mut self, id: ForwardId) {
        let Some(forward) = self.forwards.iter().find(|f| f.id == id).copied() else { return };
        if forward.protocol == Protocol::Udp {
            let via = Via::Forward { socket: forward.socket, guest: forward.guest };
            self.datagrams.inbox.readable(via);
        } else if self.tcp.accept(&mut self.core, forward.socket, forward.guest) {
            self.waiting.push(id);
        }
    }

    /// What the guests' side takes undone: whole TCP frames, and checksums.
    pub fn set_accepts(&mut self, accepts: Accepts) {
        self.core.accepts = accepts;
    }

    /// What is asked before a flow is opened; at first everything is allowed.
    pub fn set_policy(&mut self, policy: Arc<dyn FlowPolicy>) {
        self.core.policy = policy;
    }

    /// Asks the policy about the flows that exist, and ends those that it no longer allows. Gives their number.
    pub fn judge_again(&mut self, now: Time) -> usize {
        self.core.now = now;
        let mut ended = 0;
        let policy = Arc::clone(&self.core.policy);
        let allowed = |protocol, inbound, guest, remote, peer| {
            let (source, destination, direction) = match inbound {
                true => (peer, guest, Direction::Inbound),
                false => (guest, remote, Direction::Outbound),
            };
            policy.decide(&FlowKey { protocol, source, destination }, direction) == Verdict::Allow
        };
        let bad: Vec<Id> = (self.tcp.table.iter())
            .filter(|(_, k, f)| !allowed(Protocol::Tcp, f.direction == Direction::Inbound, k.guest, k.remote, f.peer))
            .map(|(id, ..)| id)
            .collect();
        ended += bad.len();
        bad.into_iter().for_each(|id| self.tcp.abort(&mut self.core, id));
        let bad: Vec<Id> = (self.datagrams.flows.iter())
            .filter(|(_, k, f)| !allowed(k.protocol, matches!(f.via, Via::Forward { .. }), k.guest, k.remote, f.peer))
            .map(|(id, ..)| id)
            .collect();
        ended += bad.len();
        bad.into_iter().for_each(|id| self.datagrams.remove(&mut self.core, id));
        ended
    }

    /// Lets guests reach the host's loopback through the gateway's address, or no longer. Flows that exist stay.
    pub fn set_allow_host_loopback(&mut self, allow: bool) {
        self.core.config.allow_host_loopback = allow;
    }

    /// Serves these files by TFTP at the gateway's address, or none. Which of them guests are to boot is
    /// [`NatConfig::boot_file`].
    pub fn set_boot_files(&mut self, files: Option<Box<dyn BootFiles>>) {
        self.tftp.set_files(files);
    }

    /// Makes a guest's name known to the resolver; no addresses forget it. The name stands alone or below the domain.
    pub fn set_name(&mut self, name: &str, addresses: Vec<IpAddr>) {
        self.dns.set_name(name, addresses);
    }

    /// Listens on `bind` (port 0: any free one) for `guest`.
    ///
    /// # Errors
    ///
    /// What the host says, such as `AddrInUse` or `PermissionDenied`; `InvalidInput` for ICMP and for an address outside of the
    /// network.
    pub fn add_forward(&mut self, protocol: Protocol, bind: SocketAddr, guest: SocketAddr) -> io::Result<Forward> {
        let inside = match guest.ip() {
            IpAddr::V4(ip) => self.core.config.contains(ip),
            IpAddr::V6(ip) => self.core.config.contains6(ip),
        };
        if protocol == Protocol::Icmp
            || !inside
            || self.core.config.is_own(guest.ip())
            || self.forwards.len() >= MAX_FORWARDS
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id = ForwardId(self.next_forward);
        let name = token(Kind::Forward, Id { index: id.0, generation: 0 });
        let (socket, bind) = self.core.host.listen(name, protocol, bind)?;
        self.next_forward += 1;
        let forward = Forward { id, protocol, bind, guest, socket };
        self.forwards.push(forward);
        Ok(forward)
    }

    /// Stops listening. Connections that exist go on; datagram flows end. False if there is no such forward.
    pub fn remove_forward(&mut self, id: ForwardId) -> bool {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else { return false };
        let forward = self.forwards.remove(at);
        let via = Via::Forward { socket: forward.socket, guest: forward.guest };
        self.datagrams.inbox.forget(via);
        let gone: Vec<Id> = self.datagrams.flows.iter().filter(|(.., f)| f.via == via).map(|(id, ..)| id).collect();
        gone.into_iter().for_each(|id| self.datagrams.remove(&mut self.core, id));
        self.core.host.close(forward.socket);
        true
    }

    /// The forwarded ports, oldest first.
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// The flows.
    pub fn table(&mut self, now: Time) -> Vec<Translation> {
        let mut list = Vec::with_capacity(self.tcp.table.len() + self.datagrams.flows.len());
        self.tcp.list(&mut self.core, now, &mut list);
        self.datagrams.list(&mut self.core, now, &mut list);
        list
    }

    /// Ends all flows, as when a guest is set back to an earlier state; guests and far ends are told.
    pub fn reset_flows(&mut self, now: Time) {
        self.core.now = now;
        self.tcp.unstage(&mut self.core);
        let all: Vec<Id> = self.tcp.table.iter().map(|(id, ..)| id).collect();
        all.into_iter().for_each(|id| self.tcp.abort(&mut self.core, id));
        let all: Vec<Id> = self.datagrams.flows.iter().map(|(id, ..)| id).collect();
        all.into_iter().for_each(|id| self.datagrams.remove(&mut self.core, id));
    }

    /// The addresses given out, to be saved.
    pub fn leases(&self) -> Vec<Lease> {
        self.core.guests.leases()
    }

    /// Restores a saved lease, or reserves an address for a guest. False if the address is another guest's, or not one for guests.
    pub fn restore_lease(&mut self, now: Time, lease: &Lease) -> bool {
        self.core.guests.restore(&self.core.config, lease, now)
    }

    /// The address of a guest, given to it now if it has none. `None` if there are no more.
    pub fn assign(&mut self, now: Time, mac: MacAddr) -> Option<std::net::Ipv4Addr> {
        let address = self.core.guests.offer(&self.core.config, mac, None, now)?;
        self.core.guests.take(&self.core.config, mac, address, now).then_some(address)
    }

    /// Why no flow of a guest leads to `to` whatever the policy says, in words; `None` if one does, or if `to` is another guest's
    /// address, which is no affair of a translator.
    pub fn obstacle(&mut self, to: SocketAddr, protocol: Protocol) -> Option<&'static str> {
        let config = &self.core.config;
        let inside = match to.ip() {
            IpAddr::V4(ip) => config.contains(ip),
            IpAddr::V6(ip) => config.contains6(ip),
        };
        let (gateway, closed, own) = (config.is_gateway(to.ip()), config.closed, config.is_own(to.ip()));
        let ping = protocol == Protocol::Icmp && own;
        if ping || (inside && !own) || self.core.destination(to, protocol).is_some() {
            return None;
        }
        Some(match () {
            () if gateway => "the router's address leads to the host's own services, which is not allowed here",
            () if own => "only the resolver's own service is there",
            () if closed => "this network has no way out",
            () => "addresses of this kind are not routed: loopback, link-local, multicast",
        })
    }

    /// The addresses and limits of the network.
    pub fn config(&self) -> &NatConfig {
        &self.core.config
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.core.counters
    }

    /// The host's side.
    pub fn host(&mut self) -> &mut H {
        &mut self.core.host
    }
}
