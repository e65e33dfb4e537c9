//! The adapter: registers and memory behind one lock, reached through ports, the legacy window and PCI.
//!
//! ```text
//! 3B4/3D4 index, 3B5/3D5 data   CRT controller            (3Bx or 3Dx by bit 0 of miscellaneous output)
//! 3BA/3DA read: status 1 [ 3 vertical retrace | 0 not displaying ]   write: feature control
//! 3C0 index and data in turn, 3C1 read data               attribute controller
//! 3C2 write: miscellaneous output, read: status 0         3CC read: miscellaneous output    3CA read: feature control
//! 3C4 index, 3C5 data           sequencer                 3CE index, 3CF data   graphics controller
//! 3C6 mask, 3C7 read index and state, 3C8 write index, 3C9 data   palette DAC
//! 1CE index, 1CF (also 1D0) data, 16 bits                 Bochs extensions
//! ```

mod bus;
mod core;
mod dac;
mod device;
mod edid;
mod planes;
mod regs;
#[cfg(test)]
mod tests;
mod vbe;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_device::{Bus, BusError, Clock, Mmio, Pio};
use visor_engine::Vm;
use visor_memory::DeviceMemory;
use visor_pci::{PciDevice, PciError};

use crate::screen::Screen;
use bus::{Ports, Window};

pub(crate) use self::core::{Core, Mode};
pub(crate) use self::regs::Regs;
pub(crate) use self::vbe::Frame;

/// First address of the legacy window.
pub const LEGACY_WINDOW: u64 = 0xa_0000;
/// Bytes of the legacy window.
pub const LEGACY_WINDOW_LEN: u64 = 0x2_0000;

/// First port and length of each range.
const PORTS: &[(u16, u16)] = &[(0x3b4, 2), (0x3ba, 1), (0x3c0, 16), (0x3d4, 2), (0x3da, 1), (0x1ce, 4)];

/// What a [`Vga`] is connected to.
#[derive(Clone)]
pub struct VgaWires {
    /// Display memory: a power of two of at least 256 KiB; all zeroes.
    pub memory: DeviceMemory,
    /// The VM, which knows of the guest's writes.
    pub vm: Arc<dyn Vm>,
    /// Guest time, for retraces and blinking.
    pub clock: Arc<dyn Clock>,
}

/// The adapter. Clones are the same one.
#[derive(Clone)]
pub struct Vga {
    core: Arc<Mutex<Core>>,
    wires: VgaWires,
}

impl Vga {
    /// An adapter after power-on: nothing displayed.
    pub fn new(wires: VgaWires) -> Self {
        let core = Core::new(wires.memory.clone(), wires.clock.clone());
        Vga { core: Arc::new(Mutex::new(core)), wires }
    }

    /// Claims its ports and the legacy window.
    ///
    /// # Errors
    /// [`BusError`] if something else has them.
    pub fn claim(&self, pio: &Bus<Pio>, mmio: &Bus<Mmio>) -> Result<(), BusError> {
        for &(base, len) in PORTS {
            let ports = Ports { base, core: self.core.clone() };
            pio.claim(base.into(), len.into(), Arc::new(Mutex::new(ports)))?;
        }
        let window = Window { core: self.core.clone() };
        mmio.claim(LEGACY_WINDOW, LEGACY_WINDOW_LEN, Arc::new(Mutex::new(window)))
    }

    /// Its PCI function, with `rom` as its option ROM. Resetting it resets the adapter.
    ///
    /// # Errors
    /// [`PciError::Bar`] if the memory's or the ROM's size is not possible for a BAR.
    pub fn function(&self, rom: Option<Arc<[u8]>>) -> Result<impl PciDevice + use<>, PciError> {
        device::Function::new(self.core.clone(), self.wires.clone(), rom)
    }

    /// The monitor.
    pub fn screen(&self) -> Screen {
        Screen::new(self.core.clone(), self.wires.clone())
    }

    /// Tells which 8x16 font the video BIOS `rom` brings, so that text on graphical consoles can be read before the guest has loaded one.
    /// False if there is none in it.
    pub fn learn_font(&self, rom: &[u8]) -> bool {
        let font = crate::text::find_font(rom);
        let found = font.is_some();
        if found {
            lock(&self.core).rom_font = font;
        }
        found
    }

    /// Where the guest sees the frame buffer, if it does.
    pub fn frame_buffer(&self) -> Option<u64> {
        lock(&self.core).placed
    }

    /// Shows a linear picture of 32 bits per pixel at once, as a boot loader would have set it up. The size is that which results.
    pub fn set_linear(&self, width: u16, height: u16) -> (u32, u32) {
        let mut core = lock(&self.core);
        core.set_linear(width, height);
        match core.mode() {
            Mode::Linear { frame, .. } => (frame.width, frame.height),
            _ => (0, 0),
        }
    }
}

pub(crate) fn lock(core: &Mutex<Core>) -> MutexGuard<'_, Core> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}
