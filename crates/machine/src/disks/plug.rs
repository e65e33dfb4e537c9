//! Slots of the PCI bus in which disks come and go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use visor_chipset::{EjectSink, PCI_PLUG_PORT, PCI_PLUG_PORTS, PciPlug};
use visor_engine::{GuestMemory, Vm};
use visor_iommu::Iommu;
use visor_pci::{IntxPin, PciAddress, PciBus, PciDevice, PciError};
use visor_virtio::{VirtioDevice, VirtioPci};

use super::{DiskError, Disks};
use crate::board::{Board, PciWires};
use crate::error::MachineError;

/// What it takes to put a device into a running machine, and to take it out.
pub(crate) struct Plug {
    memory: Arc<GuestMemory>,
    vm: Arc<dyn Vm>,
    iommu: Option<Arc<Iommu>>,
    pci: Arc<Mutex<PciBus>>,
    registers: Arc<Mutex<PciPlug>>,
}

/// A function of the bus.
pub(super) type Function = Arc<Mutex<dyn PciDevice>>;

/// Leads the guest's ejects to the disks.
struct Sink(Weak<Disks>);

impl EjectSink for Sink {
    fn eject(&self, slot: u8) {
        if let Some(disks) = self.0.upgrade() {
            disks.remove(slot);
        }
    }
}

/// The last part of the table: every slot that is free by then, or has a disk, can be plugged.
pub(crate) fn build(b: &mut Board<'_>) -> Result<(), MachineError> {
    let (Some(pci), Some(pm)) = (b.built.pci.clone(), b.built.pm.clone()) else { return Ok(()) };
    let slots = {
        let pci = pci.lock().unwrap_or_else(PoisonError::into_inner);
        let disks = b.built.disks.slots();
        (0..32u8).filter(|s| disks & 1 << s != 0 || !pci.is_taken(*s)).fold(0, |map, s| map | 1u32 << s)
    };
    let sink = Arc::new(Sink(Arc::downgrade(&b.built.disks)));
    let registers = b.plain(PciPlug::new(pm, sink, slots));
    b.pio.claim(PCI_PLUG_PORT.into(), PCI_PLUG_PORTS.into(), registers.clone())?;
    b.built.plug_slots = slots;
    b.built.disks.set_plug(Plug { memory: b.memory.clone(), vm: b.vm.clone(), iommu: b.iommu.clone(), pci, registers });
    Ok(())
}

impl Plug {
    /// Puts `device` into a free slot. The guest is told by [`Plug::announce`].
    pub(super) fn insert(&self, device: Box<dyn VirtioDevice>) -> Result<PciAddress, DiskError> {
        let slots = self.registers().slots();
        let mut pci = self.pci();
        let slot = (0..32u8).find(|s| slots & 1 << s != 0 && !pci.is_taken(*s));
        let at = PciAddress::device(slot.ok_or(DiskError::Full(slots.count_ones() as usize))?);
        let wires = PciWires::new(&self.memory, &self.vm, self.iommu.as_ref(), at, pci.intx(at, IntxPin::A));
        let function = VirtioPci::new(device, wires.memory, wires.msi, wires.intx).map_err(impossible)?;
        pci.add(at, Arc::new(Mutex::new(function))).map_err(impossible)?;
        Ok(at)
    }

    /// Tells the guest that `slot` has a device.
    pub(super) fn announce(&self, slot: u8) {
        self.registers().added(slot);
    }

    /// Asks the guest to let go of `slot`.
    pub(super) fn ask(&self, slot: u8) {
        self.registers().ask(slot);
    }

    /// No longer asks.
    pub(super) fn forget(&self, slot: u8) {
        self.registers().forget(slot);
    }

    /// Takes the functions of `slot` off the bus.
    pub(super) fn remove(&self, slot: u8) -> Vec<Function> {
        self.pci().remove(slot)
    }

    fn pci(&self) -> MutexGuard<'_, PciBus> {
        self.pci.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registers(&self) -> MutexGuard<'_, PciPlug> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn impossible(e: PciError) -> DiskError {
    DiskError::Unsupported(format!("the PCI bus does not take it: {e}"))
}
