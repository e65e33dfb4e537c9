//! ACPI fixed hardware: PM1 event and control registers, PM timer, a GPE block, the SMI command port (ACPI 6.5 §4.8), and
//! the reset register at CF9h.
//!
//! ```text
//! 600h PM1 status  [ 15 WAK | 10 RTC | 9 sleep button | 8 power button | 5 GBL | 4 BM | 0 TMR ]   write 1 to clear
//! 602h PM1 enable  [ 10 RTC | 9 | 8 | 5 | 0 ]
//! 604h PM1 control [ 13 SLP_EN (reads 0) | 12:10 SLP_TYP | 1 BM_RLD | 0 SCI_EN ]
//! 608h PM timer, 24 bits at 3.579545 MHz; bit 23 changing sets TMR_STS
//! 620h GPE0 status, 624h GPE0 enable, 32 events
//! B2h  SMI command: ACPI_ENABLE and ACPI_DISABLE set and clear SCI_EN; B3h SMI status, a scratch register
//! ```
//!
//! ACPI mode is on from power-on, because nothing else would serve the events: an FADT without an SMI command port is right, and
//! so is one that names B2h. SCI_EN itself is read-only, as §4.8.4.2.1 says of platforms that control it by command.
//!
//! The PM1 and GPE blocks are decoded where the PCI power management function says; the addresses above are those that a BIOS
//! chooses.
//!
//! The SCI is a level: active while SCI_EN is set and an enabled status bit is. S5 is entered with sleep type
//! [`S5_SLEEP_TYPE`], S3 with [`S3_SLEEP_TYPE`]; other types have no meaning here and are ignored. What ends S3 is the power button
//! and, if RTC_EN is set, the RTC's interrupt; the registers are kept over it, with WAK_STS added.

mod device;
mod hotplug;
mod reset;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use visor_device::{Clock, IrqLine, Nanos, TimerDevice, TimerSlot};

use crate::PowerSink;

pub use device::PmBlock;
pub use hotplug::{EjectSink, PCI_PLUG_GPE, PCI_PLUG_PORT, PCI_PLUG_PORTS, PciPlug};
pub use reset::{RESET_PORT, RESET_VALUE, ResetControl};

/// First port of the block of 64 ports ([`PmBlock`]) where a BIOS puts it; register numbers here count from there.
pub const PM_PORT: u16 = 0x600;
/// PM1a event block, 4 bytes.
pub const PM1_EVENT_PORT: u16 = 0x600;
/// PM1a control block, 2 bytes.
pub const PM1_CONTROL_PORT: u16 = 0x604;
/// PM timer block, 4 bytes.
pub const PM_TIMER_PORT: u16 = 0x608;
/// GPE0 block, 8 bytes.
pub const GPE0_PORT: u16 = 0x620;
/// SMI command port.
pub const SMI_COMMAND_PORT: u16 = 0xb2;
/// Written to [`SMI_COMMAND_PORT`] to switch to ACPI mode.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Written to [`SMI_COMMAND_PORT`] to leave ACPI mode.
pub const ACPI_DISABLE: u8 = 0xf0;
/// SLP_TYP that the `\_S3` package must name.
pub const S3_SLEEP_TYPE: u8 = 1;
/// SLP_TYP that the `\_S5` package must name.
pub const S5_SLEEP_TYPE: u8 = 0;

const TIMER_HZ: u64 = 3_579_545;

const PM1_TIMER: u16 = 1;
const PM1_POWER_BUTTON: u16 = 1 << 8;
const PM1_RTC: u16 = 1 << 10;
const PM1_WAKE: u16 = 1 << 15;
const PM1_STATUS_BITS: u16 = 0x8731;
const PM1_ENABLE_BITS: u16 = 0x0721;
const CONTROL_SCI: u16 = 1;
/// BM_RLD and SLP_TYP: what software writes directly.
const CONTROL_BITS: u16 = 0x1c02;

/// The registers of ACPI fixed hardware.
pub struct AcpiPm {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn TimerSlot>,
    sci: IrqLine,
    power: Arc<dyn PowerSink>,
    regs: Regs,
    /// Value of bit 23 and above of the timer when TMR_STS was worked out last.
    timer_half: u64,
}

#[derive(Clone, Debug)]
struct Regs {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u32,
    gpe_enable: u32,
    smi_command: u8,
    smi_status: u8,
}

impl Default for Regs {
    fn default() -> Self {
        Regs { status: 0, enable: 0, control: CONTROL_SCI, gpe_status: 0, gpe_enable: 0, smi_command: 0, smi_status: 0 }
    }
}

impl AcpiPm {
    /// The registers after power-on; `sci` is the level-triggered SCI (IRQ 9), `timer` serves the PM timer's carry.
    pub fn new(clock: Arc<dyn Clock>, timer: Arc<dyn TimerSlot>, sci: IrqLine, power: Arc<dyn PowerSink>) -> Self {
        let mut pm = AcpiPm { clock, timer, sci, power, regs: Regs::default(), timer_half: 0 };
        pm.timer_half = pm.ticks() >> 23;
        pm
    }

    /// Somebody presses the power button. True if an operating system listens: ACPI mode is on and the event enabled.
    pub fn power_button(&mut self) -> bool {
        self.regs.status |= PM1_POWER_BUTTON;
        self.update();
        self.regs.control & CONTROL_SCI != 0 && self.regs.enable & PM1_POWER_BUTTON != 0
    }

    /// The RTC's interrupt line has risen (ACPI 6.5 §4.8.2.2.3).
    pub fn rtc_alarm(&mut self) {
        self.regs.status |= PM1_RTC;
        self.update();
    }

    /// Whether something has come that ends a sleep.
    pub fn wakes(&self) -> bool {
        let r = &self.regs;
        r.status & (r.enable & PM1_RTC | PM1_POWER_BUTTON) != 0
    }

    /// The machine wakes from S3.
    pub fn wake(&mut self) {
        self.regs.status |= PM1_WAKE;
        self.regs.control = CONTROL_SCI;
        self.update();
    }

    /// Raises general-purpose event `n`, 0 to 31; others do not exist.
    pub fn raise_gpe(&mut self, n: u8) {
        self.regs.gpe_status |= 1u32.checked_shl(u32::from(n)).unwrap_or(0);
        self.update();
    }

    fn ticks(&self) -> u64 {
        (u128::from(self.clock.now()) * u128::from(TIMER_HZ) / 1_000_000_000) as u64
    }

    /// TMR_STS: bit 23 of the timer has changed.
    fn sync_timer(&mut self) {
        let half = self.ticks() >> 23;
        if half != self.timer_half {
            self.timer_half = half;
            self.regs.status |= PM1_TIMER;
        }
    }

    fn update(&mut self) {
        self.sync_timer();
        let r = &self.regs;
        let event = r.status & r.enable != 0 || r.gpe_status & r.gpe_enable != 0;
        self.sci.set(r.control & CONTROL_SCI != 0 && event);
        let carry = r.enable & PM1_TIMER != 0 && r.status & PM1_TIMER == 0;
        self.timer.arm(carry.then(|| {
            let at = u128::from((self.timer_half + 1) << 23) * 1_000_000_000;
            u64::try_from(at.div_ceil(u128::from(TIMER_HZ))).unwrap_or(u64::MAX)
        }));
    }
}

impl TimerDevice for AcpiPm {
    fn expired(&mut self, _now: Nanos) {
        self.update();
    }
}
