//! What all protocols of the engine share: configuration, the host, the guests, the queue of answers.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use visor_net::{Accepts, FlowPolicy, FrameSink, Protocol, Sent};

use crate::guests::Guests;
use crate::host::{Host, Token};
use crate::listing::Counters;
use crate::table::Id;
use crate::wire::emit::HEADROOM;
use crate::{NatConfig, Time};

/// Most answers that wait for the guest.
const MAX_REPLIES: usize = 1024;
/// Most bytes of them.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// Kinds of sockets, told apart in their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp = 1,
    Datagram = 2,
    Query = 3,
    Forward = 4,
}

/// The name of a socket: kind, place and generation.
pub(crate) fn token(kind: Kind, id: Id) -> Token {
    Token(((kind as u64) << 60) | (u64::from(id.generation & 0x0fff_ffff) << 32) | u64::from(id.index))
}

/// What a token names. Generations are compared by their lower 28 bits, which the caller's table does not know: it is given one to
/// compare with.
pub(crate) fn parts(token: Token) -> Option<(Kind, u32, u32)> {
    let kind = match token.0 >> 60 {
        1 => Kind::Tcp,
        2 => Kind::Datagram,
        3 => Kind::Query,
        4 => Kind::Forward,
        _ => return None,
    };
    Some((kind, token.0 as u32, (token.0 >> 32) as u32 & 0x0fff_ffff))
}

/// The shared part.
pub(crate) struct Core<H> {
    pub(crate) config: NatConfig,
    pub(crate) host: H,
    pub(crate) policy: Arc<dyn FlowPolicy>,
    pub(crate) guests: Guests,
    pub(crate) counters: Counters,
    pub(crate) accepts: Accepts,
    pub(crate) now: Time,
    /// Where segments for guests are put together.
    pub(crate) scratch: Box<[u8]>,
    /// Bytes of segments that came before their turn.
    pub(crate) reorder_bytes: usize,
    replies: VecDeque<Vec<u8>>,
    reply_bytes: usize,
}

impl<H: Host> Core<H> {
    pub(crate) fn new(config: NatConfig, host: H) -> Core<H> {
        Core {
            config,
            host,
            policy: Arc::new(visor_net::AllowAll),
            guests: Guests::new(),
            counters: Counters::default(),
            accepts: Accepts::default(),
            now: Time(0),
            scratch: vec![0; HEADROOM + 65536].into_boxed_slice(),
            reorder_bytes: 0,
            replies: VecDeque::new(),
            reply_bytes: 0,
        }
    }

    /// Queues a finished frame for the guest. When too many wait it is dropped: every protocol that uses this asks again.
    pub(crate) fn reply(&mut self, frame: Vec<u8>) {
        if self.replies.len() >= MAX_REPLIES || self.reply_bytes + frame.len() > MAX_REPLY_BYTES {
            self.counters.replies_dropped += 1;
            return;
        }
        self.reply_bytes += frame.len();
        self.replies.push_back(frame);
    }

    /// True if answers wait.
    pub(crate) fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Hands the waiting answers out. False if `sink` is full.
    pub(crate) fn flush(&mut self, sink: &mut dyn FrameSink) -> bool {
        while let Some(frame) = self.replies.front() {
            if sink.frame(visor_net::Frame::plain(frame)) == Sent::Full {
                return false;
            }
            self.counters.frames_out += 1;
            self.reply_bytes -= frame.len();
            self.replies.pop_front();
        }
        true
    }

    /// Most payload bytes of a TCP segment on the cable.
    pub(crate) fn mss(&self, guest: SocketAddr) -> u16 {
        let most = self.config.mtu - if guest.is_ipv4() { 40 } else { 60 };
        most.min(crate::tcp::output::CHUNK as u16)
    }

    /// True if the guests' side splits TCP frames to `guest` itself.
    pub(crate) fn splits(&self, guest: SocketAddr) -> bool {
        self.accepts.checksum && if guest.is_ipv4() { self.accepts.tcp4 } else { self.accepts.tcp6 }
    }

    /// Where a flow of a guest to `to` really goes; `None` if it may not go there.
    pub(crate) fn destination(&mut self, to: SocketAddr, protocol: Protocol) -> Option<SocketAddr> {
        let ip = to.ip();
        if self.config.is_gateway(ip) {
            let loopback: IpAddr = if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            return self.config.allow_host_loopback.then(|| SocketAddr::new(loopback, to.port()));
        }
        if self.config.is_dns(ip) {
            // Long answers are fetched over TCP; UDP queries are answered elsewhere.
            let resolvers = if self.config.closed { Vec::new() } else { self.host.resolvers() };
            return resolvers.first().copied().filter(|_| to.port() == 53 && protocol == Protocol::Tcp);
        }
        let inside = match ip {
            IpAddr::V4(ip) => self.config.contains(ip),
            IpAddr::V6(ip) => self.config.contains6(ip),
        };
        (!inside && !self.config.closed && is_routable(ip)).then_some(to)
    }

    /// How a guest sees a peer of a flow towards it: under its own address, or as the gateway if that address would lead elsewhere.
    pub(crate) fn seen_from_guest(&self, guest: SocketAddr, peer: SocketAddr) -> SocketAddr {
        let ip = peer.ip().to_canonical();
        let inside = match ip {
            IpAddr::V4(ip) => self.config.contains(ip),
            IpAddr::V6(ip) => self.config.contains6(ip),
        };
        if ip.is_ipv4() == guest.is_ipv4() && !inside && is_routable(ip) {
            return SocketAddr::new(ip, peer.port());
        }
        let gateway = match (guest, self.config.gateway6()) {
            (SocketAddr::V6(_), Some(gateway)) => gateway.into(),
            _ => self.config.gateway.into(),
        };
        SocketAddr::new(gateway, peer.port())
    }
}

/// True for addresses to which a router forwards: no loopback, not "this host" (which means loopback to connect(2)), nothing
/// link-local (RFC 3927 §7; metadata services of clouds live there), no multicast, and no IPv4 in disguise.
pub(crate) fn is_routable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, ..] = ip.octets();
            a != 0 && a != 127 && a < 224 && !ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            let [first, ..] = ip.segments();
            // Global unicast 2000::/3, NAT64's well-known prefix, unique local fc00::/7.
            matches!(first >> 13, 1) || first == 0x64 || first & 0xfe00 == 0xfc00
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_beyond_the_host_are_routed_to() {
        for ip in ["127.0.0.1", "127.8.9.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "::"]
        {
            assert!(!is_routable(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["::ffff:127.0.0.1", "fe80::1", "ff02::1", "::127.0.0.1"] {
            assert!(!is_routable(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "192.168.1.1", "2001:db8::1", "fd00:1::1", "64:ff9b::808:808"] {
            assert!(is_routable(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn tokens() {
        let id = Id { index: 77, generation: 0x9000_0001 };
        assert_eq!(parts(token(Kind::Query, id)), Some((Kind::Query, 77, 1)));
        assert_eq!(parts(Token(0)), None);
    }
}
