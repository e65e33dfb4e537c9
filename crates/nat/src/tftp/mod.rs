//! A TFTP server for network boot loaders: reading only (RFC 1350), with block size, size and timeout options (RFC 2347 to 2349).
//!
//! Files come from a [`BootFiles`], which decides what a name means. A transfer is one block ahead at most, as the protocol has it, so
//! it costs a block of memory; what is not acknowledged is sent again, and given up after a while.

#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use visor_net::MacAddr;

use self::wire::{Fault, Message, Options};
use crate::Time;
use crate::core::Core;
use crate::host::Host;
use crate::wire::emit::{Route, udp_frame};

/// Where requests go.
pub(crate) const PORT: u16 = 69;
/// Transfers use ports from here on, a new one each (RFC 1350 §4).
const FIRST_PORT: u16 = 0xc000;
/// Most transfers at a time; the oldest makes room.
const MOST: usize = 32;
/// A block is sent again after this, unless the client wishes otherwise.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often.
const TRIES: u8 = 6;
/// IPv4, UDP and TFTP headers: what a block shares a packet with.
const HEADERS: u16 = 20 + 8 + 4;

/// Files that guests may fetch when they boot from their network.
pub trait BootFiles: Send {
    /// The file of this name, which a guest chose.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied`, or what the host says.
    fn open(&self, name: &str) -> io::Result<Box<dyn BootFile>>;
}

/// One of them, opened.
pub trait BootFile: Send {
    /// Bytes in it.
    fn size(&self) -> u64;

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// What the host says; `UnexpectedEof` if the file has become shorter.
    fn read_at(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;
}

/// The server of one network.
#[derive(Default)]
pub(crate) struct Tftp {
    files: Option<Box<dyn BootFiles>>,
    transfers: Vec<Transfer>,
    opened: u16,
}

struct Transfer {
    mac: MacAddr,
    guest: SocketAddr,
    port: u16,
    file: Box<dyn BootFile>,
    block_size: u16,
    patience: Duration,
    /// The block that was sent last; 0 is the answer to options.
    block: u64,
    packet: Vec<u8>,
    deadline: Time,
    tries: u8,
}

impl Transfer {
    /// The number of the block with which the file ends: one that is not full.
    fn last(&self) -> u64 {
        self.file.size() / u64::from(self.block_size) + 1
    }

    /// Puts block `self.block` into the packet.
    fn fill(&mut self) -> io::Result<()> {
        let at = (self.block - 1) * u64::from(self.block_size);
        let len = self.file.size().saturating_sub(at).min(self.block_size.into()) as usize;
        self.packet = wire::data(self.block as u16, len);
        self.file.read_at(at, &mut self.packet[wire::DATA_HEADER..])
    }
}

impl Tftp {
    /// Serves these files from now on, or none. Transfers go on.
    pub(crate) fn set_files(&mut self, files: Option<Box<dyn BootFiles>>) {
        self.files = files;
    }

    /// Whether what is sent to this port of the router is for the server.
    pub(crate) fn serves(&self, port: u16) -> bool {
        port == PORT && self.files.is_some() || self.transfers.iter().any(|t| t.port == port)
    }

    /// Takes a datagram of a guest to `port`.
    pub(crate) fn input<H: Host>(
        &mut self,
        core: &mut Core<H>,
        mac: MacAddr,
        guest: SocketAddr,
        port: u16,
        data: &[u8],
    ) {
        let message = Message::parse(data);
        if port == PORT {
            match message {
                Some(Message::Read { name, octets: true, options }) => {
                    self.open(core, (mac, guest), name, &options);
                }
                Some(Message::Read { .. }) => refuse(core, (mac, guest), Fault::Undefined, "only octets are sent"),
                Some(Message::Write) => refuse(core, (mac, guest), Fault::Access, "files are only read"),
                _ => core.counters.malformed += 1,
            }
            return;
        }
        let Some(at) = self.transfers.iter().position(|t| t.port == port) else { return };
        if self.transfers[at].guest != guest {
            // RFC 1350 §4: the stranger is told, the transfer goes on.
            let error = wire::error(Fault::UnknownTransfer, "not your transfer");
            return send(core, (mac, guest), port, &error);
        }
        match message {
            Some(Message::Acknowledge(block)) => self.acknowledged(core, at, block),
            Some(Message::Error) => drop(self.transfers.remove(at)),
            _ => core.counters.malformed += 1,
        }
    }

    fn open<H: Host>(&mut self, core: &mut Core<H>, to: (MacAddr, SocketAddr), name: &str, options: &Options) {
        // A request that comes twice starts anew.
        self.transfers.retain(|t| t.guest != to.1);
        let Some(files) = &self.files else { return };
        let file = match files.open(name) {
            Ok(file) => file,
            Err(e) => {
                let fault = match e.kind() {
                    io::ErrorKind::NotFound => Fault::NotFound,
                    io::ErrorKind::PermissionDenied => Fault::Access,
                    _ => Fault::Undefined,
                };
                return refuse(core, to, fault, &e.to_string());
            }
        };
        let block_size = options.block_size.map_or(wire::BLOCK, |b| b.min(core.config.mtu - HEADERS));
        let mut t = Transfer {
            mac: to.0,
            guest: to.1,
            port: FIRST_PORT + self.opened % (u16::MAX - FIRST_PORT),
            packet: wire::accept(options, block_size, file.size()),
            file,
            block_size,
            patience: options.timeout.map_or(PATIENCE, |s| Duration::from_secs(s.into())),
            block: 0,
            deadline: core.now,
            tries: 0,
        };
        self.opened = self.opened.wrapping_add(1);
        if t.packet.is_empty() {
            t.block = 1;
            if let Err(e) = t.fill() {
                return refuse(core, to, Fault::Undefined, &e.to_string());
            }
        }
        if self.transfers.len() >= MOST {
            self.transfers.remove(0);
        }
        transmit(core, &mut t);
        self.transfers.push(t);
    }

    /// Goes on with the next block. Acknowledgements of earlier ones are passed by: answering each of them would double all that
    /// follows (RFC 1123 §4.2.3.1).
    fn acknowledged<H: Host>(&mut self, core: &mut Core<H>, at: usize, block: u16) {
        let t = &mut self.transfers[at];
        if t.block as u16 != block {
            return;
        }
        if t.block == t.last() {
            self.transfers.remove(at);
            return;
        }
        t.block += 1;
        t.tries = 0;
        match t.fill() {
            Ok(()) => transmit(core, t),
            Err(e) => {
                let t = self.transfers.remove(at);
                send(core, (t.mac, t.guest), t.port, &wire::error(Fault::Undefined, &e.to_string()));
            }
        }
    }

    /// Sends again what nobody acknowledged.
    pub(crate) fn timers<H: Host>(&mut self, core: &mut Core<H>) {
        let now = core.now;
        self.transfers.retain_mut(|t| {
            if t.deadline > now {
                return true;
            }
            t.tries += 1;
            if t.tries <= TRIES {
                transmit(core, t);
            }
            t.tries <= TRIES
        });
    }

    /// When [`Tftp::timers`] has something to do.
    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.transfers.iter().map(|t| t.deadline).min()
    }
}

fn transmit<H: Host>(core: &mut Core<H>, t: &mut Transfer) {
    t.deadline = core.now + t.patience;
    send(core, (t.mac, t.guest), t.port, &t.packet);
}

fn refuse<H: Host>(core: &mut Core<H>, to: (MacAddr, SocketAddr), fault: Fault, why: &str) {
    send(core, to, PORT, &wire::error(fault, why));
}

fn send<H: Host>(core: &mut Core<H>, (mac, guest): (MacAddr, SocketAddr), port: u16, packet: &[u8]) {
    let route = Route { from_mac: core.config.mac, to_mac: mac };
    let from = SocketAddr::new(core.config.gateway.into(), port);
    core.reply(udp_frame(packet, from, guest, route));
}
