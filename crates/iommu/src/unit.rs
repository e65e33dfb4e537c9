//! The remapping unit as its requesters see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use visor_engine::{GuestMemory, MsiSink};
use visor_pci::{DmaDirection, DmaMemory, DmaRemapper, DmaTarget, SourceId};

use crate::cache::{Cache, Contexts, Pages};
use crate::faults::Faults;
use crate::registers::Registers;
use crate::remap::{Entry, Request, Table};
use crate::tables::{Blocked, Context, Space};
use crate::walk;

/// A remapping unit, which all functions of the machine share.
pub struct Iommu {
    pub(crate) ram: Arc<GuestMemory>,
    pub(crate) sink: Arc<dyn MsiSink>,
    in_flight: RwLock<()>,
    pub(crate) mode: RwLock<Mode>,
    cache: Mutex<Cache>,
    pub(crate) faults: Mutex<Faults>,
}

/// What software has enabled, and where its tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mode {
    /// DMA is translated.
    pub(crate) translate: bool,
    /// The root table.
    pub(crate) root: u64,
    /// Interrupts are remapped.
    pub(crate) remap: bool,
    /// Interrupts in compatibility format pass.
    pub(crate) compatible: bool,
    /// The interrupt remapping table.
    pub(crate) interrupts: Table,
}

/// Sends a requester's interrupts through the unit.
struct Remapped {
    unit: Arc<Iommu>,
    /// `None`: the I/O APIC.
    source: Option<SourceId>,
}

/// The source id of the I/O APIC, for ACPI and for the records of its faults: bus F0h, device 31, function 0.
pub const IOAPIC_SOURCE: SourceId = SourceId(0xf0f8);

impl Iommu {
    /// A unit in its state after reset, for tables in `ram`. What it lets through goes to `sink`.
    pub fn new(ram: Arc<GuestMemory>, sink: Arc<dyn MsiSink>) -> Arc<Self> {
        Arc::new(Iommu {
            ram,
            in_flight: RwLock::default(),
            mode: RwLock::default(),
            cache: Mutex::default(),
            faults: Mutex::new(Faults::new(sink.clone())),
            sink,
        })
    }

    /// The register page, to be put at [`crate::IOMMU_BASE`]. There is one.
    pub fn registers(self: &Arc<Self>) -> Registers {
        Registers::new(self.clone())
    }

    /// Guest memory as the function `source` reaches it.
    pub fn memory(self: &Arc<Self>, source: SourceId) -> DmaMemory {
        DmaMemory::remapped(self.ram.clone(), self.clone(), source)
    }

    /// Where the function `source` sends its message-signalled interrupts.
    pub fn msi(self: &Arc<Self>, source: SourceId) -> Arc<dyn MsiSink> {
        Arc::new(Remapped { unit: self.clone(), source: Some(source) })
    }

    /// Where the I/O APIC sends its interrupts. Its requests are not compared with the source id of table entries: only CPUs
    /// program an I/O APIC, and small kernels name the device behind the pin there.
    pub fn ioapic(self: &Arc<Self>) -> Arc<dyn MsiSink> {
        Arc::new(Remapped { unit: self.clone(), source: None })
    }

    pub(crate) fn mode(&self) -> Mode {
        *self.mode.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is enabled; when it returns, no request uses the old state.
    pub(crate) fn change(&self, f: impl FnOnce(&mut Mode)) {
        f(&mut self.mode.write().unwrap_or_else(PoisonError::into_inner));
        self.drain();
    }

    pub(crate) fn forget_pages(&self, which: Pages) {
        lock(&self.cache).forget_pages(which);
        self.drain();
    }

    pub(crate) fn forget_contexts(&self, which: Contexts) {
        lock(&self.cache).forget_contexts(which);
        self.drain();
    }

    /// Waits until the requests that are under way have ended.
    pub(crate) fn drain(&self) {
        drop(self.in_flight.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn reset(&self) {
        self.change(|m| *m = Mode::default());
        self.forget_contexts(Contexts::All);
        self.forget_pages(Pages::All);
        lock(&self.faults).reset();
    }

    /// The function's context, from the cache or the tables. The error comes with whether it may be recorded.
    fn context(&self, cache: &mut Cache, root: u64, source: SourceId) -> Result<Context, (Blocked, bool)> {
        if let Some(context) = cache.context(source) {
            return Ok(context);
        }
        let context = walk::context(&self.ram, root, source)?;
        cache.keep_context(source, context);
        Ok(context)
    }

    fn resolve(
        &self,
        mode: &Mode,
        source: SourceId,
        at: u64,
        direction: DmaDirection,
    ) -> Result<DmaTarget, (Blocked, bool)> {
        let mut cache = lock(&self.cache);
        let context = self.context(&mut cache, mode.root, source)?;
        if context.space == Space::PassThrough {
            return Ok(DmaTarget { at, len: u64::MAX });
        }
        let kept = cache.page(context.domain, at).filter(|p| p.check(direction).is_ok());
        let page = match kept {
            Some(page) => page,
            None => {
                let page = walk::page(&self.ram, context.space, at, direction).map_err(|e| (e, context.quiet))?;
                cache.keep_page(context.domain, at, page);
                page
            }
        };
        let offset = at & ((1 << page.shift) - 1);
        Ok(DmaTarget { at: page.at | offset, len: (1 << page.shift) - offset })
    }

    /// The message that an interrupt request becomes, if any.
    fn remap(&self, source: Option<SourceId>, address: u64, data: u32) -> Option<(u64, u32)> {
        let mode = self.mode();
        if !mode.remap {
            return Some((address, data));
        }
        let report = |index: u32, why: Blocked| {
            lock(&self.faults).interrupt(source.unwrap_or(IOAPIC_SOURCE), index, why);
            None
        };
        let index = match Request::parse(address as u32, data) {
            Ok(Request::Remappable(index)) => index,
            // §5.1.4: blocked where destinations are wide, and unless software lets them pass.
            Ok(Request::Compatible) if mode.compatible && !mode.interrupts.extended => return Some((address, data)),
            Ok(Request::Compatible) => return report(0, Blocked::InterruptCompatibility),
            Err((why, index)) => return report(index, why),
        };
        if index >= mode.interrupts.len {
            return report(index, Blocked::InterruptIndex);
        }
        let Some(entry) = walk::pair(&self.ram, mode.interrupts.at + 16 * u64::from(index)) else {
            return report(index, Blocked::InterruptTableAccess);
        };
        let entry = Entry(entry);
        match entry.message(source, mode.interrupts.extended) {
            Ok(message) => Some(message),
            Err(_) if entry.quiet() => None,
            Err(why) => report(index, why),
        }
    }

    #[cfg(test)]
    pub(crate) fn cached(&self) -> (usize, usize) {
        lock(&self.cache).sizes()
    }
}

impl DmaRemapper for Iommu {
    fn translate(&self, source: SourceId, at: u64, direction: DmaDirection) -> Option<DmaTarget> {
        let mode = self.mode();
        if !mode.translate {
            return Some(DmaTarget { at, len: u64::MAX });
        }
        // §3.14: the range of interrupt requests is not translated, and there is no RAM.
        if at >> 20 == 0xfee {
            return None;
        }
        match self.resolve(&mode, source, at, direction) {
            Ok(target) => Some(target),
            Err((why, quiet)) => {
                if !quiet {
                    lock(&self.faults).dma(source, at, direction, why);
                }
                None
            }
        }
    }

    fn in_flight(&self) -> &RwLock<()> {
        &self.in_flight
    }
}

impl MsiSink for Remapped {
    fn send(&self, address: u64, data: u32) {
        if address >> 20 != 0xfee {
            return;
        }
        let in_flight = self.unit.in_flight.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, data)) = self.unit.remap(self.source, address, data) {
            self.unit.sink.send(address, data);
        }
        drop(in_flight);
    }
}

pub(crate) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
