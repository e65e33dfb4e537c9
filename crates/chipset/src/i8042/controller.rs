//! The controller's own commands.

use super::{I8042, QUEUE, Source};

#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// Internal RAM; byte 0 is the command byte.
    ram: [u8; 32],
    /// The command whose parameter the next write to 60h is.
    expects: Option<u8>,
    last_was_command: bool,
}

impl Default for Controller {
    fn default() -> Self {
        let mut ram = [0; 32];
        // Keyboard and mouse interfaces are off until firmware has tested them.
        ram[0] = 0x30;
        Controller { ram, expects: None, last_was_command: false }
    }
}

impl Controller {
    pub(super) fn keyboard_interrupts(&self) -> bool {
        self.ram[0] & 1 != 0
    }

    pub(super) fn mouse_interrupts(&self) -> bool {
        self.ram[0] & 2 != 0
    }

    pub(super) fn keyboard_off(&self) -> bool {
        self.ram[0] & 0x10 != 0
    }

    pub(super) fn mouse_off(&self) -> bool {
        self.ram[0] & 0x20 != 0
    }

    pub(super) fn translates(&self) -> bool {
        self.ram[0] & 0x40 != 0
    }

    /// Bits 2 and 3 of the status register.
    pub(super) fn status(&self) -> u8 {
        self.ram[0] & 4 | if self.last_was_command { 8 } else { 0 }
    }
}

impl I8042 {
    pub(super) fn command(&mut self, command: u8) {
        self.controller.last_was_command = true;
        self.controller.expects = None;
        let ram = &mut self.controller.ram;
        match command {
            0x20..=0x3f => {
                let value = ram[usize::from(command & 0x1f)];
                self.answer(value);
            }
            0x60..=0x7f | 0xd1..=0xd4 => self.controller.expects = Some(command),
            0xa7 => ram[0] |= 0x20,
            0xa8 => ram[0] &= !0x20,
            0xa9 => self.answer(0),
            0xaa => {
                // The self-test: passed, with everything off.
                self.controller.ram[0] = 0x34;
                self.output = None;
                self.answers.clear();
                self.answer(0x55);
            }
            0xab => self.answer(0),
            0xad => ram[0] |= 0x10,
            0xae => ram[0] &= !0x10,
            // Input port: keyboard not locked, no manufacturing jumper.
            0xc0 => self.answer(0xa0),
            0xd0 => {
                let value = self.output_port();
                self.answer(value);
            }
            0xdd => self.a20 = false,
            0xdf => self.a20 = true,
            // Test inputs: clocks high.
            0xe0 => self.answer(0x03),
            // Pulses the output-port bits that are 0 in the command; bit 0 is the reset line.
            0xf0..=0xff if command & 1 == 0 => self.reset_machine(),
            _ => {}
        }
    }

    /// A write to port 60h: the parameter of a command, or a byte for the keyboard.
    pub(super) fn data(&mut self, value: u8) {
        self.controller.last_was_command = false;
        match self.controller.expects.take() {
            Some(command @ 0x60..=0x7f) => self.controller.ram[usize::from(command & 0x1f)] = value,
            Some(0xd1) => {
                self.a20 = value & 2 != 0;
                if value & 1 == 0 {
                    self.reset_machine();
                }
            }
            Some(0xd2) => self.push(value, Source::Keyboard),
            Some(0xd3) => self.push(value, Source::Mouse),
            Some(0xd4) => {
                // Sending to a device switches its interface on.
                self.controller.ram[0] &= !0x20;
                self.mouse.write(value);
            }
            _ => {
                self.controller.ram[0] &= !0x10;
                self.keyboard.write(value);
            }
        }
    }

    fn output_port(&self) -> u8 {
        let source = self.output.map(|(_, source)| source);
        let keyboard = matches!(source, Some(Source::Keyboard | Source::Controller));
        1 | u8::from(self.a20) << 1 | u8::from(keyboard) << 4 | u8::from(source == Some(Source::Mouse)) << 5
    }

    fn answer(&mut self, value: u8) {
        self.push(value, Source::Controller);
    }

    fn push(&mut self, value: u8, source: Source) {
        if self.answers.len() < QUEUE {
            self.answers.push_back((value, source));
        }
    }
}
