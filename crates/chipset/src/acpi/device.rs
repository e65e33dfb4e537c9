//! The ports of ACPI fixed hardware.

use std::sync::{Mutex, MutexGuard, PoisonError};

use visor_device::{Device, PioDevice, TimerDevice};

use super::*;
use crate::{Ports, PowerEvent};

const SLP_EN: u16 = 1 << 13;

impl Device for AcpiPm {
    fn name(&self) -> &str {
        "acpi-pm"
    }

    fn reset(&mut self) {
        self.regs = Regs::default();
        self.timer_half = self.ticks() >> 23;
        self.update();
    }

    fn as_timer(&mut self) -> Option<&mut dyn TimerDevice> {
        Some(self)
    }
}

/// The block of ports that the power management function decodes, wherever that is; offsets count from its start.
pub struct PmBlock(pub Arc<Mutex<AcpiPm>>);

impl PmBlock {
    /// Ports in the block.
    pub const LEN: u16 = 64;

    fn pm(&self) -> MutexGuard<'_, AcpiPm> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for PmBlock {
    fn name(&self) -> &str {
        "acpi-pm"
    }

    /// Nothing: the registers are reset by whoever holds them.
    fn reset(&mut self) {}

    fn as_pio(&mut self) -> Option<&mut dyn PioDevice> {
        Some(self)
    }
}

impl PioDevice for PmBlock {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.pm().read_ports(PM_PORT + offset, data);
    }

    fn write(&mut self, offset: u16, data: &[u8]) {
        let mut pm = self.pm();
        for (port, byte) in (PM_PORT + offset..).zip(data) {
            pm.write_port(port, *byte);
        }
    }
}

impl Ports for AcpiPm {
    fn ranges(&self) -> &'static [(u16, u16)] {
        &[(SMI_COMMAND_PORT, 2)]
    }

    fn read_port(&mut self, port: u16) -> u8 {
        let mut data = [0];
        self.read_ports(port, &mut data);
        data[0]
    }

    /// The timer is read at one moment for all bytes.
    fn read_ports(&mut self, port: u16, data: &mut [u8]) {
        self.sync_timer();
        let timer = ((self.ticks() & 0xff_ffff) as u32).to_le_bytes();
        let r = &self.regs;
        for (port, byte) in (port..).zip(data) {
            let at = usize::from(port & 3);
            *byte = match port {
                0x600..=0x601 => r.status.to_le_bytes()[at],
                0x602..=0x603 => r.enable.to_le_bytes()[at - 2],
                0x604..=0x605 => r.control.to_le_bytes()[at],
                0x608..=0x60b => timer[at],
                0x620..=0x623 => r.gpe_status.to_le_bytes()[at],
                0x624..=0x627 => r.gpe_enable.to_le_bytes()[at],
                0xb2 => r.smi_command,
                0xb3 => r.smi_status,
                _ => 0,
            };
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        self.sync_timer();
        let shift = 8 * u32::from(port & 1);
        let wide = u16::from(value) << shift;
        let kept = !(0xff << shift);
        let gpe_shift = 8 * u32::from(port & 3);
        let r = &mut self.regs;
        match port {
            0x600..=0x601 => r.status &= !(wide & PM1_STATUS_BITS),
            0x602..=0x603 => r.enable = r.enable & kept | wide & PM1_ENABLE_BITS,
            0x604..=0x605 => {
                r.control = r.control & (kept | CONTROL_SCI) | wide & CONTROL_BITS;
                if wide & SLP_EN != 0 {
                    match (r.control >> 10 & 7) as u8 {
                        S3_SLEEP_TYPE => self.power.request(PowerEvent::Sleep),
                        S5_SLEEP_TYPE => self.power.request(PowerEvent::PowerOff),
                        _ => {}
                    }
                }
            }
            0x620..=0x623 => r.gpe_status &= !(u32::from(value) << gpe_shift),
            0x624..=0x627 => {
                r.gpe_enable = r.gpe_enable & !(0xff << gpe_shift) | u32::from(value) << gpe_shift;
            }
            0xb2 => {
                r.smi_command = value;
                match value {
                    ACPI_ENABLE => r.control |= CONTROL_SCI,
                    ACPI_DISABLE => r.control &= !CONTROL_SCI,
                    _ => {}
                }
            }
            0xb3 => r.smi_status = value,
            _ => {}
        }
        self.update();
    }
}
