//! A machine with nothing but RAM, and tables for its guest.

use std::sync::{Arc, Mutex};

use visor_apic::{LocalApic, LocalApicConfig};
use visor_engine::{CpuIo, Stop, VcpuId};
use visor_fpu::FpuUnit;
use visor_memory::{Gpa, GuestMemory, RamRange};
use visor_x86::cpuid::{Model, ModelConfig};
use visor_x86::segment::{SegAttr, Segment, TableReg};
use visor_x86::state::CpuState;

use crate::blocks::Blocks;
use crate::clock::TscClock;
use crate::cpu::{Cpu, Parts};
use crate::fabric::{CpuPort, Fabric};

pub(super) const RAM: u64 = 16 << 20;
/// Where guests keep what.
pub(super) const IDT: u64 = 0x1000;
pub(super) const GDT: u64 = 0x2000;
pub(super) const TSS: u64 = 0x3000;
/// Page tables of [`Guest::long`].
pub(super) const PML4: u64 = 0x10000;
pub(super) const PDPT: u64 = 0x11000;
pub(super) const PD: u64 = 0x12000;
pub(super) const PT: u64 = 0x13000;
pub(super) const CODE: u64 = 0x8000;
pub(super) const USER_CODE: u64 = 0x9000;
pub(super) const STACK: u64 = 0x7000;
pub(super) const USER_STACK: u64 = 0xa000;
pub(super) const INNER_STACK: u64 = 0x6000;
/// Handlers of [`Guest::handler`], 64 bytes each.
pub(super) const HANDLERS: u64 = 0x20000;

/// Records port writes; everything else is open bus.
#[derive(Default)]
pub(super) struct Bus {
    pub(super) writes: Mutex<Vec<(u16, Vec<u8>)>>,
}

impl CpuIo for Bus {
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }
    fn pio_write(&self, port: u16, data: &[u8]) {
        self.writes.lock().unwrap().push((port, data.to_vec()));
    }
    fn mmio_read(&self, _: Gpa, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: Gpa, _: &[u8]) {}
    fn acknowledge_irq(&self) -> Option<u8> {
        None
    }
    fn end_of_interrupt(&self, _: u8) {}
}

pub(super) struct Guest {
    pub(super) cpu: crate::mmu::CpuBox,
    pub(super) blocks: Blocks,
    pub(super) bus: Bus,
    pub(super) ram: Arc<GuestMemory>,
}

impl Guest {
    /// Real mode, as after reset.
    pub(super) fn new() -> Self {
        let ram = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: RAM }]).unwrap());
        let config = ModelConfig { cpus: 1, tsc_khz: 1_000_000, apic_hz: visor_apic::TIMER_HZ as u32 };
        let apic = LocalApic::new(LocalApicConfig {
            id: 0,
            boot: true,
            x2apic: true,
            tsc_deadline: true,
            phys_bits: 40,
            tsc_hz: 1_000_000_000,
        });
        let port = Arc::new(CpuPort::new(VcpuId(0), apic));
        let fabric = Arc::new(Fabric::default());
        fabric.add(port.clone());
        let cpu = Cpu::power_up(Parts {
            id: VcpuId(0),
            cpuid: crate::sys::announced(Model::V3, &config, visor_fpu::FpuFeatures::empty()),
            port,
            fabric,
            ram: ram.clone(),
            fpu_unit: Arc::new(FpuUnit::new().unwrap()),
            clock: TscClock { hz: 1_000_000_000 },
            epoch_tsc: 0,
        })
        .unwrap();
        Guest { cpu, blocks: Blocks::default(), bus: Bus::default(), ram }
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        use vm_memory_bytes::write;
        write(&self.ram, at, bytes);
    }

    pub(super) fn put64(&self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub(super) fn get64(&self, at: u64) -> u64 {
        let page = self.ram.page(Gpa(at)).unwrap();
        // SAFETY: tests keep within a page.
        unsafe { crate::mmu::peek(page.host.add((at % 4096) as usize)) }
    }

    pub(super) fn get32(&self, at: u64) -> u32 {
        self.get64(at) as u32
    }

    /// Runs until HLT with interrupts off, or a triple fault.
    pub(super) fn run(&mut self) -> Stop {
        // SAFETY: only the lifetime is changed; `io` is cleared below.
        let io: &'static dyn CpuIo = unsafe { std::mem::transmute::<&dyn CpuIo, &'static dyn CpuIo>(&self.bus) };
        self.cpu.io = Some(std::ptr::NonNull::from(io));
        let stop = crate::run::run(&mut self.cpu, &mut self.blocks, None);
        self.cpu.io = None;
        stop
    }

    pub(super) fn runs_to_halt(&mut self) {
        let stop = self.run();
        let c = &self.cpu;
        let now = format!("rip {:x} cr2 {:x} cpl {} fault {:x?}", c.rip, c.cr2, c.cpl, c.fault);
        assert_eq!(stop, Stop::Halted, "{now}");
    }

    /// A descriptor from base, limit and the attributes of [`SegAttr`].
    pub(super) fn descriptor(base: u64, limit: u64, attr: u64) -> u64 {
        (limit & 0xffff) | (base & 0xff_ffff) << 16 | attr << 40 | (limit & 0xf_0000) << 32 | (base & 0xff00_0000) << 32
    }

    /// 64-bit mode, ring 0, flat: the first 2 MiB mapped 1:1 by 4 KiB pages (user, writable) and once more at
    /// FFFF_8000_0000_0000h; GDT with 8: code, 10h: data, 18h: 32-bit user code, 20h: user data, 28h: user code, 30h: TSS.
    pub(super) fn long() -> Self {
        let mut g = Self::new();
        g.put64(PML4, PDPT | 7);
        g.put64(PML4 + 8 * 256, PDPT | 7);
        g.put64(PDPT, PD | 7);
        g.put64(PD, PT | 7);
        for i in 0..512 {
            g.put64(PT + 8 * i, i << 12 | 7);
        }
        for (i, d) in [
            0,
            Self::descriptor(0, 0xfffff, 0xa09b),
            Self::descriptor(0, 0xfffff, 0xc093),
            Self::descriptor(0, 0xfffff, 0xc0fb),
            Self::descriptor(0, 0xfffff, 0xc0f3),
            Self::descriptor(0, 0xfffff, 0xa0fb),
            Self::descriptor(TSS, 0x67, 0x8b),
            0,
        ]
        .into_iter()
        .enumerate()
        {
            g.put64(GDT + 8 * i as u64, d);
        }
        g.put64(TSS + 4, INNER_STACK);
        // No I/O permission map.
        g.put(TSS + 0x66, &0x68u16.to_le_bytes());
        let seg = |selector, attr| Segment { selector, base: 0, limit: 0xffff_ffff, attr: SegAttr(attr) };
        let mut s = CpuState {
            rip: CODE,
            seg: [seg(0x10, 0xc093); 6],
            tr: Segment { selector: 0x30, base: TSS, limit: 0x67, attr: SegAttr(0x8b) },
            gdtr: TableReg { base: GDT, limit: 0x3f },
            idtr: TableReg { base: IDT, limit: 0xfff },
            cr0: 0x8001_0033,
            cr3: PML4,
            cr4: 0x6b0 & !0x80,
            efer: 0xd01,
            ..CpuState::default()
        };
        s.seg[1] = seg(8, 0xa09b);
        s.gpr[4] = STACK;
        assert!(g.cpu.restore_state(&s));
        g
    }

    /// 32-bit protected mode without paging, ring 0; GDT with 8: code, 10h: data, 18h: user code, 20h: user data, 28h: TSS.
    /// Descriptors from 30h on are free.
    pub(super) fn protected() -> Self {
        let mut g = Self::new();
        for (i, d) in [
            0,
            Self::descriptor(0, 0xfffff, 0xc09b),
            Self::descriptor(0, 0xfffff, 0xc093),
            Self::descriptor(0, 0xfffff, 0xc0fb),
            Self::descriptor(0, 0xfffff, 0xc0f3),
            Self::descriptor(TSS, 0x67, 0x8b),
        ]
        .into_iter()
        .enumerate()
        {
            g.put64(GDT + 8 * i as u64, d);
        }
        g.put64(TSS + 4, INNER_STACK | 0x10 << 32);
        let seg = |selector, attr| Segment { selector, base: 0, limit: 0xffff_ffff, attr: SegAttr(attr) };
        let mut s = CpuState {
            rip: CODE,
            seg: [seg(0x10, 0xc093); 6],
            tr: Segment { selector: 0x28, base: TSS, limit: 0x67, attr: SegAttr(0x8b) },
            gdtr: TableReg { base: GDT, limit: 0xff },
            idtr: TableReg { base: IDT, limit: 0x7ff },
            cr0: 0x33,
            ..CpuState::default()
        };
        s.seg[1] = seg(8, 0xc09b);
        s.gpr[4] = STACK;
        assert!(g.cpu.restore_state(&s));
        g
    }

    /// A gate of `kind` (14: interrupt) for `vector` that leads to `at`, and code there.
    pub(super) fn handler(&mut self, vector: u64, attr: u64, code: &[u8]) {
        let at = HANDLERS + 64 * vector;
        self.put(at, code);
        let low = (at & 0xffff) | 8 << 16 | attr << 40 | (at & 0xffff_0000) << 32;
        if self.cpu.long_mode() {
            self.put64(IDT + 16 * vector, low);
            self.put64(IDT + 16 * vector + 8, at >> 32);
        } else {
            self.put64(IDT + 8 * vector, low);
        }
    }
}

mod vm_memory_bytes {
    //! Writes the way devices do, so that decoded code is invalidated.
    use visor_memory::{Gpa, GuestMemory};

    pub(super) fn write(ram: &GuestMemory, at: u64, bytes: &[u8]) {
        for (i, b) in bytes.iter().enumerate() {
            let at = at + i as u64;
            let page = ram.page(Gpa(at)).unwrap();
            // SAFETY: within the page.
            unsafe { crate::mmu::poke(page.host.add((at % 4096) as usize), *b) };
            ram.frames().wrote(page.frame, at % 4096, 1);
        }
    }
}
