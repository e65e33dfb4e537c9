//! The PCI function.

use std::sync::Arc;

use visor_pci::{BarKind, ConfigSpace, Identity, PciDevice};

use super::channel::{Channel, Shared};

/// The BAR of the bus master's registers, and their number for each channel.
const BUS_MASTER_BAR: u8 = 4;
const REGISTERS: u64 = 8;

/// Timing registers of the channels; bit 15 has a channel decoded (PIIX3 §2.3.9).
const TIMING: [u8; 2] = [0x40, 0x42];
const DECODE: u8 = 0x80;

/// The IDE function of the PIIX3.
pub struct IdeFunction {
    config: ConfigSpace,
    channels: [Arc<Shared>; 2],
}

impl IdeFunction {
    pub(super) fn new(channels: [Arc<Shared>; 2]) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x7010,
            revision: 0,
            // IDE, both channels at their fixed addresses, bus master.
            class: 0x01_0180,
            ..Identity::default()
        });
        // A fresh configuration space has room for a BAR of this size.
        let _ = config.add_bar(BUS_MASTER_BAR, BarKind::Io, 2 * REGISTERS);
        // The part comes up with both channels off; here they are on, so that drives are found without firmware. Slave timing too.
        config.define(TIMING[0].into(), &[0, DECODE, 0, DECODE, 0], &[0xff; 5]);
        let mut function = IdeFunction { config, channels };
        function.apply();
        function
    }

    /// Tells the channels what their registers here say.
    fn apply(&mut self) {
        let enabled = self.config.command().bus_master();
        for (channel, timing) in self.channels.iter().zip(TIMING) {
            let decoded = self.config.byte(timing + 1) & DECODE != 0;
            channel.with(|c: &mut Channel| {
                c.decoded = decoded;
                c.bus_master.enabled = enabled;
                c.try_dma();
            });
        }
    }

    /// The channel and its register at `offset` of the BAR.
    fn register(&self, offset: u64) -> Option<(&Shared, u8)> {
        Some((self.channels.get((offset / REGISTERS) as usize)?, (offset % REGISTERS) as u8))
    }
}

impl PciDevice for IdeFunction {
    fn name(&self) -> &str {
        "ide"
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn follow_config(&mut self) {
        self.apply();
    }

    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        if bar != BUS_MASTER_BAR {
            return;
        }
        for (i, d) in data.iter_mut().enumerate() {
            if let Some((channel, register)) = self.register(offset + i as u64) {
                *d = channel.with(|c| c.bus_master.read(register));
            }
        }
    }

    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        if bar != BUS_MASTER_BAR {
            return;
        }
        for (i, d) in data.iter().enumerate() {
            if let Some((channel, register)) = self.register(offset + i as u64) {
                channel.with(|c| c.write_bus_master(register, *d));
            }
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        for channel in &self.channels {
            channel.with(Channel::reset);
        }
        self.apply();
    }
}
