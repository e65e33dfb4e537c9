//! The keyboard controller: an 8042 with the PS/2 firmware, a keyboard and a mouse, and port 92h (IBM PS/2 technical
//! reference, "Keyboard/Auxiliary Device Controller").
//!
//! ```text
//! 60h  data
//! 64h  write: command   read: status [ 7 parity 6 time-out 5 aux data 4 not locked 3 last was command 2 self-test passed
//!                                      1 input full 0 output full ]
//! 92h  [ 1 A20 | 0 reset on rise ]
//! command byte  [ 6 translate 5 aux off 4 keyboard off 2 self-test passed 1 aux IRQ 12 0 keyboard IRQ 1 ]
//! output port   [ 5 aux IRQ 4 keyboard IRQ 1 A20 0 not reset ]
//! ```
//!
//! Commands finish at once, so "input full" never shows. The A20 gate is kept and read back but has no effect: address line
//! 20 is always on.

mod controller;
mod device;
mod keyboard;
mod keys;
mod mouse;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use visor_console::InputEvent;
use visor_device::{Clock, IrqLine, TimerSlot};

use crate::{PowerEvent, PowerSink};
use controller::Controller;
use keyboard::Keyboard;
use mouse::Mouse;

/// What an [`I8042`] is connected to.
#[derive(Clone)]
pub struct I8042Wires {
    /// Guest time.
    pub clock: Arc<dyn Clock>,
    /// The keyboard's alarm.
    pub timer: Arc<dyn TimerSlot>,
    /// IRQ 1.
    pub keyboard_irq: IrqLine,
    /// IRQ 12.
    pub mouse_irq: IrqLine,
    /// Takes reset requests.
    pub power: Arc<dyn PowerSink>,
}

/// Keyboard controller, keyboard, mouse and port 92h.
pub struct I8042 {
    wires: I8042Wires,
    controller: Controller,
    keyboard: Keyboard,
    mouse: Mouse,
    a20: bool,
    /// The byte that port 60h shows, if status bit 0 is set.
    output: Option<(u8, Source)>,
    /// The byte that port 60h showed last: reading twice gives it again.
    last: u8,
    /// Answers of the controller itself.
    answers: VecDeque<(u8, Source)>,
}

/// Where a byte in the output buffer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Controller,
    Keyboard,
    Mouse,
}

/// Most bytes a device holds for the guest; what does not fit is dropped, as a keyboard does.
const QUEUE: usize = 64;

impl I8042 {
    /// A controller after power-on.
    pub fn new(wires: I8042Wires) -> Self {
        I8042 {
            wires,
            controller: Controller::default(),
            keyboard: Keyboard::default(),
            mouse: Mouse::default(),
            a20: true,
            output: None,
            last: 0,
            answers: VecDeque::new(),
        }
    }

    /// Keys and movements. Dropped while the guest has them off; presses also if the keyboard's buffer is full.
    pub fn input(&mut self, events: &[InputEvent]) {
        let now = self.wires.clock.now();
        for event in events {
            match *event {
                InputEvent::Key { key, down } => self.keyboard.key(key, down, now),
                InputEvent::Motion { dx, dy } => self.mouse.motion(dx, dy),
                InputEvent::Button { button, down } => self.mouse.button(button, down),
                InputEvent::Wheel { dy, .. } => self.mouse.wheel(dy),
                // A mouse does not know where it is.
                InputEvent::Position { .. } => {}
            }
        }
        self.refill();
        self.wires.timer.arm(self.keyboard.alarm());
    }

    /// The guest has read all that was typed.
    pub fn is_idle(&self) -> bool {
        self.output.is_none() && self.keyboard.is_idle()
    }

    /// The guest's driver wants to know of the mouse's movements.
    pub fn mouse_enabled(&self) -> bool {
        self.mouse.is_enabled()
    }

    /// The keyboard's lights: Scroll, Num and Caps Lock in bits 0 to 2.
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    /// The A20 gate as the guest last set it. It has no effect.
    pub fn a20(&self) -> bool {
        self.a20
    }

    fn reset_machine(&self) {
        self.wires.power.request(PowerEvent::Reset);
    }

    /// Moves the next byte into the empty output buffer and sets the interrupt lines.
    fn refill(&mut self) {
        if self.output.is_none() {
            let c = &self.controller;
            self.output = self
                .answers
                .pop_front()
                .or_else(|| {
                    let byte = if c.keyboard_off() { None } else { self.keyboard.next(c.translates()) };
                    byte.map(|b| (b, Source::Keyboard))
                })
                .or_else(|| {
                    let byte = if c.mouse_off() { None } else { self.mouse.next() };
                    byte.map(|b| (b, Source::Mouse))
                });
        }
        let from_mouse = matches!(self.output, Some((_, Source::Mouse)));
        let full = self.output.is_some();
        self.wires.keyboard_irq.set(full && !from_mouse && self.controller.keyboard_interrupts());
        self.wires.mouse_irq.set(from_mouse && self.controller.mouse_interrupts());
    }

    /// Empties the output buffer; the lines fall, so that the next byte makes an edge.
    fn read_data(&mut self) -> u8 {
        if let Some((byte, _)) = self.output.take() {
            self.last = byte;
            self.wires.keyboard_irq.set(false);
            self.wires.mouse_irq.set(false);
            self.refill();
        }
        self.last
    }

    fn status(&self) -> u8 {
        let source = self.output.map(|(_, source)| source);
        u8::from(source.is_some())
            | self.controller.status()
            | 0x10
            | if source == Some(Source::Mouse) { 0x20 } else { 0 }
    }
}
