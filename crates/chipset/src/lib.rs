//! The PC's fixed devices: interrupt controller, timers, clock, serial port, power management, reset and debug ports.
//!
//! Every device is a state machine over the contracts of `visor-device`; what it needs from its surroundings comes in through
//! its constructor. Devices whose ports are not one range implement [`Ports`] and are put on the bus with [`claim_ports`].
//!
//! | device | where | interrupt |
//! |---|---|---|
//! | [`Pic`] | 20h, A0h, 4D0h | INTR through [`IntrSink`] |
//! | [`Pit`] | 40h–43h, 61h | IRQ 0 |
//! | [`Rtc`] | 70h, 71h | IRQ 8 |
//! | [`I8042`] | 60h, 64h, 92h | IRQ 1, IRQ 12 |
//! | [`Uart`] | 3F8h and others | IRQ 4 and others |
//! | [`AcpiPm`] | 600h–63Fh, B2h | SCI (IRQ 9) |
//! | [`PciPlug`] | AE00h | SCI, through [`AcpiPm`] |
//! | [`ResetControl`] | CF9h | |
//! | [`Hpet`] | FED00000h | its routes, or IRQ 0 and 8 |
//! | [`DebugExit`], [`DebugConsole`] | F4h; E9h, 402h | |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod acpi;
mod debug;
mod hpet;
mod i8042;
mod pic;
mod pit;
mod ports;
mod rtc;
mod sinks;
#[cfg(test)]
mod testing;
mod uart;

pub use acpi::{
    ACPI_DISABLE, ACPI_ENABLE, AcpiPm, EjectSink, GPE0_PORT, PCI_PLUG_GPE, PCI_PLUG_PORT, PCI_PLUG_PORTS, PM_PORT,
    PM_TIMER_PORT, PM1_CONTROL_PORT, PM1_EVENT_PORT, PciPlug, PmBlock, RESET_PORT, RESET_VALUE, ResetControl,
    S3_SLEEP_TYPE, S5_SLEEP_TYPE, SMI_COMMAND_PORT,
};
pub use debug::{
    DEBUG_CONSOLE_PORTS, DEBUG_EXIT_PORT, DebugConsole, DebugExit, TEST_IRQ_PORT, TEST_MEMORY, TEST_MEMORY_LEN,
    TEST_PORT, TEST_PORTS, TestIrqs, TestMemory, TestPorts,
};
pub use hpet::{HPET_BASE, HPET_LEN, Hpet, HpetWires};
pub use i8042::{I8042, I8042Wires};
pub use pic::Pic;
pub use pit::{PIT_HZ, Pit, PitWires};
pub use ports::{Ports, claim_ports};
pub use rtc::{Rtc, RtcConfig, RtcWires};
pub use sinks::{CharSink, IntrSink, LegacyReplacement, PowerEvent, PowerSink};
pub use uart::{UART_LEN, Uart, UartWires};
