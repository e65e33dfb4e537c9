//! From the transmit ring to the port (SDM §3.3).
//!
//! ```text
//! legacy   0 address   8 length (16) CSO (8) command (8)              C status (8) CSS (8) VLAN tag (16)
//! context  0 IPCSS IPCSO IPCSE (16)  4 TUCSS TUCSO TUCSE (16)  8 PAYLEN (20) type (4) command  C status HDRLEN MSS (16)
//! data     0 address   8 length (20) type (4) command (8)             C status (8) POPTS (8) VLAN tag (16)
//! ```

use visor_net::headers::Headers;
use visor_net::offload::adapt;
use visor_net::{Frame, MAX_FRAME, Offload, SegmentKind, Segments, Sent, checksum};
use visor_pci::PciDevice;
use vm_memory::{Bytes, GuestAddress};

use super::E1000;
use super::regs::*;

/// Descriptors handled at a time.
const ROUND: u32 = 4096;
const MIN_FRAME: usize = 60;

const END_OF_PACKET: u8 = 1;
/// Of legacy descriptors: insert a checksum.
const INSERT_CHECKSUM: u8 = 4;
/// Of the others: segment.
const SEGMENT: u8 = 4;
const REPORT: u8 = 8;
const REPORT_SENT: u8 = 0x10;
const EXTENDED: u8 = 0x20;
const VLAN: u8 = 0x40;
const IPV4: u8 = 2;
const DONE: u8 = 1;
/// Data descriptors' options.
const OPTION_IP: u8 = 1;
const OPTION_TCP: u8 = 2;

/// A descriptor as read.
#[derive(Clone, Copy, Debug, Default)]
struct Descriptor {
    address: u64,
    low: u32,
    high: u32,
}

impl Descriptor {
    fn command(self) -> u8 {
        (self.low >> 24) as u8
    }
    fn extended(self) -> bool {
        self.command() & EXTENDED != 0
    }
    /// An offload context, rather than data.
    fn is_context(self) -> bool {
        self.extended() && self.low >> 20 & 15 == 0
    }
    fn len(self) -> usize {
        (self.low & if self.extended() { 0xf_ffff } else { 0xffff }) as usize
    }
}

/// An offload context.
#[derive(Clone, Copy, Debug, Default)]
struct Context {
    ip: Sum,
    tcp: Sum,
    command: u8,
    header: usize,
    mss: u16,
}

/// Where a checksum is taken and put.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    start: usize,
    at: usize,
    /// Last byte; 0 for the end of the packet.
    end: usize,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Transmit {
    /// The packet so far.
    data: Vec<u8>,
    /// It has become too long, or memory was not there.
    spoilt: bool,
    /// Options and command of its first descriptor.
    options: u8,
    segment: bool,
    plain_context: Context,
    segment_context: Context,
    /// The packet is ready, but the port has no room.
    ready: Option<Offload>,
}

impl E1000 {
    /// Sends what the driver has put into the ring.
    pub(super) fn transmit(&mut self) {
        let mut causes = 0;
        let mut left = ROUND;
        while self.reg(TCTL) & TCTL_EN != 0 && self.config().command().bus_master() {
            let (head, tail, count) = (self.reg(TDH), self.reg(TDT), self.reg(TDLEN) / 16);
            if head == tail || head >= count || tail >= count {
                break;
            }
            let at = self.ring(TDBAL).wrapping_add(16 * u64::from(head));
            let descriptor = self.descriptor(at);
            if !self.step(descriptor) {
                break;
            }
            if descriptor.command() & (REPORT | REPORT_SENT) != 0 {
                let done = descriptor.high as u8 | DONE;
                if let Some(status) = at.checked_add(12) {
                    let _ = self.wires.memory.write_obj(done, GuestAddress(status));
                }
                causes |= INT_TXDW;
            }
            let next = if head + 1 >= count { 0 } else { head + 1 };
            *self.reg_mut(TDH) = next;
            if next == tail {
                causes |= INT_TXQE;
            }
            left -= 1;
            if left == 0 {
                (self.wires.wake)();
                break;
            }
        }
        if causes != 0 {
            self.raise(causes);
        }
    }

    fn descriptor(&self, at: u64) -> Descriptor {
        let mut d = [0; 16];
        // Memory that is not there reads as a descriptor that does nothing.
        if self.wires.memory.read_slice(&mut d, GuestAddress(at)).is_err() {
            return Descriptor::default();
        }
        let word = |i: usize| u32::from_le_bytes([d[i], d[i + 1], d[i + 2], d[i + 3]]);
        Descriptor { address: u64::from(word(4)) << 32 | u64::from(word(0)), low: word(8), high: word(12) }
    }

    /// One descriptor; false if it must wait for room in the port.
    fn step(&mut self, d: Descriptor) -> bool {
        if d.is_context() {
            self.transmit.set_context(d);
            return true;
        }
        if self.transmit.ready.is_none() {
            self.gather(d);
            if d.command() & END_OF_PACKET == 0 {
                return true;
            }
            if !self.transmit.finish(d) {
                self.transmit.begin();
                self.traffic.sent_dropped += 1;
                return true;
            }
            if d.command() & VLAN != 0 && self.reg(CTRL) & CTRL_VME != 0 {
                let kind = self.reg(VET) as u16;
                self.transmit.tag(kind, (d.high >> 16) as u16);
            }
            let pad = self.reg(TCTL) & TCTL_PSP != 0 && self.transmit.data.len() < MIN_FRAME;
            if pad {
                self.transmit.data.resize(MIN_FRAME, 0);
            }
        }
        self.send()
    }

    fn gather(&mut self, d: Descriptor) {
        let t = &mut self.transmit;
        if t.data.is_empty() && !t.spoilt {
            t.options = if d.extended() { (d.high >> 8) as u8 } else { 0 };
            t.segment = d.extended() && d.command() & SEGMENT != 0;
        }
        let (old, len) = (t.data.len(), d.len());
        if t.spoilt || old + len > MAX_FRAME {
            t.spoilt = true;
            return;
        }
        t.data.resize(old + len, 0);
        t.spoilt = self.wires.memory.read_slice(&mut t.data[old..], GuestAddress(d.address)).is_err();
    }

    /// Offers the packet to the port.
    fn send(&mut self) -> bool {
        let Some(offload) = self.transmit.ready else { return true };
        let link = self.reg(STATUS) & STATUS_LINK != 0;
        let len = self.transmit.data.len();
        let port = &mut self.wires.port;
        let accepts = port.peer_accepts();
        let frame = Frame { data: &self.transmit.data, offload };
        let sent = if link { adapt(frame, accepts, &mut |f| port.send(f)) } else { Sent::Dropped };
        match sent {
            Sent::Full => return false,
            Sent::Yes => {
                self.traffic.sent += 1;
                self.traffic.sent_bytes += len as u64;
                self.count(GPTC, GOTCL, [TPT, TOTL], len + 4);
            }
            Sent::Dropped => self.traffic.sent_dropped += 1,
        }
        self.transmit.begin();
        true
    }
}

impl Transmit {
    fn begin(&mut self) {
        self.data.clear();
        self.spoilt = false;
        self.ready = None;
    }

    fn set_context(&mut self, d: Descriptor) {
        let byte = |v: u64, shift: u32| (v >> shift) as u8 as usize;
        let sum = |v: u64| Sum { start: byte(v, 0), at: byte(v, 8), end: (v >> 16) as u16 as usize };
        let context = Context {
            ip: sum(d.address),
            tcp: sum(d.address >> 32),
            command: d.command(),
            header: byte(u64::from(d.high), 8),
            mss: (d.high >> 16) as u16,
        };
        if d.command() & SEGMENT != 0 {
            self.segment_context = context;
        } else {
            self.plain_context = context;
        }
    }

    /// Completes the packet whose last descriptor is `d`; false if it makes no sense.
    fn finish(&mut self, d: Descriptor) -> bool {
        if self.spoilt || self.data.len() < 14 {
            return false;
        }
        let mut offload = Offload::default();
        if !d.extended() {
            if d.command() & INSERT_CHECKSUM != 0 {
                let sum = Sum { start: (d.high >> 8) as u8 as usize, at: (d.low >> 16) as u8 as usize, end: 0 };
                sum.insert(&mut self.data);
            }
        } else if self.segment {
            match self.prepare_segments() {
                Some(o) => offload = o,
                None => return false,
            }
        } else {
            let c = self.plain_context;
            if self.options & OPTION_IP != 0 {
                c.ip.insert(&mut self.data);
            }
            if self.options & OPTION_TCP != 0 {
                // What sums to the end, as TCP and UDP do, may be left to the receiver.
                match c.tcp.at.checked_sub(c.tcp.start) {
                    Some(offset) if c.tcp.end == 0 && c.tcp.start >= 14 && offset.is_multiple_of(2) => {
                        offload.checksum = Some((c.tcp.start as u16, offset as u16));
                    }
                    _ => c.tcp.insert(&mut self.data),
                }
            }
        }
        self.ready = Some(offload);
        true
    }

    /// The driver leaves length and checksum of the IP header and the length in TCP's pseudo-header to the device (§3.5.4).
    fn prepare_segments(&mut self) -> Option<Offload> {
        let c = self.segment_context;
        let v6 = c.command & IPV4 == 0;
        let data = &mut self.data;
        let len = data.len();
        // A segment context also serves packets of one segment.
        if c.header > len || c.mss == 0 {
            return None;
        }
        let h = Headers::parse(data).filter(|h| h.v6 == v6 && h.tcp_payload(data).is_some())?;
        let mut put = |at: usize, v: u16| data[at..at + 2].copy_from_slice(&v.to_be_bytes());
        if v6 {
            put(h.network + 4, (len - h.network - 40).min(0xffff) as u16);
        } else {
            put(h.network + 2, (len - h.network).min(0xffff) as u16);
            put(h.network + 10, 0);
            let sum = !checksum::sum(&data[h.network..h.transport]);
            data[h.network + 10..h.network + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let pseudo = checksum::pseudo(h.addresses(data), visor_net::headers::TCP, len - h.transport);
        data[h.transport + 16..h.transport + 18].copy_from_slice(&pseudo.to_be_bytes());
        let kind = if v6 { SegmentKind::Tcp6 } else { SegmentKind::Tcp4 };
        let segments = Some(Segments { kind, size: c.mss });
        Some(Offload { checksum: Some((h.transport as u16, 16)), trusted: false, segments })
    }

    /// Inserts a VLAN tag (§9.2).
    fn tag(&mut self, kind: u16, tci: u16) {
        if self.data.len() + 4 > MAX_FRAME {
            return;
        }
        let tag = [kind.to_be_bytes(), tci.to_be_bytes()].concat();
        self.data.splice(12..12, tag);
        if let Some(Offload { checksum: Some((start, _)), .. }) = &mut self.ready {
            *start += 4;
        }
    }
}

impl Sum {
    /// Sums the bytes and stores the checksum, if both lie in the packet.
    fn insert(self, data: &mut [u8]) {
        let end = if self.end == 0 { data.len() } else { self.end + 1 };
        let Some(sum) = data.get(self.start..end).map(|d| !checksum::sum(d)) else { return };
        if let Some(field) = data.get_mut(self.at..self.at + 2) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
}
