//! From the port to the receive ring (SDM §3.2).
//!
//! ```text
//! 0 buffer address (8)   8 length   A checksum   C status   D errors   E VLAN tag
//! ```

use visor_net::headers::{Headers, TCP, UDP};
use visor_net::offload::adapt;
use visor_net::{Accepts, Frame, NetPort, Sent, checksum, headers};
use visor_pci::PciDevice;
use vm_memory::{Bytes, GuestAddress};

use super::E1000;
use super::regs::*;

/// Frames taken from the port at a time, so that a vCPU does not wait long for the lock.
const ROUND: u32 = 64;
/// Least frame without its check sequence.
const MIN_FRAME: usize = 60;

const DONE: u8 = 1;
const END_OF_PACKET: u8 = 2;
const IGNORE_CHECKSUM: u8 = 4;
const VLAN_PACKET: u8 = 8;
const TCP_CHECKED: u8 = 0x20;
const IP_CHECKED: u8 = 0x40;

const CSUM_IP: u32 = 1 << 8;
const CSUM_TCP: u32 = 1 << 9;

impl E1000 {
    /// Moves frames in both directions, a bounded number.
    pub(super) fn pump(&mut self) {
        self.look_at_link();
        self.transmit();
        // The port is taken out while it hands us frames.
        let mut port = std::mem::replace(&mut self.wires.port, Box::new(Unplugged));
        let (mut left, mut came) = (ROUND, false);
        port.receive(&mut |frame: Frame<'_>| {
            if left == 0 {
                return Sent::Full;
            }
            left -= 1;
            let len = frame.data.len() as u64;
            let sent = self.take(frame);
            match sent {
                Sent::Yes => {
                    came = true;
                    self.traffic.received += 1;
                    self.traffic.received_bytes += len;
                }
                Sent::Dropped => self.traffic.received_dropped += 1,
                Sent::Full => {}
            }
            sent
        });
        self.wires.port = port;
        if came {
            self.raise(INT_RXT0);
        }
        if left == 0 {
            (self.wires.wake)();
        }
    }

    pub(super) fn link(&self) -> bool {
        self.plugged && self.wires.port.link_up()
    }

    fn look_at_link(&mut self) {
        let up = self.link();
        if (self.reg(STATUS) & STATUS_LINK != 0) != up {
            *self.reg_mut(STATUS) ^= STATUS_LINK;
            self.raise(INT_LSC);
        }
    }

    fn take(&mut self, frame: Frame<'_>) -> Sent {
        let on = self.reg(RCTL) & RCTL_EN != 0 && self.config().command().bus_master();
        if !on || self.reg(STATUS) & STATUS_LINK == 0 || !(frame.offload.segments.is_some() || self.wants(frame.data)) {
            return Sent::Dropped;
        }
        adapt(frame, Accepts::default(), &mut |f| if self.wants(f.data) { self.place(f) } else { Sent::Dropped })
    }

    /// Puts a finished frame into descriptors.
    fn place(&mut self, frame: Frame<'_>) -> Sent {
        let mut data = frame.data;
        let mut tag = None;
        let untagged;
        if self.reg(CTRL) & CTRL_VME != 0 && data.len() >= 18 && headers::vlan(data).is_some() {
            tag = Some(u16::from_be_bytes([data[14], data[15]]));
            untagged = [&data[..12], &data[16..]].concat();
            data = &untagged;
        }
        let mut whole = data.to_vec();
        whole.resize(whole.len().max(MIN_FRAME), 0);
        let plain = whole.len();
        if self.reg(RCTL) & RCTL_SECRC == 0 {
            let check = crc32fast::hash(&whole);
            whole.extend_from_slice(&check.to_le_bytes());
        }
        let size = self.buffer_size();
        let needed = whole.len().div_ceil(size) as u32;
        let count = self.reg(RDLEN) / 16;
        if needed >= count {
            return Sent::Dropped;
        }
        let free = self.free_descriptors();
        if free < needed {
            self.starved = true;
            return Sent::Full;
        }
        let status = self.status(&frame, data);
        let sum = !checksum::sum(whole.get((self.reg(RXCSUM) & 0xff) as usize..plain).unwrap_or_default());
        let pieces = whole.len().div_ceil(size);
        for (i, piece) in whole.chunks(size).enumerate() {
            let last = if i + 1 == pieces { END_OF_PACKET | status } else { 0 };
            self.fill(piece, sum, DONE | last, tag.filter(|_| last != 0));
        }
        self.count(GPRC, GORCL, [TPR, TORL], whole.len());
        let threshold = count >> (1 + (self.reg(RCTL) >> 8 & 3).min(2));
        if free > threshold && free - needed <= threshold {
            self.raise(INT_RXDMT0);
        }
        Sent::Yes
    }

    /// Fills the next descriptor. Memory that is not there loses the bytes, as on a bus.
    fn fill(&mut self, piece: &[u8], sum: u16, status: u8, tag: Option<u16>) {
        let head = self.reg(RDH);
        let at = GuestAddress(self.ring(RDBAL).wrapping_add(16 * u64::from(head)));
        let mut address = [0; 8];
        let view = &self.wires.memory;
        if view.read_slice(&mut address, at).is_ok() {
            let _ = view.write_slice(piece, GuestAddress(u64::from_le_bytes(address)));
            let status = status | if tag.is_some() { VLAN_PACKET } else { 0 };
            let mut rest = [0; 8];
            rest[..2].copy_from_slice(&(piece.len() as u16).to_le_bytes());
            rest[2..4].copy_from_slice(&sum.to_le_bytes());
            rest[6..8].copy_from_slice(&tag.unwrap_or(0).to_le_bytes());
            // The status goes last: the driver polls it.
            if let Some(rest_at) = at.0.checked_add(8) {
                let _ = view.write_slice(&rest, GuestAddress(rest_at));
                let _ = view.store(status, GuestAddress(rest_at + 4), std::sync::atomic::Ordering::Release);
            }
        }
        let next = head + 1;
        *self.reg_mut(RDH) = if next >= self.reg(RDLEN) / 16 { 0 } else { next };
    }

    /// What the device says about checksums: only what it knows (§3.2.9).
    fn status(&self, frame: &Frame<'_>, data: &[u8]) -> u8 {
        let Some(h) = Headers::parse(data).filter(|h| frame.offload.trusted && !h.fragmented) else {
            return IGNORE_CHECKSUM;
        };
        let wants = self.reg(RXCSUM);
        let ip = if wants & CSUM_IP != 0 && !h.v6 { IP_CHECKED } else { 0 };
        let tcp = wants & CSUM_TCP != 0 && matches!(h.protocol, TCP | UDP);
        ip | if tcp { TCP_CHECKED } else { 0 }
    }

    fn buffer_size(&self) -> usize {
        let control = self.reg(RCTL);
        let shift = control >> 16 & 3;
        match (control & RCTL_BSEX != 0, shift) {
            (true, 1..) => 32768 >> shift,
            _ => 2048 >> shift,
        }
    }

    fn free_descriptors(&self) -> u32 {
        let (head, tail, count) = (self.reg(RDH), self.reg(RDT), self.reg(RDLEN) / 16);
        if head >= count || tail >= count {
            return 0;
        }
        if tail >= head { tail - head } else { tail + count - head }
    }
}

/// What stands in the port's place for the length of a call.
struct Unplugged;

impl NetPort for Unplugged {
    fn send(&mut self, _: Frame<'_>) -> Sent {
        Sent::Dropped
    }
    fn receive(&mut self, _: &mut dyn visor_net::FrameSink) -> usize {
        0
    }
    fn set_accepts(&mut self, _: Accepts) {}
    fn peer_accepts(&self) -> Accepts {
        Accepts::default()
    }
    fn on_ready(&mut self, _: visor_net::Notify) {}
}
