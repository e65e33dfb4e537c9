//! The I/O APIC's registers as the CPU reaches them.

use visor_device::{Device, MmioDevice};

use super::*;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const EOI: u64 = 0x40;

impl Device for IoApic {
    fn name(&self) -> &str {
        "ioapic"
    }

    /// Power-on state; the inputs keep their level, which is their drivers' to change.
    fn reset(&mut self) {
        self.state = IoApicState { levels: self.state.levels, ..power_on() };
    }

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for IoApic {
    /// Registers are 32 bits wide; narrower loads give the low bytes, loads elsewhere zero.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            IOREGSEL => u32::from(self.state.select),
            IOWIN => self.read_register(self.state.select),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(&low) = data.first() else { return };
        match (offset, <[u8; 4]>::try_from(data)) {
            (IOREGSEL, _) => self.state.select = low,
            (IOWIN, Ok(value)) => self.write_register(self.state.select, u32::from_le_bytes(value)),
            (EOI, _) => self.end_of_interrupt(low),
            _ => {}
        }
    }
}

impl IoApic {
    fn read_register(&self, index: u8) -> u32 {
        match index {
            REG_ID | REG_ARBITRATION => u32::from(self.state.id) << 24,
            REG_VERSION => VERSION,
            _ => match split(index) {
                Some((n, false)) => self.state.entries[n] as u32,
                Some((n, true)) => (self.state.entries[n] >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_register(&mut self, index: u8, value: u32) {
        if index == REG_ID {
            self.state.id = (value >> 24) as u8 & 0xf;
        }
        let Some((n, high)) = split(index) else { return };
        let entry = self.state.entries[n];
        let value =
            if high { entry & 0xffff_ffff | u64::from(value) << 32 } else { entry & !0xffff_ffff | u64::from(value) };
        // An entry made edge-triggered forgets that an interrupt is under way; systems without an EOI register rely on it.
        let kept = if value & LEVEL != 0 { entry & REMOTE_IRR } else { 0 };
        self.state.entries[n] = value & self.writable | kept;
        if value & LEVEL != 0 {
            self.service_level(n);
        }
    }
}

/// The redirection entry of register `index`, and whether it is the high half.
fn split(index: u8) -> Option<(usize, bool)> {
    let at = usize::from(index.checked_sub(REG_REDIRECTION)?);
    (at / 2 < IOAPIC_INPUTS).then_some((at / 2, at % 2 == 1))
}
