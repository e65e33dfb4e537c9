//! The IDE function of Intel's PIIX3: two channels of two drives, at the addresses that PCs have had since 1984 ("82371FB/82371SB PIIX/PIIX3",
//! 290550, §2.3 and §3.5; registers of the drives: ATA/ATAPI-5 §7; bus master: "Programming Interface for Bus Master IDE Controller").
//!
//! ```text
//! 1F0 170  data                    8 or 16 or 32 bits       BAR4 +0 +8  bus master command: bit 0 start, bit 3 to memory
//! 1F1 171  error / features                                      +2 +A  status: 0 active, 1 error, 2 interrupt, 5 6 drives can DMA
//! 1F2 172  sector count                                          +4 +C  address of the table of memory regions (PRD)
//! 1F3-1F5  LBA low, mid, high
//! 1F6 176  device                  4 drive, 6 LBA           PCI 40 42   timing; bit 15: the channel is decoded
//! 1F7 177  status / command        status: 7 BSY 6 DRDY 3 DRQ 0 ERR
//! 3F6 376  alternate status / control: bit 1 no interrupts, bit 2 reset, bit 7 read high bytes
//! ```
//! Interrupts are 14 and 15, as ever. A command that needs its medium leaves the drive busy; the back end's completion, on a thread of
//! its own, ends it or readies the next block. A command that is aborted (reset, bus master stopped) never touches guest memory
//! afterwards, and the drive's next command reaches the medium only when the aborted one has left it.

mod channel;
mod device;
mod dma;
mod pio;
mod ports;
#[cfg(test)]
mod tests;
mod transfer;

use std::sync::{Arc, Mutex};

use visor_device::{Bus, BusError, IrqLine, Pio};
use visor_pci::DmaMemory;

use crate::Unit;
use channel::Shared;
pub use device::IdeFunction;
use ports::{CommandBlock, ControlBlock};

/// The interrupts of the two channels.
pub const IRQS: [u32; 2] = [14, 15];

/// First port of command and control block of each channel.
const PORTS: [(u16, u16); 2] = [(0x1f0, 0x3f6), (0x170, 0x376)];
const COMMAND_PORTS: u64 = 8;

/// What the controller is wired to.
pub struct IdeWires {
    /// For DMA.
    pub memory: DmaMemory,
    /// Inputs [`IRQS`].
    pub irqs: [IrqLine; 2],
}

/// The drives: two channels with a master and a slave each.
pub type IdeDrives = [[Option<Unit>; 2]; 2];

/// The controller: claims its fixed ports on `pio` and gives the function for the PCI bus, at 00:01.1.
///
/// # Errors
/// [`BusError`] where another device has the ports.
pub fn build(wires: IdeWires, drives: IdeDrives, pio: &Bus<Pio>) -> Result<IdeFunction, BusError> {
    let [irq0, irq1] = wires.irqs;
    let [drives0, drives1] = drives;
    let channels = [
        Shared::new(irq0, wires.memory.clone(), drives0), //
        Shared::new(irq1, wires.memory, drives1),
    ];
    for (channel, (command, control)) in channels.iter().zip(PORTS) {
        pio.claim(command.into(), COMMAND_PORTS, Arc::new(Mutex::new(CommandBlock(channel.clone()))))?;
        pio.claim(control.into(), 1, Arc::new(Mutex::new(ControlBlock(channel.clone()))))?;
    }
    Ok(IdeFunction::new(channels))
}
