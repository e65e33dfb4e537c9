//! An adapter on a bench.

use std::sync::{Arc, Mutex};

use visor_console::{Display, FrameBufferSink, Generation, Size};
use visor_device::testing::ManualClock;
use visor_device::{Bus, Mmio, Pio};
use visor_engine::{EngineError, MsiSink, Vcpu, VcpuId, Vm};
use visor_memory::{DeviceMemory, Extra, Gpa, GuestMemory, RamRange};
use visor_pci::PciDevice;

use crate::{Screen, Vga, VgaWires};

/// An adapter with 16 MiB on buses of its own.
pub(crate) struct Bench {
    pub(crate) vga: Vga,
    pub(crate) screen: Screen,
    pub(crate) memory: DeviceMemory,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) function: Mutex<Box<dyn PciDevice>>,
    pio: Bus<Pio>,
    mmio: Bus<Mmio>,
}

struct NoVm;

impl Vm for NoVm {
    fn add_vcpu(&self, _: VcpuId, _: &visor_x86::cpuid::Cpuid) -> Result<Box<dyn Vcpu>, EngineError> {
        Err(EngineError::new(visor_engine::EngineErrorKind::Invalid, "no CPUs here"))
    }
    fn msi(&self) -> Arc<dyn MsiSink> {
        struct NoMsi;
        impl MsiSink for NoMsi {
            fn send(&self, _: u64, _: u32) {}
        }
        Arc::new(NoMsi)
    }
    fn set_intr(&self, _: bool) {}
    fn nmi(&self) {}
}

pub(crate) fn bench() -> Bench {
    let ram = RamRange { start: Gpa(0), len: 0x1000 };
    let memory = Arc::new(GuestMemory::with_extra(&[ram], &Extra { devices: 16 << 20, ..Extra::default() }).unwrap());
    let memory = memory.take_device_memory(16 << 20).unwrap();
    let clock = Arc::new(ManualClock::default());
    let vga = Vga::new(VgaWires { memory: memory.clone(), vm: Arc::new(NoVm), clock: clock.clone() });
    let (pio, mmio) = (Bus::default(), Bus::default());
    vga.claim(&pio, &mmio).unwrap();
    let function: Box<dyn PciDevice> = Box::new(vga.function(None).unwrap());
    Bench { screen: vga.screen(), vga, memory, clock, function: Mutex::new(function), pio, mmio }
}

impl Bench {
    pub(crate) fn inb(&self, port: u16) -> u8 {
        let mut d = [0];
        self.pio.read(port, &mut d);
        d[0]
    }

    pub(crate) fn outb(&self, port: u16, value: u8) {
        self.pio.write(port, &[value]);
    }

    pub(crate) fn inw(&self, port: u16) -> u16 {
        let mut d = [0; 2];
        self.pio.read(port, &mut d);
        u16::from_le_bytes(d)
    }

    pub(crate) fn outw(&self, port: u16, value: u16) {
        self.pio.write(port, &value.to_le_bytes());
    }

    /// A register behind an index port.
    pub(crate) fn set(&self, index_port: u16, index: u8, value: u8) {
        self.outw(index_port, u16::from(index) | u16::from(value) << 8);
    }

    pub(crate) fn get(&self, index_port: u16, index: u8) -> u8 {
        self.outb(index_port, index);
        self.inb(index_port + 1)
    }

    pub(crate) fn set_attr(&self, index: u8, value: u8) {
        self.inb(0x3da);
        self.outb(0x3c0, index);
        self.outb(0x3c0, value);
    }

    pub(crate) fn vbe(&self, index: u16, value: u16) {
        self.outw(0x1ce, index);
        self.outw(0x1cf, value);
    }

    pub(crate) fn vbe_get(&self, index: u16) -> u16 {
        self.outw(0x1ce, index);
        self.inw(0x1cf)
    }

    pub(crate) fn load(&self, at: u64) -> u8 {
        let mut d = [0];
        self.mmio.read(at, &mut d);
        d[0]
    }

    pub(crate) fn store(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            self.mmio.write(at, std::slice::from_ref(byte));
        }
    }

    pub(crate) fn access(&self, write: bool, port: u16, at: u64, value: u64, len: usize) {
        let mut data = value.to_le_bytes();
        if write {
            self.pio.write(port, &data[..len.min(4)]);
            self.mmio.write(at, &data[..len]);
        } else {
            self.pio.read(port, &mut data[..len.min(4)]);
            self.mmio.read(at, &mut data[..len]);
        }
    }

    /// Registers of a mode as tables give them: misc, sequencer 1 to 4, CRTC, graphics, attributes.
    pub(crate) fn mode(&self, misc: u8, seq: [u8; 4], crtc: &[u8; 25], gfx: &[u8; 9], attr_mode: u8) {
        self.outb(0x3c2, misc);
        seq.iter().zip(1..).for_each(|(v, i)| self.set(0x3c4, i, *v));
        self.set(0x3d4, 0x11, 0);
        crtc.iter().zip(0..).for_each(|(v, i)| self.set(0x3d4, i, *v));
        gfx.iter().zip(0..).for_each(|(v, i)| self.set(0x3ce, i, *v));
        (0..16).for_each(|i| self.set_attr(i, i));
        self.set_attr(0x10, attr_mode);
        self.set_attr(0x12, 0x0f);
        self.set_attr(0x13, 0);
        self.set_attr(0x14, 0);
        self.outb(0x3c0, 0x20);
    }

    /// 80x25 characters of 9x16 dots, with a font whose glyph rows are the character's code, and CGA-like colours.
    pub(crate) fn text_mode(&self) {
        self.mode(0x67, [0x00, 0x04, 0x00, 0x06], &GRAPHICS_CRTC, &[0, 0, 0, 0, 0, 0, 4, 0xf, 0xff], 1);
        for c in 0..=255u8 {
            self.store(0xa0000 + u64::from(c) * 32, &[c; 16]);
        }
        self.mode(0x67, [0x00, 0x03, 0x00, 0x02], &TEXT_CRTC, &[0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff], 0x0c);
        self.colours();
    }

    /// Mode 12h: 640x480 in 16 colours.
    pub(crate) fn graphics_mode(&self) {
        self.mode(0xe3, [0x01, 0x0f, 0x00, 0x06], &GRAPHICS_CRTC, &[0, 0, 0, 0, 0, 0, 5, 0xf, 0xff], 1);
        self.colours();
    }

    /// Mode 13h: 320x200 in 256 colours.
    pub(crate) fn bytes_mode(&self) {
        self.mode(0x63, [0x01, 0x0f, 0x00, 0x0e], &BYTES_CRTC, &[0, 0, 0, 0, 0, 0x40, 5, 0xf, 0xff], 0x41);
        self.colours();
    }

    /// Colour i is 4 × i in red, 4 × (63 - i) in green, and the entry's number in blue.
    fn colours(&self) {
        self.outb(0x3c8, 0);
        for i in 0..64 {
            [i, 63 - i, i].iter().for_each(|c| self.outb(0x3c9, *c));
        }
    }

    /// What a viewer gets that has seen `since`.
    pub(crate) fn changes(&self, since: Generation) -> (Generation, Log) {
        let mut log = Log::default();
        let next = self.screen.changes(since, &mut log);
        (next, log)
    }
}

/// What [`Bench::colours`] makes of entry `i`.
pub(crate) fn colour(i: u32) -> u32 {
    let wide = |c: u32| c << 2 | c >> 4;
    wide(i) << 16 | wide(63 - i) << 8 | wide(i)
}

/// What a sink was told.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) size: Option<(u32, u32)>,
    pub(crate) rows: Vec<u32>,
    pub(crate) last: Vec<u32>,
}

impl FrameBufferSink for Log {
    fn resize(&mut self, size: Size) {
        self.size = Some((size.width, size.height));
    }
    fn row(&mut self, y: u32, x: u32, pixels: &[u32]) {
        assert_eq!(x, 0);
        self.rows.push(y);
        self.last = pixels.to_vec();
    }
}

pub(crate) const TEXT_CRTC: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f,
    0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
pub(crate) const GRAPHICS_CRTC: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xea, 0x8c, 0xdf,
    0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff,
];
pub(crate) const BYTES_CRTC: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f,
    0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
];
