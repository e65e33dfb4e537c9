//! A host made of queues: what the engine sends is kept, what the far ends do is told by the test.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use visor_net::Protocol;

use super::Random;
use crate::{Batch, DATAGRAM_HEADROOM, Event, Host, SocketId, Token, Undelivered};

/// A socket and its far end.
#[derive(Default)]
pub(super) struct Sim {
    pub(super) token: u64,
    pub(super) to: Option<SocketAddr>,
    pub(super) connected: Option<Result<(), ErrorKind>>,
    /// On its way to the guest.
    pub(super) rx: VecDeque<u8>,
    pub(super) rx_end: bool,
    pub(super) broken: bool,
    /// From the guest, not yet taken by the far end.
    pub(super) tx: VecDeque<u8>,
    pub(super) tx_end: bool,
    /// Calls that brought bytes from the guest.
    pub(super) sends: usize,
    pub(super) room: usize,
    pub(super) wants_room: bool,
    pub(super) datagrams_in: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) datagrams_out: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) errors: VecDeque<(SocketAddr, Undelivered)>,
    pub(super) waiting: VecDeque<(SocketId, SocketAddr)>,
    pub(super) protocol: Option<Protocol>,
}

/// How a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Aborted,
}

/// The host.
pub(crate) struct SimHost {
    pub(super) sockets: BTreeMap<u32, Sim>,
    pub(super) ended: BTreeMap<u32, (End, Sim)>,
    next: u32,
    events: Vec<Event>,
    random: Random,
    pub(super) resolvers: Vec<SocketAddr>,
    /// Connections succeed at once; else the test decides.
    pub(super) answer: Option<Result<(), ErrorKind>>,
    /// Bytes that each new socket takes before the far end reads.
    pub(super) room: usize,
    /// What opening or sending fails with.
    pub(super) fail: Option<ErrorKind>,
}

impl SimHost {
    pub(super) fn new() -> SimHost {
        SimHost {
            sockets: BTreeMap::new(),
            ended: BTreeMap::new(),
            next: 0,
            events: Vec::new(),
            random: Random::new(4711),
            resolvers: vec!["192.0.2.53:53".parse().unwrap()],
            answer: Some(Ok(())),
            room: 1 << 20,
            fail: None,
        }
    }

    fn open(&mut self, token: Token, sim: Sim) -> SocketId {
        let id = self.next;
        self.next += 1;
        self.sockets.insert(id, Sim { token: token.0, room: self.room, ..sim });
        SocketId(id)
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Number of the only socket, or the newest.
    pub(super) fn newest(&self) -> u32 {
        *self.sockets.keys().next_back().unwrap()
    }

    pub(super) fn sim(&mut self, socket: u32) -> &mut Sim {
        self.sockets.get_mut(&socket).unwrap()
    }

    fn event(&mut self, socket: u32, readable: bool, writable: bool, hangup: bool) {
        let token = Token(self.sim(socket).token);
        self.events.push(Event { token, readable, writable, hangup });
    }

    /// The far end accepts or refuses.
    pub(super) fn decide(&mut self, socket: u32, how: Result<(), ErrorKind>) {
        self.sim(socket).connected = Some(how);
        self.event(socket, how.is_err(), true, how.is_err());
    }

    /// The far end sends.
    pub(super) fn far_sends(&mut self, socket: u32, data: &[u8]) {
        self.sim(socket).rx.extend(data);
        self.event(socket, true, false, false);
    }

    /// The far end will send no more.
    pub(super) fn far_ends(&mut self, socket: u32) {
        self.sim(socket).rx_end = true;
        self.event(socket, true, false, true);
    }

    /// The far end resets.
    pub(super) fn far_resets(&mut self, socket: u32) {
        self.sim(socket).broken = true;
        self.event(socket, true, true, true);
    }

    /// The far end reads up to `len` bytes.
    pub(super) fn far_reads(&mut self, socket: u32, len: usize) -> Vec<u8> {
        let sim = self.sim(socket);
        let n = len.min(sim.tx.len());
        let data: Vec<u8> = sim.tx.drain(..n).collect();
        if !data.is_empty() && std::mem::take(&mut sim.wants_room) {
            self.event(socket, false, true, false);
        }
        data
    }

    /// A datagram comes in.
    pub(super) fn far_datagram(&mut self, socket: u32, from: SocketAddr, data: &[u8]) {
        self.sim(socket).datagrams_in.push_back((from, data.to_vec()));
        self.event(socket, true, false, false);
    }

    /// The network reports an error.
    pub(super) fn far_error(&mut self, socket: u32, to: SocketAddr, why: Undelivered) {
        self.sim(socket).errors.push_back((to, why));
        self.event(socket, true, false, true);
    }

    /// Somebody connects to a listener; gives the number of the accepted socket.
    pub(super) fn far_connects(&mut self, listener: u32, from: SocketAddr) -> u32 {
        let socket = self.open(Token(0), Sim { to: Some(from), connected: Some(Ok(())), ..Sim::default() });
        self.sim(listener).waiting.push_back((socket, from));
        self.event(listener, true, false, false);
        socket.0
    }
}

fn error<T>(kind: ErrorKind) -> io::Result<T> {
    Err(kind.into())
}

impl Host for SimHost {
    fn tcp_connect(&mut self, token: Token, to: SocketAddr) -> io::Result<SocketId> {
        if let Some(kind) = self.fail {
            return error(kind);
        }
        let socket = self.open(token, Sim { to: Some(to), ..Sim::default() });
        if let Some(how) = self.answer {
            self.decide(socket.0, how);
        }
        Ok(socket)
    }

    fn tcp_connected(&mut self, socket: SocketId) -> io::Result<()> {
        match self.sim(socket.0).connected {
            None => error(ErrorKind::WouldBlock),
            Some(how) => how.map_err(Into::into),
        }
    }

    fn tcp_peek(&mut self, socket: SocketId, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        let sim = self.sim(socket.0);
        if sim.broken {
            return error(ErrorKind::ConnectionReset);
        }
        let n = sim.rx.len().saturating_sub(offset).min(into.len());
        if n == 0 {
            return if sim.rx_end { Ok(0) } else { error(ErrorKind::WouldBlock) };
        }
        for (to, from) in into.iter_mut().zip(sim.rx.range(offset..offset + n)) {
            *to = *from;
        }
        Ok(n)
    }

    fn tcp_consume(&mut self, socket: SocketId, len: usize) -> io::Result<()> {
        let sim = self.sim(socket.0);
        assert!(len <= sim.rx.len(), "the engine consumes what it has not seen");
        sim.rx.drain(..len);
        Ok(())
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize> {
        let sim = self.sim(socket.0);
        assert!(!sim.tx_end, "bytes after the end");
        if sim.broken {
            return error(ErrorKind::BrokenPipe);
        }
        let n = data.len().min(sim.room.saturating_sub(sim.tx.len()));
        sim.tx.extend(&data[..n]);
        sim.sends += 1;
        if n == 0 { error(ErrorKind::WouldBlock) } else { Ok(n) }
    }

    fn tcp_room(&mut self, socket: SocketId) -> usize {
        let sim = self.sim(socket.0);
        sim.room.saturating_sub(sim.tx.len())
    }

    fn wake_on_room(&mut self, socket: SocketId) {
        let sim = self.sim(socket.0);
        if sim.tx.len() * 2 < sim.room {
            self.event(socket.0, false, true, false);
        } else {
            sim.wants_room = true;
        }
    }

    fn tcp_shutdown(&mut self, socket: SocketId) {
        self.sim(socket.0).tx_end = true;
    }

    fn tcp_abort(&mut self, socket: SocketId) {
        let sim = self.sockets.remove(&socket.0).expect("a socket that is open");
        self.ended.insert(socket.0, (End::Aborted, sim));
    }

    fn close(&mut self, socket: SocketId) {
        let sim = self.sockets.remove(&socket.0).expect("a socket that is open");
        self.ended.insert(socket.0, (End::Closed, sim));
    }

    fn listen(&mut self, token: Token, protocol: Protocol, bind: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        let socket = self.open(token, Sim { protocol: Some(protocol), ..Sim::default() });
        let port = if bind.port() == 0 { 40000 + socket.0 as u16 } else { bind.port() };
        Ok((socket, SocketAddr::new(bind.ip(), port)))
    }

    fn accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)> {
        self.sim(listener.0).waiting.pop_front().ok_or(ErrorKind::WouldBlock.into())
    }

    fn watch(&mut self, socket: SocketId, token: Token) {
        let sim = self.sim(socket.0);
        sim.token = token.0;
        let (readable, hangup) = (!sim.rx.is_empty() || sim.rx_end, sim.rx_end);
        self.event(socket.0, readable, true, hangup);
    }

    fn datagram_open(&mut self, token: Token, protocol: Protocol, _v6: bool) -> io::Result<SocketId> {
        match self.fail {
            Some(kind) => error(kind),
            None => Ok(self.open(token, Sim { protocol: Some(protocol), ..Sim::default() })),
        }
    }

    fn datagram_send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        if let Some(kind) = self.fail {
            return error(kind);
        }
        self.sim(socket.0).datagrams_out.push((to, data.to_vec()));
        Ok(())
    }

    fn datagram_receive(&mut self, socket: SocketId, batch: &mut Batch) -> io::Result<()> {
        batch.received.clear();
        let sim = self.sim(socket.0);
        for buffer in &mut batch.buffers {
            let Some((from, data)) = sim.datagrams_in.pop_front() else { break };
            buffer[DATAGRAM_HEADROOM..DATAGRAM_HEADROOM + data.len()].copy_from_slice(&data);
            batch.received.push((data.len(), from));
        }
        // Edges: more is reported again.
        if !sim.datagrams_in.is_empty() {
            self.event(socket.0, true, false, false);
        }
        Ok(())
    }

    fn datagram_error(&mut self, socket: SocketId) -> Option<(SocketAddr, Undelivered)> {
        self.sim(socket.0).errors.pop_front()
    }

    fn local_address(&mut self, socket: SocketId) -> Option<SocketAddr> {
        Some(SocketAddr::new([198, 51, 100, 1].into(), 50000u16.wrapping_add(socket.0 as u16)))
    }

    fn events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.resolvers.clone()
    }
}
