//! The timer's ports.

use visor_device::{Device, TimerDevice};

use super::{Pit, REFRESH};
use crate::Ports;

impl Device for Pit {
    fn name(&self) -> &str {
        "pit"
    }

    fn reset(&mut self) {
        *self = Pit::new(self.wires.clone());
        self.drive(false);
        self.arm();
    }

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

impl Ports for Pit {
    fn ranges(&self) -> &'static [(u16, u16)] {
        &[(0x40, 4), (0x61, 1)]
    }

    fn read_port(&mut self, port: u16) -> u8 {
        let now = self.ticks();
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].read(now),
            0x61 => {
                let refresh = ((self.wires.clock.now() / REFRESH) & 1) as u8;
                self.port61 | refresh << 4 | u8::from(self.channels[2].out(now)) << 5
            }
            // The control word cannot be read.
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        let now = self.ticks();
        match port {
            0x40..=0x42 => {
                let n = usize::from(port - 0x40);
                self.channels[n].write(value, now);
                if n == 0 {
                    self.rearm();
                }
            }
            0x43 => self.control(value, now),
            0x61 => {
                self.port61 = value & 0xf;
                self.channels[2].set_gate(value & 1 != 0, now);
            }
            _ => {}
        }
    }
}

impl Pit {
    fn control(&mut self, value: u8, now: u64) {
        if value >> 6 == 3 {
            for (n, channel) in self.channels.iter_mut().enumerate() {
                if value & 2 << n == 0 {
                    continue;
                }
                if value & 0x20 == 0 {
                    channel.latch_count(now);
                }
                if value & 0x10 == 0 {
                    channel.latch_status(now);
                }
            }
            return;
        }
        let n = usize::from(value >> 6);
        if value & 0x30 == 0 {
            return self.channels[n].latch_count(now);
        }
        self.channels[n].control(value);
        match n {
            0 => self.rearm(),
            2 => self.channels[2].set_gate(self.port61 & 1 != 0, now),
            _ => {}
        }
    }
}
