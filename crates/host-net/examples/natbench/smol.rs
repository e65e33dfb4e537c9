//! A translator made of a ready TCP, smoltcp, and the host's sockets: what the other design would cost.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant as Clock};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};
use visor_net::Frame;

use crate::guest::Network;
use crate::link::Link;
use crate::server;

/// Bytes of each buffer of a flow. The window of 64 KiB frames must hold several.
const BUFFER: usize = 512 << 10;
/// Flows that can be open at a time.
const FLOWS: usize = 100;

struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    mtu: usize,
}

struct Rx<'a>(Vec<u8>, &'a mut Vec<Vec<u8>>);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.0);
        self.1.push(self.0);
        result
    }
}

struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + 14;
        // The cable is memory, as for the others.
        caps.checksum = ChecksumCapabilities::ignored();
        caps
    }

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Rx(frame, &mut self.spare), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        (self.tx.len() < 64).then_some(Tx(&mut self.tx))
    }
}

/// The translator.
pub(crate) struct Smol {
    queues: Queues,
    interface: Interface,
    sockets: SocketSet<'static>,
    flows: Vec<(SocketHandle, u16, Option<TcpStream>)>,
    start: Clock,
}

impl Smol {
    pub(crate) fn new(net: Network) -> Smol {
        let mtu = usize::from(net.mss) + 40;
        let mut queues = Queues { rx: VecDeque::new(), tx: VecDeque::new(), spare: Vec::new(), mtu };
        let config = Config::new(EthernetAddress([0x52, 0x55, 10, 0, 2, 2]).into());
        let mut interface = Interface::new(config, &mut queues, Instant::ZERO);
        interface.update_ip_addrs(|a| a.push(IpCidr::new(net.gateway.into(), 24)).expect("room"));
        interface.routes_mut().add_default_ipv4_route(net.gateway).expect("room");
        interface.set_any_ip(true);
        let mut sockets = SocketSet::new(Vec::new());
        let mut flows = Vec::new();
        for port in [server::SINK, server::SOURCE] {
            for _ in 0..FLOWS {
                let make = || SocketBuffer::new(vec![0; BUFFER]);
                let mut socket = Socket::new(make(), make());
                socket.set_nagle_enabled(false);
                socket.set_ack_delay(None);
                socket.listen(port).expect("a port");
                flows.push((sockets.add(socket), port, None));
            }
        }
        Smol { queues, interface, sockets, flows, start: Clock::now() }
    }

    fn poll(&mut self) {
        let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
        self.interface.poll(now, &mut self.queues, &mut self.sockets);
        for (handle, port, stream) in &mut self.flows {
            let socket = self.sockets.get_mut::<Socket<'_>>(*handle);
            match (socket.state(), &stream) {
                (State::Established, None) => {
                    let far = TcpStream::connect((crate::contender::FAR, *port)).expect("the far end");
                    far.set_nonblocking(true).expect("a socket");
                    *stream = Some(far);
                }
                (State::Closed, Some(_)) => {
                    *stream = None;
                    socket.listen(*port).expect("a port");
                }
                _ => {}
            }
            let Some(far) = stream else { continue };
            while socket.can_recv() {
                let n = socket.recv(|data| far.write(data).map_or((0, 0), |n| (n, n))).unwrap_or(0);
                if n == 0 {
                    break;
                }
            }
            while socket.can_send() {
                let done = socket.send(|room| match far.read(room) {
                    Ok(n) => (n, n == 0),
                    Err(e) => (0, e.kind() == ErrorKind::WouldBlock),
                });
                if done.unwrap_or(true) {
                    break;
                }
            }
        }
        self.interface.poll(now, &mut self.queues, &mut self.sockets);
    }
}

impl Link for Smol {
    fn send(&mut self, frame: Frame<'_>) -> bool {
        if self.queues.rx.len() >= 64 {
            self.poll();
        }
        if self.queues.rx.len() >= 64 {
            return false;
        }
        let mut copy = self.queues.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame.data);
        self.queues.rx.push_back(copy);
        true
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        self.poll();
        let n = self.queues.tx.len();
        for frame in self.queues.tx.drain(..) {
            take(&frame);
        }
        n
    }

    fn wait(&mut self, most: Duration) {
        std::thread::sleep(most.min(Duration::from_micros(50)));
    }
}
