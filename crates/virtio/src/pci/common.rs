//! The common configuration registers (virtio 1.2 §4.1.4.3) and the initialisation protocol behind them (§3.1.1).
//!
//! ```text
//! 00 device_feature_select  04 device_feature  08 driver_feature_select  0C driver_feature
//! 10 config_msix_vector     12 num_queues      14 device_status          15 config_generation
//! 16 queue_select  18 queue_size  1A queue_msix_vector  1C queue_enable  1E queue_notify_off
//! 20 queue_desc    28 queue_driver    30 queue_device   38 queue_notify_data   3A queue_reset
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use virtio_bindings::virtio_config::{VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use visor_pci::NO_VECTOR;

use crate::queues::{QueueSetup, Queues};

const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 0x40;

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
const TRANSPORT_FEATURES: u64 = VERSION_1 | EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_F_RING_RESET;

/// What a register write asks the transport to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Reset,
    QueueReset(u16),
    /// DRIVER_OK, with the negotiated features.
    Ready(u64),
}

/// The registers.
pub(super) struct Common {
    queues: Arc<Queues>,
    offered: u64,
    accepted: u64,
    device_select: u32,
    driver_select: u32,
    status: u8,
    queue_select: u16,
    regs: Vec<QueueRegs>,
}

/// A queue's registers.
#[derive(Clone, Copy)]
struct QueueRegs {
    size: u16,
    enabled: bool,
    desc: u64,
    avail: u64,
    used: u64,
}

impl Common {
    pub(super) fn new(device_features: u64, queues: Arc<Queues>) -> Self {
        let regs = (0..queues.count()).map(|q| fresh(&queues, q)).collect();
        Common {
            queues,
            offered: device_features | TRANSPORT_FEATURES,
            accepted: 0,
            device_select: 0,
            driver_select: 0,
            status: 0,
            queue_select: 0,
            regs,
        }
    }

    pub(super) fn reset(&mut self) {
        self.accepted = 0;
        self.device_select = 0;
        self.driver_select = 0;
        self.status = 0;
        self.queue_select = 0;
        for (q, r) in self.regs.iter_mut().enumerate() {
            *r = fresh(&self.queues, q as u16);
        }
    }

    /// Whether the driver has finished its set-up.
    pub(super) fn ready(&self) -> bool {
        self.status & DRIVER_OK != 0
    }

    /// A load of any size, also across registers.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        for (i, d) in data.iter_mut().enumerate() {
            *d = image.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    /// A store to one register; the halves of a 64-bit one count too. Others are ignored.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> Change {
        let mut value = [0; 8];
        let len = data.len().min(8);
        value[..len].copy_from_slice(&data[..len]);
        let value = u64::from_le_bytes(value);
        match (offset, len) {
            (0x00, 4) => self.device_select = value as u32,
            (0x08, 4) => self.driver_select = value as u32,
            (0x0c, 4) => self.accept(value),
            (0x10, 2) => self.set_vector(self.queues.config_vector(), value as u16),
            (0x14, 1) => return self.set_status(value as u8),
            (0x16, 2) => self.queue_select = value as u16,
            (0x1a, 2) => {
                if let Some(vector) = self.queues.vector(self.queue_select) {
                    self.set_vector(vector, value as u16);
                }
            }
            (0x18, 2) | (0x1c, 2) | (0x20..0x38, 4 | 8) | (0x3a, 2) => return self.write_queue(offset, value, len),
            _ => {}
        }
        Change::None
    }

    fn write_queue(&mut self, offset: u64, value: u64, len: usize) -> Change {
        let (queue, event_idx) = (self.queue_select, self.accepted & EVENT_IDX != 0);
        let max = self.queues.max_size(queue);
        let Some(r) = self.regs.get_mut(usize::from(queue)) else { return Change::None };
        if (offset, value) == (0x3a, 1) {
            // §4.1.4.3.2: only for an enabled queue; it is done when the write is.
            if !r.enabled {
                return Change::None;
            }
            *r = fresh(&self.queues, queue);
            return Change::QueueReset(queue);
        }
        if r.enabled {
            return Change::None;
        }
        match (offset, len) {
            (0x18, _) => {
                let size = value as u16;
                if size.is_power_of_two() && size <= max {
                    r.size = size;
                }
            }
            (0x1c, _) if value == 1 => {
                r.enabled = true;
                let setup = QueueSetup { size: r.size, desc: r.desc, avail: r.avail, used: r.used, event_idx };
                self.queues.enable(queue, &setup);
            }
            (0x20 | 0x24, _) => merge(&mut r.desc, offset, value, len),
            (0x28 | 0x2c, _) => merge(&mut r.avail, offset, value, len),
            (0x30 | 0x34, _) => merge(&mut r.used, offset, value, len),
            _ => {}
        }
        Change::None
    }

    fn accept(&mut self, value: u64) {
        if self.status & FEATURES_OK == 0 {
            match self.driver_select {
                0 => self.accepted = self.accepted & !0xffff_ffff | value,
                1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
                _ => {}
            }
        }
    }

    fn set_status(&mut self, value: u8) -> Change {
        if value == 0 {
            return Change::Reset;
        }
        // §2.1.1: the driver sets bits, and clears them by reset only.
        let mut status = self.status | value & !NEEDS_RESET;
        // §3.1.1 step 6: FEATURES_OK stays clear when the features do not fit.
        if self.accepted & !self.offered != 0 || self.accepted & VERSION_1 == 0 {
            status &= !FEATURES_OK;
        }
        if status & FEATURES_OK == 0 {
            status &= !DRIVER_OK;
        }
        let ready = status & !self.status & DRIVER_OK != 0;
        self.status = status;
        if ready {
            self.queues.set_event_idx(self.accepted & EVENT_IDX != 0);
            return Change::Ready(self.accepted);
        }
        Change::None
    }

    /// §4.1.5.1.2: a vector that does not exist reads back as none.
    fn set_vector(&self, register: &AtomicU16, value: u16) {
        let known = value < self.queues.count() + 1;
        register.store(if known { value } else { NO_VECTOR }, Ordering::Relaxed);
    }

    /// All registers as they read.
    fn image(&self) -> [u8; 0x40] {
        let mut image = [0; 0x40];
        let mut put = |at: usize, value: &[u8]| image[at..at + value.len()].copy_from_slice(value);
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        put(0x00, &self.device_select.to_le_bytes());
        put(0x04, &half(self.offered, self.device_select).to_le_bytes());
        put(0x08, &self.driver_select.to_le_bytes());
        put(0x0c, &half(self.accepted, self.driver_select).to_le_bytes());
        put(0x10, &self.queues.config_vector().load(Ordering::Relaxed).to_le_bytes());
        put(0x12, &self.queues.count().to_le_bytes());
        put(0x14, &[self.status | if self.queues.broken() { NEEDS_RESET } else { 0 }]);
        put(0x15, &[self.queues.config_generation()]);
        put(0x16, &self.queue_select.to_le_bytes());
        let Some(r) = self.regs.get(usize::from(self.queue_select)) else {
            // §4.1.4.3.1: size 0 says that there is no such queue.
            return image;
        };
        let vector = self.queues.vector(self.queue_select).map_or(NO_VECTOR, |v| v.load(Ordering::Relaxed));
        put(0x18, &r.size.to_le_bytes());
        put(0x1a, &vector.to_le_bytes());
        put(0x1c, &u16::from(r.enabled).to_le_bytes());
        put(0x1e, &self.queue_select.to_le_bytes());
        put(0x20, &r.desc.to_le_bytes());
        put(0x28, &r.avail.to_le_bytes());
        put(0x30, &r.used.to_le_bytes());
        put(0x38, &self.queue_select.to_le_bytes());
        image
    }
}

fn fresh(queues: &Queues, queue: u16) -> QueueRegs {
    QueueRegs { size: queues.max_size(queue), enabled: false, desc: 0, avail: 0, used: 0 }
}

/// Writes a 64-bit register, whole or by half.
fn merge(register: &mut u64, offset: u64, value: u64, len: usize) {
    match (offset & 4, len) {
        (0, 8) => *register = value,
        (0, 4) => *register = *register & !0xffff_ffff | value,
        (4, 4) => *register = *register & 0xffff_ffff | value << 32,
        _ => {}
    }
}
