//! A guest with a TCP of its own (smoltcp) on a cable that loses, delays, reorders and doubles frames by a seed.

use std::collections::BTreeMap;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use visor_net::{Frame, Sent};

use super::frames::MAC;
use super::sim::SimHost;
use super::{Random, engine};
use crate::{NatConfig, NatEngine, Time};

/// What a cable does to frames, each way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) seed: u64,
    /// Frames lost, in thousandths.
    pub(super) loss: u64,
    /// Frames doubled, in thousandths.
    pub(super) double: u64,
    /// Delay in microseconds.
    pub(super) delay: u64,
    /// Up to this much more, for each frame anew: frames overtake each other.
    pub(super) jitter: u64,
    /// Frames that fit on the way to the guest at a time; 0: any number.
    pub(super) room: usize,
}

struct Way {
    frames: BTreeMap<(u64, u64), Vec<u8>>,
    weather: Weather,
    random: Random,
    count: u64,
}

impl Way {
    fn new(weather: Weather, way: u64) -> Way {
        Way { frames: BTreeMap::new(), weather, random: Random::new(weather.seed * 2 + way), count: 0 }
    }

    fn push(&mut self, now: u64, frame: &[u8]) {
        let copies = 1 + u64::from(self.random.below(1000) < self.weather.double);
        for _ in 0..copies {
            if self.random.below(1000) < self.weather.loss {
                continue;
            }
            let at = now + self.weather.delay + self.random.below(self.weather.jitter + 1);
            self.count += 1;
            self.frames.insert((at, self.count), frame.to_vec());
        }
    }

    fn pop(&mut self, now: u64) -> Option<Vec<u8>> {
        let entry = self.frames.first_entry().filter(|e| e.key().0 <= now)?;
        Some(entry.remove())
    }

    fn next(&self) -> Option<u64> {
        self.frames.keys().next().map(|k| k.0)
    }
}

/// The guest's end of the cable.
struct Nic {
    arrived: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Rx(Vec<u8>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Tx<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push(frame);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1514;
        caps
    }

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        if self.arrived.is_empty() {
            return None;
        }
        Some((Rx(self.arrived.remove(0)), Tx(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.sent))
    }
}

/// Guest, cable, engine and simulated host.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) engine: NatEngine<SimHost>,
    up: Way,
    down: Way,
    nic: Nic,
    interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    room: usize,
    /// When the engine wants to be called.
    due: Option<u64>,
}

impl World {
    pub(super) fn new(weather: Weather) -> World {
        let mut nic = Nic { arrived: Vec::new(), sent: Vec::new() };
        let mut config = Config::new(EthernetAddress(MAC.0).into());
        config.random_seed = weather.seed;
        let mut interface = Interface::new(config, &mut nic, Instant::ZERO);
        interface.update_ip_addrs(|list| {
            list.push(IpCidr::new(IpAddress::v4(10, 0, 2, 15), 24)).unwrap();
            list.push(IpCidr::new(IpAddress::v6(0xfd00, 0xa, 0, 2, 0, 0, 0, 0x15), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route([10, 0, 2, 2].into()).unwrap();
        let gateway6 = NatConfig::default().gateway6().unwrap();
        interface.routes_mut().add_default_ipv6_route(gateway6).unwrap();
        World {
            now: 1,
            engine: engine(NatConfig::default()),
            up: Way::new(weather, 0),
            down: Way::new(weather, 1),
            nic,
            interface,
            sockets: SocketSet::new(Vec::new()),
            room: weather.room,
            due: None,
        }
    }

    /// A socket of the guest with buffers of `buffer` bytes.
    pub(super) fn socket(&mut self, buffer: usize) -> SocketHandle {
        let make = || SocketBuffer::new(vec![0; buffer]);
        let mut socket = Socket::new(make(), make());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        self.sockets.add(socket)
    }

    pub(super) fn connect(&mut self, handle: SocketHandle, to: std::net::SocketAddr, port: u16) {
        let context = self.interface.context();
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        socket.connect(context, (IpAddress::from(to.ip()), to.port()), port).unwrap();
    }

    pub(super) fn tcp(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Moves on to the next moment at which anything happens, at most `limit`, and lets it happen.
    pub(super) fn step(&mut self, limit: u64) {
        let instant = Instant::from_micros(self.now as i64);
        let theirs = self.interface.poll_delay(instant, &self.sockets).map(|d| self.now + d.total_micros());
        let news = self.engine.host().has_events().then_some(self.now);
        let next = [theirs, self.due, news, self.up.next(), self.down.next()].into_iter().flatten().min();
        self.now = next.unwrap_or(limit).clamp(self.now + 1, limit.max(self.now + 1));
        let now = self.now;
        while let Some(frame) = self.up.pop(now) {
            self.engine.ingress(Time(now), Frame::plain(&frame));
        }
        let (down, room) = (&mut self.down, self.room);
        let wait = self.engine.poll(Time(now), &mut |f: Frame<'_>| {
            if room > 0 && down.frames.len() >= room {
                return Sent::Full;
            }
            down.push(now, f.data);
            Sent::Yes
        });
        self.due = wait.map(|d| now + d.as_micros() as u64);
        while let Some(frame) = self.down.pop(now) {
            self.nic.arrived.push(frame);
        }
        let instant = Instant::from_micros(now as i64);
        self.interface.poll(instant, &mut self.nic, &mut self.sockets);
        for frame in std::mem::take(&mut self.nic.sent) {
            self.up.push(now, &frame);
        }
    }

    /// The host's only TCP socket, once it is there.
    pub(super) fn far(&mut self) -> Option<u32> {
        let sockets = &self.engine.host().sockets;
        sockets.iter().find(|(_, s)| s.to.is_some()).map(|(n, _)| *n)
    }
}
