//! An IBM PS/2 keyboard with scan code set 2, and the controller's translation to set 1.

use std::collections::VecDeque;

use super::QUEUE;

const ACK: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// What the controller makes of set-2 codes 00h to 7Fh; 83h becomes 41h, 84h 54h, others stay.
const SET1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, //
];

#[derive(Clone, Debug)]
pub(super) struct Keyboard {
    queue: VecDeque<u8>,
    scanning: bool,
    set: u8,
    /// The command whose parameter comes next.
    expects: Option<u8>,
    last: u8,
    /// The controller has passed on a break prefix, which marks the code after it.
    released: bool,
}

impl Default for Keyboard {
    fn default() -> Self {
        Keyboard { queue: VecDeque::new(), scanning: true, set: 2, expects: None, last: 0, released: false }
    }
}

impl Keyboard {
    pub(super) fn key(&mut self, scancodes: &[u8]) {
        if self.scanning && self.queue.len() + scancodes.len() <= QUEUE {
            self.queue.extend(scancodes);
        }
    }

    /// The next byte for the guest, translated to set 1 where the controller does so.
    pub(super) fn next(&mut self, translate: bool) -> Option<u8> {
        loop {
            let byte = self.queue.pop_front()?;
            self.last = byte;
            if !translate {
                return Some(byte);
            }
            if byte == 0xf0 {
                self.released = true;
                continue;
            }
            let code = match byte {
                0x83 => 0x41,
                0x84 => 0x54,
                _ => SET1.get(usize::from(byte)).copied().unwrap_or(byte),
            };
            return Some(if std::mem::take(&mut self.released) { code | 0x80 } else { code });
        }
    }

    /// A byte from the guest: a command or its parameter.
    pub(super) fn write(&mut self, value: u8) {
        if let Some(command) = self.expects.take().filter(|_| value < 0xed) {
            self.send(ACK);
            if command == 0xf0 {
                match value {
                    0 => self.send(self.set),
                    1..=3 => self.set = value,
                    _ => {}
                }
            }
            return;
        }
        match value {
            0xed | 0xf0 | 0xf3 => {
                self.expects = Some(value);
                self.send(ACK);
            }
            0xee => self.send(0xee),
            0xf2 => [ACK, 0xab, 0x83].into_iter().for_each(|b| self.send(b)),
            0xf4 => {
                self.scanning = true;
                self.send(ACK);
            }
            0xf5 | 0xf6 => {
                *self = Keyboard { scanning: value == 0xf6, ..Keyboard::default() };
                self.send(ACK);
            }
            0xfe => self.send(self.last),
            0xff => {
                *self = Keyboard::default();
                self.send(ACK);
                // The basic assurance test passed.
                self.send(0xaa);
            }
            _ => self.send(RESEND),
        }
    }

    fn send(&mut self, byte: u8) {
        if self.queue.len() < QUEUE {
            self.queue.push_back(byte);
        }
    }
}
