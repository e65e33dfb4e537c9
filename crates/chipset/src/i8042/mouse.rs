//! A PS/2 mouse with the extensions of Microsoft's IntelliMouse (a wheel) and IntelliMouse Explorer (a wheel and five buttons).
//!
//! ```text
//! [ 7 y overflow | 6 x overflow | 5 y sign | 4 x sign | 3 one | 2 middle | 1 right | 0 left ]  x  y (up)
//! IntelliMouse: wheel (towards the person)   Explorer: [ 5 fifth | 4 fourth | 3:0 wheel ]
//! ```
//! A driver switches them on with a sequence of sample rates: 200, 100, 80; and 200, 200, 80.

use std::collections::VecDeque;

use visor_console::Button;

use super::QUEUE;

const ACK: u8 = 0xfa;

/// Bits of buttons.
const LEFT: u8 = 1;
const RIGHT: u8 = 2;
const MIDDLE: u8 = 4;
const SIDE: u8 = 8;
const EXTRA: u8 = 16;

/// Movement that has not been reported is not added up further.
const LIMIT: i32 = 1 << 15;

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
    /// The last sample rates, oldest first.
    knock: [u8; 3],
    /// 0, or 3 and 4 for the extensions.
    id: u8,
    buttons: u8,
    /// Buttons in the last report.
    reported: u8,
    /// Movement since the last report: right, up, wheel towards the person.
    x: i32,
    y: i32,
    z: i32,
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
            knock: [0; 3],
            id: 0,
            buttons: 0,
            reported: 0,
            x: 0,
            y: 0,
            z: 0,
        }
    }
}

impl Mouse {
    /// Moves to the right and down.
    pub(super) fn motion(&mut self, dx: i32, dy: i32) {
        self.x = self.x.saturating_add(dx).clamp(-LIMIT, LIMIT);
        self.y = self.y.saturating_sub(dy).clamp(-LIMIT, LIMIT);
        self.report();
    }

    /// Turns the wheel away from the person.
    pub(super) fn wheel(&mut self, dy: i32) {
        if self.id != 0 {
            self.z = self.z.saturating_sub(dy).clamp(-64, 64);
            self.report();
        }
    }

    pub(super) fn button(&mut self, button: Button, down: bool) {
        let bit = match button {
            Button::Left => LEFT,
            Button::Right => RIGHT,
            Button::Middle => MIDDLE,
            Button::Side => SIDE,
            Button::Extra => EXTRA,
        };
        self.buttons = if down { self.buttons | bit } else { self.buttons & !bit };
        self.report();
    }

    /// The driver wants reports.
    pub(super) fn is_enabled(&self) -> bool {
        self.reporting && !self.remote && !self.wrap
    }

    pub(super) fn next(&mut self) -> Option<u8> {
        if self.queue.is_empty() {
            // What came while the last report was still there.
            self.report();
        }
        let byte = self.queue.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    /// A byte from the guest: a command or its parameter.
    pub(super) fn write(&mut self, value: u8) {
        if let Some(command) = self.expects.take() {
            match command {
                0xe8 => self.resolution = value & 3,
                _ => self.set_rate(value),
            }
            return self.send(&[ACK]);
        }
        if self.wrap && !matches!(value, 0xec | 0xff) {
            return self.send(&[value]);
        }
        // A command ends the transmission of what it interrupts.
        self.queue.clear();
        match value {
            0xe6 | 0xe7 => self.scale2 = value == 0xe7,
            0xe8 | 0xf3 => self.expects = Some(value),
            0xe9 => {
                let modes = u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scale2) << 4;
                let buttons = (self.buttons & LEFT) << 2 | (self.buttons & MIDDLE) >> 1 | (self.buttons & RIGHT) >> 1;
                return self.send(&[ACK, modes | buttons, self.resolution, self.rate]);
            }
            0xea | 0xf0 => self.remote = value == 0xf0,
            0xeb => {
                self.send(&[ACK]);
                return self.packet();
            }
            0xec | 0xee => self.wrap = value == 0xee,
            0xf2 => return self.send(&[ACK, self.id]),
            0xf4 | 0xf5 => {
                self.reporting = value == 0xf4;
                (self.x, self.y, self.z) = (0, 0, 0);
            }
            0xf6 => *self = Mouse { id: self.id, buttons: self.buttons, ..Mouse::default() },
            0xfe => return self.send(&[self.last]),
            0xff => {
                *self = Mouse { buttons: self.buttons, ..Mouse::default() };
                return self.send(&[ACK, 0xaa, 0]);
            }
            _ => return self.send(&[0xfe]),
        }
        self.send(&[ACK]);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rate = rate;
        self.knock = [self.knock[1], self.knock[2], rate];
        match self.knock {
            [200, 100, 80] if self.id == 0 => self.id = 3,
            [200, 200, 80] if self.id == 3 => self.id = 4,
            _ => {}
        }
    }

    /// Queues a report if the driver wants one, there is something new, and the last one has been read.
    fn report(&mut self) {
        let moved = (self.x, self.y, self.z) != (0, 0, 0);
        if self.is_enabled() && self.queue.is_empty() && (moved || self.buttons != self.reported) {
            self.packet();
        }
    }

    fn packet(&mut self) {
        let take = |v: &mut i32| {
            let part = (*v).clamp(-255, 255);
            *v -= part;
            part
        };
        let (mut x, mut y) = (take(&mut self.x), take(&mut self.y));
        if self.scale2 && !self.remote {
            (x, y) = (double(x), double(y));
        }
        let sign = |v: i32| u8::from(v < 0);
        let first = 8 | self.buttons & 7 | sign(x) << 4 | sign(y) << 5;
        let mut bytes = vec![first, x as u8, y as u8];
        let z = if self.id == 3 { self.z.clamp(-127, 127) } else { self.z.clamp(-7, 7) };
        match self.id {
            3 => bytes.push(z as u8),
            4 => bytes.push(z as u8 & 0xf | (self.buttons & (SIDE | EXTRA)) << 1),
            _ => {}
        }
        self.z -= z;
        self.reported = self.buttons;
        self.send(&bytes);
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.queue.len() + bytes.len() <= QUEUE {
            self.queue.extend(bytes);
        }
    }
}

/// Scaling 2:1 (PS/2 technical reference, mouse, "Set Scaling 2:1").
fn double(v: i32) -> i32 {
    let scaled = match v.abs() {
        n @ 0..=1 => n,
        2 => 1,
        3 => 3,
        4 => 6,
        5 => 9,
        n => (2 * n).min(255),
    };
    scaled * v.signum()
}
