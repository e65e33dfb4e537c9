//! A host whose sockets say what the input says.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use visor_nat::{Batch, DATAGRAM_HEADROOM, Event, Host, SocketId, Token, Undelivered};
use visor_net::Protocol;

/// A socket.
#[derive(Default)]
pub(super) struct Socket {
    token: u64,
    pub(super) to: Option<SocketAddr>,
    pub(super) asked: Option<(SocketAddr, Vec<u8>)>,
    rx: VecDeque<u8>,
    ended: bool,
    broken: bool,
    taken: usize,
    room: usize,
    waiting: Option<SocketAddr>,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    errors: VecDeque<(SocketAddr, Undelivered)>,
    shut: bool,
}

/// The host. Using a socket that was closed is a fault of the engine.
#[derive(Default)]
pub(super) struct Outside {
    pub(super) sockets: BTreeMap<u32, Socket>,
    next: u32,
    events: Vec<Event>,
    random: u64,
    /// Connections are refused, nothing can be opened.
    pub(super) closed: bool,
}

impl Outside {
    fn open(&mut self, token: Token, to: Option<SocketAddr>) -> SocketId {
        self.next += 1;
        let socket = Socket { token: token.0, to, room: 1 << 16, ..Socket::default() };
        self.sockets.insert(self.next, socket);
        SocketId(self.next)
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        self.sockets.get_mut(&id.0).expect("only sockets that are open are used")
    }

    fn event(&mut self, id: u32, readable: bool, writable: bool, hangup: bool) {
        let Some(socket) = self.sockets.get(&id) else { return };
        self.events.push(Event { token: Token(socket.token), readable, writable, hangup });
    }

    /// The `n`th socket that is open.
    pub(super) fn nth(&self, n: usize) -> Option<u32> {
        self.sockets.keys().nth(n % self.sockets.len().max(1)).copied()
    }

    /// The far end does something.
    pub(super) fn far(&mut self, id: u32, what: u8, data: &[u8]) {
        let Some(s) = self.sockets.get_mut(&id) else { return };
        let peer = s.to.unwrap_or(SocketAddr::from(([192, 0, 2, 9], 9)));
        match what % 8 {
            0 | 1 => s.rx.extend(data),
            2 => s.ended = true,
            3 => s.broken = true,
            4 => s.datagrams.push_back((peer, data.to_vec())),
            5 => s.errors.push_back((peer, Undelivered::TooBig(u16::from(data.len() as u8) * 7))),
            6 => (s.taken, s.room) = (0, data.len() * 100),
            _ => s.waiting = Some(SocketAddr::from(([198, 51, 100, 7], 1000 + data.len() as u16))),
        }
        let (ended, room) = (s.ended || s.broken, what % 8 == 6);
        self.event(id, !room, room, ended);
    }
}

impl Host for Outside {
    fn tcp_connect(&mut self, token: Token, to: SocketAddr) -> io::Result<SocketId> {
        if self.closed {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let id = self.open(token, Some(to));
        self.event(id.0, false, true, false);
        Ok(id)
    }

    fn tcp_connected(&mut self, socket: SocketId) -> io::Result<()> {
        if self.socket(socket).broken { Err(ErrorKind::ConnectionRefused.into()) } else { Ok(()) }
    }

    fn tcp_peek(&mut self, socket: SocketId, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        let s = self.socket(socket);
        if s.broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let n = s.rx.len().saturating_sub(offset).min(into.len());
        if n == 0 && !s.ended {
            return Err(ErrorKind::WouldBlock.into());
        }
        into.iter_mut().zip(s.rx.iter().skip(offset)).for_each(|(to, from)| *to = *from);
        Ok(n)
    }

    fn tcp_consume(&mut self, socket: SocketId, len: usize) -> io::Result<()> {
        let s = self.socket(socket);
        assert!(len <= s.rx.len(), "consumed without having been seen");
        s.rx.drain(..len);
        Ok(())
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize> {
        let s = self.socket(socket);
        assert!(!s.shut, "bytes after the end");
        let n = data.len().min(s.room.saturating_sub(s.taken));
        s.taken += n;
        match (s.broken, n) {
            (true, _) => Err(ErrorKind::BrokenPipe.into()),
            (_, 0) => Err(ErrorKind::WouldBlock.into()),
            _ => Ok(n),
        }
    }

    fn tcp_room(&mut self, socket: SocketId) -> usize {
        let s = self.socket(socket);
        s.room.saturating_sub(s.taken)
    }

    fn wake_on_room(&mut self, _socket: SocketId) {}

    fn tcp_shutdown(&mut self, socket: SocketId) {
        self.socket(socket).shut = true;
    }

    fn tcp_abort(&mut self, socket: SocketId) {
        self.close(socket);
    }

    fn close(&mut self, socket: SocketId) {
        assert!(self.sockets.remove(&socket.0).is_some(), "closed twice");
    }

    fn listen(&mut self, token: Token, _: Protocol, bind: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        Ok((self.open(token, None), bind))
    }

    fn accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)> {
        let from = self.socket(listener).waiting.take().ok_or(ErrorKind::WouldBlock)?;
        Ok((self.open(Token(0), Some(from)), from))
    }

    fn watch(&mut self, socket: SocketId, token: Token) {
        self.socket(socket).token = token.0;
        self.event(socket.0, true, true, false);
    }

    fn datagram_open(&mut self, token: Token, _: Protocol, _v6: bool) -> io::Result<SocketId> {
        if self.closed { Err(ErrorKind::AddrInUse.into()) } else { Ok(self.open(token, None)) }
    }

    fn datagram_send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        let s = self.socket(socket);
        s.to = Some(to);
        s.asked = Some((to, data.to_vec()));
        Ok(())
    }

    fn datagram_receive(&mut self, socket: SocketId, batch: &mut Batch) -> io::Result<()> {
        batch.received.clear();
        let s = self.socket(socket);
        for buffer in &mut batch.buffers {
            let Some((from, data)) = s.datagrams.pop_front() else { break };
            buffer[DATAGRAM_HEADROOM..][..data.len()].copy_from_slice(&data);
            batch.received.push((data.len(), from));
        }
        Ok(())
    }

    fn datagram_error(&mut self, socket: SocketId) -> Option<(SocketAddr, Undelivered)> {
        self.socket(socket).errors.pop_front()
    }

    fn local_address(&mut self, _socket: SocketId) -> Option<SocketAddr> {
        Some(SocketAddr::from(([198, 51, 100, 1], 50000)))
    }

    fn events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        self.random
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        vec![SocketAddr::from(([192, 0, 2, 53], 53))]
    }
}
