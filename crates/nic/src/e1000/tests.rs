use std::sync::{Arc, Mutex};

use visor_device::testing::{IrqLog, ManualClock, ManualTimer};
use visor_device::{Bus, Device, IrqSink};
use visor_memory::{Gpa, GuestMemory, RamRange};
use visor_net::cable::{CableEnd, cable};
use visor_net::{Accepts, Frame, MacAddr, NetPort, Nic, Offload, SegmentKind, Segments, Sent, checksum};
use visor_pci::{Apertures, IntxPin, PciAddress, PciBus, PciDevice};
use vm_memory::{Bytes, GuestAddress};

use super::regs::*;
use super::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
const RX: u64 = 0x1_0000;
const TX: u64 = 0x2_0000;
const DATA: u64 = 0x10_0000;
const RING: u32 = 16;

struct Lan {
    device: Arc<Mutex<E1000>>,
    nic: E1000Handle,
    far: CableEnd,
    mem: Arc<GuestMemory>,
    clock: Arc<ManualClock>,
    timer: Arc<ManualTimer>,
    irq: Arc<IrqLog>,
    tail: u32,
}

impl Lan {
    fn new() -> Self {
        let (pio, mmio) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
        let irq = Arc::new(IrqLog::default());
        let apertures = Apertures { mem32: 0xc000_0000..0xfec0_0000, mem64: 0..0, io: 0xc000..0x1_0000 };
        let sink: Arc<dyn IrqSink> = irq.clone();
        let bus = PciBus::new(apertures, Arc::new(()), &pio, &mmio, sink, || ());
        let mem = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 4 << 20 }]).unwrap());
        let (near, far) = cable(1500);
        let (clock, timer) = (Arc::new(ManualClock::default()), Arc::new(ManualTimer::default()));
        let wires = E1000Wires {
            memory: mem.clone().into(),
            intx: bus.intx(PciAddress::device(3), IntxPin::A),
            clock: clock.clone(),
            timer: timer.clone(),
            port: Box::new(near),
            wake: Arc::new(|| ()),
        };
        let device = Arc::new(Mutex::new(E1000::new(MAC, wires).unwrap()));
        device.lock().unwrap().config_write(4, &7u16.to_le_bytes());
        let nic = E1000Handle::new(device.clone());
        Lan { device, nic, far, mem, clock, timer, irq, tail: 0 }
    }

    /// A driver's set-up: both rings, all receive descriptors but one with buffers of 2048 bytes.
    fn up() -> Self {
        let mut lan = Lan::new();
        for (base, len, ring) in [(RDBAL, RDLEN, RX), (TDBAL, TDLEN, TX)] {
            lan.write(base, ring as u32);
            lan.write(len, RING * 16);
        }
        for i in 0..u64::from(RING) {
            lan.store(RX + 16 * i, &(DATA + 0x8_0000 + 2048 * i).to_le_bytes());
        }
        lan.write(RDT, RING - 1);
        lan.write(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC);
        lan.write(TCTL, TCTL_EN | TCTL_PSP);
        lan.tail = 0;
        lan
    }

    fn read(&self, at: u32) -> u32 {
        let mut d = [0; 4];
        self.device.lock().unwrap().bar_read(0, at.into(), &mut d);
        u32::from_le_bytes(d)
    }

    fn write(&self, at: u32, value: u32) {
        self.device.lock().unwrap().bar_write(0, at.into(), &value.to_le_bytes());
    }

    fn store(&self, at: u64, data: &[u8]) {
        self.mem.view().write_slice(data, GuestAddress(at)).unwrap();
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut d = vec![0; len];
        self.mem.view().read_slice(&mut d, GuestAddress(at)).unwrap();
        d
    }

    /// Puts a descriptor into the transmit ring; gives its status afterwards.
    fn send(&mut self, address: u64, low: u32, high: u32) -> u8 {
        let at = TX + 16 * u64::from(self.tail);
        self.store(at, &[&address.to_le_bytes()[..], &low.to_le_bytes(), &high.to_le_bytes()].concat());
        self.tail = (self.tail + 1) % RING;
        self.write(TDT, self.tail);
        self.bytes(at + 12, 1)[0]
    }

    fn heard(&mut self) -> Vec<(Vec<u8>, Offload)> {
        let mut all = Vec::new();
        self.far.receive(&mut |f: Frame<'_>| {
            all.push((f.data.to_vec(), f.offload));
            Sent::Yes
        });
        all
    }

    fn say(&mut self, data: &[u8], offload: Offload) {
        assert_eq!(self.far.send(Frame { data, offload }), Sent::Yes);
        self.nic.pump();
    }

    /// Receive descriptor `i`: length, status, tag.
    fn received(&self, i: u64) -> (u16, u8, u16) {
        let d = self.bytes(RX + 16 * i, 16);
        (u16::from_le_bytes([d[8], d[9]]), d[12], u16::from_le_bytes([d[14], d[15]]))
    }

    fn got(&mut self, data: &[u8]) -> bool {
        let head = self.read(RDH);
        self.say(data, Offload::default());
        let came = self.read(RDH) != head;
        self.write(RDT, (self.read(RDH) + RING - 1) % RING);
        came
    }

    fn pin(&self) -> bool {
        self.irq.0.lock().unwrap().last().is_some_and(|(_, level)| *level)
    }
}

fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut f = [&to[..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5]].concat();
    f.extend((14..len).map(|i| i as u8));
    f
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut f = [&MAC.0[..], &[2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0]].concat();
    f.extend([10, 0, 2, 2, 10, 0, 2, 15, 0, 80, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    f.extend((0..payload).map(|i| i as u8));
    f
}

#[test]
fn the_eeprom_can_be_read_both_ways() {
    let lan = Lan::new();
    let microwire = |address: u32| {
        let clock = |di: u32| {
            lan.write(EECD, 2 | di << 2);
            lan.write(EECD, 3 | di << 2);
            let out = lan.read(EECD) >> 3 & 1;
            lan.write(EECD, 2 | di << 2);
            out
        };
        lan.write(EECD, 0);
        (0..9).rev().for_each(|i| _ = clock((6 << 6 | address) >> i & 1));
        let word = (0..16).fold(0, |w, _| w << 1 | clock(0));
        lan.write(EECD, 0);
        word as u16
    };
    let fast = |address: u32| {
        lan.write(EERD, address << 8 | 1);
        let v = lan.read(EERD);
        assert_eq!(v & 0x10, 0x10);
        (v >> 16) as u16
    };
    assert_eq!([microwire(0), microwire(1), microwire(2)], [0x5452, 0x1200, 0x5634]);
    let all: Vec<u16> = (0..64).map(fast).collect();
    assert_eq!(all, (0..64).map(microwire).collect::<Vec<_>>());
    assert_eq!(all.iter().fold(0u16, |a, b| a.wrapping_add(*b)), 0xbaba);
    lan.write(EECD, 0x40);
    assert_eq!(lan.read(EECD) & 0x1c0, 0x1c0);
    assert_eq!((lan.read(RA), lan.read(RA + 4)), (0x1200_5452, 0x8000_5634), "loaded by the reset");
}

#[test]
fn the_phy_answers_and_the_link_is_its_own() {
    let mut lan = Lan::new();
    let read = |lan: &Lan, phy: u32, reg: u32| {
        lan.write(MDIC, 2 << 26 | phy << 21 | reg << 16);
        lan.read(MDIC)
    };
    assert_eq!(read(&lan, 1, 2), 2 << 26 | 1 << 28 | 1 << 21 | 2 << 16 | 0x0141);
    assert_eq!(read(&lan, 2, 2) >> 30 & 1, 1, "nobody there");
    assert_eq!(read(&lan, 1, 1) & 0x24, 0x24, "link, negotiated");
    lan.write(MDIC, 1 << 26 | 1 << 21 | 4 << 16 | 0x01e1);
    assert_eq!(read(&lan, 1, 4) as u16, 0x01e1);
    lan.write(MDIC, 1 << 26 | 1 << 21 | 0x9140);
    assert_eq!(read(&lan, 1, 4) as u16, 0x0de1, "reset");
    lan.nic.set_link(false);
    lan.nic.pump();
    assert_eq!((lan.read(ICR) & INT_LSC, lan.read(STATUS) & 2, read(&lan, 1, 1) & 4), (INT_LSC, 0, 0));
    lan.far = cable(1500).0;
    lan.nic.set_link(true);
    lan.nic.pump();
    assert_eq!(lan.read(STATUS) & 2, 0, "the other end is gone");
}

#[test]
fn ports_reach_the_registers() {
    let lan = Lan::new();
    let mut d = lan.device.lock().unwrap();
    d.bar_write(1, 0, &RA.to_le_bytes());
    let mut v = [0; 4];
    d.bar_read(1, 4, &mut v);
    assert_eq!(v, [0x52, 0x54, 0, 0x12]);
    d.bar_write(1, 0, &CTRL.to_le_bytes());
    d.bar_write(0, IMS.into(), &0xffu32.to_le_bytes());
    d.bar_write(1, 4, &CTRL_RST.to_le_bytes());
    d.bar_read(0, IMS.into(), &mut v);
    assert_eq!(v, [0; 4]);
}

#[test]
fn frames_leave_with_checksums_tags_and_segments() {
    let mut lan = Lan::up();
    lan.store(DATA, &frame([2; 6], 40));
    assert_eq!(lan.send(DATA, 0x0900_0000 | 40, 0), 1, "done is reported");
    let mut padded = frame([2; 6], 40);
    padded.resize(60, 0);
    assert_eq!(lan.heard(), [(padded, Offload::default())]);
    assert_eq!(lan.read(ICR) & (INT_TXDW | INT_TXQE), INT_TXDW | INT_TXQE);
    // Legacy: a checksum from byte 20 put at byte 16; a tag.
    lan.write(CTRL, CTRL_VME);
    lan.store(DATA, &frame([2; 6], 100));
    lan.send(DATA, 0x4d10_0000 | 100, 20 << 8 | 0x2007 << 16);
    let (f, _) = lan.heard().remove(0);
    assert_eq!(f[12..16], [0x81, 0, 0x20, 7]);
    assert_eq!(f[20..22], (!checksum::sum(&frame([2; 6], 100)[20..])).to_be_bytes());
    // Context and data, two pieces.
    let data = tcp(3000);
    lan.store(DATA, &data);
    let context = 14 | 24 << 8 | 33 << 16 | 34 << 32 | 50 << 40;
    lan.send(context, 0x2700_0000 | 3000, 54 << 8 | 1000 << 16);
    lan.send(DATA, 0x2410_0000 | 100, 0x300);
    lan.send(DATA + 100, 0x2d10_0000 | (data.len() as u32 - 100), 0);
    let heard = lan.heard();
    assert_eq!(heard.iter().map(|(f, _)| f.len()).collect::<Vec<_>>(), [1054; 3]);
    for (f, _) in &heard {
        let pseudo = checksum::pseudo(&f[26..34], 6, 1020);
        assert_eq!(checksum::add(pseudo, checksum::sum(&f[34..])), 0xffff);
        assert_eq!(checksum::sum(&f[14..34]), 0xffff);
    }
    // The same undivided.
    lan.far.set_accepts(Accepts::ALL);
    lan.send(DATA, 0x2d10_0000 | data.len() as u32, 0x300);
    let (f, o) = lan.heard().remove(0);
    let segments = Some(Segments { kind: SegmentKind::Tcp4, size: 1000 });
    assert_eq!((f.len(), o), (3054, Offload { checksum: Some((34, 16)), trusted: false, segments }));
    assert_eq!(f[16..18], 3040u16.to_be_bytes());
    // A checksum only.
    lan.send(context, 0x2000_0000, 0);
    lan.send(DATA, 0x2910_0000 | 1000, 0x300);
    let (f, o) = lan.heard().remove(0);
    assert_eq!((f.len(), o.checksum, o.segments), (1000, Some((34, 16)), None));
    assert_eq!(lan.read(GPTC), 5);
    assert_eq!(lan.read(GPTC), 0, "cleared by reading");
}

#[test]
fn a_full_port_stops_the_ring() {
    let mut lan = Lan::up();
    lan.store(DATA, &frame([2; 6], 60000));
    let mut sent = 0;
    for i in 0..120 {
        lan.send(DATA, 0x0900_0000 | 60000, 0);
        if lan.read(TDH) != lan.read(TDT) {
            sent = i;
            break;
        }
    }
    assert!(sent > 40 && lan.heard().len() == sent);
    lan.nic.pump();
    assert_eq!((lan.read(TDH), lan.heard().len(), lan.nic.traffic().sent_dropped), (lan.read(TDT), 1, 0));
}

#[test]
fn frames_arrive_and_wait_for_descriptors() {
    let mut lan = Lan::up();
    lan.write(IMS, INT_RXT0);
    lan.write(RXCSUM, 0x300);
    lan.say(&tcp(100), Offload { trusted: true, ..Offload::default() });
    assert_eq!(lan.received(0), (154, 0x63, 0));
    assert_eq!(lan.bytes(DATA + 0x8_0000, 154), tcp(100));
    assert!(lan.pin() && lan.read(ICR) & INT_RXT0 != 0 && !lan.pin());
    lan.say(&frame(MAC.0, 20), Offload::default());
    assert_eq!(lan.received(1), (60, 7, 0), "padded, nothing is known about checksums");
    for _ in 0..20 {
        lan.far.send(Frame::plain(&frame(MAC.0, 100)));
    }
    lan.nic.pump();
    assert_eq!(lan.read(RDH), RING - 1);
    lan.write(RDT, RING - 2);
    lan.nic.pump();
    assert_eq!(lan.read(RDH), 6, "20 + 2 in all");
    assert_eq!((lan.nic.traffic().received, lan.nic.traffic().received_dropped), (22, 0));
    assert_ne!(lan.read(ICR) & INT_RXDMT0, 0);
}

#[test]
fn long_frames_tags_and_check_sequences() {
    let mut lan = Lan::up();
    assert!(!lan.got(&frame(MAC.0, 3000)));
    lan.write(RCTL, RCTL_EN | RCTL_LPE);
    assert!(lan.got(&frame(MAC.0, 3000)));
    assert_eq!((lan.received(0), lan.received(1)), ((2048, 1, 0), (956, 7, 0)), "with the check sequence");
    assert!(!lan.got(&frame(MAC.0, 40_000)));
    lan.write(CTRL, CTRL_VME);
    lan.write(RCTL, RCTL_EN | RCTL_SECRC | RCTL_VFE);
    let mut tagged = frame(MAC.0, 100);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert!(!lan.got(&tagged));
    lan.write(VFTA, 1 << 7);
    assert!(lan.got(&tagged));
    assert_eq!(lan.received(2), (100, 0xf, 7));
}

#[test]
fn the_filter_is_the_drivers() {
    let mut lan = Lan::up();
    let group = [1, 0, 0x5e, 0, 0x12, 0x34];
    assert!(lan.got(&frame(MAC.0, 60)) && lan.got(&frame([0xff; 6], 60)));
    assert!(!lan.got(&frame([2; 6], 60)) && !lan.got(&frame(group, 60)));
    let hash = (0x34 << 4 | 0x12 >> 4) as u32;
    lan.write(MTA + 4 * (hash >> 5), 1 << (hash & 31));
    assert!(lan.got(&frame(group, 60)));
    lan.write(RA + 8, 0x0202_0202);
    lan.write(RA + 12, 0x8000_0202);
    assert!(lan.got(&frame([2; 6], 60)));
    lan.write(RCTL, RCTL_EN | RCTL_UPE);
    assert!(lan.got(&frame([4; 6], 60)) && !lan.got(&frame([0xff; 6], 60)));
    lan.write(RCTL, RCTL_EN | RCTL_MPE);
    assert!(lan.got(&frame([0xff; 6], 60)));
    lan.write(RCTL, 0);
    assert!(!lan.got(&frame(MAC.0, 60)));
}

#[test]
fn interrupts_are_masked_and_throttled() {
    let lan = Lan::new();
    lan.write(ICS, INT_LSC);
    assert!(!lan.pin());
    lan.write(IMS, INT_LSC);
    assert!(lan.pin());
    lan.write(IMC, INT_LSC);
    assert!(!lan.pin());
    lan.write(IMS, INT_LSC);
    lan.write(ITR, 1000);
    assert_eq!(lan.read(ICR), INT_LSC | INT_ASSERTED);
    assert!(!lan.pin());
    lan.write(ICS, INT_LSC);
    assert!(lan.pin(), "the throttle counts from the next one");
    lan.read(ICR);
    lan.write(ICS, INT_LSC);
    assert!(!lan.pin());
    let due = lan.timer.0.lock().unwrap().unwrap();
    assert_eq!(due, 256_000);
    lan.clock.advance(due);
    E1000Timer(Arc::downgrade(&lan.device)).as_timer().unwrap().expired(due);
    assert!(lan.pin());
    lan.device.lock().unwrap().config_write(4, &0x407u16.to_le_bytes());
    assert!(!lan.pin(), "software forbids it");
}

#[test]
fn random_drivers_do_no_harm() {
    let mut lan = Lan::up();
    let mut x = 3u64;
    let mut next = || {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        x >> 33
    };
    let interesting =
        [CTRL, RCTL, TCTL, RDT, TDT, TDT, RDH, TDH, RDLEN, TDLEN, RDBAL, TDBAL, EECD, EERD, MDIC, ICS, IMS, ITR];
    for i in 0..40_000 {
        let at = if next() % 4 == 0 { (next() % 0x2_0000) as u32 & !3 } else { interesting[next() as usize % 18] };
        let value = (next() as u32) >> (next() % 32);
        match next() % 6 {
            0..3 => lan.write(at, value),
            3 => _ = lan.read(at),
            4 => {
                let at = if next() % 2 == 0 { TX } else { RX } + next() % 256;
                lan.store(at, &next().to_le_bytes());
            }
            _ => {
                let data = tcp((next() % 9000) as usize);
                lan.far.send(Frame { data: &data, offload: Offload::default() });
                lan.heard();
                lan.nic.pump();
            }
        }
        if i % 500 == 0 {
            lan.write(RDBAL, RX as u32);
            lan.write(TDBAL, TX as u32);
            lan.write(RDBAL + 4, 0);
            lan.write(TDBAL + 4, 0);
            lan.write(RDLEN, 0x100);
            lan.write(TDLEN, 0x100);
            lan.write(RCTL, RCTL_EN | RCTL_UPE);
            lan.write(TCTL, TCTL_EN);
        }
    }
    let t = lan.nic.traffic();
    assert!(t.sent + t.sent_dropped > 100 && t.received > 10, "{t:?}");
    lan.device.lock().unwrap().reset();
    assert_eq!(lan.read(RA), 0x1200_5452);
}
