//! Configuration mechanism #1 (PCI 3.0 §3.2.2.3.2) and the PIIX reset control register among its ports.
//!
//! ```text
//! CF8  31 enable | 23:16 bus | 15:11 device | 10:8 function | 7:2 double word     32-bit accesses only
//! CF9  bit 1 hard reset, bit 2 (rising) do it                                     byte accesses only (PIIX4 §4.2.7.1)
//! CFC  data of the chosen double word, 1, 2 or 4 bytes
//! ```
//! Bits 1:0 of CF8 read as zero. Kernels that put the byte within the double word there and access CFC get that byte, which
//! other virtual machines have taught them.

use visor_device::PioDevice;

use crate::bus::{PciBus, lock};

const ADDRESS: u16 = 0;
const RESET_CONTROL: u16 = 1;
const DATA: u16 = 4;
const DO_RESET: u8 = 1 << 2;

impl PioDevice for PciBus {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data.len()) {
            (ADDRESS, 4) => data.copy_from_slice(&(self.address & !3).to_le_bytes()),
            (RESET_CONTROL, 1) => data[0] = self.reset_control,
            (DATA.., _) => {
                if let Some((index, register)) = self.selected(offset, data.len()) {
                    lock(&self.slots[index].function).config_read(register, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (ADDRESS, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]) & 0x80ff_ffff,
            (RESET_CONTROL, &[value]) => {
                let rises = value & !self.reset_control & DO_RESET != 0;
                self.reset_control = value & 0b110;
                if rises {
                    (self.on_reset)();
                }
            }
            (DATA.., _) => {
                if let Some((index, register)) = self.selected(offset, data.len()) {
                    lock(&self.slots[index].function).config_write(register, data);
                    self.refresh(index);
                }
            }
            _ => {}
        }
    }
}

impl PciBus {
    /// The function and the register that an access to data port `offset` reaches.
    fn selected(&self, offset: u16, len: usize) -> Option<(usize, u8)> {
        let a = self.address;
        if a >> 31 == 0 || a >> 16 & 0xff != 0 {
            return None;
        }
        let (device, function) = ((a >> 11 & 31) as u8, (a >> 8 & 7) as u8);
        let index = self.slots.iter().position(|s| s.at.device == device && s.at.function == function)?;
        let port = (offset - DATA) as u8;
        let byte = Some(port | (a & 3) as u8).filter(|b| usize::from(*b) + len <= 4).unwrap_or(port);
        Some((index, (a & 0xfc) as u8 + byte))
    }
}
