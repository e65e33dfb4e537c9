//! A PC with one virtio function, and a driver for it that works through the PCI registers.

use std::sync::{Arc, Mutex};

use visor_device::testing::IrqLog;
use visor_device::{Bus, Device, Mmio, Pio};
use visor_engine::MsiSink;
use visor_memory::{Gpa, GuestMemory, RamRange};
use visor_pci::{Apertures, IntxPin, PciAddress, PciBus};
use vm_memory::{Bytes, GuestAddress};

use crate::{VirtioDevice, VirtioPci};

pub(crate) const RAM: u64 = 8 << 20;
pub(crate) const F_INDIRECT: u64 = 1 << 28;
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;
pub(crate) const F_VERSION_1: u64 = 1 << 32;
pub(crate) const F_RING_RESET: u64 = 1 << 40;

const AT: PciAddress = PciAddress::device(2);
/// Guest memory for queues: 64 KiB each from here.
const RINGS: u64 = 1 << 20;

/// Reproducible randomness.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Default)]
pub(crate) struct MsiLog(pub(crate) Mutex<Vec<u32>>);

impl MsiSink for MsiLog {
    fn send(&self, _address: u64, data: u32) {
        self.0.lock().unwrap().push(data);
    }
}

/// The PC.
pub(crate) struct Rig {
    pub(crate) pio: Arc<Bus<Pio>>,
    pub(crate) mmio: Arc<Bus<Mmio>>,
    pub(crate) pci: Arc<Mutex<PciBus>>,
    pub(crate) mem: Arc<GuestMemory>,
    pub(crate) msi: Arc<MsiLog>,
    pub(crate) irq: Arc<IrqLog>,
    pub(crate) regs: u64,
    pub(crate) msix: u64,
}

impl Rig {
    pub(crate) fn new(device: impl VirtioDevice + 'static) -> Self {
        let (pio, mmio) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
        let (irq, msi) = (Arc::new(IrqLog::default()), Arc::new(MsiLog::default()));
        let mem = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: RAM }]).unwrap());
        let apertures = Apertures { mem32: 0xc000_0000..0xfec0_0000, mem64: 0..0, io: 0xc000..0x1_0000 };
        let mut pci = PciBus::new(apertures, Arc::new(()), &pio, &mmio, irq.clone(), || ());
        let function = VirtioPci::new(Box::new(device), mem.clone(), msi.clone(), pci.intx(AT, IntxPin::A)).unwrap();
        pci.add(AT, Arc::new(Mutex::new(function))).unwrap();
        pci.assign_resources().unwrap();
        let pci = Arc::new(Mutex::new(pci));
        pio.claim(0xcf8, 8, pci.clone()).unwrap();
        let mut rig = Rig { pio, mmio, pci, mem, msi, irq, regs: 0, msix: 0 };
        rig.write_config(4, &6u16.to_le_bytes());
        rig.regs = u64::from(rig.read_config(0x20) & !15);
        rig.msix = u64::from(rig.read_config(0x14) & !15);
        rig
    }

    pub(crate) fn read_config(&self, at: u8) -> u32 {
        self.select(at);
        let mut d = [0; 4];
        self.pio.read(0xcfc, &mut d);
        u32::from_le_bytes(d)
    }

    pub(crate) fn write_config(&self, at: u8, data: &[u8]) {
        self.select(at);
        self.pio.write(0xcfc + u16::from(at & 3), data);
    }

    fn select(&self, at: u8) {
        self.pio.write(0xcf8, &(1 << 31 | u32::from(AT.device) << 11 | u32::from(at & 0xfc)).to_le_bytes());
    }

    /// The offset of the first capability `id` for which `pick` holds.
    pub(crate) fn capability(&self, id: u8, pick: impl Fn(u8) -> bool) -> u8 {
        let mut at = self.read_config(0x34) as u8;
        for _ in 0..48 {
            let head = self.read_config(at);
            if head as u8 == id && pick(at) {
                return at;
            }
            at = (head >> 8) as u8;
        }
        panic!("no capability {id:#x}");
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> u64 {
        let mut d = [0; 8];
        assert!(self.mmio.read(self.regs + at, &mut d[..len]));
        u64::from_le_bytes(d)
    }

    pub(crate) fn write(&self, at: u64, len: usize, value: u64) {
        assert!(self.mmio.write(self.regs + at, &value.to_le_bytes()[..len]));
    }

    pub(crate) fn status(&self) -> u8 {
        self.read(0x14, 1) as u8
    }

    pub(crate) fn isr(&self) -> u8 {
        self.read(0x1000, 1) as u8
    }

    pub(crate) fn offered(&self) -> u64 {
        self.write(0, 4, 0);
        let low = self.read(4, 4);
        self.write(0, 4, 1);
        low | self.read(4, 4) << 32
    }

    /// Reset, then negotiation up to FEATURES_OK; false if refused.
    pub(crate) fn negotiate(&self, features: u64) -> bool {
        self.write(0x14, 1, 0);
        self.write(0x14, 1, 1);
        self.write(0x14, 1, 3);
        self.write(8, 4, 0);
        self.write(0xc, 4, features & 0xffff_ffff);
        self.write(8, 4, 1);
        self.write(0xc, 4, features >> 32);
        self.write(0x14, 1, 0xb);
        self.status() & 8 != 0
    }

    /// The whole initialisation: negotiation, all queues with a vector each, DRIVER_OK.
    pub(crate) fn start(&self, features: u64) -> Vec<Vq> {
        assert!(self.negotiate(features | F_VERSION_1));
        let queues = (0..self.read(0x12, 2) as u16).map(|q| self.set_up(q)).collect();
        self.write(0x14, 1, 0xf);
        assert_eq!(self.status(), 0xf);
        queues
    }

    /// Turns MSI-X on, with data 100h + vector.
    pub(crate) fn enable_msix(&self) {
        let cap = self.capability(0x11, |_| true);
        let vectors = (self.read_config(cap) >> 16 & 0x7ff) + 1;
        for v in 0..u64::from(vectors) {
            for (i, word) in [0xfee0_0000, 0, 0x100 + v as u32, 0].into_iter().enumerate() {
                self.mmio.write(self.msix + 16 * v + 4 * i as u64, &u32::to_le_bytes(word));
            }
        }
        self.write_config(cap + 2, &0x8000u16.to_le_bytes());
    }

    pub(crate) fn set_up(&self, q: u16) -> Vq {
        let base = RINGS + u64::from(q) * 0x1_0000;
        self.mem.view().write_slice(&[0; 0x4000], GuestAddress(base)).unwrap();
        self.write(0x16, 2, u64::from(q));
        let size = self.read(0x18, 2) as u16;
        self.write(0x1a, 2, u64::from(q) + 1);
        self.write(0x20, 4, base);
        self.write(0x24, 4, 0);
        self.write(0x28, 8, base + 0x1000);
        self.write(0x30, 8, base + 0x2000);
        self.write(0x1c, 2, 1);
        Vq { index: q, size, base, next: 0, avail: 0, seen: 0 }
    }

    pub(crate) fn reset_machine(&self) {
        self.pci.lock().unwrap().reset();
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut d = vec![0; len];
        self.mem.view().read_slice(&mut d, GuestAddress(at)).unwrap();
        d
    }

    pub(crate) fn store(&self, at: u64, data: &[u8]) {
        self.mem.view().write_slice(data, GuestAddress(at)).unwrap();
    }
}

/// The driver's side of a queue.
pub(crate) struct Vq {
    pub(crate) index: u16,
    pub(crate) size: u16,
    pub(crate) base: u64,
    next: u16,
    avail: u16,
    seen: u16,
}

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) fn descriptor(at: u64, len: u32, flags: u16, next: u16) -> Vec<u8> {
    [&at.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}

impl Vq {
    /// Offers a chain of (address, length, device writes); returns its head.
    pub(crate) fn add(&mut self, rig: &Rig, parts: &[(u64, u32, bool)]) -> u16 {
        let head = self.next;
        for (i, (at, len, write)) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let d = descriptor(*at, *len, flags, (self.next + 1) % self.size);
            rig.store(self.base + 16 * u64::from(self.next), &d);
            self.next = (self.next + 1) % self.size;
        }
        self.offer(rig, head);
        head
    }

    /// The head that the next chain will have.
    pub(crate) fn next_head(&self) -> u16 {
        self.next
    }

    /// Puts `head` into the available ring.
    pub(crate) fn offer(&mut self, rig: &Rig, head: u16) {
        let ring = self.base + 0x1000;
        rig.store(ring + 4 + 2 * u64::from(self.avail % self.size), &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(1);
        rig.store(ring + 2, &self.avail.to_le_bytes());
    }

    /// Whether the device wants to be notified of the chain that was offered last.
    pub(crate) fn wants_kick(&self, rig: &Rig, event_idx: bool) -> bool {
        let ring = self.base + 0x2000;
        let at = if event_idx { ring + 4 + 8 * u64::from(self.size) } else { ring };
        let told = rig.bytes(at, 2);
        let told = u16::from_le_bytes([told[0], told[1]]);
        if event_idx { told == self.avail.wrapping_sub(1) } else { told & 1 == 0 }
    }

    pub(crate) fn kick(&self, rig: &Rig) {
        rig.write(0x3000 + 4 * u64::from(self.index), 2, u64::from(self.index));
    }

    pub(crate) fn send(&mut self, rig: &Rig, parts: &[(u64, u32, bool)]) -> u16 {
        let head = self.add(rig, parts);
        self.kick(rig);
        head
    }

    /// The next used element: head and bytes written.
    pub(crate) fn used(&mut self, rig: &Rig) -> Option<(u16, u32)> {
        let ring = self.base + 0x2000;
        let idx = rig.bytes(ring + 2, 2);
        if u16::from_le_bytes([idx[0], idx[1]]) == self.seen {
            return None;
        }
        let e = rig.bytes(ring + 4 + 8 * u64::from(self.seen % self.size), 8);
        self.seen = self.seen.wrapping_add(1);
        Some((u16::from_le_bytes([e[0], e[1]]), u32::from_le_bytes([e[4], e[5], e[6], e[7]])))
    }

    /// Sets the driver's used_event.
    pub(crate) fn used_event(&self, rig: &Rig, value: u16) {
        rig.store(self.base + 0x1000 + 4 + 2 * u64::from(self.size), &value.to_le_bytes());
    }
}

/// Random register accesses, random ring contents and random honest traffic; the device must survive all of it and work after
/// a reset. `poke` is called now and then, for the host's side.
pub(crate) fn fuzz(rig: &Rig, seed: u64, features: u64, mut poke: impl FnMut(&mut Random)) {
    let mut r = Random(seed);
    for _ in 0..400 {
        let mut queues = rig.start(features & rig.offered());
        for _ in 0..60 {
            let pick = r.below(queues.len() as u64) as usize;
            let q = &mut queues[pick];
            match r.below(8) {
                0..3 => random_chain(rig, q, &mut r),
                3 => {
                    let at = q.base + r.below(0x3000);
                    rig.store(at, &r.next().to_le_bytes()[..1 + r.below(8) as usize]);
                }
                4 if r.below(8) == 0 => {
                    let head = if r.below(50) == 0 { r.next() as u16 } else { r.below(1 + u64::from(q.next)) as u16 };
                    q.offer(rig, head);
                }
                5 => poke(&mut r),
                6 => {
                    let len = [1, 2, 4, 8][r.below(4) as usize];
                    let at =
                        [r.below(0x40), 0x1000, 0x2000 + r.below(0x50), 0x3000 + r.below(0x40)][r.below(4) as usize];
                    if r.below(2) == 0 {
                        rig.read(at, len);
                    } else {
                        rig.write(at, len, r.next() >> r.below(64));
                    }
                }
                _ => {
                    let queue = r.below(queues.len() as u64);
                    rig.write(0x3000 + 4 * queue, 2, queue);
                }
            }
        }
    }
    // A disabled BAR and random configuration accesses do not disturb it either.
    for _ in 0..2000 {
        let at = 0x40 + r.below(0xc0) as u8;
        rig.write_config(at & 0xfc, &(r.next() as u32 >> r.below(32)).to_le_bytes());
        rig.read_config(at & 0xfc);
    }
    rig.reset_machine();
    rig.pci.lock().unwrap().assign_resources().unwrap();
    rig.write_config(4, &6u16.to_le_bytes());
    rig.start(0);
}

/// A chain of plausible, wrong or wild descriptors, with random data before it.
fn random_chain(rig: &Rig, q: &mut Vq, r: &mut Random) {
    let count = 2 + r.below(3);
    let mut parts: Vec<_> = (0..count)
        .map(|i| {
            let at = if r.below(80) == 0 { r.next() >> r.below(64) } else { (4 << 20) + r.below(0x10_0000) };
            let len = if r.below(80) == 0 { r.next() as u32 } else { [1, 16, 16, 512, 513, 4096][r.below(6) as usize] };
            if at < RAM - 32 {
                let words = [r.below(16) as u32, r.next() as u32 & 0xf, r.below(64) as u32, 0];
                rig.store(at, &words.map(u32::to_le_bytes).concat());
            }
            let odd = r.below(50) == 0;
            match i {
                0 if !odd => (at, 16, false),
                _ => (at, len, (i + 1 == count || r.below(2) == 0) != odd),
            }
        })
        .collect();
    // Readable parts first, as the rules say, mostly.
    if r.below(50) != 0 {
        parts.sort_by_key(|p| p.2);
    }
    q.add(rig, &parts);
    if r.below(50) == 0 {
        let flags = r.next() as u16 & 7;
        rig.store(q.base + 16 * r.below(u64::from(q.size)) + 12, &flags.to_le_bytes());
    }
    if r.below(2) == 0 {
        q.kick(rig);
    }
}
