//! The machine's interrupt inputs: 0 to 15 lead to the 8259 pair and the I/O APIC, 16 to 23 to the I/O APIC alone.
//!
//! The PIT's interrupt 0 arrives at input 2 of the I/O APIC, as the MADT says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_apic::IoApic;
use visor_chipset::{IntrSink, Pic};
use visor_device::{IrqLine, IrqSink};
use visor_engine::Vm;
use visor_iommu::Iommu;

/// Both kinds of interrupt controller.
pub(crate) struct Irqs {
    pub(crate) pic: Arc<Mutex<Pic>>,
    pub(crate) ioapic: Arc<Mutex<IoApic>>,
}

/// Leads the 8259's output to the engine.
struct Lint0(Arc<dyn Vm>);

impl IntrSink for Lint0 {
    fn set_intr(&self, level: bool) {
        self.0.set_intr(level);
    }
}

impl Irqs {
    pub(crate) fn new(vm: &Arc<dyn Vm>, iommu: Option<&Arc<Iommu>>) -> Arc<Self> {
        let ioapic = match iommu {
            Some(iommu) => IoApic::with_remapping(iommu.ioapic()),
            None => IoApic::new(vm.msi()),
        };
        Arc::new(Irqs {
            pic: Arc::new(Mutex::new(Pic::new(Arc::new(Lint0(vm.clone()))))),
            ioapic: Arc::new(Mutex::new(ioapic)),
        })
    }

    /// The line to input `gsi`.
    pub(crate) fn line(self: &Arc<Self>, gsi: u32) -> IrqLine {
        IrqLine::new(self.clone(), gsi)
    }

    pub(crate) fn acknowledge(&self) -> Option<u8> {
        lock(&self.pic).acknowledge()
    }

    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        lock(&self.ioapic).end_of_interrupt(vector);
    }
}

impl IrqSink for Irqs {
    fn set(&self, gsi: u32, level: bool) {
        if gsi < 16 {
            lock(&self.pic).set(gsi, level);
        }
        lock(&self.ioapic).set(if gsi == 0 { 2 } else { gsi }, level);
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
