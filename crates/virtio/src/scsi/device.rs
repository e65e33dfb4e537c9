//! The adapter as the transport sees it.

use super::*;
use crate::{DeviceType, VirtioDevice};

const SENSE_REGISTER: u64 = 0x14;
const CDB_REGISTER: u64 = 0x18;

/// The device.
pub struct Scsi {
    shared: Arc<Shared>,
    count: u16,
}

impl Scsi {
    /// An adapter without units and with `queues` request queues, brought within 1 to [`MAX_QUEUES`]; and the host's hold on it.
    pub fn new(queues: u16) -> (Self, ScsiHandle) {
        let shared = Arc::new(Shared {
            targets: Mutex::default(),
            queues: OnceLock::new(),
            events: Mutex::default(),
            features: AtomicU64::new(0),
            sense_size: AtomicU32::new(SENSE_SIZE),
            cdb_size: AtomicU32::new(CDB_SIZE),
            in_flight: InFlight::default(),
        });
        (Scsi { shared: shared.clone(), count: queues.clamp(1, MAX_QUEUES) }, ScsiHandle(shared))
    }

    fn config(&self) -> [u8; 36] {
        let mut c = [0; 36];
        let mut put = |at: usize, value: &[u8]| c[at..at + value.len()].copy_from_slice(value);
        put(0x00, &u32::from(self.count).to_le_bytes());
        put(0x04, &(u32::from(QUEUE_SIZE) - 2).to_le_bytes()); // seg_max: both headers take one
        put(0x08, &0xffffu32.to_le_bytes());
        put(0x0c, &(u32::from(QUEUE_SIZE) / 2).to_le_bytes());
        put(0x10, &(events::SIZE as u32).to_le_bytes());
        put(SENSE_REGISTER as usize, &self.shared.sense_size.load(Ordering::Relaxed).to_le_bytes());
        put(CDB_REGISTER as usize, &self.shared.cdb_size.load(Ordering::Relaxed).to_le_bytes());
        put(0x1e, &u16::from(TARGETS - 1).to_le_bytes());
        c
    }
}

impl VirtioDevice for Scsi {
    fn name(&self) -> &str {
        "virtio-scsi"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 8, class: 0x01_0000 }
    }

    fn features(&self) -> u64 {
        F_HOTPLUG | F_CHANGE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let own = [CONTROL_SIZE, CONTROL_SIZE];
        own.into_iter().chain((0..self.count).map(|_| QUEUE_SIZE)).collect()
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

    /// The two registers that can be written (§5.6.4), whole.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else { return };
        match offset {
            SENSE_REGISTER => self.shared.sense_size.store(value.min(FIELD_LIMIT), Ordering::Relaxed),
            CDB_REGISTER => self.shared.cdb_size.store(value.min(FIELD_LIMIT), Ordering::Relaxed),
            _ => {}
        }
    }

    fn activate(&mut self, features: u64) {
        self.shared.features.store(features, Ordering::Relaxed);
    }

    fn notify(&mut self, queue: u16) {
        match queue {
            CONTROL => tasks::pump(&self.shared),
            EVENTS => lock(&self.shared.events).deliver(self.shared.queues.get()),
            _ => self.shared.pump(queue),
        }
    }

    fn reset(&mut self) {
        self.shared.features.store(0, Ordering::Relaxed);
        self.shared.sense_size.store(SENSE_SIZE, Ordering::Relaxed);
        self.shared.cdb_size.store(CDB_SIZE, Ordering::Relaxed);
        *lock(&self.shared.events) = Events::default();
        let targets: Vec<_> = lock(&self.shared.targets).values().cloned().collect();
        targets.iter().for_each(|t| t.unit().reset());
    }
}
