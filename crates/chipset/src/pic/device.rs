//! The controllers' ports.

use visor_device::Device;

use super::Pic;
use crate::Ports;

impl Device for Pic {
    fn name(&self) -> &str {
        "pic"
    }

    fn reset(&mut self) {
        self.master.reset();
        self.slave.reset();
        self.update();
    }
}

impl Ports for Pic {
    fn ranges(&self) -> &'static [(u16, u16)] {
        &[(0x20, 2), (0xa0, 2), (0x4d0, 2)]
    }

    fn read_port(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.master.read(port == 0x21),
            0xa0 | 0xa1 => self.slave.read(port == 0xa1),
            0x4d0 => self.master.elcr(),
            0x4d1 => self.slave.elcr(),
            _ => 0xff,
        };
        // A poll acknowledges.
        self.update();
        value
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0x21 => self.master.write(port == 0x21, value),
            0xa0 | 0xa1 => self.slave.write(port == 0xa1, value),
            0x4d0 => self.master.set_elcr(value),
            0x4d1 => self.slave.set_elcr(value),
            _ => {}
        }
        self.update();
    }
}
