//! The command and control block registers.

use std::sync::Arc;

use visor_device::{Device, PioDevice};

use super::channel::{Channel, Phase, Shared};
use crate::buffer::Lease;
use crate::step::status::{BSY, DRDY};

const DATA: u16 = 0;
const FEATURES: u16 = 1;
const COUNT: u16 = 2;
const LOW: u16 = 3;
const MID: u16 = 4;
const HIGH: u16 = 5;
const DEVICE: u16 = 6;
const COMMAND: u16 = 7;

/// Ports 1F0 to 1F7 and their like.
pub(super) struct CommandBlock(pub(super) Arc<Shared>);

/// Port 3F6 and its like.
pub(super) struct ControlBlock(pub(super) Arc<Shared>);

impl Device for CommandBlock {
    fn name(&self) -> &str {
        "ide"
    }

    /// The PCI function resets the channel.
    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl Device for ControlBlock {
    fn name(&self) -> &str {
        "ide-control"
    }

    /// The PCI function resets the channel.
    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for CommandBlock {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.0.with(|c| {
            if !c.decoded {
                data.fill(0xff);
            } else if offset == DATA {
                c.read_data(data);
            } else {
                for (i, d) in data.iter_mut().enumerate() {
                    *d = c.read(offset + i as u16);
                }
            }
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        self.0.with(|c| {
            if !c.decoded {
                return;
            }
            if offset == DATA {
                c.write_data(data);
            } else {
                for (i, d) in data.iter().enumerate() {
                    c.write(offset + i as u16, *d);
                }
            }
        });
    }
}

impl PioDevice for ControlBlock {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(self.0.with(|c| if c.decoded { c.status() } else { 0xff }));
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        if let Some(value) = data.first() {
            self.0.with(|c| {
                if c.decoded {
                    c.set_control(*value);
                }
            });
        }
    }
}

impl Channel {
    /// The status of the selected drive. A lone master answers for its slave with zero (ATA/ATAPI-5 §9.16.1); without any drive
    /// zero serves too: software finds that the other registers keep nothing.
    fn status(&mut self) -> u8 {
        self.drive().map_or(0, |d| d.r.status)
    }

    fn read(&mut self, offset: u16) -> u8 {
        if offset == COMMAND {
            let status = self.status();
            self.acknowledge();
            return status;
        }
        let high = self.shows_high_bytes();
        let Some(d) = self.drive() else { return 0 };
        let half = |r: u16| if high { (r >> 8) as u8 } else { r as u8 };
        match offset {
            FEATURES => d.r.error,
            COUNT => half(d.r.count),
            LOW => half(d.r.low),
            MID => half(d.r.mid),
            HIGH => half(d.r.high),
            // Bits 7 and 5 have always read as ones.
            _ => d.r.device | 0xa0,
        }
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.hide_high_bytes();
        match offset {
            DEVICE => self.select(value),
            COMMAND => self.command(value),
            _ => {
                // Both drives hear it; one that is busy does not listen.
                for d in self.drives.iter_mut().flatten().filter(|d| !d.is_busy()) {
                    let register = match offset {
                        FEATURES => &mut d.r.features,
                        COUNT => &mut d.r.count,
                        LOW => &mut d.r.low,
                        MID => &mut d.r.mid,
                        _ => &mut d.r.high,
                    };
                    *register = *register << 8 | u16::from(value);
                }
            }
        }
    }

    fn command(&mut self, command: u8) {
        let index = self.selected();
        if command == 0x90 {
            if self.drives.iter().flatten().all(|d| !d.is_busy()) {
                self.diagnose();
            }
            return;
        }
        let Some(d) = &mut self.drives[index] else { return };
        if command == 0x08 && d.unit.is_packet() {
            self.reset_device(index);
            return;
        }
        if d.is_busy() {
            return;
        }
        d.r.command = command;
        d.r.error = 0;
        d.r.status = BSY | DRDY;
        d.interrupt = false;
        d.lease = Lease::default();
        d.phase = Phase::Idle;
        let (step, mode) = d.unit.command(&mut d.r);
        d.mode = mode;
        self.update_irq();
        self.perform(index, step);
    }
}
