//! A PCI bus of one segment and one bus: configuration mechanism #1, BARs that move at run time, MSI-X and INTx.
//!
//! [`PciBus`] answers ports CF8h to CFFh, holds the functions, and claims the address range of each enabled BAR on the
//! machine's buses. Functions implement [`PciDevice`] over a [`ConfigSpace`]; they raise interrupts through [`Interrupts`] (or a
//! plain [`Msi`]) and reach guest memory through a [`DmaMemory`].
//! The chipset is of the class of Intel's 440FX with the PIIX4 ("Intel 440FX PCIset" 290549, "82371AB PIIX4" 290562); the
//! rest follows the PCI Local Bus Specification 3.0.
//!
//! **Lock order.** `PciBus` → function → whatever the function holds → [`Interrupts`] → [`IntxRouter`] → interrupt controller.
//! The lists of ranges inside `visor_device::Bus` are leaves: they are never held during a call. A BAR that moves is therefore
//! re-registered from within the vCPU's configuration access. A function must never reach for its `PciBus`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod assign;
mod bar;
mod bus;
mod chipset;
mod config;
mod dma;
pub mod edu;
mod host_bridge;
mod interrupts;
mod intx;
mod msi;
mod msix;
mod ports;
mod rom;
#[cfg(test)]
mod tests;

pub use bar::{BarKind, BarRange};
pub use bus::{Apertures, PciBus};
pub use chipset::ChipsetSink;
pub use config::{CONFIG_SIZE, Capability, Command, ConfigSpace, Identity};
pub use dma::{DmaDirection, DmaMemory, DmaRemapper, DmaTarget, SourceId};
pub use host_bridge::ShadowArea;
pub use interrupts::Interrupts;
pub use intx::{IntxLine, IntxPin, IntxRoute, IntxRouter};
pub use msi::Msi;
pub use msix::{MsixLayout, NO_VECTOR};
pub use rom::rom_for;

/// Where a function sits on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Function 0 of `device`.
    pub const fn device(device: u8) -> Self {
        PciAddress { device, function: 0 }
    }
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "00:{:02x}.{}", self.device, self.function)
    }
}

/// One PCI function.
pub trait PciDevice: Send {
    /// A short stable name, for traces and messages.
    fn name(&self) -> &str;

    /// Its configuration space.
    fn config(&self) -> &ConfigSpace;

    /// Its configuration space.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// A configuration read of 1, 2 or 4 bytes that stays within an aligned double word.
    fn config_read(&mut self, offset: u8, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// A configuration write, as [`PciDevice::config_read`].
    fn config_write(&mut self, offset: u8, data: &[u8]) {
        self.config_mut().write(offset, data);
        self.follow_config();
    }

    /// Brings what hangs on the configuration space in line with it: called after each write to it, and after its reset.
    fn follow_config(&mut self) {}

    /// A load of 1, 2, 4 or 8 bytes from BAR `bar`; `offset` + length never exceeds its size. `data` comes as all ones.
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        let _ = (bar, offset, data);
    }

    /// A store to BAR `bar`, as [`PciDevice::bar_read`].
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]) {
        let _ = (bar, offset, data);
    }

    /// BAR `bar` is now decoded at `at`, or nowhere. Called with the function locked.
    fn bar_moved(&mut self, bar: u8, at: Option<u64>) {
        let _ = (bar, at);
    }

    /// Back to the state after power-on, configuration space included.
    fn reset(&mut self) {
        self.config_mut().reset();
        self.follow_config();
    }
}

/// Why a bus or a function could not be put together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    /// The address is taken or out of range.
    #[error("PCI address {0} is taken or does not exist")]
    Address(PciAddress),
    /// All 32 device numbers are taken.
    #[error("no free PCI device number")]
    Full,
    /// A BAR has a bad size or index.
    #[error("BAR {index} of {size:#x} bytes is not possible")]
    Bar {
        /// Its index.
        index: u8,
        /// Its size in bytes.
        size: u64,
    },
    /// A file that was to be an expansion ROM is none.
    #[error("{0} bytes that are no PCI expansion ROM")]
    Rom(usize),
    /// The capability list is full.
    #[error("no room for a PCI capability of {0} bytes")]
    Capability(usize),
    /// An aperture of the host bridge is too small for the BARs.
    #[error("no room for BAR {index} of {size:#x} bytes of PCI function {at}")]
    Aperture {
        /// The function.
        at: PciAddress,
        /// The BAR.
        index: u8,
        /// Its size in bytes.
        size: u64,
    },
}
