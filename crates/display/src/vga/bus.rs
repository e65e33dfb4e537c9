//! What is claimed on the buses: a range of ports, and the legacy window.

use std::sync::{Arc, Mutex};

use visor_device::{Device, MmioDevice, PioDevice};

use super::core::Core;
use super::lock;

/// First port of the Bochs extensions.
const VBE_PORTS: u16 = 0x1ce;

/// A range of ports from `base`.
pub(super) struct Ports {
    pub(super) base: u16,
    pub(super) core: Arc<Mutex<Core>>,
}

impl Device for Ports {
    fn name(&self) -> &str {
        "vga"
    }

    /// The PCI function resets the adapter.
    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for Ports {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let mut core = lock(&self.core);
        if self.base == VBE_PORTS {
            data.fill(0xff);
            if let [low, high] = data {
                [*low, *high] = core.read_vbe(offset).to_le_bytes();
            }
            return;
        }
        for (port, byte) in (self.base + offset..).zip(data) {
            *byte = core.read_port(port);
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let mut core = lock(&self.core);
        if self.base == VBE_PORTS {
            if let [low, high] = data {
                core.write_vbe(offset, u16::from_le_bytes([*low, *high]));
            }
            return;
        }
        for (port, byte) in (self.base + offset..).zip(data) {
            core.write_port(port, *byte);
        }
    }
}

/// A0000h to BFFFFh.
pub(super) struct Window {
    pub(super) core: Arc<Mutex<Core>>,
}

impl Device for Window {
    fn name(&self) -> &str {
        "vga-window"
    }

    fn reset(&mut self) {}

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut core = lock(&self.core);
        for (at, byte) in (offset as u32..).zip(data) {
            *byte = core.read_window(at);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut core = lock(&self.core);
        for (at, byte) in (offset as u32..).zip(data) {
            core.write_window(at, *byte);
        }
    }
}
