//! Booting through firmware: which firmware, where it lies, what it is told, and what it says.
//!
//! - `rom`: the image at the top of 4 GiB, and RAM over its lower copy as the host bridge says;
//! - `vars`: the file behind the flash of UEFI's variables;
//! - `tell`: what fw_cfg tells;
//! - `log`: what firmware writes to its debug port; `console`: what UEFI says on the serial line.

mod console;
mod log;
mod rom;
mod tell;
mod vars;

use std::path::PathBuf;

use crate::spec::FileSource;

pub(crate) use console::Overheard;
pub use log::FirmwareLog;
pub(crate) use log::LogPort;
pub(crate) use rom::{Image, Shadow, ShadowWrites, extra};
pub(crate) use tell::{Bootable, ordered, tell, tell_kernel};
pub(crate) use vars::VarsFile;

/// Firmware to boot through.
#[derive(Clone, Debug)]
pub struct FirmwareSpec {
    /// Its kind.
    pub kind: FirmwareKind,
    /// The image that ends at 4 GiB: a multiple of 4 KiB, from 64 KiB to 16 MiB.
    pub code: FileSource,
    /// The flash of variables below it (UEFI).
    pub vars: Option<VarsSpec>,
    /// Kinds of devices to boot from, the first choice first; the rest are not tried. Empty: all, in the firmware's order.
    pub boot_order: Vec<BootClass>,
    /// Show the boot menu.
    pub boot_menu: bool,
    /// Let a BIOS speak on the serial port, for machines without a screen.
    pub serial_console: bool,
}

/// Kinds of firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirmwareKind {
    /// A PC's BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

impl FirmwareKind {
    /// Where it puts the ports of power management: constants of SeaBIOS and OVMF.
    pub(crate) fn pm_base(self) -> u16 {
        match self {
            FirmwareKind::Bios => 0x600,
            FirmwareKind::Uefi => 0xb000,
        }
    }
}

/// The flash that keeps UEFI's variables.
#[derive(Clone, Debug)]
pub struct VarsSpec {
    /// What it holds at first.
    pub template: FileSource,
    /// The file that keeps it, made from the template if it is missing. `None`: forgotten with the machine.
    pub file: Option<PathBuf>,
}

/// Kinds of devices that a machine can boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootClass {
    /// CD-ROM drives.
    Cd,
    /// Disks.
    Disk,
    /// Network cards.
    Net,
}

impl std::fmt::Display for BootClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BootClass::Cd => "cd",
            BootClass::Disk => "disk",
            BootClass::Net => "net",
        })
    }
}
