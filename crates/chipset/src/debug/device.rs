//! Exit port and console as the guest sees them.

use visor_device::{Device, PioDevice};

use super::{DebugConsole, DebugExit};
use crate::PowerEvent;

impl Device for DebugExit {
    fn name(&self) -> &str {
        "debug-exit"
    }

    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for DebugExit {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        if let Some(value) = data.first() {
            self.power.request(PowerEvent::Exit(value << 1 | 1));
        }
    }
}

impl Device for DebugConsole {
    fn name(&self) -> &str {
        "debug-console"
    }

    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for DebugConsole {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xe9);
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        self.sink.write(data);
    }
}
