//! The controller as the guest sees it: ports 60h, 64h and 92h; and the alarm of its keyboard.

use visor_device::{Device, Nanos, TimerDevice};

use super::I8042;
use crate::Ports;

impl Device for I8042 {
    fn name(&self) -> &str {
        "i8042"
    }

    fn reset(&mut self) {
        *self = I8042::new(self.wires.clone());
        self.wires.timer.arm(None);
        self.refill();
    }

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

impl TimerDevice for I8042 {
    fn expired(&mut self, now: Nanos) {
        self.keyboard.tick(now);
        self.refill();
        self.wires.timer.arm(self.keyboard.alarm());
    }
}

impl Ports for I8042 {
    fn ranges(&self) -> &'static [(u16, u16)] {
        &[(0x60, 1), (0x64, 1), (0x92, 1)]
    }

    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            0x60 => self.read_data(),
            0x64 => self.status(),
            0x92 => u8::from(self.a20) << 1,
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            0x60 => self.data(value),
            0x64 => self.command(value),
            // Bit 0 reads zero, so that each write of one is a rise.
            0x92 => {
                self.a20 = value & 2 != 0;
                if value & 1 != 0 {
                    self.reset_machine();
                }
            }
            _ => {}
        }
        self.refill();
    }
}
