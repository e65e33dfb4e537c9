//! MSI: one message whose address and data software puts into a capability (PCI 3.0 §6.8.1).
//!
//! ```text
//! +0  id 05h, next    +2  message control    +4  address, low    +8  address, high    +C  data
//! ```

use std::sync::Arc;

use visor_engine::MsiSink;

use crate::{Capability, ConfigSpace, PciError};

const MSI: u8 = 0x05;
const ENABLE: u8 = 1;
/// Message control: 64-bit addresses, one vector.
const CONTROL_64BIT: u8 = 0x80;

/// A function's MSI capability with one vector, without masking.
pub struct Msi {
    sink: Arc<dyn MsiSink>,
    /// Offset of the capability.
    at: u8,
}

impl Msi {
    /// Adds the capability to `config`.
    ///
    /// # Errors
    /// [`PciError::Capability`] when there is no room.
    pub fn new(config: &mut ConfigSpace, sink: Arc<dyn MsiSink>) -> Result<Self, PciError> {
        let body = [CONTROL_64BIT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // The multiple message enable bits can be written although there is but one vector.
        let writable = [0x71, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let at = config.add_capability(Capability { id: MSI, body: &body, writable: &writable })?;
        Ok(Msi { sink, at })
    }

    /// Whether software has enabled it; the function's pin must stay quiet then.
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        config.byte(self.at + 2) & ENABLE != 0
    }

    /// Sends the message if MSI and bus mastering are enabled.
    pub fn signal(&self, config: &ConfigSpace) {
        let word = |at: u8| u32::from_le_bytes([0, 1, 2, 3].map(|i| config.byte(self.at + at + i)));
        // An address above 4 GiB is a write to memory, not an interrupt.
        if self.enabled(config) && config.command().bus_master() && word(8) == 0 {
            self.sink.send(u64::from(word(4)), word(12) & 0xffff);
        }
    }
}
