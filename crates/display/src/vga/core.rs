//! The state of the adapter, and its registers by port.

use std::sync::Arc;

use visor_device::{Clock, Nanos};
use visor_memory::DeviceMemory;

use super::dac::Dac;
use super::planes;
use super::regs::Regs;
use super::vbe::{self, Effect, Frame, Vbe};
use crate::text::Font;

/// See the module's documentation.
pub(crate) struct Core {
    pub(crate) regs: Regs,
    dac: Dac,
    vbe: Vbe,
    latch: u32,
    memory: DeviceMemory,
    clock: Arc<dyn Clock>,
    /// Where the guest sees the frame buffer.
    pub(super) placed: Option<u64>,
    /// Counts changes of registers that the picture depends on.
    pub(crate) changes: u64,
    /// The font of the text mode that was shown last.
    pub(crate) text_font: Option<Box<Font>>,
    /// The font that the video BIOS has.
    pub(crate) rom_font: Option<Box<Font>>,
}

/// How memory becomes a picture.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// By the VGA's own registers; `frame` gives the size if the extensions set a planar mode.
    Vga { regs: Box<Regs>, colours: Box<[u32; 256]>, frame: Option<Frame> },
    /// The extensions' linear frame buffer.
    Linear { frame: Frame, colours: Box<[u32; 256]> },
}

impl Core {
    pub(super) fn new(memory: DeviceMemory, clock: Arc<dyn Clock>) -> Self {
        Core {
            regs: Regs::default(),
            dac: Dac::default(),
            vbe: Vbe::new(memory.len()),
            latch: 0,
            memory,
            clock,
            placed: None,
            changes: 0,
            text_font: None,
            rom_font: None,
        }
    }

    /// Back to power-on; memory is cleared.
    pub(super) fn reset(&mut self) {
        let rom_font = self.rom_font.take();
        let (changes, placed) = (self.changes + 1, self.placed);
        self.memory.clear(0..self.memory.len());
        *self = Core { rom_font, changes, placed, ..Core::new(self.memory.clone(), self.clock.clone()) };
    }

    pub(crate) fn mode(&self) -> Mode {
        let colours = Box::new(self.dac.colours());
        match self.vbe.frame() {
            Some(frame) if frame.bpp != 4 => Mode::Linear { frame, colours },
            frame => Mode::Vga { regs: Box::new(self.regs.clone()), colours, frame },
        }
    }

    pub(super) fn set_linear(&mut self, width: u16, height: u16) {
        for (index, value) in [(4, 0), (1, width), (2, height), (3, 32), (4, 0x41)] {
            let effect = self.vbe.write_at(index, value);
            self.apply(effect);
        }
    }

    /// IN of one byte from a VGA port.
    pub(super) fn read_port(&mut self, port: u16) -> u8 {
        match port {
            0x3b4 | 0x3b5 | 0x3ba if self.regs.colour() => 0xff,
            0x3d4 | 0x3d5 | 0x3da if !self.regs.colour() => 0xff,
            0x3c0 => self.regs.attr_index,
            0x3c1 => self.regs.read_attr(),
            // Monitor sense: a colour monitor.
            0x3c2 => 0x10,
            0x3c4 => self.regs.seq_index,
            0x3c5 => self.regs.read_seq(),
            0x3c6..=0x3c9 => self.dac.read(port),
            0x3ca => self.regs.feature,
            0x3cc => self.regs.misc,
            0x3ce => self.regs.gfx_index,
            0x3cf => self.regs.read_gfx(),
            0x3b4 | 0x3d4 => self.regs.crtc_index,
            0x3b5 | 0x3d5 => self.regs.read_crtc(self.latch),
            0x3ba | 0x3da => {
                self.regs.attr_data = false;
                self.status()
            }
            _ => 0xff,
        }
    }

    /// OUT of one byte to a VGA port.
    pub(super) fn write_port(&mut self, port: u16, value: u8) {
        let was_text = self.regs.gfx[6] & 1 == 0;
        let mut changed = true;
        match port {
            0x3b4 | 0x3b5 | 0x3ba if self.regs.colour() => changed = false,
            0x3d4 | 0x3d5 | 0x3da if !self.regs.colour() => changed = false,
            0x3c0 => self.regs.write_attr(value),
            0x3c2 => self.regs.misc = value,
            0x3c4 => (self.regs.seq_index, changed) = (value, false),
            0x3c5 => self.regs.write_seq(value),
            0x3c6..=0x3c9 => changed = self.dac.write(port, value),
            0x3ce => (self.regs.gfx_index, changed) = (value, false),
            0x3cf => {
                self.regs.write_gfx(value);
                // Only these two decide on the picture; drawing writes the others all the time.
                changed = matches!(self.regs.gfx_index, 5 | 6);
            }
            0x3b4 | 0x3d4 => (self.regs.crtc_index, changed) = (value, false),
            0x3b5 | 0x3d5 => self.regs.write_crtc(value),
            0x3ba | 0x3da => (self.regs.feature, changed) = (value, false),
            _ => changed = false,
        }
        self.changes += u64::from(changed);
        if was_text && self.regs.gfx[6] & 1 != 0 {
            self.keep_font();
        }
    }

    /// Bochs extensions by port: `offset` from 1CEh.
    pub(super) fn read_vbe(&self, offset: u16) -> u16 {
        if offset == 0 { self.vbe.index() } else { self.vbe.read() }
    }

    pub(super) fn write_vbe(&mut self, offset: u16, value: u16) {
        if offset == 0 {
            return self.vbe.set_index(value);
        }
        self.before_vbe();
        let effect = self.vbe.write(value);
        self.apply(effect);
    }

    /// Bochs extensions by number, as in BAR 2.
    pub(super) fn read_vbe_at(&self, index: usize) -> u16 {
        self.vbe.read_at(index)
    }

    pub(super) fn write_vbe_at(&mut self, index: usize, value: u16) {
        self.before_vbe();
        let effect = self.vbe.write_at(index, value);
        self.apply(effect);
    }

    fn before_vbe(&mut self) {
        if !self.vbe.on() && self.regs.gfx[6] & 1 == 0 {
            self.keep_font();
        }
    }

    fn apply(&mut self, effect: Effect) {
        self.dac.wide = self.vbe.wide_dac();
        self.memory.clear(0..effect.clear);
        self.changes += u64::from(effect.changed);
    }

    /// A load through the legacy window; `at` counts from A0000h.
    pub(super) fn read_window(&mut self, at: u32) -> u8 {
        let Some(offset) = planes::window(&self.regs, at) else { return 0xff };
        match self.linear(offset) {
            Some(place) => {
                let mut byte = [0];
                self.memory.read(place, &mut byte);
                byte[0]
            }
            None => planes::read(&self.regs, &self.memory, &mut self.latch, offset),
        }
    }

    /// A store through the legacy window.
    pub(super) fn write_window(&mut self, at: u32, value: u8) {
        let Some(offset) = planes::window(&self.regs, at) else { return };
        match self.linear(offset) {
            Some(place) => self.memory.write(place, &[value]),
            None => planes::write(&self.regs, &self.memory, self.latch, offset, value),
        }
    }

    /// Where the window shows a bank of the linear frame buffer.
    fn linear(&self, offset: u32) -> Option<u64> {
        (self.vbe.on() && !self.vbe.planar()).then(|| self.vbe.bank() + u64::from(offset & 0xffff))
    }

    /// Remembers the font of the text mode that ends.
    fn keep_font(&mut self) {
        let font = crate::scan::font(&self.regs, &self.memory);
        if font.iter().any(|row| *row != 0) {
            self.text_font = Some(font);
        }
    }

    /// Input status 1: where the beam is.
    fn status(&self) -> u8 {
        let r = &self.regs;
        let lines = u64::from(r.total_lines());
        let period = self.frame_time();
        let into = self.clock.now() % period;
        let line = (into * lines / period) as u32;
        let along = into * lines % period;
        let dark = line >= r.lines() || along * u64::from(r.crtc[0]) >= u64::from(r.crtc[1]) * period;
        let start = r.retrace_start();
        let length = u32::from(r.crtc[0x11]).wrapping_sub(start) & 0xf;
        let retrace = line.wrapping_sub(start) < length.max(1);
        u8::from(retrace) << 3 | u8::from(dark || retrace)
    }

    /// Nanoseconds of a frame; in range whatever the registers say.
    fn frame_time(&self) -> Nanos {
        let r = &self.regs;
        let dot_hz: u64 = if r.misc >> 2 & 3 == 1 { 28_322_000 } else { 25_175_000 };
        let halved = u64::from(r.seq[1] >> 3 & 1) + 1;
        let dots = (u64::from(r.crtc[0]) + 5) * u64::from(r.char_width()) * u64::from(r.total_lines());
        (dots * halved * 1_000_000_000 / dot_hz).clamp(5_000_000, 50_000_000)
    }
}

/// Registers of the extensions.
pub(super) const VBE_REGISTERS: usize = vbe::COUNT;
