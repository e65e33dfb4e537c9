//! Sockets of the host for a translator: [`visor_nat::Host`] on epoll.
//!
//! Data for guests is looked at with `MSG_PEEK` from an offset (`SO_PEEK_OFF`, for TCP since Linux 6.9; before that the bytes in
//! front of the offset are copied into a bin), and thrown away with `MSG_TRUNC` once it was acknowledged.

use std::io::{self, ErrorKind};
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use visor_nat::{BATCH, Batch, DATAGRAM_HEADROOM, Event, Host, SocketId, Token, Undelivered};
use visor_net::Protocol;

use crate::resolv::Resolvers;
use crate::sys::{
    Address, at_end, bind, check, check_len, epoll, epoll_control, epoll_wait, has_peer, local_address, option,
    set_option, set_option_raw, socket,
};
use crate::{errors, ping, segments};

/// What connections are watched for until they are there, and when somebody waits for room.
const EVERYTHING: u32 = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
/// What all others are watched for. That one can write is no news, and wakes a thread: for a connection when it is there, and
/// for a datagram whenever the far end has taken one.
const INWARD: u32 = EVERYTHING & !(libc::EPOLLOUT as u32);
/// Events fetched in one go.
const EVENTS: usize = 256;
/// Connections that wait to be accepted.
const BACKLOG: libc::c_int = 1024;
/// Receive buffer of datagram sockets: a guest on a slow CPU needs more than the default.
const DATAGRAM_BUFFER: libc::c_int = 1 << 20;
/// Bytes that one piece of the bin takes.
const BIN: usize = 64 << 10;
/// `SO_MEMINFO` (socket(7) does not have it; linux/sock_diag.h): indices of the send buffer's size and of its use.
const SO_MEMINFO: libc::c_int = 55;
const SNDBUF: usize = 3;
const WMEM_QUEUED: usize = 5;

/// What is known of a descriptor.
#[derive(Clone, Copy, Default)]
struct State {
    open: bool,
    token: u64,
    /// Where the kernel looks next (`SO_PEEK_OFF`); `None`: it does not keep an offset.
    peek: Option<u32>,
    /// Errors wait in the socket's queue.
    errors: bool,
    /// A raw socket that echo requests go through, under this identifier.
    raw_echo: Option<u16>,
    v6: bool,
    /// A connection that was there when the call returned.
    connected: bool,
}

/// The sockets of one translator.
pub struct HostSockets {
    epoll: OwnedFd,
    states: Vec<State>,
    events: Vec<libc::epoll_event>,
    resolvers: Resolvers,
    random: Vec<u64>,
    /// The kernel keeps offsets of TCP sockets.
    peek_offset: bool,
    bin: Vec<u8>,
    next_echo: u16,
}

impl HostSockets {
    /// No sockets yet; names are asked of `resolvers`.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(resolvers: Resolvers) -> io::Result<HostSockets> {
        let probe = socket(false, libc::SOCK_STREAM, 0)?;
        let peek_offset = set_option(probe.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0).is_ok();
        Ok(HostSockets {
            epoll: epoll()?,
            states: Vec::new(),
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            resolvers,
            random: Vec::new(),
            peek_offset,
            bin: Vec::new(),
            next_echo: std::process::id() as u16,
        })
    }

    /// The descriptor that becomes readable when there is news.
    pub(crate) fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    /// Does without the kernel's offsets, as on kernels before 6.9.
    #[cfg(test)]
    pub(crate) fn without_peek_offset(&mut self) {
        self.peek_offset = false;
    }

    /// Watches a descriptor, and takes it over.
    fn add(&mut self, fd: OwnedFd, token: Token, state: State, events: u32) -> io::Result<SocketId> {
        epoll_control(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), events, token.0)?;
        Ok(self.keep(fd, State { token: token.0, ..state }))
    }

    fn keep(&mut self, fd: OwnedFd, state: State) -> SocketId {
        let fd = fd.into_raw_fd();
        let index = fd as usize;
        if self.states.len() <= index {
            self.states.resize(index + 1, State::default());
        }
        self.states[index] = State { open: true, ..state };
        SocketId(fd as u32)
    }

    fn stream_state(&self, fd: &OwnedFd, v6: bool) -> State {
        let raw = fd.as_raw_fd();
        // Guests collect small segments themselves, or do not want them collected. Urgent data is data (RFC 6093 §4).
        let _ = set_option(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        let _ = set_option(raw, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
        let keeps = self.peek_offset && set_option(raw, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0).is_ok();
        State { peek: keeps.then_some(0), v6, ..State::default() }
    }

    /// Looks from `offset` on without the kernel's help.
    fn peek_over(&mut self, fd: RawFd, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        self.bin.resize(BIN, 0);
        let mut vectors = Vec::with_capacity(offset / BIN + 2);
        let mut left = offset;
        while left > 0 {
            let len = left.min(BIN);
            vectors.push(libc::iovec { iov_base: self.bin.as_mut_ptr().cast(), iov_len: len });
            left -= len;
        }
        vectors.push(libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() });
        // SAFETY: all zeros are a valid msghdr; the vectors describe the bin and `into`. That the pieces of the bin are the same
        // memory does not matter, since nobody reads it.
        let len = unsafe {
            let mut header: libc::msghdr = zeroed();
            header.msg_iov = vectors.as_mut_ptr();
            header.msg_iovlen = vectors.len();
            check_len(libc::recvmsg(fd, &raw mut header, libc::MSG_PEEK | libc::MSG_DONTWAIT))?
        };
        // No more than what was seen before: whether that is all, the look at the end tells.
        if len > offset || offset == 0 {
            return Ok(len - offset);
        }
        if at_end(fd) { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn state(&mut self, socket: SocketId) -> Option<&mut State> {
        self.states.get_mut(socket.0 as usize)
    }
}

fn raw(socket: SocketId) -> RawFd {
    socket.0 as RawFd
}

impl Host for HostSockets {
    fn tcp_connect(&mut self, token: Token, to: SocketAddr) -> io::Result<SocketId> {
        let fd = socket(to.is_ipv6(), libc::SOCK_STREAM, 0)?;
        let state = self.stream_state(&fd, to.is_ipv6());
        let address = Address::new(to);
        // SAFETY: pointer and length describe the address.
        match check(unsafe { libc::connect(fd.as_raw_fd(), address.pointer(), address.len) }) {
            Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
            // Within one host the handshake is over already.
            _ => {
                let connected = has_peer(fd.as_raw_fd()).is_ok();
                self.add(fd, token, State { connected, ..state }, if connected { INWARD } else { EVERYTHING })
            }
        }
    }

    fn tcp_connected(&mut self, socket: SocketId) -> io::Result<()> {
        if self.state(socket).is_some_and(|s| s.connected) {
            return Ok(());
        }
        let [error] = option::<1>(raw(socket), libc::SOL_SOCKET, libc::SO_ERROR)?;
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error as i32));
        }
        match has_peer(raw(socket)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Err(ErrorKind::WouldBlock.into()),
            other => other,
        }
    }

    fn tcp_peek(&mut self, socket: SocketId, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        let fd = raw(socket);
        let Some(state) = self.states.get_mut(socket.0 as usize) else { return Err(ErrorKind::NotFound.into()) };
        let Some(at) = state.peek.as_mut() else { return self.peek_over(fd, offset, into) };
        if *at != offset as u32 {
            set_option(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset as libc::c_int)?;
            *at = offset as u32;
        }
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: pointer and length describe `into`.
        let len = check_len(unsafe { libc::recv(fd, into.as_mut_ptr().cast(), into.len(), flags) })?;
        *at += len as u32;
        Ok(len)
    }

    fn tcp_consume(&mut self, socket: SocketId, len: usize) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
            // SAFETY: with MSG_TRUNC the kernel writes nothing for TCP sockets (tcp(7)).
            let n = check_len(unsafe { libc::recv(raw(socket), std::ptr::null_mut(), left, flags) })?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            left -= n;
            if let Some(at) = self.state(socket).and_then(|s| s.peek.as_mut()) {
                *at = at.saturating_sub(n as u32);
            }
        }
        Ok(())
    }

    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: pointer and length describe `data`.
        check_len(unsafe { libc::send(raw(socket), data.as_ptr().cast(), data.len(), flags) })
    }

    fn tcp_room(&mut self, socket: SocketId) -> usize {
        let Ok(info) = option::<9>(raw(socket), libc::SOL_SOCKET, SO_MEMINFO) else { return BIN };
        // The kernel counts its own bookkeeping; segments of 1460 bytes fill about half of what they occupy.
        (info[SNDBUF].saturating_sub(info[WMEM_QUEUED]) / 2) as usize
    }

    fn wake_on_room(&mut self, socket: SocketId) {
        // Asking anew makes the kernel look at the socket: it reports when there is room, and grows the buffer if that helps.
        if let Some(token) = self.state(socket).map(|s| s.token) {
            let _ = epoll_control(self.epoll.as_raw_fd(), libc::EPOLL_CTL_MOD, raw(socket), EVERYTHING, token);
        }
    }

    fn tcp_shutdown(&mut self, socket: SocketId) {
        // SAFETY: no pointers.
        unsafe { libc::shutdown(raw(socket), libc::SHUT_WR) };
    }

    fn tcp_abort(&mut self, socket: SocketId) {
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = set_option_raw(raw(socket), libc::SOL_SOCKET, libc::SO_LINGER, &now);
        self.close(socket);
    }

    fn close(&mut self, socket: SocketId) {
        if let Some(state) = self.state(socket).filter(|s| s.open) {
            *state = State::default();
            // SAFETY: the engine names each of its sockets once more, to close it; `keep` gave the descriptor up.
            drop(unsafe { OwnedFd::from_raw_fd(raw(socket)) });
        }
    }

    fn listen(&mut self, token: Token, protocol: Protocol, at: SocketAddr) -> io::Result<(SocketId, SocketAddr)> {
        let kind = if protocol == Protocol::Udp { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        let fd = socket(at.is_ipv6(), kind, 0)?;
        if at.is_ipv6() {
            set_option(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        }
        if protocol == Protocol::Tcp {
            // Connections of an earlier run may linger; two listeners still exclude each other.
            set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        bind(&fd, at)?;
        if protocol == Protocol::Tcp {
            // SAFETY: no pointers.
            check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG) })?;
        } else {
            prepare_datagrams(&fd, at.is_ipv6());
        }
        let bound = local_address(fd.as_raw_fd()).unwrap_or(at);
        let state = State { v6: at.is_ipv6(), ..State::default() };
        Ok((self.add(fd, token, state, INWARD)?, bound))
    }

    fn accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)> {
        let mut address = Address::empty();
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the pointers describe the storage; the descriptor is new.
        let fd = unsafe {
            let storage = std::ptr::from_mut(&mut address.storage).cast();
            OwnedFd::from_raw_fd(check(libc::accept4(raw(listener), storage, &raw mut address.len, flags))?)
        };
        let peer = address.get().ok_or(ErrorKind::InvalidData)?;
        let state = self.stream_state(&fd, peer.is_ipv6());
        Ok((self.keep(fd, state), peer))
    }

    fn watch(&mut self, socket: SocketId, token: Token) {
        // Without events the flow would stall until its timer ends it; the only reason is a lack of kernel memory.
        let _ = epoll_control(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, raw(socket), INWARD, token.0);
        if let Some(state) = self.state(socket) {
            state.token = token.0;
        }
    }

    fn datagram_open(&mut self, token: Token, protocol: Protocol, v6: bool) -> io::Result<SocketId> {
        if protocol != Protocol::Icmp {
            let fd = socket(v6, libc::SOCK_DGRAM, 0)?;
            prepare_datagrams(&fd, v6);
            return self.add(fd, token, State { v6, ..State::default() }, INWARD);
        }
        let (fd, is_raw) = ping::open(v6)?;
        prepare_datagrams(&fd, v6);
        self.next_echo = self.next_echo.wrapping_add(1);
        let raw_echo = is_raw.then_some(self.next_echo);
        self.add(fd, token, State { v6, raw_echo, ..State::default() }, INWARD)
    }

    fn datagram_send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8]) -> io::Result<()> {
        let Some(state) = self.state(socket) else { return Err(ErrorKind::NotFound.into()) };
        let raw_echo = state.raw_echo.map(|ident| (ident, state.v6));
        let address = Address::new(to);
        let message = raw_echo.map(|(ident, v6)| ping::with_ident(data, ident, v6));
        let data = message.as_deref().unwrap_or(data);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: pointers and lengths describe `data` and the address.
        let sent = unsafe {
            libc::sendto(raw(socket), data.as_ptr().cast(), data.len(), flags, address.pointer(), address.len)
        };
        match check_len(sent) {
            Ok(_) => Ok(()),
            Err(e) => {
                if let Some(state) = self.state(socket) {
                    state.errors = true;
                }
                Err(e)
            }
        }
    }

    fn datagrams_send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8], size: usize) -> io::Result<()> {
        if data.len() < segments::WORTH_IT * size {
            return data.chunks(size.max(1)).try_for_each(|one| self.datagram_send(socket, to, one));
        }
        match segments::send(raw(socket), to, data, size) {
            // Where the way is too narrow for a whole datagram, or the kernel too old, each goes by itself.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::ENOPROTOOPT)) =>
            {
                data.chunks(size.max(1)).try_for_each(|one| self.datagram_send(socket, to, one))
            }
            Err(e) => {
                if let Some(state) = self.state(socket) {
                    state.errors = true;
                }
                Err(e)
            }
            Ok(()) => Ok(()),
        }
    }

    fn datagram_receive(&mut self, socket: SocketId, batch: &mut Batch) -> io::Result<()> {
        let Some(state) = self.state(socket).map(|s| *s) else { return Err(ErrorKind::NotFound.into()) };
        // A pending error is given once in place of what was received (udp(7)); its details wait in the error queue.
        let mut result = Ok(());
        for _ in 0..4 {
            result = receive_batch(raw(socket), batch);
            match &result {
                Ok(()) => break,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    result = Ok(());
                    break;
                }
                Err(_) => {
                    if let Some(state) = self.state(socket) {
                        state.errors = true;
                    }
                }
            }
        }
        if let Some(ident) = state.raw_echo {
            ping::filter(batch, ident, state.v6);
        }
        result
    }

    fn datagram_error(&mut self, socket: SocketId) -> Option<(SocketAddr, Undelivered)> {
        let state = self.state(socket)?;
        if !std::mem::take(&mut state.errors) {
            return None;
        }
        // Some say nothing that a guest could use.
        for _ in 0..16 {
            let (to, why) = errors::next(raw(socket))?;
            if let Some(why) = why {
                self.state(socket)?.errors = true;
                return Some((to, why));
            }
        }
        None
    }

    fn local_address(&mut self, socket: SocketId) -> Option<SocketAddr> {
        local_address(raw(socket))
    }

    fn events(&mut self, events: &mut Vec<Event>) {
        loop {
            let n = epoll_wait(self.epoll.as_raw_fd(), &mut self.events, 0).unwrap_or(0);
            for event in &self.events[..n] {
                let is = |mask: i32| event.events & mask as u32 != 0;
                events.push(Event {
                    token: Token(event.u64),
                    readable: is(libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP),
                    writable: is(libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP),
                    hangup: is(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
                });
            }
            if n < EVENTS || events.len() > 8 * EVENTS {
                return;
            }
        }
    }

    fn random(&mut self) -> u64 {
        if self.random.is_empty() {
            let mut fresh = [0u64; 32];
            // SAFETY: pointer and length describe `fresh`; up to 256 bytes the call neither blocks after boot nor falls short.
            let n = unsafe { libc::getrandom(fresh.as_mut_ptr().cast(), size_of_val(&fresh), 0) };
            assert_eq!(n, size_of_val(&fresh) as isize, "the kernel's random numbers");
            self.random.extend(fresh);
        }
        self.random.pop().unwrap_or_default()
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.resolvers.get().to_vec()
    }
}

impl Drop for HostSockets {
    fn drop(&mut self) {
        // Sockets belong to the engine by number; those that it did not close end with it.
        for (fd, _) in self.states.iter().enumerate().filter(|(_, s)| s.open) {
            // SAFETY: `keep` gave the descriptor up, and only `close` closes it, which forgets it.
            drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        }
    }
}

/// Fills a batch from a socket.
fn receive_batch(fd: RawFd, batch: &mut Batch) -> io::Result<()> {
    batch.received.clear();
    let count = batch.buffers.len().min(BATCH);
    let mut addresses: [libc::sockaddr_in6; BATCH];
    // SAFETY: all zeros are valid for these plain structures; the pointers set below outlive the call.
    let n = unsafe {
        addresses = zeroed();
        let mut vectors: [libc::iovec; BATCH] = zeroed();
        let mut headers: [libc::mmsghdr; BATCH] = zeroed();
        for i in 0..count {
            let room = &mut batch.buffers[i][DATAGRAM_HEADROOM..];
            vectors[i] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            headers[i].msg_hdr.msg_name = (&raw mut addresses[i]).cast();
            headers[i].msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
            headers[i].msg_hdr.msg_iov = &raw mut vectors[i];
            headers[i].msg_hdr.msg_iovlen = 1;
        }
        let none = std::ptr::null_mut();
        let n = check(libc::recvmmsg(fd, headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT as _, none))?;
        for header in &headers[..n as usize] {
            batch.received.push((header.msg_len as usize, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)));
        }
        n as usize
    };
    for (received, address) in batch.received.iter_mut().zip(&addresses[..n]) {
        received.1 = sender(address);
    }
    Ok(())
}

/// The sender of a datagram; IPv4's addresses are shorter and lie at the front.
fn sender(raw: &libc::sockaddr_in6) -> SocketAddr {
    let port = u16::from_be(raw.sin6_port);
    let ip = if libc::c_int::from(raw.sin6_family) == libc::AF_INET {
        // sockaddr_in has its address where sockaddr_in6 has the flow label.
        IpAddr::V4(raw.sin6_flowinfo.to_ne_bytes().into())
    } else {
        IpAddr::V6(Ipv6Addr::from(raw.sin6_addr.s6_addr))
    };
    SocketAddr::new(ip.to_canonical(), port)
}

/// Options of every datagram socket. All are wishes.
fn prepare_datagrams(fd: &OwnedFd, v6: bool) {
    let raw = fd.as_raw_fd();
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    let _ = set_option(raw, level, name, 1);
    let _ = set_option(raw, libc::SOL_SOCKET, libc::SO_RCVBUF, DATAGRAM_BUFFER);
}
