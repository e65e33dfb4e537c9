//! The serial port's registers.

use visor_device::{Device, PioDevice, TimerDevice};

use super::*;

impl Device for Uart {
    fn name(&self) -> &str {
        &self.name
    }

    fn reset(&mut self) {
        self.regs = Regs::default();
        self.rx.clear();
        self.wires.timer.arm(None);
        self.update();
        self.offer_room();
    }

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

impl PioDevice for Uart {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = self.read_register(offset);
        }
        self.update();
        self.offer_room();
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            self.write_register(offset, *byte);
        }
        self.update();
        self.offer_room();
    }
}

impl Uart {
    fn dlab(&self) -> bool {
        self.regs.lcr & LCR_DLAB != 0
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        let [low, high] = self.regs.divisor.to_le_bytes();
        match offset {
            0 if self.dlab() => low,
            1 if self.dlab() => high,
            0 => {
                let value = self.rx.pop_front().map_or(0, |(value, _)| value);
                self.restart_time_out();
                value
            }
            1 => self.regs.ier,
            2 => self.read_iir(),
            3 => self.regs.lcr,
            4 => self.regs.mcr,
            5 => {
                let value = self.lsr();
                self.regs.overrun = false;
                if let Some((_, errors)) = self.rx.front_mut() {
                    *errors = 0;
                }
                value
            }
            6 => {
                let value = self.regs.msr;
                self.regs.msr &= 0xf0;
                value
            }
            7 => self.regs.scr,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        let [low, high] = self.regs.divisor.to_le_bytes();
        match offset {
            0 if self.dlab() => self.regs.divisor = u16::from_le_bytes([value, high]),
            1 if self.dlab() => self.regs.divisor = u16::from_le_bytes([low, value]),
            0 => self.transmit(value),
            1 => {
                // Enabling the interrupt while the transmitter is empty raises it.
                if value & IER_THRE != 0 && self.regs.ier & IER_THRE == 0 {
                    self.regs.thre_pending = true;
                }
                self.regs.ier = value & 0xf;
            }
            2 => self.write_fcr(value),
            3 => self.regs.lcr = value,
            4 => {
                self.regs.mcr = value & 0x1f;
                self.update_modem();
            }
            7 => self.regs.scr = value,
            // LSR and MSR are for reading; writing them is for factory tests.
            _ => {}
        }
    }

    fn read_iir(&mut self) -> u8 {
        let cause = self.cause();
        // Reading IIR clears this cause, if it is the one reported.
        if cause == Some(0x2) {
            self.regs.thre_pending = false;
        }
        cause.unwrap_or(1) | if self.has_fifo() { 0xc0 } else { 0 }
    }

    fn transmit(&mut self, value: u8) {
        if self.is_loopback() {
            if self.rx.len() < self.capacity() {
                self.rx.push_back((value, 0));
            } else {
                self.regs.overrun = true;
                // Without a FIFO the new character replaces the old one.
                if !self.has_fifo() {
                    self.rx.clear();
                    self.rx.push_back((value, 0));
                }
            }
            self.restart_time_out();
        } else {
            self.wires.sink.write(&[value]);
        }
        self.regs.thre_pending = true;
    }

    fn write_fcr(&mut self, value: u8) {
        let switched = (value ^ self.regs.fcr) & 1 != 0;
        // Without bit 0 the other bits are not programmed.
        self.regs.fcr = if value & 1 != 0 { value & 0xc9 } else { 0 };
        if switched || value & 3 == 3 {
            self.rx.clear();
            self.restart_time_out();
        }
        if switched || value & 5 == 5 {
            self.regs.thre_pending = true;
        }
    }
}
