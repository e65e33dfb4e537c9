//! What the engine needs of the host: sockets that never block, randomness, and the addresses of resolvers.
//!
//! The engine names each socket by a [`Token`] when it asks for it; the host gives back its own [`SocketId`] and reports
//! [`Event`]s under the token. Events are hints: one too many does no harm, one too few stalls a flow until its timer.

use std::io;
use std::net::SocketAddr;

use visor_net::Protocol;

/// The host's name of a socket; it may be used again after [`Host::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// The engine's name of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Something happened on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// On which.
    pub token: Token,
    /// There is something to receive or accept, or an error to fetch.
    pub readable: bool,
    /// A connection was made or failed, or [`Host::wake_on_room`] was asked for and there is room.
    pub writable: bool,
    /// The other side has sent its last byte, or the connection is gone.
    pub hangup: bool,
}

/// Bytes left free in front of each datagram of a [`Batch`], so that headers can be written without copying.
pub const DATAGRAM_HEADROOM: usize = crate::wire::emit::HEADROOM;
/// Most bytes of a datagram.
pub const DATAGRAM_MAX: usize = 65535;
/// Datagrams of a [`Batch`].
pub const BATCH: usize = 32;

/// Room for several datagrams.
pub struct Batch {
    /// Each [`DATAGRAM_HEADROOM`] + [`DATAGRAM_MAX`] bytes.
    pub buffers: Vec<Box<[u8]>>,
    /// For each datagram received: its length (without headroom) and its sender.
    pub received: Vec<(usize, SocketAddr)>,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        // Zeroed pages cost nothing until they are written to: a batch of small datagrams touches 4 KiB of each buffer.
        let buffers = (0..BATCH).map(|_| vec![0; DATAGRAM_HEADROOM + DATAGRAM_MAX].into_boxed_slice()).collect();
        Batch { buffers, received: Vec::with_capacity(BATCH) }
    }
}

/// An error that the network reported about a datagram sent earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// Nobody listens on the port.
    Port,
    /// The host cannot be reached.
    Host,
    /// The network cannot be reached.
    Net,
    /// Somebody forbids it.
    Prohibited,
    /// It was too long for a link on the way: most bytes of an IP packet there.
    TooBig(u16),
}

/// Sockets. No call blocks: what would is `ErrorKind::WouldBlock`.
pub trait Host {
    /// Begins to connect; [`Event::writable`] tells that it is decided, unless [`Host::tcp_connected`] tells that at once.
    fn tcp_connect(&mut self, token: Token, to: SocketAddr) -> io::Result<SocketId>;
    /// How the attempt ended: `Ok` if connected, `WouldBlock` if it is still under way.
    fn tcp_connected(&mut self, socket: SocketId) -> io::Result<()>;
    /// Copies received bytes from `offset` on into `into` without consuming them. 0: there will be no more.
    fn tcp_peek(&mut self, socket: SocketId, offset: usize, into: &mut [u8]) -> io::Result<usize>;
    /// Throws the first `len` received bytes away.
    fn tcp_consume(&mut self, socket: SocketId, len: usize) -> io::Result<()>;
    /// Sends what fits; gives how much that was.
    fn tcp_send(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize>;
    /// How many bytes [`Host::tcp_send`] would surely take now.
    fn tcp_room(&mut self, socket: SocketId) -> usize;
    /// Asks for one [`Event::writable`] once there is room again (at once if there is).
    fn wake_on_room(&mut self, socket: SocketId);
    /// No more will be sent.
    fn tcp_shutdown(&mut self, socket: SocketId);
    /// Closes with a reset.
    fn tcp_abort(&mut self, socket: SocketId);
    /// Closes any socket in order.
    fn close(&mut self, socket: SocketId);

    /// Listens on `bind` (port 0: any free one): TCP connections to accept or UDP datagrams. Gives the address it got.
    fn listen(&mut self, token: Token, protocol: Protocol, bind: SocketAddr) -> io::Result<(SocketId, SocketAddr)>;
    /// Takes one connection. It reports nothing before [`Host::watch`].
    fn accept(&mut self, listener: SocketId) -> io::Result<(SocketId, SocketAddr)>;
    /// Has an accepted connection report under `token`, what has already happened included.
    fn watch(&mut self, socket: SocketId, token: Token);

    /// A socket for datagrams to anywhere: UDP, or ICMP echo requests.
    fn datagram_open(&mut self, token: Token, protocol: Protocol, v6: bool) -> io::Result<SocketId>;
    /// Sends a datagram: of ICMP the whole message, whose identifier and checksum the host sets.
    fn datagram_send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8]) -> io::Result<()>;
    /// Sends `data` in datagrams of `size` bytes each, to one address. Hosts that can do that with one call do.
    fn datagrams_send(&mut self, socket: SocketId, to: SocketAddr, data: &[u8], size: usize) -> io::Result<()> {
        data.chunks(size.max(1)).try_for_each(|one| self.datagram_send(socket, to, one))
    }
    /// Fills `batch`; of ICMP with whole messages. `batch.received` is empty if there is nothing.
    fn datagram_receive(&mut self, socket: SocketId, batch: &mut Batch) -> io::Result<()>;
    /// The next error reported about a datagram, and to whom that was sent.
    fn datagram_error(&mut self, socket: SocketId) -> Option<(SocketAddr, Undelivered)>;

    /// The local address of a socket, for listings.
    fn local_address(&mut self, socket: SocketId) -> Option<SocketAddr>;
    /// Appends what has happened since the last call.
    fn events(&mut self, events: &mut Vec<Event>);
    /// Unpredictable bits.
    fn random(&mut self) -> u64;
    /// The host's resolvers, best first.
    fn resolvers(&mut self) -> Vec<SocketAddr>;
}
