//! Interrupt lines between devices and interrupt controllers.

use std::sync::Arc;

/// Takes the level of numbered interrupt inputs (the machine's PIC and I/O APIC together).
pub trait IrqSink: Send + Sync {
    /// Sets input `gsi` high or low. Edge-triggered inputs react to the rise.
    fn set(&self, gsi: u32, level: bool);
}

/// One input of an interrupt controller, as the device that drives it holds it. Each line has one driver.
#[derive(Clone)]
pub struct IrqLine {
    sink: Arc<dyn IrqSink>,
    gsi: u32,
}

impl IrqLine {
    /// The line to input `gsi` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, gsi: u32) -> Self {
        IrqLine { sink, gsi }
    }

    /// Sets the level.
    pub fn set(&self, level: bool) {
        self.sink.set(self.gsi, level);
    }

    /// A rise and a fall, for edge-triggered inputs.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// The input's number.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }
}

impl std::fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IrqLine({})", self.gsi)
    }
}
