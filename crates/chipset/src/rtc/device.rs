//! The clock's ports.

use visor_device::{Device, TimerDevice};

use super::*;
use crate::Ports;

impl Device for Rtc {
    fn name(&self) -> &str {
        "rtc"
    }

    /// The data sheet's RESET pin: interrupts are disabled, flags cleared; time and RAM stay.
    fn reset(&mut self) {
        self.index = 0;
        self.nmi_masked = false;
        self.cmos[REG_B] &= !(B_PERIODIC | B_ALARM | B_UPDATE | 8);
        self.sync();
        self.cmos[REG_C] = 0;
        self.drive();
    }

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

impl Ports for Rtc {
    fn ranges(&self) -> &'static [(u16, u16)] {
        &[(0x70, 2)]
    }

    fn read_port(&mut self, port: u16) -> u8 {
        if port != 0x71 {
            return 0xff;
        }
        match usize::from(self.index) {
            index @ (0 | 2 | 4 | 6..=9 | REG_CENTURY) => {
                let regs = self.time_regs();
                calendar::INDICES.iter().zip(regs.0).find(|(i, _)| **i == index).map_or(0xff, |(_, value)| value)
            }
            REG_A => self.cmos[REG_A] & 0x7f | if self.update_in_progress() { 0x80 } else { 0 },
            REG_C => {
                self.sync();
                let value = std::mem::take(&mut self.cmos[REG_C]);
                self.drive();
                value
            }
            index => self.cmos[index],
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            0x70 => {
                self.index = value & 0x7f;
                self.nmi_masked = value & 0x80 != 0;
            }
            0x71 => self.write_cmos(usize::from(self.index), value),
            _ => {}
        }
    }
}

impl Rtc {
    fn write_cmos(&mut self, index: usize, value: u8) {
        match index {
            0 | 2 | 4 | 6..=9 | REG_CENTURY => {
                self.sync();
                let mut regs = self.time_regs();
                self.store_time_regs(&regs);
                self.cmos[index] = value;
                if !self.is_set() {
                    for (to, index) in regs.0.iter_mut().zip(calendar::INDICES) {
                        *to = self.cmos[index];
                    }
                    self.set_time(&regs, self.format());
                }
                self.drive();
            }
            1 | 3 | 5 => {
                self.sync();
                self.cmos[index] = value;
                self.drive();
            }
            REG_A => {
                self.sync();
                self.cmos[REG_A] = value & 0x7f;
                self.drive();
            }
            REG_B => self.write_b(value),
            REG_C | REG_D => {}
            _ => self.cmos[index] = value,
        }
    }

    fn write_b(&mut self, value: u8) {
        self.sync();
        let (regs, was_set) = (self.time_regs(), self.is_set());
        // SET clears UIE.
        self.cmos[REG_B] = if value & B_SET != 0 { value & !B_UPDATE } else { value };
        match (was_set, self.is_set()) {
            (false, true) => self.store_time_regs(&regs),
            (true, false) => self.set_time(&regs, self.format()),
            _ => {}
        }
        self.drive();
    }
}
