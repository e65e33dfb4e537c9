use std::sync::{Arc, Mutex};

use visor_device::testing::IrqLog;
use visor_device::{Bus, Device, Mmio, Pio, PioDevice};
use visor_engine::MsiSink;

use crate::*;

#[derive(Default)]
struct MsiLog(Mutex<Vec<(u64, u32)>>);
impl MsiSink for MsiLog {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

/// A function with one BAR of each kind; reads give the BAR's number, writes are remembered.
struct Probe {
    config: ConfigSpace,
    irq: Interrupts,
    writes: Vec<(u8, u64, Vec<u8>)>,
}

impl Probe {
    fn new(sink: Arc<dyn MsiSink>, intx: IntxLine) -> Self {
        let mut config = ConfigSpace::new(Identity { vendor: 0x1af4, device: 0x1234, ..Identity::default() });
        config.add_bar(0, BarKind::Mem32, 0x1000).unwrap();
        config.add_bar(1, BarKind::Io, 32).unwrap();
        config.add_bar(2, BarKind::Mem64, 0x4000).unwrap();
        config.set_interrupt_pin(IntxPin::A);
        let layout = MsixLayout { vectors: 3, bar: 0, table: 0, pending: 0x800 };
        let irq = Interrupts::new(&mut config, layout, sink, Some(intx)).unwrap();
        Probe { config, irq, writes: Vec::new() }
    }
}

impl PciDevice for Probe {
    fn name(&self) -> &str {
        "probe"
    }
    fn config(&self) -> &ConfigSpace {
        &self.config
    }
    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
    fn follow_config(&mut self) {
        self.irq.update(&self.config);
    }
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar == 0 {
            self.irq.msix_read(offset, data);
        } else {
            data.fill(bar);
        }
    }
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        self.writes.push((bar, offset, data.to_vec()));
        if bar == 0 {
            self.irq.msix_write(offset, data);
        }
    }
    fn reset(&mut self) {
        self.config.reset();
        self.irq.reset();
    }
}

struct Rig {
    pio: Arc<Bus<Pio>>,
    mmio: Arc<Bus<Mmio>>,
    pci: Arc<Mutex<PciBus>>,
    irq: Arc<IrqLog>,
    msi: Arc<MsiLog>,
    probe: Arc<Mutex<Probe>>,
    resets: Arc<Mutex<u32>>,
    pm: Arc<PmLog>,
}

#[derive(Default)]
struct PmLog(Mutex<Vec<Option<u16>>>);

impl ChipsetSink for PmLog {
    fn pm_ports(&self, base: Option<u16>) {
        self.0.lock().unwrap().push(base);
    }
}

const AT: PciAddress = PciAddress::device(2);

impl Rig {
    fn new() -> Self {
        let (pio, mmio) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
        let (irq, msi) = (Arc::new(IrqLog::default()), Arc::new(MsiLog::default()));
        let apertures =
            Apertures { mem32: 0xc000_0000..0xfec0_0000, mem64: 0x1_4000_0000..0x80_0000_0000, io: 0xc000..0x1_0000 };
        let resets = Arc::new(Mutex::new(0));
        let r = resets.clone();
        let pm = Arc::new(PmLog::default());
        let mut pci = PciBus::new(apertures, pm.clone(), &pio, &mmio, irq.clone(), move || *r.lock().unwrap() += 1);
        assert_eq!(pci.free_device().unwrap(), AT);
        let probe = Arc::new(Mutex::new(Probe::new(msi.clone(), pci.intx(AT, IntxPin::A))));
        pci.add(AT, probe.clone()).unwrap();
        assert_eq!(pci.add(AT, probe.clone()), Err(PciError::Address(AT)));
        let pci = Arc::new(Mutex::new(pci));
        pio.claim(0xcf8, 8, pci.clone()).unwrap();
        Rig { pio, mmio, pci, irq, msi, probe, resets, pm }
    }

    fn read(&self, at: PciAddress, register: u8, data: &mut [u8]) {
        self.select(at, register);
        self.pio.read(0xcfc + u16::from(register & 3), data);
    }

    fn read32(&self, at: PciAddress, register: u8) -> u32 {
        let mut d = [0; 4];
        self.read(at, register, &mut d);
        u32::from_le_bytes(d)
    }

    fn write(&self, at: PciAddress, register: u8, data: &[u8]) {
        self.select(at, register);
        self.pio.write(0xcfc + u16::from(register & 3), data);
    }

    fn select(&self, at: PciAddress, register: u8) {
        let a = 1 << 31 | u32::from(at.device) << 11 | u32::from(at.function) << 8 | u32::from(register & 0xfc);
        self.pio.write(0xcf8, &a.to_le_bytes());
    }

    fn load(&self, at: u64) -> u8 {
        let mut d = [0];
        self.mmio.read(at, &mut d);
        d[0]
    }
}

#[test]
fn the_chipset_identifies_itself() {
    let rig = Rig::new();
    assert_eq!(rig.read32(PciAddress::device(0), 0), 0x1237_8086);
    assert_eq!(rig.read32(PciAddress::device(1), 0), 0x7000_8086);
    assert_eq!(rig.read32(PciAddress { device: 1, function: 3 }, 0), 0x7113_8086);
    assert_eq!(rig.read32(PciAddress::device(9), 0), !0, "no such device");
    let mut header = [0];
    rig.read(PciAddress::device(1), 0x0e, &mut header);
    assert_eq!(header, [0x80], "several functions");
    let mut wide = [0; 2];
    rig.read(PciAddress::device(0), 2, &mut wide);
    assert_eq!(wide, [0x37, 0x12]);
    rig.write(PciAddress::device(0), 0, &[0; 4]);
    assert_eq!(rig.read32(PciAddress::device(0), 0), 0x1237_8086, "ids are read-only");
    rig.pio.write(0xcf8, &0u32.to_le_bytes());
    let mut d = [0; 4];
    rig.pio.read(0xcfc, &mut d);
    assert_eq!(d, [0xff; 4], "configuration accesses disabled");
}

#[test]
fn the_ports_of_power_management_move() {
    let rig = Rig::new();
    let at = PciAddress { device: 1, function: 3 };
    assert_eq!(rig.read32(at, 0x40), 1);
    rig.write(at, 0x40, &0xffff_b03fu32.to_le_bytes());
    assert_eq!(rig.read32(at, 0x40), 0xb001);
    rig.write(at, 0x80, &[0xff]);
    rig.write(at, 0x40, &0x601u32.to_le_bytes());
    rig.write(at, 0x40, &0x601u32.to_le_bytes());
    rig.pci.lock().unwrap().reset();
    assert_eq!(*rig.pm.0.lock().unwrap(), [Some(0xb000), Some(0x600), None]);
}

#[test]
fn bars_are_sized_moved_and_decoded() {
    let rig = Rig::new();
    for (register, size) in [(0x10, 0xffff_f000), (0x14, 0xffff_ffe1), (0x18, 0xffff_c00c), (0x1c, 0xffff_ffff)] {
        rig.write(AT, register, &[0xff; 4]);
        assert_eq!(rig.read32(AT, register), size);
    }
    rig.write(AT, 0x10, &0xd000_0000u32.to_le_bytes());
    assert_eq!(rig.load(0xd000_000c), 0xff, "memory is not enabled yet");
    rig.write(AT, 4, &[2, 0]);
    assert_eq!(rig.load(0xd000_000c), 1, "vector control: masked");
    rig.write(AT, 0x10, &0xe000_0000u32.to_le_bytes());
    assert_eq!((rig.load(0xd000_000c), rig.load(0xe000_000c)), (0xff, 1));
    rig.write(AT, 0x10, &[0xff; 4]);
    assert_eq!(rig.load(0xffff_f00c), 0xff, "sizing with decoding on claims nothing outside the aperture");
    rig.write(AT, 0x1c, &0x20u32.to_le_bytes());
    rig.write(AT, 0x18, &0u32.to_le_bytes());
    assert_eq!(rig.load(0x20_0000_0000), 2, "a 64-bit BAR above 4 GiB");
    rig.write(AT, 0x14, &0xc100u32.to_le_bytes());
    let mut d = [0];
    assert!(!rig.pio.read(0xc100, &mut d));
    rig.write(AT, 4, &[3, 0]);
    assert!(rig.pio.read(0xc11f, &mut d));
    assert_eq!(d, [1]);
    rig.pci.lock().unwrap().reset();
    assert_eq!(rig.load(0x20_0000_0000), 0xff);
    assert!(!rig.pio.read(0xc100, &mut d));
}

#[test]
fn an_expansion_rom_is_sized_enabled_and_read() {
    let rig = Rig::new();
    let image: Arc<[u8]> = (0..3000u32).map(|i| i as u8).collect();
    rig.probe.lock().unwrap().config.set_rom(image).unwrap();
    rig.write(AT, 0x30, &0xffff_f800u32.to_le_bytes());
    assert_eq!(rig.read32(AT, 0x30), 0xffff_f000, "3000 bytes need 4 KiB");
    rig.write(AT, 0x30, &0xd000_0001u32.to_le_bytes());
    assert_eq!(rig.load(0xd000_0007), 0xff, "memory is not enabled yet");
    rig.write(AT, 4, &[2, 0]);
    assert_eq!((rig.load(0xd000_0007), rig.load(0xd000_0bb7), rig.load(0xd000_0bb8)), (7, 0xb7, 0xff));
    rig.mmio.write(0xd000_0007, &[1]);
    assert_eq!(rig.load(0xd000_0007), 7, "read-only");
    assert!(rig.probe.lock().unwrap().writes.is_empty());
    rig.write(AT, 0x30, &0xd000_0000u32.to_le_bytes());
    assert_eq!(rig.load(0xd000_0007), 0xff, "the ROM's own switch");
    let mut c = ConfigSpace::new(Identity::default());
    assert_eq!(c.set_rom(Arc::from([])), Err(PciError::Bar { index: 6, size: 2048 }));
    assert!(c.set_rom(vec![0; (16 << 20) + 1].into()).is_err());
}

#[test]
fn a_bar_over_another_waits_until_that_one_leaves() {
    let rig = Rig::new();
    rig.write(AT, 0x10, &0xd000_0000u32.to_le_bytes());
    rig.write(AT, 0x18, &0xd000_0000u32.to_le_bytes());
    rig.write(AT, 4, &[2, 0]);
    assert_eq!(rig.load(0xd000_000c), 1);
    rig.write(AT, 0x10, &0xd100_0000u32.to_le_bytes());
    assert_eq!(rig.load(0xd000_000c), 2);
    assert_eq!(rig.load(0xd100_000c), 1);
}

#[test]
fn a_device_that_is_taken_out_leaves_nothing_behind() {
    let rig = Rig::new();
    rig.pci.lock().unwrap().assign_resources().unwrap();
    assert_eq!(rig.load(0xc000_3fff), 2);
    rig.probe.lock().unwrap().irq.set_intx(true);
    assert_eq!(rig.irq.0.lock().unwrap().last(), Some(&(10, true)));
    let gone = rig.pci.lock().unwrap().remove(AT.device);
    assert_eq!(gone.len(), 1);
    assert!(!rig.pci.lock().unwrap().is_taken(AT.device));
    assert_eq!(rig.read32(AT, 0), !0);
    assert_eq!((rig.load(0xc000_3fff), rig.load(0xc000_400c)), (0xff, 0xff));
    assert_eq!(rig.irq.0.lock().unwrap().last(), Some(&(10, false)), "its pin falls");
    let mut pci = rig.pci.lock().unwrap();
    assert_eq!(pci.free_device().unwrap(), AT);
    let again = Arc::new(Mutex::new(Probe::new(rig.msi.clone(), pci.intx(AT, IntxPin::A))));
    pci.add(AT, again).unwrap();
    assert!(pci.is_taken(AT.device));
}

#[test]
fn resources_are_assigned_without_overlap() {
    let rig = Rig::new();
    rig.pci.lock().unwrap().assign_resources().unwrap();
    let p = rig.probe.lock().unwrap();
    let [a, io, c] = [0, 1, 2].map(|i| p.config.decoded(i).unwrap());
    assert_eq!((c.base, a.base, io.base), (0xc000_0000, 0xc000_4000, 0xc000));
    assert_eq!(p.config.byte(0x3c), 10, "INTA of device 2 is PIRQB");
    drop(p);
    assert_eq!(rig.load(0xc000_3fff), 2);
    assert_eq!(rig.load(0xc000_400c), 1);
}

#[test]
fn an_aperture_that_is_too_small_is_an_error() {
    let (pio, mmio) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
    let apertures = Apertures { mem32: 0xc000_0000..0xc000_1000, mem64: 0..0, io: 0xc000..0xc010 };
    let msi = Arc::new(MsiLog::default());
    let mut pci = PciBus::new(apertures, Arc::new(()), &pio, &mmio, Arc::new(IrqLog::default()), || ());
    pci.add(AT, Arc::new(Mutex::new(Probe::new(msi, pci.intx(AT, IntxPin::A))))).unwrap();
    assert_eq!(pci.assign_resources(), Err(PciError::Aperture { at: AT, index: 2, size: 0x4000 }));
}

#[test]
fn messages_go_out_when_enabled_and_wait_while_masked() {
    let rig = Rig::new();
    rig.pci.lock().unwrap().assign_resources().unwrap();
    let table = 0xc000_4000;
    for (i, word) in [0xfee0_1000u32, 0, 0x4042, 1].iter().enumerate() {
        rig.mmio.write(table + 16 + 4 * i as u64, &word.to_le_bytes());
    }
    let signal = |v| rig.probe.lock().unwrap().irq.signal(v);
    let cap = rig.read32(AT, 0x34) as u8;
    assert_eq!(rig.read32(AT, cap), 0x0002_0011, "MSI-X with three vectors, disabled");
    signal(1);
    rig.write(AT, 4, &[6, 0]);
    rig.write(AT, cap + 2, &[0, 0x80]);
    assert!(rig.msi.0.lock().unwrap().is_empty(), "signals while disabled are lost");
    signal(1);
    assert_eq!(rig.load(table + 0x800), 2, "masked: pending");
    rig.mmio.write(table + 28, &0u32.to_le_bytes());
    assert_eq!(*rig.msi.0.lock().unwrap(), [(0xfee0_1000, 0x4042)]);
    assert_eq!(rig.load(table + 0x800), 0);
    rig.write(AT, cap + 2, &[0, 0xc0]);
    signal(1);
    signal(1);
    signal(7);
    assert_eq!(rig.msi.0.lock().unwrap().len(), 1, "function mask");
    rig.write(AT, cap + 2, &[0, 0x80]);
    assert_eq!(rig.msi.0.lock().unwrap().len(), 2, "two signals merge into one pending bit");
    rig.write(AT, 4, &[2, 0]);
    signal(1);
    assert_eq!(rig.msi.0.lock().unwrap().len(), 2, "no bus master, no message");
    rig.write(AT, 4, &[6, 0]);
    assert_eq!(rig.msi.0.lock().unwrap().len(), 3);
}

#[test]
fn pins_share_an_input_and_follow_the_route_registers() {
    let rig = Rig::new();
    let other = rig.pci.lock().unwrap().intx(PciAddress::device(6), IntxPin::A);
    let take = || std::mem::take(&mut *rig.irq.0.lock().unwrap());
    rig.probe.lock().unwrap().irq.set_intx(true);
    assert_eq!(take(), [(10, true)]);
    other.set(true);
    other.set(true);
    rig.probe.lock().unwrap().irq.set_intx(false);
    assert_eq!(take(), [], "still held by the other device");
    rig.write(PciAddress::device(1), 0x61, &[5]);
    assert_eq!(take(), [(5, true), (10, false)]);
    other.set(false);
    assert_eq!(take(), [(5, false)]);
    rig.write(PciAddress::device(1), 0x61, &[0x80]);
    rig.probe.lock().unwrap().irq.set_intx(true);
    assert_eq!(take(), [], "not routed");
    rig.pci.lock().unwrap().reset();
    assert_eq!(take(), [], "the pin has fallen with the reset");
    rig.write(AT, 4, &[0, 4]);
    rig.probe.lock().unwrap().irq.set_intx(true);
    assert_eq!(take(), [], "INTx disabled");
    rig.write(AT, 4, &[0, 0]);
    assert_eq!(take(), [(10, true)]);
    let routing = rig.pci.lock().unwrap().routing();
    assert!(routing.contains(&IntxRoute { device: 2, pin: IntxPin::A, gsi: 10 }));
    assert!(routing.contains(&IntxRoute { device: 3, pin: IntxPin::A, gsi: 11 }));
    assert_eq!(routing.len(), 31 * 4);
}

#[test]
fn reset_control_fires_on_the_rising_bit_only() {
    let rig = Rig::new();
    rig.pio.write(0xcf9, &[2]);
    assert_eq!(*rig.resets.lock().unwrap(), 0);
    rig.pio.write(0xcf9, &[6]);
    rig.pio.write(0xcf9, &[6]);
    assert_eq!(*rig.resets.lock().unwrap(), 1);
}

#[test]
fn bad_bars_and_too_many_capabilities_are_refused() {
    let mut c = ConfigSpace::new(Identity::default());
    c.add_bar(4, BarKind::Mem64, 0x1000).unwrap();
    for (index, kind, size) in [
        (4, BarKind::Io, 16),
        (5, BarKind::Io, 16),
        (6, BarKind::Io, 16),
        (3, BarKind::Mem64, 16),
        (0, BarKind::Io, 24),
    ] {
        assert_eq!(c.add_bar(index, kind, size), Err(PciError::Bar { index, size }));
    }
    let cap = Capability { id: 9, body: &[0; 60], writable: &[] };
    for _ in 0..3 {
        c.add_capability(cap).unwrap();
    }
    assert_eq!(c.add_capability(cap), Err(PciError::Capability(60)));
}

#[test]
fn random_configuration_accesses_do_no_harm() {
    let rig = Rig::new();
    let mut x = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    for _ in 0..20_000 {
        let (a, v, n) = (next(), next(), next());
        rig.pio.write(0xcf8, &((a as u32 & 0x1fff) | 1 << 31).to_le_bytes());
        let len = [1, 2, 4][n as usize % 3];
        let port = 0xcf8 + (n >> 8) as u16 % 8;
        if n & 1 << 20 == 0 {
            rig.pio.write(port, &v.to_le_bytes()[..len]);
        } else {
            rig.pio.read(port, &mut [0; 8][..len]);
        }
        rig.mmio.write(0xc000_0000 | v & 0x3fff_fff8, &v.to_le_bytes());
    }
    let mut pci = rig.pci.lock().unwrap();
    pci.reset();
    PioDevice::write(&mut *pci, 0, &0x8000_0000u32.to_le_bytes());
    let mut d = [0; 4];
    PioDevice::read(&mut *pci, 4, &mut d);
    assert_eq!(u32::from_le_bytes(d), 0x1237_8086);
}

#[test]
fn the_byte_may_be_in_the_address() {
    let rig = Rig::new();
    rig.pio.write(0xcf8, &(1u32 << 31 | 2 << 11 | 2).to_le_bytes());
    let mut word = [0; 2];
    rig.pio.read(0xcfc, &mut word);
    assert_eq!(word, [0x34, 0x12]);
    let mut all = [0; 4];
    rig.pio.read(0xcfc, &mut all);
    assert_eq!(all, [0xf4, 0x1a, 0x34, 0x12], "never beyond the double word");
    rig.pio.read(0xcf8, &mut all);
    assert_eq!(u32::from_le_bytes(all), 1 << 31 | 2 << 11);
}
