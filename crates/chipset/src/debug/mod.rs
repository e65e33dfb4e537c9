//! Ports for test programs and firmware: exit with a status, and a console.
//!
//! * F4h: writing `v` ends the machine with status `(v << 1) | 1`, which is never 0.
//! * E9h and 402h: bytes written appear on the debug console; a read gives E9h, by which firmware finds it.

mod device;
mod testdev;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use testdev::{
    TEST_IRQ_PORT, TEST_MEMORY, TEST_MEMORY_LEN, TEST_PORT, TEST_PORTS, TestIrqs, TestMemory, TestPorts,
};

use crate::{CharSink, PowerSink};

/// Where [`DebugExit`] is, four ports wide.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Where [`DebugConsole`] is, one port each.
pub const DEBUG_CONSOLE_PORTS: [u16; 2] = [0xe9, 0x402];

/// Ends the machine.
pub struct DebugExit {
    power: Arc<dyn PowerSink>,
}

/// A console without flow control.
pub struct DebugConsole {
    sink: Box<dyn CharSink>,
}

impl DebugExit {
    /// An exit port that asks `power`.
    pub fn new(power: Arc<dyn PowerSink>) -> Self {
        DebugExit { power }
    }
}

impl DebugConsole {
    /// A console that writes to `sink`. One console may be claimed at both [`DEBUG_CONSOLE_PORTS`].
    pub fn new(sink: Box<dyn CharSink>) -> Self {
        DebugConsole { sink }
    }
}
