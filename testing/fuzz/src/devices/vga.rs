//! The display adapter, with somebody who looks.

use std::sync::Arc;

use visor_console::{Display, FrameBufferSink, Generation, Size};
use visor_display::{LEGACY_WINDOW, LEGACY_WINDOW_LEN, Vga, VgaWires, console_text};
use visor_engine::{EngineError, EngineErrorKind, MsiSink, Vcpu, VcpuId, Vm};
use visor_memory::Extra;
use visor_pci::PciAddress;

use crate::pc::{Interrupts, Pc};
use crate::{Input, Script};

/// As much as makes the largest mode of the Bochs interface possible would be 16 MiB; less is faster, and has edges too.
const MEMORY: u64 = 4 << 20;

struct NoVm;

impl Vm for NoVm {
    fn add_vcpu(&self, _: VcpuId, _: &visor_x86::cpuid::Cpuid) -> Result<Box<dyn Vcpu>, EngineError> {
        Err(EngineError::new(EngineErrorKind::Invalid, "no CPUs here"))
    }
    fn msi(&self) -> Arc<dyn MsiSink> {
        Arc::new(Interrupts::default())
    }
    fn set_intr(&self, _: bool) {}
    fn nmi(&self) {}
}

/// Believes nothing that it is told of the picture.
#[derive(Default)]
struct Viewer(Option<Size>);

impl FrameBufferSink for Viewer {
    fn resize(&mut self, size: Size) {
        assert!(u64::from(size.width) * u64::from(size.height) <= 1 << 25, "{size:?}");
        self.0 = Some(size);
    }
    fn row(&mut self, y: u32, x: u32, pixels: &[u32]) {
        if let Some(size) = self.0 {
            assert!(y < size.height && u64::from(x) + pixels.len() as u64 <= size.width.into(), "row {y} of {size:?}");
        }
    }
}

pub(super) fn run(data: &[u8]) {
    let mut pc = Pc::with_extra(Extra { devices: MEMORY, ..Extra::default() }).add_pci(Arc::new(()));
    let memory = pc.memory.take_device_memory(MEMORY).expect("it is there");
    let clock = pc.clock.clone();
    let vga = Vga::new(VgaWires { memory, vm: Arc::new(NoVm), clock });
    vga.claim(&pc.pio, &pc.mmio).expect("the addresses are free");
    [(0x3b4, 2), (0x3ba, 1), (0x3c0, 16), (0x3d4, 2), (0x3da, 1), (0x1ce, 4)]
        .iter()
        .for_each(|(p, n)| pc.ports(*p, *n));
    pc.area(LEGACY_WINDOW, LEGACY_WINDOW_LEN);
    let function = vga.function(None).expect("there is room");
    pc.function(PciAddress::device(2), function);
    let screen = vga.screen();
    let mut seen = Generation::default();
    let mut viewer = Viewer::default();
    let mut looks = 0;
    pc.drive(&mut Input::new(data), |_, op, input| match op {
        _ if looks > 8 => {}
        0..3 => {
            looks += 1;
            seen = screen.changes(seen, &mut viewer);
        }
        3 => {
            looks += 1;
            let _ = console_text(&screen.picture(), &[]);
        }
        4 => _ = vga.set_linear(input.u16(), input.u16()),
        _ => _ = vga.frame_buffer(),
    });
    screen.changes(Generation::default(), &mut Viewer::default());
}

/// Registers of a mode: miscellaneous, sequencer, CRTC, graphics, attributes.
fn mode(misc: u8, seq: [u8; 4], crtc: &[u8; 25], gfx: &[u8; 9], attr_mode: u8) -> Script {
    let pair = |s: Script, base: u16, index: u8, value: u8| s.outs(3, &[(base, index), (base + 1, value)]);
    let crtc_pair = |s: Script, index: u8, value: u8| s.outs(4, &[(0, index), (1, value)]);
    let mut s = Script::new().out(3, 2, misc);
    s = seq.iter().zip(1..).fold(s, |s, (v, i)| pair(s, 4, i, *v));
    s = crtc.iter().zip(0..).fold(crtc_pair(s, 0x11, 0), |s, (v, i)| crtc_pair(s, i, *v));
    s = gfx.iter().zip(0..).fold(s, |s, (v, i)| pair(s, 14, i, *v));
    s.inp(5, 0, 1).outs(3, &[(0, 0x10), (0, attr_mode), (0, 0x20)])
}

const TEXT: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f,
    0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
const GRAPHICS: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xea, 0x8c, 0xdf,
    0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff,
];
const BYTES: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e, 0x8f,
    0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
];

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let draw = |s: Script| s.store(0, 0x1_8000, 8, 0x0741_0742).store(0, 3, 4, 0x55aa).load(0, 5, 2).extra(0).extra(3);
    let vbe = |all: &[(u16, u16)]| {
        all.iter().fold(Script::new(), |s, (i, v)| s.outp(6, 0, 2, u32::from(*i)).outp(6, 1, 2, u32::from(*v)))
    };
    let linear = |bits: u16| vbe(&[(4, 0), (1, 640), (2, 480), (3, bits), (4, 0x41), (6, 1024), (8, 3), (9, 7)]);
    vec![
        draw(mode(0x67, [0, 3, 0, 2], &TEXT, &[0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff], 0x0c)).end(),
        draw(mode(0xe3, [1, 0x0f, 0, 6], &GRAPHICS, &[0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff], 1)).end(),
        draw(mode(0x63, [1, 0x0f, 0, 0x0e], &BYTES, &[0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff], 0x41)).end(),
        draw(mode(0xe3, [1, 0x0f, 0, 6], &GRAPHICS, &[1, 2, 3, 0x18, 1, 1, 5, 0x0f, 0x55], 1)).end(),
        linear(32).store(1, 5, 8, 9).extra(0).end(),
        linear(16).extra(0).store(2, 0x500, 2, 3).load(2, 0x400, 4).extra(0).end(),
        linear(8).outs(3, &[(8, 0), (9, 1), (9, 2), (9, 3)]).extra(0).end(),
        linear(4).extra(0).extra(4).raw(&[0, 4, 0, 3]).extra(0).end(),
    ]
}
