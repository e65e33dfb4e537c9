//! Fault recording (VT-d §7.2) and the interrupts that the unit sends itself: fault events and the end of a wait (§7.3, §6.5.2.8).

use std::sync::Arc;

use visor_engine::MsiSink;
use visor_pci::{DmaDirection, SourceId};

use crate::tables::Blocked;

/// Fault recording registers.
pub(crate) const RECORDS: usize = 8;

const OVERFLOW: u32 = 1;
const PENDING: u32 = 1 << 1;
/// The invalidation queue has met something it does not know.
pub(crate) const QUEUE_ERROR: u32 = 1 << 4;
/// Bits of the status register that software clears by writing ones.
const CLEARABLE: u32 = OVERFLOW | QUEUE_ERROR | 1 << 5 | 1 << 6;

const RECORD_FAULT: u64 = 1 << 63;
const RECORD_READ: u64 = 1 << 62;

/// One of the unit's own interrupts: control, data, address and upper address registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    masked: bool,
    pending: bool,
    data: u32,
    address: u32,
    upper: u32,
}

impl Default for Event {
    fn default() -> Self {
        Event { masked: true, pending: false, data: 0, address: 0, upper: 0 }
    }
}

impl Event {
    /// The register at `index` (0 control, 1 data, 2 address, 3 upper address).
    pub(crate) fn read(&self, index: u64) -> u32 {
        match index {
            0 => u32::from(self.masked) << 31 | u32::from(self.pending) << 30,
            1 => self.data,
            2 => self.address,
            _ => self.upper,
        }
    }

    pub(crate) fn write(&mut self, index: u64, value: u32, sink: &dyn MsiSink) {
        match index {
            0 => {
                self.masked = value >> 31 != 0;
                if !self.masked && std::mem::take(&mut self.pending) {
                    self.send(sink);
                }
            }
            1 => self.data = value & 0xffff,
            2 => self.address = value & !3,
            _ => self.upper = value,
        }
    }

    /// Interrupts, now or when software lets it.
    pub(crate) fn raise(&mut self, sink: &dyn MsiSink) {
        if self.masked {
            self.pending = true;
        } else {
            self.send(sink);
        }
    }

    pub(crate) fn withdraw(&mut self) {
        self.pending = false;
    }

    /// The unit's own messages are not remapped (§5.1); bits 31:8 of a wide APIC id are in the upper address register.
    fn send(&self, sink: &dyn MsiSink) {
        sink.send(u64::from(self.upper & !0xff) << 32 | u64::from(self.address), self.data);
    }
}

/// The fault status register, the records, and the fault event.
pub(crate) struct Faults {
    sink: Arc<dyn MsiSink>,
    status: u32,
    records: [[u64; 2]; RECORDS],
    /// Where the next fault goes.
    next: usize,
    pub(crate) event: Event,
}

impl Faults {
    pub(crate) fn new(sink: Arc<dyn MsiSink>) -> Self {
        Faults { sink, status: 0, records: [[0; 2]; RECORDS], next: 0, event: Event::default() }
    }

    pub(crate) fn reset(&mut self) {
        *self = Faults::new(self.sink.clone());
    }

    /// Records a DMA request that was blocked.
    pub(crate) fn dma(&mut self, source: SourceId, at: u64, direction: DmaDirection, why: Blocked) {
        let read = if direction == DmaDirection::Read { RECORD_READ } else { 0 };
        self.record([at & !0xfff, read | (why as u64) << 32 | u64::from(source.0)]);
    }

    /// Records an interrupt request that was blocked; `index` is its entry in the remapping table.
    pub(crate) fn interrupt(&mut self, source: SourceId, index: u32, why: Blocked) {
        self.record([u64::from(index & 0xffff) << 48, (why as u64) << 32 | u64::from(source.0)]);
    }

    fn record(&mut self, [low, high]: [u64; 2]) {
        tracing::debug!(low, high, "IOMMU fault");
        // After an overflow nothing is recorded until software has seen it.
        if self.status & OVERFLOW != 0 {
            return;
        }
        let slot = &mut self.records[self.next];
        if slot[1] & RECORD_FAULT != 0 {
            self.raise(OVERFLOW);
            return;
        }
        *slot = [low, high | RECORD_FAULT];
        let index = self.next;
        self.next = (self.next + 1) % RECORDS;
        if self.status & PENDING == 0 {
            // The index of the first record that is new.
            self.status = self.status & !0xff00 | (index as u32) << 8;
        }
        self.raise(PENDING);
    }

    /// Sets a bit of the status register, with an interrupt unless one was due before (§7.3).
    pub(crate) fn raise(&mut self, bit: u32) {
        let was = self.status & (CLEARABLE | PENDING);
        self.status |= bit;
        if was == 0 {
            self.event.raise(self.sink.as_ref());
        }
    }

    pub(crate) fn write_event(&mut self, index: u64, value: u32) {
        let sink = self.sink.clone();
        self.event.write(index, value, sink.as_ref());
    }

    pub(crate) fn status(&self) -> u32 {
        self.status
    }

    /// The invalidation queue stands still.
    pub(crate) fn queue_stopped(&self) -> bool {
        self.status & QUEUE_ERROR != 0
    }

    pub(crate) fn clear(&mut self, bits: u32) {
        self.status &= !(bits & CLEARABLE);
        self.settle();
    }

    /// A double word of the records.
    pub(crate) fn read_record(&self, word: usize) -> u32 {
        let half = self.records.get(word / 4).map_or(0, |r| r[word / 2 % 2]);
        (half >> (32 * (word % 2))) as u32
    }

    /// Writing one to its top bit clears a record.
    pub(crate) fn write_record(&mut self, word: usize, value: u32) {
        if word % 4 == 3
            && value >> 31 != 0
            && let Some(r) = self.records.get_mut(word / 4)
        {
            r[1] &= !RECORD_FAULT;
            self.settle();
        }
    }

    /// Recomputes what follows from records and status.
    fn settle(&mut self) {
        if self.records.iter().all(|r| r[1] & RECORD_FAULT == 0) {
            self.status &= !PENDING;
        }
        if self.status & (CLEARABLE | PENDING) == 0 {
            self.event.withdraw();
        }
    }
}
