//! The reset control register (Intel 82371SB §2.5.5, ACPI 6.5 §4.8.3.6).
//!
//! ```text
//! CF9h [ .... 3 full | 2 RST_CPU | 1 SYS_RST | . ]   RST_CPU rising resets
//! ```
//!
//! For a machine without PCI: CF9h lies within the configuration ports CF8h to CFFh, whose device has this register too.

use std::sync::Arc;

use visor_device::{Device, PioDevice};

use crate::{PowerEvent, PowerSink};

/// Where [`ResetControl`] is, one port wide.
pub const RESET_PORT: u16 = 0xcf9;
/// What to write there to reset (RESET_VALUE of the FADT).
pub const RESET_VALUE: u8 = 6;

/// The reset control register.
pub struct ResetControl {
    power: Arc<dyn PowerSink>,
    value: u8,
}

impl ResetControl {
    /// A reset register that asks `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        ResetControl { power, value: 0 }
    }

    /// What the register reads as.
    pub fn read_byte(&self) -> u8 {
        self.value
    }

    /// Writes the register. Hard and soft resets are the same: both reset the whole machine.
    pub fn write_byte(&mut self, value: u8) {
        let rise = value & !self.value & 4 != 0;
        self.value = value & 0x0e;
        if rise {
            self.power.request(PowerEvent::Reset);
        }
    }
}

impl Device for ResetControl {
    fn name(&self) -> &str {
        "reset-control"
    }

    fn reset(&mut self) {
        self.value = 0;
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for ResetControl {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(self.value);
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        if let Some(value) = data.first() {
            self.write_byte(*value);
        }
    }
}
