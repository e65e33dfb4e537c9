//! Fragments: putting the guests' together, and cutting what is longer than their cable carries (RFC 791 §3.2, RFC 8200 §4.5).

use std::net::IpAddr;
use std::time::Duration;

use visor_net::MacAddr;

use crate::Time;
use crate::core::Core;
use crate::host::Host;
use crate::wire::emit::{self, HEADROOM, Route};
use crate::wire::ip::{Fragment, Packet};
use crate::wire::{ETH, ICMP6, fill_checksum};

/// Packets being put together at a time; the oldest goes when another begins.
const MAX_PACKETS: usize = 16;
/// Pieces of one packet: those of 64 KiB over links of 576 bytes are fewer.
const MAX_PIECES: usize = 128;
/// Most payload bytes.
const MAX_LEN: usize = 65535 - 20;
/// How long the rest of a packet is waited for.
const LIMIT: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    mac: MacAddr,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ident: u32,
}

struct Partial {
    name: Name,
    since: Time,
    data: Vec<u8>,
    /// Begin and end of what has come, in order.
    pieces: Vec<(usize, usize)>,
    total: Option<usize>,
    head: Vec<u8>,
}

/// Packets of which parts have come.
#[derive(Default)]
pub(crate) struct Reassembly {
    partial: Vec<Partial>,
}

/// A packet that was put together: its payload, and its header as ICMP errors quote it.
pub(crate) struct Whole {
    pub(crate) payload: Vec<u8>,
    pub(crate) head: Vec<u8>,
}

impl Reassembly {
    /// Takes a fragment; gives the packet if it was the last piece missing.
    pub(crate) fn take(&mut self, mac: MacAddr, packet: &Packet<'_>, fragment: Fragment, now: Time) -> Option<Whole> {
        self.partial.retain(|p| now.since(p.since) < LIMIT);
        let name = Name {
            mac,
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            ident: fragment.ident,
        };
        let at = match self.partial.iter().position(|p| p.name == name) {
            Some(at) => at,
            None => {
                if self.partial.len() >= MAX_PACKETS {
                    self.partial.remove(0);
                }
                let (data, pieces, head) = (Vec::new(), Vec::new(), Vec::new());
                self.partial.push(Partial { name, since: now, data, pieces, total: None, head });
                self.partial.len() - 1
            }
        };
        match self.partial[at].add(packet, fragment) {
            Some(false) => None,
            Some(true) => {
                let done = self.partial.remove(at);
                Some(Whole { payload: done.data, head: done.head })
            }
            // Overlaps and contradictions are attacks (RFC 5722 §4): the packet goes as a whole.
            None => {
                self.partial.remove(at);
                None
            }
        }
    }
}

impl Partial {
    /// True if the packet is complete; `None` if the piece contradicts the others.
    fn add(&mut self, packet: &Packet<'_>, fragment: Fragment) -> Option<bool> {
        let payload = packet.payload;
        let (begin, end) = (fragment.offset, fragment.offset + payload.len());
        if end > MAX_LEN || payload.is_empty() || (fragment.more && !payload.len().is_multiple_of(8)) {
            return None;
        }
        if self.pieces.contains(&(begin, end)) {
            return Some(false);
        }
        let place = self.pieces.partition_point(|p| p.0 < begin);
        let after = self.pieces.get(place).is_some_and(|p| p.0 < end);
        let before = place > 0 && self.pieces[place - 1].1 > begin;
        if after || before || self.pieces.len() >= MAX_PIECES || self.total.is_some_and(|t| end > t) {
            return None;
        }
        if !fragment.more {
            if self.total.is_some() || self.data.len() > end {
                return None;
            }
            self.total = Some(end);
        }
        self.pieces.insert(place, (begin, end));
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data[begin..end].copy_from_slice(payload);
        if begin == 0 {
            self.head = packet.whole[..packet.whole.len().min(64)].to_vec();
        }
        let have: usize = self.pieces.iter().map(|p| p.1 - p.0).sum();
        Some(self.total == Some(have))
    }
}

/// Queues a packet around `payload` for the guest, in fragments if it is longer than the cable carries. ICMP checksums are
/// filled in.
pub(crate) fn send<H: Host>(core: &mut Core<H>, payload: &[u8], protocol: u8, from: IpAddr, to: IpAddr, route: Route) {
    let mut payload = payload.to_vec();
    if matches!(protocol, crate::wire::ICMP | ICMP6) {
        emit::icmp_checksum(&mut payload, from, to);
    }
    let header = if from.is_ipv4() { 20 } else { 40 };
    let most = usize::from(core.config.mtu) - header;
    if payload.len() <= most {
        let mut buffer = vec![0; HEADROOM + payload.len()];
        buffer[HEADROOM..].copy_from_slice(&payload);
        let start = emit::ip(&mut buffer, HEADROOM, payload.len(), protocol, from, to, route);
        buffer.drain(..start);
        return core.reply(buffer);
    }
    let ident = core.host.random() as u32;
    let step = (most - if from.is_ipv4() { 0 } else { 8 }) & !7;
    for (n, piece) in payload.chunks(step).enumerate() {
        let more = (n + 1) * step < payload.len();
        core.reply(fragment(piece, n * step, more, ident, protocol, (from, to), route));
    }
}

fn fragment(
    piece: &[u8],
    offset: usize,
    more: bool,
    ident: u32,
    protocol: u8,
    (from, to): (IpAddr, IpAddr),
    route: Route,
) -> Vec<u8> {
    let extra = if from.is_ipv4() { 0 } else { 8 };
    let mut buffer = vec![0; HEADROOM + extra + piece.len()];
    buffer[HEADROOM + extra..].copy_from_slice(piece);
    if extra > 0 {
        let field = offset as u16 | u16::from(more);
        buffer[HEADROOM] = protocol;
        buffer[HEADROOM + 2..HEADROOM + 4].copy_from_slice(&field.to_be_bytes());
        buffer[HEADROOM + 4..HEADROOM + 8].copy_from_slice(&ident.to_be_bytes());
    }
    let next = if extra > 0 { 44 } else { protocol };
    let start = emit::ip(&mut buffer, HEADROOM, extra + piece.len(), next, from, to, route);
    if extra == 0 {
        let h = &mut buffer[start + ETH..HEADROOM];
        h[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
        let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
        h[6..8].copy_from_slice(&field.to_be_bytes());
        fill_checksum(0, h, 10);
    }
    buffer.drain(..start);
    buffer
}
