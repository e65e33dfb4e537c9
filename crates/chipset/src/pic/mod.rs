//! The pair of 8259A interrupt controllers of a PC (Intel 8259A data sheet; ELCR as in the 82371).
//!
//! ```text
//! 20h/A0h  write  ICW1 [ . . . 1 LTIM . SNGL IC4 ]   OCW2 [ R SL EOI 0 0 L2 L1 L0 ]   OCW3 [ 0 ESMM SMM 0 1 P RR RIS ]
//!          read   IRR or ISR, or the answer to a poll
//! 21h/A1h  write  ICW2..ICW4 after ICW1, else IMR
//!          read   IMR, or the answer to a poll
//! 4D0h/1   edge (0) or level (1) per input
//! ```
//!
//! The slave's INT output is input 2 of the master. A difference from the chip: a rise on an edge-triggered input is kept
//! until it is acknowledged even if the line falls before, so that pulses are not lost; spurious interrupts (IRQ 7 and IRQ 15)
//! come when a request goes away otherwise, by masking or by a level that ends.

mod chip;
mod device;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::IntrSink;
use chip::Chip;

/// Both controllers; inputs are ISA IRQs 0 to 15.
pub struct Pic {
    intr: Arc<dyn IntrSink>,
    master: Chip,
    slave: Chip,
    /// INTR as the sink was told last.
    level: bool,
}

/// The master's input for the slave.
const CASCADE: u8 = 2;

impl Pic {
    /// Both controllers after power-on: uninitialised, requesting nothing until ICW1 to ICW4 are written.
    pub fn new(intr: Arc<dyn IntrSink>) -> Self {
        Pic { intr, master: Chip::new(0xf8), slave: Chip::new(0xde), level: false }
    }

    /// Sets the level of input `irq`, 0 to 15; others and the cascade input 2 are ignored.
    pub fn set(&mut self, irq: u32, level: bool) {
        match irq {
            2 | 16.. => return,
            8.. => self.slave.set(irq as u8 - 8, level),
            _ => self.master.set(irq as u8, level),
        }
        self.update();
    }

    /// The interrupt acknowledge cycle: the vector of the request with the highest priority, or that of IRQ 7 (15 for the
    /// slave) if the request has gone away. `None` from a controller that was never initialised.
    pub fn acknowledge(&mut self) -> Option<u8> {
        if !self.master.is_ready() {
            return None;
        }
        let vector = match self.master.acknowledge() {
            Some(CASCADE) => {
                let irq = self.slave.acknowledge().unwrap_or(7);
                self.slave.vector(irq)
            }
            irq => self.master.vector(irq.unwrap_or(7)),
        };
        self.update();
        Some(vector)
    }

    /// The INTR output.
    pub fn intr(&self) -> bool {
        self.level
    }

    fn update(&mut self) {
        self.master.set_cascade(CASCADE, self.slave.request().is_some());
        let level = self.master.request().is_some();
        if level != self.level {
            self.level = level;
            self.intr.set_intr(level);
        }
    }
}
