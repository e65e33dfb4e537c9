//! The unit as a guest's driver and a PCI function use it.

mod interrupts;

use std::sync::{Arc, Mutex};

use visor_device::{Device, MmioDevice};
use visor_engine::{GuestMemory, MsiSink};
use visor_memory::{Gpa, RamRange};
use visor_pci::{DmaRemapper, SourceId};
use vm_memory::{Bytes, GuestAddress};

use crate::{Iommu, Registers};

const RAM: u64 = 1 << 20;
const ROOT: u64 = 0x1_0000;
const CONTEXTS: u64 = 0x1_1000;
const LEVEL3: u64 = 0x1_2000;
const LEVEL2: u64 = 0x1_3000;
const LEVEL1: u64 = 0x1_4000;
const INTERRUPTS: u64 = 0x2_0000;
const RING: u64 = 0x3_0000;
/// 00:03.0
const SOURCE: SourceId = SourceId(0x18);

const TE: u32 = 1 << 31;
const SRTP: u32 = 1 << 30;
const QIE: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;
const CFI: u32 = 1 << 23;

#[derive(Default)]
struct Log(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Log {
    fn send(&self, address: u64, data: u32) {
        self.0.lock().unwrap().push((address, data));
    }
}

impl Log {
    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

type Step<'a> = &'a dyn Fn(&mut Rig);

struct Rig {
    ram: Arc<GuestMemory>,
    log: Arc<Log>,
    unit: Arc<Iommu>,
    regs: Registers,
    tail: u64,
}

impl Rig {
    /// A unit without anything enabled, and tables that map 40000000h of device 3 to 80000h, the next page read-only to 81000h,
    /// and the 2 MiB from 200000h to 0.
    fn new() -> Self {
        let ram = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: RAM }]).unwrap());
        let log = Arc::new(Log::default());
        let unit = Iommu::new(ram.clone(), log.clone());
        let regs = unit.registers();
        let rig = Rig { ram, log, unit, regs, tail: 0 };
        rig.poke(ROOT, CONTEXTS | 1);
        rig.context(LEVEL3 | 1, 1 | 7 << 8);
        rig.poke(LEVEL3, 0x1_5000 | 3);
        rig.poke(0x1_5000 + 8, 0x83);
        rig.poke(LEVEL3 + 8, LEVEL2 | 3);
        rig.poke(LEVEL2, LEVEL1 | 3);
        rig.poke(LEVEL1, 0x8_0003);
        rig.poke(LEVEL1 + 8, 0x8_1001);
        rig
    }

    fn context(&self, low: u64, high: u64) {
        self.poke(CONTEXTS + 16 * u64::from(SOURCE.0), low);
        self.poke(CONTEXTS + 16 * u64::from(SOURCE.0) + 8, high);
    }

    fn poke(&self, at: u64, value: u64) {
        self.ram.view().write_obj(value, GuestAddress(at)).unwrap();
    }

    fn peek(&self, at: u64) -> u64 {
        self.ram.view().read_obj(GuestAddress(at)).unwrap()
    }

    fn r32(&mut self, at: u64) -> u32 {
        let mut data = [0; 4];
        self.regs.read(at, &mut data);
        u32::from_le_bytes(data)
    }

    fn r64(&mut self, at: u64) -> u64 {
        let mut data = [0; 8];
        self.regs.read(at, &mut data);
        u64::from_le_bytes(data)
    }

    fn w32(&mut self, at: u64, value: u32) {
        self.regs.write(at, &value.to_le_bytes());
    }

    fn w64(&mut self, at: u64, value: u64) {
        self.regs.write(at, &value.to_le_bytes());
    }

    fn translating(mut self) -> Self {
        self.w64(0x20, ROOT);
        self.w32(0x18, SRTP);
        self.w32(0x18, TE);
        assert_eq!(self.r32(0x1c) & (TE | SRTP), TE | SRTP);
        self
    }

    fn remapping(mut self, extended: bool) -> Self {
        self.w64(0xb8, INTERRUPTS | u64::from(extended) << 11 | 7);
        self.w32(0x18, SIRTP);
        self.w32(0x18, IRE);
        assert_eq!(self.r32(0x1c) & (IRE | SIRTP), IRE | SIRTP);
        self
    }

    fn queued(mut self) -> Self {
        self.w64(0x90, RING);
        self.w32(0x18, QIE);
        self
    }

    fn submit(&mut self, low: u64, high: u64) {
        self.poke(RING + self.tail, low);
        self.poke(RING + self.tail + 8, high);
        self.tail = (self.tail + 16) % 0x1000;
        self.w64(0x88, self.tail);
    }

    fn read(&self, at: u64) -> Option<u64> {
        self.unit.memory(SOURCE).read_obj(GuestAddress(at)).ok()
    }

    fn write(&self, at: u64, value: u64) -> bool {
        self.unit.memory(SOURCE).write_obj(value, GuestAddress(at)).is_ok()
    }

    /// Reason, source and address of record `n`, which is cleared.
    fn fault(&mut self, n: u64) -> Option<(u8, u16, u64, bool)> {
        let (low, high) = (self.r64(0x220 + 16 * n), self.r64(0x228 + 16 * n));
        self.w32(0x22c + 16 * n, 1 << 31);
        (high >> 63 != 0).then_some(((high >> 32) as u8, high as u16, low, high >> 62 & 1 != 0))
    }
}

#[test]
fn without_enabling_everything_passes() {
    let rig = Rig::new();
    rig.poke(0x8_0000, 5);
    assert_eq!(rig.read(0x8_0000), Some(5));
    rig.unit.msi(SOURCE).send(0xfee0_1000, 0x41);
    rig.unit.ioapic().send(0xfee0_2000, 0x42);
    rig.unit.msi(SOURCE).send(0xfed0_0000, 0x43);
    assert_eq!(rig.log.take(), [(0xfee0_1000, 0x41), (0xfee0_2000, 0x42)]);
}

#[test]
fn capabilities_are_those_of_the_specification() {
    let mut rig = Rig::new();
    assert_eq!(rig.r32(0), 0x10);
    let (cap, ecap) = (rig.r64(8), rig.r64(0x10));
    assert_eq!((cap & 7, cap >> 8 & 0x1f, cap >> 16 & 0x3f, cap >> 34 & 15), (6, 6, 47, 3));
    assert_eq!((cap >> 24 & 0x3ff, cap >> 40 & 0xff), (0x22, 7), "eight fault records at 220h");
    assert_eq!((ecap & 0xff, ecap >> 8 & 0x3ff), (0b1101_1011, 0x20), "IOTLB registers at 200h");
    let mut byte = [0x5a];
    rig.regs.read(0, &mut byte);
    assert_eq!(byte, [0x5a], "byte accesses are not defined");
    rig.w32(0, 0xffff_ffff);
    assert_eq!(rig.r32(0), 0x10);
}

#[test]
fn addresses_go_through_the_tables() {
    let mut rig = Rig::new().translating();
    assert!(rig.write(0x4000_0010, 0x1122));
    assert_eq!(rig.peek(0x8_0010), 0x1122);
    rig.poke(0x8_1000, 9);
    assert_eq!(rig.read(0x4000_1000), Some(9));
    rig.poke(0x7_0008, 8);
    assert_eq!(rig.read(0x27_0008), Some(8), "a large page");
    // One access over two pages, the second of which is read-only.
    assert!(rig.read(0x4000_0ffc).is_some());
    assert!(!rig.write(0x4000_0ffc, 0));
    assert_eq!(rig.fault(0), Some((5, SOURCE.0, 0x4000_1000, false)));
    assert_eq!(rig.unit.cached(), (1, 3));
}

#[test]
fn faults_have_the_reasons_of_the_specification() {
    let blocked = |prepare: &dyn Fn(&Rig), at: u64, write: bool| {
        let mut rig = Rig::new();
        prepare(&rig);
        rig = rig.translating();
        assert!(if write { !rig.write(at, 1) } else { rig.read(at).is_none() });
        assert_eq!(rig.r32(0x34) & 2, 2, "pending");
        let (reason, source, address, read) = rig.fault(0).unwrap();
        assert_eq!((source, address, read), (SOURCE.0, at & !0xfff, !write));
        assert_eq!(rig.r32(0x34), 0);
        reason
    };
    let page = 0x4000_0000;
    assert_eq!(blocked(&|r| r.poke(ROOT, 0), page, false), 1);
    assert_eq!(blocked(&|r| r.context(0, 0), page, false), 2);
    assert_eq!(blocked(&|r| r.context(LEVEL3 | 1, 3), page, false), 3, "five levels");
    assert_eq!(blocked(&|r| r.context(LEVEL3 | 5, 1), page, false), 3, "device TLB");
    assert_eq!(blocked(&|_| (), 1 << 39, false), 4);
    assert_eq!(blocked(&|_| (), page + 0x1000, true), 5);
    assert_eq!(blocked(&|r| r.poke(LEVEL2, LEVEL1 | 1), page, true), 5, "an upper level forbids it");
    assert_eq!(blocked(&|r| r.poke(LEVEL1, 0x8_0002), page, false), 6, "write-only");
    assert_eq!(blocked(&|_| (), page + 0x2000, false), 6, "not present");
    assert_eq!(blocked(&|r| r.poke(LEVEL2, RAM | 3), page, false), 7, "no RAM");
    assert_eq!(blocked(&|r| r.context(RAM | 1, 1), page, false), 7);
    assert_eq!(blocked(&|r| r.poke(ROOT, RAM | 1), page, false), 9);
    assert_eq!(blocked(&|r| r.poke(ROOT, CONTEXTS | 3), page, false), 0xa);
    assert_eq!(blocked(&|r| r.context(LEVEL3 | 1, 1 | 1 << 24), page, false), 0xb);
    assert_eq!(blocked(&|r| r.poke(LEVEL1, 1 << 50 | 3), page, false), 0xc);
    assert_eq!(blocked(&|r| r.poke(0x1_5008, 0x1083), 0x20_0000, false), 0xc, "an unaligned large page");
    let mut rig = Rig::new();
    rig.w64(0x20, RAM);
    rig.w32(0x18, SRTP);
    rig.w32(0x18, TE);
    assert!(rig.read(page).is_none());
    assert_eq!(rig.fault(0).unwrap().0, 8);
    let mut rig = Rig::new().translating();
    rig.context(LEVEL3 | 3, 1);
    assert!(rig.read(0).is_none());
    assert_eq!(rig.fault(0), None, "the context says that nothing is recorded");
    assert!(rig.read(0xfee0_0000).is_none());
}

#[test]
fn pass_through_and_four_levels() {
    let mut rig = Rig::new();
    rig.context(8 | 1, 2);
    rig = rig.translating();
    rig.poke(0x9_0000, 3);
    assert_eq!(rig.read(0x9_0000), Some(3));
    let rig = Rig::new();
    rig.context(0x1_6000 | 1, 2);
    rig.poke(0x1_6000 + 8, LEVEL3 | 3);
    let rig = rig.translating();
    rig.poke(0x8_0000, 4);
    assert_eq!(rig.read((1 << 39) + 0x4000_0000), Some(4));
    assert_eq!(rig.read(1 << 48), None);
}

#[test]
fn translations_are_remembered_until_invalidated() {
    let forgets: [(&str, Step); 6] = [
        ("IOTLB register, global", &|r| r.w64(0x208, 1 << 63 | 1 << 60)),
        ("IOTLB register, domain", &|r| r.w64(0x208, 1 << 63 | 2 << 60 | 7 << 32)),
        ("IOTLB register, page", &|r| {
            r.w64(0x200, 0x4000_0000);
            r.w64(0x208, 1 << 63 | 3 << 60 | 7 << 32);
        }),
        ("queue, global", &|r| r.submit(2 | 1 << 4, 0)),
        ("queue, domain", &|r| r.submit(2 | 2 << 4 | 7 << 16, 0)),
        ("queue, pages", &|r| r.submit(2 | 3 << 4 | 7 << 16, 0x4000_0000 | 3)),
    ];
    for (what, forget) in forgets {
        let mut rig = Rig::new().translating();
        rig.w64(0x90, RING);
        rig.w32(0x18, TE | QIE);
        rig.poke(0x8_0000, 1);
        rig.poke(0x8_2000, 2);
        assert_eq!(rig.read(0x4000_0000), Some(1));
        rig.poke(LEVEL1, 0x8_2003);
        assert_eq!(rig.read(0x4000_0000), Some(1), "{what}");
        rig.submit(2 | 2 << 4 | 8 << 16, 0);
        assert_eq!(rig.read(0x4000_0000), Some(1), "{what}: another domain");
        forget(&mut rig);
        assert_eq!(rig.read(0x4000_0000), Some(2), "{what}");
        assert_eq!(rig.r64(0x208) >> 63, 0, "the command has ended");
    }
}

#[test]
fn contexts_are_remembered_until_invalidated() {
    let forgets: [(&str, Step); 4] = [
        ("register, global", &|r| r.w64(0x28, 1 << 63 | 1 << 61)),
        ("register, domain", &|r| r.w64(0x28, 1 << 63 | 2 << 61 | 7)),
        ("register, device", &|r| r.w64(0x28, 1 << 63 | 3 << 61 | u64::from(SOURCE.0) << 16 | 7)),
        ("queue, function mask", &|r| r.submit(1 | 3 << 4 | 7 << 16 | 0x1f << 32 | 3 << 48, 0)),
    ];
    for (what, forget) in forgets {
        let mut rig = Rig::new().translating();
        rig.w64(0x90, RING);
        rig.w32(0x18, TE | QIE);
        assert!(rig.read(0x4000_0000).is_some());
        rig.context(0, 0);
        assert!(rig.read(0x4000_0000).is_some(), "{what}");
        forget(&mut rig);
        assert!(rig.read(0x4000_0000).is_none(), "{what}");
        assert_eq!(rig.r64(0x28) >> 63, 0, "the command has ended");
    }
}

#[test]
fn waits_write_their_status_and_interrupt() {
    let mut rig = Rig::new().queued();
    rig.w32(0xa4, 0x51);
    rig.w32(0xa8, 0xfee0_3000);
    rig.submit(5 | 1 << 5 | 1 << 4 | 0xabcd << 32, 0x4_0000);
    assert_eq!(rig.peek(0x4_0000), 0xabcd);
    assert_eq!(rig.r64(0x80), 16);
    assert_eq!((rig.r32(0x9c), rig.r32(0xa0)), (1, 3 << 30), "masked and pending");
    rig.w32(0xa0, 0);
    assert_eq!(rig.log.take(), [(0xfee0_3000, 0x51)]);
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.log.take(), [], "the status is still set");
    rig.w32(0x9c, 1);
    rig.submit(5 | 1 << 4, 0);
    assert_eq!(rig.log.take(), [(0xfee0_3000, 0x51)]);
    for _ in 0..600 {
        rig.submit(4, 0);
    }
    assert_eq!(rig.r64(0x80), rig.tail, "around the ring");
}

#[test]
fn the_queue_stops_at_what_it_does_not_know() {
    for bad in [9, 0, 3, 1, 2, 5 | 1 << 5] {
        let mut rig = Rig::new().queued();
        rig.w32(0x3c, 0x61);
        rig.w32(0x40, 0xfee0_0000);
        rig.w32(0x38, 0);
        // The last one is a wait whose status is outside RAM.
        rig.submit(bad, RAM);
        rig.submit(4, 0);
        assert_eq!((rig.r64(0x80), rig.r32(0x34) & 0x10), (0, 0x10), "{bad:#x}");
        assert_eq!(rig.log.take(), [(0xfee0_0000, 0x61)]);
        rig.poke(RING, 4);
        rig.w32(0x34, 0x10);
        assert_eq!((rig.r64(0x80), rig.r32(0x34)), (32, 0));
    }
    let mut rig = Rig::new().queued();
    rig.w64(0x88, 0x7_fff0);
    assert_eq!(rig.r32(0x34) & 0x10, 0x10, "a tail outside the ring");
    let mut rig = Rig::new();
    rig.w64(0x90, RAM);
    rig.w32(0x18, QIE);
    rig.w64(0x88, 16);
    assert_eq!(rig.r32(0x34) & 0x10, 0x10, "a ring outside RAM");
}

#[test]
fn fault_records_fill_up_and_overflow() {
    let mut rig = Rig::new().translating();
    rig.w32(0x3c, 0x61);
    rig.w32(0x40, 0xfee0_0000);
    rig.w32(0x44, 0x100);
    for n in 0..10 {
        assert!(rig.read(0x5000_0000 + 0x1000 * n).is_none());
    }
    assert_eq!(rig.r32(0x34) & 0xff, 3, "overflow and pending");
    assert_eq!(rig.r32(0x38), 3 << 30);
    rig.w32(0x38, 0);
    assert_eq!(rig.log.take(), [(0x100_fee0_0000, 0x61)], "one interrupt, to APIC 100h and something");
    for n in 0..8 {
        assert_eq!(rig.fault(n).map(|f| f.2), Some(0x5000_0000 + 0x1000 * n));
    }
    assert_eq!(rig.r32(0x34) & 0xff, 1);
    rig.w32(0x34, 1);
    assert!(rig.read(0x6000_0000).is_none());
    assert_eq!(rig.r32(0x34), 2, "the first record again");
    assert_eq!(rig.log.take().len(), 1);
}

#[test]
fn an_invalidation_waits_for_accesses_under_way() {
    let mut rig = Rig::new().translating();
    let unit = rig.unit.clone();
    let access = unit.in_flight().read().unwrap();
    let done = Arc::new(Mutex::new(false));
    let seen = done.clone();
    let thread = std::thread::spawn(move || {
        rig.w64(0x208, 1 << 63 | 1 << 60);
        *seen.lock().unwrap() = true;
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(!*done.lock().unwrap());
    drop(access);
    thread.join().unwrap();
    assert!(*done.lock().unwrap());
}

#[test]
fn reset_disables_everything() {
    let mut rig = Rig::new().translating();
    assert!(rig.read(0x4000_0000).is_some());
    assert!(rig.read(0x5000_0000).is_none());
    rig.regs.reset();
    assert_eq!((rig.r32(0x1c), rig.r64(0x20), rig.r32(0x34), rig.unit.cached()), (0, 0, 0, (0, 0)));
    rig.poke(0x8_0000, 6);
    assert_eq!(rig.read(0x8_0000), Some(6));
}

#[test]
fn any_register_takes_any_value() {
    let mut rig = Rig::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..200_000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let value = if state & 1 == 0 { state } else { state & 0xf_ffff };
        match state >> 60 {
            0..6 => rig.w32(state >> 8 & 0x3fc, value as u32),
            6..10 => rig.w64(state >> 8 & 0x3f8, value),
            10 => rig.poke(value & (RAM - 8), state.rotate_left(9)),
            11 => drop(rig.read(state >> 16)),
            12 => drop(rig.write(value, state)),
            13 => rig.unit.msi(SourceId(state as u16)).send(0xfee0_0000 | state >> 8 & 0xf_fffc, state as u32),
            _ => drop(rig.r64(state >> 8 & 0xff8)),
        }
    }
}
