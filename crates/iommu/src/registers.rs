//! The register page (VT-d §11.4).
//!
//! ```text
//! 00 version    08 capabilities    10 extended capabilities    18 global command   1C global status
//! 20 root table address            28 context command          34 fault status     38 fault event (4 words)
//! 80 queue head   88 queue tail    90 queue address            9C wait status      A0 wait event (4 words)
//! B8 interrupt remapping table address    200 invalidation address   208 IOTLB command   220 fault records
//! ```
//! Registers are reached by aligned accesses of 4 or 8 bytes; an eight-byte access is two of four, the lower half first.

use std::sync::Arc;

use visor_device::{Device, MmioDevice};

use crate::cache::{Contexts, Pages};
use crate::faults::{Event, RECORDS};
use crate::queue::Queue;
use crate::remap::Table;
use crate::unit::{Iommu, lock};

const VERSION: u32 = 0x10;
const INVALIDATE: u64 = 0x200;
const RECORD: u64 = 0x220;
const RECORDS_END: u64 = RECORD + 16 * RECORDS as u64;

/// Largest page-selective invalidation, as a logarithm of pages: 1 GiB.
const MAX_MASK: u64 = 18;
/// 16-bit domain ids, three and four levels, 48 bits of address, zero-length reads, where the fault records are and how many,
/// 2 MiB and 1 GiB pages, page-selective invalidation, draining of writes and reads (VT-d §11.4.2).
const CAPABILITIES: u64 = 6
    | 0b00110 << 8
    | 47 << 16
    | 1 << 22
    | (RECORD / 16) << 24
    | 0b0011 << 34
    | 1 << 39
    | (RECORDS as u64 - 1) << 40
    | MAX_MASK << 48
    | 1 << 54
    | 1 << 55;
/// Coherent walks, queued invalidation, interrupt remapping, extended interrupt mode, pass-through, snoop control, where the
/// IOTLB registers are, mask of interrupt entry invalidations (§11.4.3).
const EXTENDED: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | (INVALIDATE / 16) << 8 | 15 << 20;

const TRANSLATE: u32 = 1 << 31;
const SET_ROOT: u32 = 1 << 30;
const QUEUE: u32 = 1 << 26;
const REMAP: u32 = 1 << 25;
const SET_INTERRUPTS: u32 = 1 << 24;
const COMPATIBLE: u32 = 1 << 23;
/// Status bits that follow the command; the rest are set by one-shot commands.
const TOGGLES: u32 = TRANSLATE | QUEUE | REMAP | COMPATIBLE;

/// Domain, granularity asked and granularity done of the IOTLB command.
const IOTLB_BUSY: u64 = 1 << 63;
const CONTEXT_BUSY: u64 = 1 << 63;

/// The register page of an [`Iommu`].
pub struct Registers {
    pub(crate) unit: Arc<Iommu>,
    status: u32,
    root: u64,
    context_command: u64,
    iotlb_address: u64,
    iotlb_command: u64,
    interrupts: u64,
    pub(crate) queue: Queue,
    /// A wait with interrupt has ended.
    pub(crate) waited: bool,
    pub(crate) wait_event: Event,
}

impl Registers {
    pub(crate) fn new(unit: Arc<Iommu>) -> Self {
        Registers {
            unit,
            status: 0,
            root: 0,
            context_command: 0,
            iotlb_address: 0,
            iotlb_command: 0,
            interrupts: 0,
            queue: Queue::default(),
            waited: false,
            wait_event: Event::default(),
        }
    }

    fn read_word(&self, at: u64) -> u32 {
        let half = |value: u64| (value >> (8 * (at & 4))) as u32;
        match at {
            0x00 => VERSION,
            0x08 | 0x0c => half(CAPABILITIES),
            0x10 | 0x14 => half(EXTENDED),
            0x1c => self.status,
            0x20 | 0x24 => half(self.root),
            0x28 | 0x2c => half(self.context_command),
            0x34 => lock(&self.unit.faults).status(),
            0x38..=0x44 => lock(&self.unit.faults).event.read((at - 0x38) / 4),
            0x80 => self.queue.head(),
            0x88 => self.queue.tail(),
            0x90 | 0x94 => half(self.queue.address()),
            0x9c => u32::from(self.waited),
            0xa0..=0xac => self.wait_event.read((at - 0xa0) / 4),
            0xb8 | 0xbc => half(self.interrupts),
            0x200 | 0x204 => half(self.iotlb_address),
            0x208 | 0x20c => half(self.iotlb_command),
            RECORD..RECORDS_END => lock(&self.unit.faults).read_record((at - RECORD) as usize / 4),
            _ => 0,
        }
    }

    fn write_word(&mut self, at: u64, value: u32) {
        let merge = |register: &mut u64, writable: u64| {
            let shift = 8 * (at & 4);
            let mask = writable & 0xffff_ffff << shift;
            *register = *register & !mask | u64::from(value) << shift & mask;
        };
        match at {
            0x18 => self.command(value),
            0x20 | 0x24 => merge(&mut self.root, !0xfff),
            0x28 | 0x2c => {
                // The granularity done is read-only.
                merge(&mut self.context_command, !(3 << 59));
                self.context_command();
            }
            0x34 => {
                lock(&self.unit.faults).clear(value);
                // The queue goes on where it met an error.
                self.run_queue();
            }
            0x38..=0x44 => lock(&self.unit.faults).write_event((at - 0x38) / 4, value),
            0x88 => {
                self.queue.set_tail(value);
                self.run_queue();
            }
            0x90 | 0x94 => {
                let mut address = self.queue.address();
                merge(&mut address, !0xff8);
                self.queue.set_address(address);
            }
            0x9c if value & 1 != 0 => {
                self.waited = false;
                self.wait_event.withdraw();
            }
            0xa0..=0xac => {
                let sink = self.unit.sink.clone();
                self.wait_event.write((at - 0xa0) / 4, value, sink.as_ref());
            }
            0xb8 | 0xbc => merge(&mut self.interrupts, !0x7f0),
            0x200 | 0x204 => merge(&mut self.iotlb_address, !0xf80),
            0x208 | 0x20c => {
                merge(&mut self.iotlb_command, !(3 << 57));
                self.iotlb_command();
            }
            RECORD..RECORDS_END => lock(&self.unit.faults).write_record((at - RECORD) as usize / 4, value),
            _ => {}
        }
    }

    /// The global command register (§11.4.4).
    fn command(&mut self, value: u32) {
        let was = self.status;
        self.status = was & !TOGGLES | value & TOGGLES | value & (SET_ROOT | SET_INTERRUPTS);
        let (root, interrupts) = (self.root, Table::from_register(self.interrupts));
        self.unit.change(|m| {
            if value & SET_ROOT != 0 {
                m.root = root;
            }
            if value & SET_INTERRUPTS != 0 {
                m.interrupts = interrupts;
            }
            m.translate = value & TRANSLATE != 0;
            m.remap = value & REMAP != 0;
            m.compatible = value & COMPATIBLE != 0;
        });
        if (was ^ self.status) & QUEUE != 0 {
            self.queue.rewind();
        }
        self.run_queue();
    }

    /// Whether the invalidation queue is enabled.
    pub(crate) fn queued(&self) -> bool {
        self.status & QUEUE != 0
    }

    /// The context command register (§11.4.5.1).
    fn context_command(&mut self) {
        let c = self.context_command;
        if c & CONTEXT_BUSY == 0 {
            return;
        }
        let asked = c >> 61 & 3;
        if let Some(which) = contexts(asked, c as u16, (c >> 16) as u16, c >> 32 & 3) {
            self.unit.forget_contexts(which);
        }
        self.context_command = c & !(CONTEXT_BUSY | 3 << 59) | asked << 59;
    }

    /// The IOTLB command and invalidation address registers (§11.4.5.2).
    fn iotlb_command(&mut self) {
        let c = self.iotlb_command;
        if c & IOTLB_BUSY == 0 {
            return;
        }
        let asked = c >> 60 & 3;
        if let Some(which) = pages(asked, (c >> 32) as u16, self.iotlb_address) {
            self.unit.forget_pages(which);
        }
        self.iotlb_command = c & !(IOTLB_BUSY | 3 << 57) | asked << 57;
    }
}

/// The contexts that an invalidation of granularity `asked` names; `None` for a reserved one.
pub(crate) fn contexts(asked: u64, domain: u16, source: u16, function_mask: u64) -> Option<Contexts> {
    let mask = [0, 4, 6, 7][(function_mask & 3) as usize];
    Some(match asked {
        1 => Contexts::All,
        2 => Contexts::Domain(domain),
        3 => Contexts::Device { domain, source, mask },
        _ => return None,
    })
}

/// The pages that an invalidation of granularity `asked` names. `address` has the address mask in its low bits.
pub(crate) fn pages(asked: u64, domain: u16, address: u64) -> Option<Pages> {
    let mask = (address & 0x3f) as u8;
    Some(match asked {
        1 => Pages::All,
        2 => Pages::Domain(domain),
        // A mask that is too wide gets the whole domain.
        3 if u64::from(mask) > MAX_MASK => Pages::Domain(domain),
        3 => Pages::Range { domain, at: address & !0xfff, mask },
        _ => return None,
    })
}

impl Device for Registers {
    fn name(&self) -> &str {
        "iommu"
    }

    fn reset(&mut self) {
        self.unit.reset();
        *self = Registers::new(self.unit.clone());
    }

    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        Some(self)
    }
}

impl MmioDevice for Registers {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (i, word) in data.chunks_exact_mut(4).enumerate() {
            word.copy_from_slice(&self.read_word(offset + 4 * i as u64).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (i, word) in data.chunks_exact(4).enumerate() {
            self.write_word(offset + 4 * i as u64, u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
}
