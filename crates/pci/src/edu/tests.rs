use std::sync::{Arc, Mutex};

use visor_device::testing::IrqLog;
use visor_device::{Bus, Mmio, Pio};
use visor_engine::{GuestMemory, MsiSink};
use visor_memory::{Gpa, RamRange};
use vm_memory::{Bytes, GuestAddress};

use super::Edu;
use crate::{Apertures, IntxPin, PciAddress, PciBus, PciDevice};

#[derive(Default)]
struct Log(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Log {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

fn rig() -> (Edu, Arc<GuestMemory>, Arc<Log>, Arc<IrqLog>) {
    let (pio, mmio) = (Arc::new(Bus::<Pio>::default()), Arc::new(Bus::<Mmio>::default()));
    let irq = Arc::new(IrqLog::default());
    let apertures = Apertures { mem32: 0xc000_0000..0xfec0_0000, mem64: 0..0, io: 0xc000..0x1_0000 };
    let bus = PciBus::new(apertures, Arc::new(()), &pio, &mmio, irq.clone(), || ());
    let ram = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 0x4000 }]).unwrap());
    let msi = Arc::new(Log::default());
    let mut edu = Edu::new(ram.clone().into(), msi.clone(), bus.intx(PciAddress::device(3), IntxPin::A)).unwrap();
    edu.config_write(4, &6u16.to_le_bytes());
    (edu, ram, msi, irq)
}

fn read(edu: &mut Edu, at: u64) -> u32 {
    let mut data = [0xff; 4];
    edu.bar_read(0, at, &mut data);
    u32::from_le_bytes(data)
}

fn write(edu: &mut Edu, at: u64, value: u32) {
    edu.bar_write(0, at, &value.to_le_bytes());
}

fn dma(edu: &mut Edu, from: u64, to: u64, count: u64, command: u32) {
    for (at, value) in [(0x80, from), (0x88, to), (0x90, count)] {
        edu.bar_write(0, at, &value.to_le_bytes());
    }
    write(edu, 0x98, command);
}

#[test]
fn it_lives_and_computes() {
    let (mut edu, ..) = rig();
    assert_eq!(read(&mut edu, 0), 0x0100_00ed);
    write(&mut edu, 4, 0x1234_5678);
    assert_eq!(read(&mut edu, 4), !0x1234_5678);
    for (n, result) in [(0, 1), (1, 1), (5, 120), (13, 1_932_053_504), (34, 0), (u32::MAX, 0)] {
        write(&mut edu, 8, n);
        assert_eq!(read(&mut edu, 8), result, "{n}!");
    }
    let mut byte = [0xff];
    edu.bar_read(0, 0, &mut byte);
    assert_eq!(byte, [0xff], "registers are four bytes wide");
}

#[test]
fn bytes_go_through_the_buffer_both_ways() {
    let (mut edu, ram, ..) = rig();
    ram.view().write_slice(b"teaching", GuestAddress(0x1000)).unwrap();
    dma(&mut edu, 0x1000, 0x40010, 8, 1);
    dma(&mut edu, 0x40010, 0x1008, 8, 3);
    assert_eq!(read(&mut edu, 0x98), 2, "start is over");
    let mut copy = [0; 16];
    ram.view().read_slice(&mut copy, GuestAddress(0x1000)).unwrap();
    assert_eq!(&copy, b"teachingteaching");
    // Outside the buffer, too long, wrapping: nothing moves.
    for (from, to, count) in [(0x40000, 0x1000, 4097), (0x3ffff, 0x1000, 1), (0x40001, 0x1000, u64::MAX)] {
        dma(&mut edu, from, to, count, 3);
    }
    ram.view().read_slice(&mut copy, GuestAddress(0x1000)).unwrap();
    assert_eq!(&copy, b"teachingteaching");
    edu.config_write(4, &2u16.to_le_bytes());
    dma(&mut edu, 0x40010, 0x2000, 8, 3);
    assert_eq!(ram.view().read_obj::<u64>(GuestAddress(0x2000)).unwrap(), 0, "no bus mastering");
}

#[test]
fn it_interrupts_by_pin_and_by_message() {
    let (mut edu, _ram, msi, irq) = rig();
    write(&mut edu, 0x60, 1);
    write(&mut edu, 0x64, 1);
    assert_eq!(irq.0.lock().unwrap().drain(..).map(|(_, level)| level).collect::<Vec<_>>(), [true, false]);
    let cap = edu.config().byte(0x34);
    edu.config_write(cap + 4, &0xfee0_1000u32.to_le_bytes());
    edu.config_write(cap + 12, &0x41u16.to_le_bytes());
    edu.config_write(cap + 2, &[1]);
    write(&mut edu, 0x20, 0x80);
    write(&mut edu, 8, 3);
    dma(&mut edu, 0x1000, 0x40000, 4, 5);
    assert_eq!(*msi.0.lock().unwrap(), [(0xfee0_1000, 0x41); 2]);
    assert!(irq.0.lock().unwrap().is_empty(), "the pin is quiet");
    assert_eq!(read(&mut edu, 0x24), 0x101);
    edu.reset();
    assert_eq!((read(&mut edu, 0x24), edu.config().byte(cap + 2)), (0, 0x80));
}
