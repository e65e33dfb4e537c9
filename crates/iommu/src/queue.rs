//! The invalidation queue (VT-d §6.5.2): a ring of 16-byte descriptors in memory that software fills and the unit empties.
//!
//! ```text
//! type   1 context cache   2 IOTLB   4 interrupt entry cache   5 wait
//! ```
//! The ring is emptied within the write of the tail register, at most once around for each write.

use vm_memory::{Bytes, GuestAddress};

use crate::faults::QUEUE_ERROR;
use crate::registers::{Registers, contexts, pages};
use crate::unit::lock;
use crate::walk::pair;

const CONTEXT_CACHE: u64 = 1;
const IOTLB: u64 = 2;
const INTERRUPT_ENTRY: u64 = 4;
const WAIT: u64 = 5;

/// The ring's registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Queue address register: bits 63:12 the address, 2:0 the size.
    address: u64,
    /// Byte offsets in the ring.
    head: u32,
    tail: u32,
}

impl Queue {
    pub(crate) fn head(&self) -> u32 {
        self.head
    }

    pub(crate) fn tail(&self) -> u32 {
        self.tail
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn set_address(&mut self, address: u64) {
        self.address = address;
    }

    pub(crate) fn set_tail(&mut self, tail: u32) {
        self.tail = tail & 0x7_fff0;
    }

    /// Back to the first descriptor, as enabling and disabling does.
    pub(crate) fn rewind(&mut self) {
        self.head = 0;
    }

    /// Bytes of the ring.
    fn len(&self) -> u32 {
        0x1000 << (self.address & 7)
    }
}

impl Registers {
    /// Executes what is in the ring.
    pub(crate) fn run_queue(&mut self) {
        if !self.queued() || lock(&self.unit.faults).queue_stopped() {
            return;
        }
        if self.queue.tail >= self.queue.len() {
            return self.queue_error();
        }
        // One turn of the ring is all there can be.
        for _ in 0..self.queue.len() / 16 {
            if self.queue.head == self.queue.tail {
                return;
            }
            if self.queue.head >= self.queue.len() {
                return self.queue_error();
            }
            let at = (self.queue.address & !0xfff).wrapping_add(u64::from(self.queue.head));
            if pair(&self.unit.ram, at).and_then(|d| self.execute(d)).is_none() {
                return self.queue_error();
            }
            self.queue.head = (self.queue.head + 16) % self.queue.len();
        }
    }

    /// Stops at the current descriptor until software has cleared the error (§6.5.2.10).
    fn queue_error(&self) {
        lock(&self.unit.faults).raise(QUEUE_ERROR);
    }

    /// One descriptor; `None` if it makes no sense.
    fn execute(&mut self, [low, high]: [u64; 2]) -> Option<()> {
        let granularity = low >> 4 & 3;
        match low & 0xf {
            CONTEXT_CACHE => {
                let which = contexts(granularity, (low >> 16) as u16, (low >> 32) as u16, low >> 48 & 3)?;
                self.unit.forget_contexts(which);
            }
            IOTLB => self.unit.forget_pages(pages(granularity, (low >> 16) as u16, high)?),
            // Table entries are read for each interrupt, so that there is nothing to forget but what is under way.
            INTERRUPT_ENTRY => self.unit.drain(),
            WAIT => return self.wait(low, high),
            _ => return None,
        }
        Some(())
    }

    /// Invalidation wait (§6.5.2.8): what came before has ended when this is executed.
    fn wait(&mut self, low: u64, high: u64) -> Option<()> {
        if low & 1 << 5 != 0 {
            let status = ((low >> 32) as u32).to_le_bytes();
            self.unit.ram.view().write_slice(&status, GuestAddress(high & !3)).ok()?;
        }
        if low & 1 << 4 != 0 && !std::mem::replace(&mut self.waited, true) {
            let sink = self.unit.sink.clone();
            self.wait_event.raise(sink.as_ref());
        }
        Some(())
    }
}
