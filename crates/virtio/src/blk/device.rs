//! The block device as the transport sees it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use visor_block::{BlockBackend, SECTOR};

use super::*;
use crate::{DeviceType, VirtioDevice};

const WRITEBACK: u64 = 0x20;

/// What the host keeps of a device that it has given away.
#[derive(Clone)]
pub struct BlkHandle(Arc<Shared>);

impl BlkHandle {
    /// The back end has another size now: shows it to the driver, and interrupts it (§5.2.4).
    pub fn resized(&self) {
        self.0.sectors.store(self.0.backend.geometry().sectors, Ordering::Relaxed);
        if let Some(queues) = self.0.queues.get() {
            queues.config_changed();
        }
    }
}

/// The device.
pub struct Blk {
    shared: Arc<Shared>,
    count: u16,
}

impl Blk {
    /// A device that shows `backend` to the guest.
    pub fn new(backend: Arc<dyn BlockBackend>, config: &BlkConfig) -> Self {
        let mut serial = [0; SERIAL_LEN];
        for (s, b) in serial.iter_mut().zip(config.serial.bytes()) {
            *s = b;
        }
        let geometry = backend.geometry();
        let shared = Shared {
            geometry,
            sectors: AtomicU64::new(geometry.sectors),
            backend,
            serial,
            queues: OnceLock::new(),
            features: AtomicU64::new(0),
            writeback: AtomicBool::new(true),
            in_flight: InFlight::default(),
        };
        Blk { shared: Arc::new(shared), count: config.queues.clamp(1, MAX_QUEUES) }
    }

    /// For changes while the device is in use.
    pub fn handle(&self) -> BlkHandle {
        BlkHandle(self.shared.clone())
    }

    /// The configuration space (§5.2.4).
    fn config(&self) -> [u8; 60] {
        let g = &self.shared.geometry;
        let mut c = [0; 60];
        let mut put = |at: usize, value: &[u8]| c[at..at + value.len()].copy_from_slice(value);
        put(0x00, &self.shared.sectors().to_le_bytes());
        put(0x08, &(1u32 << 20).to_le_bytes()); // size_max
        put(0x0c, &(u32::from(QUEUE_SIZE) - 2).to_le_bytes()); // seg_max: header and status take two
        put(0x14, &(SECTOR as u32).to_le_bytes());
        put(0x18, &[(u64::from(g.physical_block) / SECTOR).max(1).ilog2() as u8]);
        let per_block = (u64::from(g.physical_block) / SECTOR).max(1);
        put(0x1a, &(per_block as u16).to_le_bytes()); // min_io_size in blocks
        put(WRITEBACK as usize, &[u8::from(self.shared.writeback.load(Ordering::Relaxed))]);
        put(0x22, &self.count.to_le_bytes());
        put(0x24, &MAX_RANGE.to_le_bytes());
        put(0x28, &MAX_RANGES.to_le_bytes());
        put(0x2c, &(per_block as u32).to_le_bytes()); // discard_sector_alignment
        put(0x30, &MAX_RANGE.to_le_bytes());
        put(0x34, &MAX_RANGES.to_le_bytes());
        put(0x38, &[1]); // write_zeroes_may_unmap
        c
    }
}

impl VirtioDevice for Blk {
    fn name(&self) -> &str {
        "virtio-blk"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 2, class: 0x01_8000 }
    }

    fn features(&self) -> u64 {
        let mut f = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE;
        if self.count > 1 {
            f |= F_MQ;
        }
        f | if self.shared.geometry.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES }
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.count)]
    }

    fn attach(&mut self, queues: Arc<Queues>) {
        // The transport attaches once.
        let _ = self.shared.queues.set(queues);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        for (i, d) in data.iter_mut().enumerate() {
            *d = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // The only register that can be written, by drivers that know it.
        if offset == WRITEBACK && data.len() == 1 && self.shared.features.load(Ordering::Relaxed) & F_CONFIG_WCE != 0 {
            self.shared.writeback.store(data[0] & 1 != 0, Ordering::Relaxed);
        }
    }

    fn activate(&mut self, features: u64) {
        self.shared.features.store(features, Ordering::Relaxed);
    }

    fn notify(&mut self, queue: u16) {
        self.shared.pump(queue);
    }

    fn reset(&mut self) {
        self.shared.features.store(0, Ordering::Relaxed);
        self.shared.writeback.store(true, Ordering::Relaxed);
    }
}
