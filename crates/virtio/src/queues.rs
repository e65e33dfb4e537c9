//! The virtqueues of a device and its interrupts, shared between the transport, the device and whoever completes its work.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use visor_pci::{DmaMemory, Interrupts, NO_VECTOR};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, Permissions};

use crate::buffer::{Buffer, Epoch, Segment};

/// Interrupt status: a queue has used buffers (virtio 1.2 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration has changed.
const ISR_CONFIG: u8 = 2;
/// Flag in the available ring: the driver wants no interrupts (§2.7.7).
const AVAIL_NO_INTERRUPT: u16 = 1;

/// A device's virtqueues.
pub struct Queues {
    mem: DmaMemory,
    interrupts: Arc<Interrupts>,
    slots: Vec<Slot>,
    isr: Mutex<u8>,
    config_vector: AtomicU16,
    config_generation: AtomicU8,
    /// The driver is ready, bus mastering is on, and nothing has failed.
    running: AtomicBool,
    /// The driver has broken the rules: DEVICE_NEEDS_RESET.
    broken: AtomicBool,
}

struct Slot {
    queue: Mutex<Queue>,
    vector: AtomicU16,
    epoch: Epoch,
}

/// What the driver has set up for a queue before enabling it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueSetup {
    pub(crate) size: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) event_idx: bool,
}

/// A chain of buffers taken from a queue. It goes back to the driver exactly once: by [`Chain::complete`], or as empty when it
/// is dropped. After a reset of queue or device it is void and goes nowhere.
pub struct Chain {
    queues: Arc<Queues>,
    queue: u16,
    head: u16,
    born: u64,
    written: u32,
    /// Has been returned with others.
    returned: bool,
    /// What the driver wants the device to read.
    pub readable: Buffer,
    /// Where the driver wants the device to write; follows the readable part.
    pub writable: Buffer,
}

impl Chain {
    /// Returns the chain to the driver, with `written` bytes written from the start of the writable part.
    pub fn complete(mut self, written: u32) {
        self.written = written;
    }

    /// The queue it comes from.
    pub fn queue(&self) -> u16 {
        self.queue
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        if !self.returned {
            self.queues.push(self.queue, self.born, &[(self.head, self.written)]);
        }
    }
}

impl Queues {
    pub(crate) fn new(mem: DmaMemory, interrupts: Arc<Interrupts>, sizes: &[u16]) -> Arc<Self> {
        let slot = |size: &u16| Slot {
            // A size that is not a power of two is a mistake in the device; it gets the smallest queue.
            queue: Mutex::new(Queue::new(*size).unwrap_or_default()),
            vector: AtomicU16::new(NO_VECTOR),
            epoch: Arc::new(RwLock::new(0)),
        };
        Arc::new(Queues {
            mem,
            interrupts,
            slots: sizes.iter().map(slot).collect(),
            isr: Mutex::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            config_generation: AtomicU8::new(0),
            running: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// Takes the next chain from `queue`. `None` if there is none, in which case the driver has been asked to notify the device
    /// of the next one, or if the device does not run.
    pub fn next(self: &Arc<Self>, queue: u16) -> Option<Chain> {
        self.next_or(queue, true)
    }

    /// As [`Queues::next`], but if there is none the driver is asked not to notify the device, until [`Queues::next`] finds none:
    /// for who looks again by itself, soon.
    pub fn next_quietly(self: &Arc<Self>, queue: u16) -> Option<Chain> {
        self.next_or(queue, false)
    }

    fn next_or(self: &Arc<Self>, queue: u16, notify: bool) -> Option<Chain> {
        let slot = self.slots.get(usize::from(queue))?;
        let mut q = lock(&slot.queue);
        if !self.running() || !q.ready() {
            return None;
        }
        let taken = match self.take(&mut q) {
            // With event indices the driver keeps quiet as long as the index does not move.
            Ok(None) if !notify => q.disable_notification(self.view()).map(|()| None).map_err(|_| "used ring"),
            Ok(None) => match q.enable_notification(self.view()) {
                Ok(true) => self.take(&mut q),
                Ok(false) => Ok(None),
                Err(_) => Err("available ring"),
            },
            other => other,
        };
        // The epoch changes under the queue's lock only.
        let born = *slot.epoch.read().unwrap_or_else(PoisonError::into_inner);
        drop(q);
        match taken {
            Ok(taken) => {
                let (head, readable, writable) = taken?;
                let buffer = |s| Buffer::new(self.mem.clone(), slot.epoch.clone(), born, s);
                let (readable, writable) = (buffer(readable), buffer(writable));
                Some(Chain { queues: self.clone(), queue, head, born, written: 0, returned: false, readable, writable })
            }
            Err(what) => {
                self.fail(what);
                None
            }
        }
    }

    /// Returns several chains of one queue at once, each with the number of bytes written: the driver sees none of them before
    /// all are there (as virtio 1.2 §5.1.6.4.1 wants of the buffers of one packet), and is interrupted once. Empties `chains`.
    pub fn complete_all(&self, chains: &mut Vec<(Chain, u32)>) {
        let Some((queue, born)) = chains.first().map(|(c, _)| (c.queue, c.born)) else { return };
        let mut entries = Vec::with_capacity(chains.len());
        for (mut chain, written) in chains.drain(..) {
            if chain.queue == queue && chain.born == born {
                chain.returned = true;
                entries.push((chain.head, written));
            } else {
                chain.complete(written);
            }
        }
        self.push(queue, born, &entries);
    }

    /// Whether the driver would be interrupted if `added` more chains of `queue` were returned now.
    pub fn would_interrupt(&self, queue: u16, added: u16) -> bool {
        let Some(slot) = self.slots.get(usize::from(queue)) else { return false };
        let q = lock(&slot.queue);
        // What cannot be read is found out when they are returned.
        self.running() && q.ready() && self.asks_for(&q, q.next_used().wrapping_add(added), added).unwrap_or(false)
    }

    /// Stops the device until the driver resets it (virtio 1.2 §2.1.2): what it does makes no sense.
    pub fn fail(&self, what: &str) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            tracing::warn!(what, "virtio driver broke the rules; device needs reset");
            if self.running.swap(false, Ordering::SeqCst) {
                self.interrupt(ISR_CONFIG, self.config_vector.load(Ordering::Relaxed));
            }
        }
    }

    /// Tells the driver that the device's configuration space has changed.
    pub fn config_changed(&self) {
        self.config_generation.fetch_add(1, Ordering::SeqCst);
        if self.running() {
            self.interrupt(ISR_CONFIG, self.config_vector.load(Ordering::Relaxed));
        }
    }

    /// Whether the driver is ready and the device works.
    pub fn running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// The size that the driver chose for `queue`.
    pub fn size(&self, queue: u16) -> u16 {
        self.slots.get(usize::from(queue)).map_or(0, |s| lock(&s.queue).size())
    }

    fn view(&self) -> &DmaMemory {
        &self.mem
    }

    /// Takes and checks the next chain: its head, readable and writable parts.
    #[expect(clippy::type_complexity, reason = "private, taken apart at once")]
    fn take(&self, q: &mut Queue) -> Result<Option<(u16, Vec<Segment>, Vec<Segment>)>, &'static str> {
        let size = usize::from(q.size());
        let view = self.view();
        let mut avail = q.iter(view).map_err(|_| "index of the available ring")?;
        let Some(chain) = avail.next() else { return Ok(None) };
        let head = chain.head_index();
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let mut ended = false;
        for d in chain {
            ended = !d.has_next();
            // §2.7.5.2: device-writable descriptors follow the readable ones.
            let part = match (d.is_write_only(), writable.is_empty()) {
                (true, _) => &mut writable,
                (false, true) => &mut readable,
                (false, false) => return Err("readable descriptor after a writable one"),
            };
            let segment = Segment { at: d.addr().0, len: d.len() as usize };
            let access = if d.is_write_only() { Permissions::Write } else { Permissions::Read };
            if segment.len > 0 && !view.check_range(d.addr(), segment.len, access) {
                return Err("descriptor outside RAM");
            }
            part.push(segment);
            if readable.len() + writable.len() > size {
                return Err("descriptor chain longer than the queue");
            }
        }
        // The iterator ends early at a bad index, a loop, an unreadable or nested table, and after 4 GiB.
        if !ended {
            return Err("broken descriptor chain");
        }
        Ok(Some((head, readable, writable)))
    }

    fn push(&self, queue: u16, born: u64, entries: &[(u16, u32)]) {
        let Some(slot) = self.slots.get(usize::from(queue)) else { return };
        let mut q = lock(&slot.queue);
        if *slot.epoch.read().unwrap_or_else(PoisonError::into_inner) != born {
            return;
        }
        let notify = self.publish(&mut q, entries).and_then(|()| self.wants_interrupt(&q, entries.len() as u16));
        match notify {
            // Under the queue's lock, so that no interrupt follows a reset.
            Ok(true) => self.interrupt(ISR_QUEUE, slot.vector.load(Ordering::Relaxed)),
            Ok(false) => {}
            Err(_) => {
                drop(q);
                self.fail("used ring");
            }
        }
    }

    /// Writes used elements, and then the index that shows them (virtio 1.2 §2.7.8).
    fn publish(&self, q: &mut Queue, entries: &[(u16, u32)]) -> Result<(), vm_memory::GuestMemoryError> {
        let (view, ring, size) = (self.view(), q.used_ring(), q.size().max(1));
        let mut next = q.next_used();
        for (head, written) in entries {
            let element = (u64::from(*written) << 32 | u64::from(*head)).to_le_bytes();
            view.write_slice(&element, GuestAddress(ring + 4 + 8 * u64::from(next % size)))?;
            next = next.wrapping_add(1);
        }
        q.set_next_used(next);
        view.store(next.to_le(), GuestAddress(ring + 2), Ordering::Release)
    }

    /// Whether the driver wants to hear of the last `added` used elements.
    fn wants_interrupt(&self, q: &Queue, added: u16) -> Result<bool, vm_memory::GuestMemoryError> {
        // The index must be visible before the driver's wish is read, or both sides may wait for each other.
        fence(Ordering::SeqCst);
        self.asks_for(q, q.next_used(), added)
    }

    /// Whether the driver has asked for an interrupt when the index becomes `next` by `added` elements (§2.7.7.2, §2.7.10).
    fn asks_for(&self, q: &Queue, next: u16, added: u16) -> Result<bool, vm_memory::GuestMemoryError> {
        let avail = GuestAddress(q.avail_ring());
        if !q.event_idx_enabled() {
            let flags: u16 = self.view().read_obj(avail)?;
            return Ok(u16::from_le(flags) & AVAIL_NO_INTERRUPT == 0);
        }
        let event: u16 = self.view().read_obj(GuestAddress(avail.0 + 4 + 2 * u64::from(q.size())))?;
        Ok(next.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < added)
    }

    fn interrupt(&self, cause: u8, vector: u16) {
        if self.interrupts.msix_enabled() {
            self.interrupts.signal(vector);
            return;
        }
        let mut isr = lock(&self.isr);
        *isr |= cause;
        self.interrupts.set_intx(true);
    }
}

/// The transport's side.
impl Queues {
    /// Whether DEVICE_NEEDS_RESET is to be shown.
    pub(crate) fn broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    pub(crate) fn count(&self) -> u16 {
        self.slots.len() as u16
    }

    pub(crate) fn max_size(&self, queue: u16) -> u16 {
        self.slots.get(usize::from(queue)).map_or(0, |s| lock(&s.queue).max_size())
    }

    pub(crate) fn config_generation(&self) -> u8 {
        self.config_generation.load(Ordering::SeqCst)
    }

    pub(crate) fn config_vector(&self) -> &AtomicU16 {
        &self.config_vector
    }

    pub(crate) fn vector(&self, queue: u16) -> Option<&AtomicU16> {
        self.slots.get(usize::from(queue)).map(|s| &s.vector)
    }

    /// Starts and stops the taking of chains.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running && !self.broken(), Ordering::SeqCst);
    }

    /// Makes `queue` usable, or fails the device if it cannot be.
    pub(crate) fn enable(&self, queue: u16, setup: &QueueSetup) {
        let Some(slot) = self.slots.get(usize::from(queue)) else { return };
        let mut q = lock(&slot.queue);
        q.set_event_idx(setup.event_idx);
        let ok = q.try_set_size(setup.size).is_ok()
            && q.try_set_desc_table_address(GuestAddress(setup.desc)).is_ok()
            && q.try_set_avail_ring_address(GuestAddress(setup.avail)).is_ok()
            && q.try_set_used_ring_address(GuestAddress(setup.used)).is_ok();
        q.set_ready(true);
        if !ok || !q.is_valid(self.view()) {
            q.set_ready(false);
            drop(q);
            self.fail("queue is not in RAM or not aligned");
        }
    }

    /// Settles VIRTIO_F_RING_EVENT_IDX for all queues.
    pub(crate) fn set_event_idx(&self, on: bool) {
        self.slots.iter().for_each(|s| lock(&s.queue).set_event_idx(on));
    }

    /// Forgets `queue`; chains taken from it are void when this returns.
    pub(crate) fn reset_queue(&self, queue: u16) {
        let Some(slot) = self.slots.get(usize::from(queue)) else { return };
        let mut q = lock(&slot.queue);
        *slot.epoch.write().unwrap_or_else(PoisonError::into_inner) += 1;
        q.reset();
        slot.vector.store(NO_VECTOR, Ordering::Relaxed);
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        self.running.store(false, Ordering::SeqCst);
        (0..self.count()).for_each(|q| self.reset_queue(q));
        self.broken.store(false, Ordering::SeqCst);
        self.config_vector.store(NO_VECTOR, Ordering::Relaxed);
        self.take_isr();
    }

    /// Reads and clears the interrupt status, which lowers the pin.
    pub(crate) fn take_isr(&self) -> u8 {
        let mut isr = lock(&self.isr);
        self.interrupts.set_intx(false);
        std::mem::take(&mut *isr)
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
