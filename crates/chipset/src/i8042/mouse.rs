//! A PS/2 mouse that lies still: it answers all commands and never reports a movement by itself.

use std::collections::VecDeque;

use super::QUEUE;

const ACK: u8 = 0xfa;

#[derive(Clone, Debug)]
pub(super) struct Mouse {
    queue: VecDeque<u8>,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scale2: bool,
    resolution: u8,
    rate: u8,
    expects: Option<u8>,
    last: u8,
}

impl Default for Mouse {
    fn default() -> Self {
        Mouse {
            queue: VecDeque::new(),
            reporting: false,
            remote: false,
            wrap: false,
            scale2: false,
            resolution: 2,
            rate: 100,
            expects: None,
            last: 0,
        }
    }
}

impl Mouse {
    pub(super) fn next(&mut self) -> Option<u8> {
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    /// A byte from the guest: a command or its parameter.
    pub(super) fn write(&mut self, value: u8) {
        if let Some(command) = self.expects.take() {
            match command {
                0xe8 => self.resolution = value & 3,
                _ => self.rate = value,
            }
            return self.send(&[ACK]);
        }
        if self.wrap && !matches!(value, 0xec | 0xff) {
            return self.send(&[value]);
        }
        match value {
            0xe6 | 0xe7 => self.scale2 = value == 0xe7,
            0xe8 | 0xf3 => self.expects = Some(value),
            0xe9 => {
                let flags = u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scale2) << 4;
                return self.send(&[ACK, flags, self.resolution, self.rate]);
            }
            0xea | 0xf0 => self.remote = value == 0xf0,
            0xeb => return self.send(&[ACK, 0x08, 0, 0]),
            0xec | 0xee => self.wrap = value == 0xee,
            0xf2 => return self.send(&[ACK, 0]),
            0xf4 | 0xf5 => self.reporting = value == 0xf4,
            0xf6 => *self = Mouse::default(),
            0xfe => return self.send(&[self.last]),
            0xff => {
                *self = Mouse::default();
                return self.send(&[ACK, 0xaa, 0]);
            }
            _ => return self.send(&[0xfe]),
        }
        self.send(&[ACK]);
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= QUEUE {
            self.queue.extend(bytes);
        }
    }
}
