//! A guest that costs little: its frames are made from memory, and what it receives is only counted.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use visor_net::{Frame, MacAddr, Offload, SegmentKind, Segments};

use crate::link::Link;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const HEAD: usize = 54;
const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

/// What the guest knows of its network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    pub(crate) own: Ipv4Addr,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) far: Ipv4Addr,
    pub(crate) mss: u16,
    /// Frames of 64 KiB are split by the other side.
    pub(crate) whole: bool,
    /// Of the guest's window of 65535 units.
    pub(crate) window_scale: u8,
}

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conn {
    pub(crate) port: u16,
    to: u16,
    pub(crate) open: bool,
    pub(crate) closed: bool,
    una: u32,
    nxt: u32,
    wnd: u32,
    scale: u8,
    rcv: u32,
    rcv_begun: u32,
    una_begun: u32,
    pub(crate) received: u64,
    pub(crate) acked: u64,
    moved: Option<Instant>,
}

/// The guest.
pub(crate) struct Guest<'a> {
    link: &'a mut dyn Link,
    net: Network,
    gateway: MacAddr,
    pub(crate) conns: HashMap<u16, Conn>,
    pub(crate) echoes: u64,
    buffer: Vec<u8>,
    inbox: Vec<Vec<u8>>,
}

fn sum(data: &[u8]) -> u32 {
    let mut total: u64 = data.chunks_exact(4).map(|c| u64::from(u32::from_be_bytes([c[0], c[1], c[2], c[3]]))).sum();
    let tail = data.chunks_exact(4).remainder();
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    total += u64::from(u32::from_be_bytes(last));
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u32
}

impl<'a> Guest<'a> {
    /// Finds the router.
    pub(crate) fn new(link: &'a mut dyn Link, net: Network) -> Guest<'a> {
        let buffer = vec![0x33; HEAD + 65536];
        let inbox = Vec::new();
        let mut guest =
            Guest { link, net, gateway: MacAddr::BROADCAST, conns: HashMap::new(), echoes: 0, buffer, inbox };
        let mut arp = [[0xff; 6], MAC].concat();
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend(MAC);
        arp.extend(net.own.octets());
        arp.extend([0; 6]);
        arp.extend(net.gateway.octets());
        let end = Instant::now() + Duration::from_secs(10);
        while guest.gateway == MacAddr::BROADCAST {
            assert!(Instant::now() < end, "no router answers");
            guest.link.send(Frame::plain(&arp));
            guest.link.wait(Duration::from_millis(100));
            let mut found = None;
            guest.link.receive(&mut |f| {
                if f.len() >= 42 && f[12..14] == [8, 6] && f[21] == 2 {
                    found = f[22..28].try_into().ok().map(MacAddr);
                }
            });
            guest.gateway = found.unwrap_or(guest.gateway);
        }
        guest
    }

    fn ip(&mut self, protocol: u8, len: usize) {
        let b = &mut self.buffer;
        b[..6].copy_from_slice(&self.gateway.0);
        b[6..12].copy_from_slice(&MAC);
        b[12..14].copy_from_slice(&[8, 0]);
        b[14..34].fill(0);
        b[14] = 0x45;
        b[16..18].copy_from_slice(&((20 + len) as u16).to_be_bytes());
        (b[20], b[22], b[23]) = (0x40, 64, protocol);
        b[26..30].copy_from_slice(&self.net.own.octets());
        b[30..34].copy_from_slice(&self.net.far.octets());
        let check = !(sum(&b[14..34]) as u16);
        b[24..26].copy_from_slice(&check.to_be_bytes());
    }

    fn pseudo(&self, protocol: u8, len: usize) -> u32 {
        sum(&self.net.own.octets()) + sum(&self.net.far.octets()) + u32::from(protocol) + len as u32
    }

    fn tcp(&mut self, conn: &Conn, flags: u8, seq: u32, len: usize) -> bool {
        let options = if flags & SYN != 0 { 8 } else { 0 };
        let total = 20 + options + len;
        self.ip(6, total);
        let pseudo = self.pseudo(6, total);
        let (mss, whole, scale) = (self.net.mss, self.net.whole, self.net.window_scale);
        let b = &mut self.buffer;
        b[34..36].copy_from_slice(&conn.port.to_be_bytes());
        b[36..38].copy_from_slice(&conn.to.to_be_bytes());
        b[38..42].copy_from_slice(&seq.to_be_bytes());
        b[42..46].copy_from_slice(&conn.rcv.to_be_bytes());
        (b[46], b[47]) = ((((20 + options) / 4) << 4) as u8, flags);
        b[48..54].copy_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
        if options > 0 {
            let [high, low] = mss.to_be_bytes();
            b[54..62].copy_from_slice(&[2, 4, high, low, 1, 3, 3, scale]);
        }
        let end = 34 + total;
        let mut offload = Offload::default();
        if whole {
            let mut folded = pseudo;
            while folded > 0xffff {
                folded = (folded & 0xffff) + (folded >> 16);
            }
            b[50..52].copy_from_slice(&(folded as u16).to_be_bytes());
            offload.checksum = Some((34, 16));
            offload.segments = (len > usize::from(mss)).then_some(Segments { kind: SegmentKind::Tcp4, size: mss });
        } else {
            let mut s = pseudo + sum(&b[34..end]);
            while s > 0xffff {
                s = (s & 0xffff) + (s >> 16);
            }
            b[50..52].copy_from_slice(&(!(s as u16)).to_be_bytes());
        }
        self.link.send(Frame { data: &self.buffer[..end], offload })
    }

    /// Sends a datagram to the far end's `to`.
    pub(crate) fn datagram(&mut self, port: u16, to: u16, len: usize) -> bool {
        self.ip(17, 8 + len);
        let b = &mut self.buffer;
        b[34..36].copy_from_slice(&port.to_be_bytes());
        b[36..38].copy_from_slice(&to.to_be_bytes());
        b[38..40].copy_from_slice(&((8 + len) as u16).to_be_bytes());
        b[40..42].fill(0);
        self.link.send(Frame::plain(&self.buffer[..42 + len]))
    }

    /// Sends an echo request with 56 bytes, as ping does, to the far end.
    pub(crate) fn ping(&mut self, number: u16) -> bool {
        self.ip(1, 64);
        let b = &mut self.buffer;
        b[34..42].copy_from_slice(&[8, 0, 0, 0, 0, 7, 0, 0]);
        b[40..42].copy_from_slice(&number.to_be_bytes());
        let mut total = sum(&b[34..98]);
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        b[36..38].copy_from_slice(&(!(total as u16)).to_be_bytes());
        self.link.send(Frame::plain(&self.buffer[..98]))
    }

    /// Begins a connection.
    pub(crate) fn connect(&mut self, port: u16, to: u16) {
        let iss = u32::from(port) << 8;
        let conn =
            Conn { port, to, una: iss, nxt: iss.wrapping_add(1), moved: Some(Instant::now()), ..Conn::default() };
        self.tcp(&conn, SYN, iss, 0);
        self.conns.insert(port, conn);
    }

    /// Sends what the windows of all connections allow. True if anything went.
    pub(crate) fn pump(&mut self) -> bool {
        let most = if self.net.whole { 44 * usize::from(self.net.mss) } else { usize::from(self.net.mss) };
        let ports: Vec<u16> = self.conns.keys().copied().collect();
        let mut any = false;
        for port in ports {
            let mut conn = self.conns[&port];
            if !conn.open {
                continue;
            }
            // A translator may drop: everything unacknowledged goes again.
            if conn.nxt != conn.una && conn.moved.is_some_and(|t| t.elapsed() > Duration::from_millis(300)) {
                conn.nxt = conn.una;
                conn.moved = Some(Instant::now());
            }
            for _ in 0..16 {
                let room = (conn.wnd.saturating_sub(conn.nxt.wrapping_sub(conn.una)) as usize).min(most);
                if room < most && conn.nxt != conn.una || room == 0 || !self.tcp(&conn, ACK, conn.nxt, room) {
                    break;
                }
                conn.nxt = conn.nxt.wrapping_add(room as u32);
                any = true;
            }
            self.conns.insert(port, conn);
        }
        any
    }

    /// Takes what has come, and acknowledges it. Gives the number of frames.
    pub(crate) fn take(&mut self) -> usize {
        let mut inbox = std::mem::take(&mut self.inbox);
        let (conns, echoes) = (&mut self.conns, &mut self.echoes);
        let mut due = Vec::new();
        let frames = self.link.receive(&mut |f| {
            let whole = f.len() >= HEAD || matches!(f.get(23), Some(1 | 17));
            if !whole || f[12..14] != [8, 0] {
                return;
            }
            // Datagrams, and replies to pings.
            if f[23] == 17 || (f[23] == 1 && f.get(34) == Some(&0)) {
                *echoes += 1;
            } else if let Some(conn) = conns.get_mut(&u16::from_be_bytes([f[36], f[37]]))
                && conn.segment(f)
            {
                due.push(conn.port);
            }
        });
        due.sort_unstable();
        due.dedup();
        for port in due {
            let conn = self.conns[&port];
            let flags = if conn.closed { FIN | ACK } else { ACK };
            self.tcp(&conn, flags, conn.nxt, 0);
        }
        inbox.clear();
        self.inbox = inbox;
        frames
    }

    pub(crate) fn wait(&mut self) {
        self.link.wait(Duration::from_millis(50));
    }

    /// Resets all connections, and forgets them.
    pub(crate) fn reset(&mut self) {
        for conn in std::mem::take(&mut self.conns).into_values() {
            self.tcp(&conn, RST | ACK, conn.nxt, 0);
        }
        for _ in 0..20 {
            self.link.wait(Duration::from_millis(5));
            self.link.receive(&mut |_| ());
        }
    }
}

impl Conn {
    /// Takes a segment. True if it must be answered.
    fn segment(&mut self, f: &[u8]) -> bool {
        let number = |at: usize| u32::from_be_bytes([f[at], f[at + 1], f[at + 2], f[at + 3]]);
        let (seq, ack, flags) = (number(38), number(42), f[47]);
        let header = usize::from(f[46] >> 4) * 4;
        let len = (usize::from(u16::from_be_bytes([f[16], f[17]])) - 20).saturating_sub(header);
        if flags & RST != 0 {
            self.closed = true;
            self.open = false;
            return false;
        }
        if flags & SYN != 0 {
            if !self.open {
                let options = &f[HEAD..34 + header];
                self.scale = options.windows(3).find(|w| w[..2] == [3, 3]).map_or(0, |w| w[2]);
                self.open = true;
                self.rcv = seq.wrapping_add(1);
                (self.rcv_begun, self.una_begun) = (self.rcv, ack);
            }
            (self.una, self.wnd) = (ack, u32::from(u16::from_be_bytes([f[48], f[49]])));
            return true;
        }
        if (ack.wrapping_sub(self.una) as i32) > 0 {
            self.acked += u64::from(ack.wrapping_sub(self.una));
            self.una = ack;
            self.moved = Some(Instant::now());
            if (self.una.wrapping_sub(self.nxt) as i32) > 0 {
                self.nxt = self.una;
            }
        }
        self.wnd = u32::from(u16::from_be_bytes([f[48], f[49]])) << self.scale;
        let new = self.rcv.wrapping_sub(seq) as usize;
        if len > 0 && new < len {
            self.received += (len - new) as u64;
            self.rcv = seq.wrapping_add(len as u32);
        }
        if flags & FIN != 0 && self.rcv == seq.wrapping_add(len as u32) && !self.closed {
            self.rcv = self.rcv.wrapping_add(1);
            self.closed = true;
            return true;
        }
        len > 0
    }
}
