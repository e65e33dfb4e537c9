//! The console as the transport sees it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::control::{CONTROL_RECEIVE, CONTROL_TRANSMIT, Control};
use super::port::Port;
use super::{ConsoleConfig, ConsoleHandle, MAX_PORTS, PortCountError, Shared, lock};
use crate::{DeviceType, Queues, VirtioDevice};

const F_SIZE: u64 = 1 << 0;
const F_MULTIPORT: u64 = 1 << 1;
const QUEUE_SIZE: u16 = 64;

/// The device.
pub struct Console(Arc<Shared>);

impl Console {
    /// A console device and the host's end of it.
    ///
    /// # Errors
    /// [`PortCountError`] for no ports or too many.
    pub fn new(config: &ConsoleConfig) -> Result<(Self, ConsoleHandle), PortCountError> {
        let count = config.ports.len();
        if !(1..=MAX_PORTS).contains(&count) {
            return Err(PortCountError(count));
        }
        let shared = Arc::new(Shared {
            queues: OnceLock::new(),
            ports: config.ports.iter().enumerate().map(|(i, p)| Port::new(i, p)).collect(),
            control: Control::new(count),
            size: Mutex::new(config.size),
            multiport: AtomicBool::new(false),
        });
        Ok((Console(shared.clone()), ConsoleHandle(shared)))
    }

    /// The port of `queue`, and whether the queue goes to the guest.
    fn port_of(&self, queue: u16) -> Option<(&Port, bool)> {
        let index = if queue < 2 { 0 } else { usize::from(queue).checked_sub(2)? / 2 };
        Some((self.0.ports.get(index)?, queue.is_multiple_of(2)))
    }
}

impl VirtioDevice for Console {
    fn name(&self) -> &str {
        "virtio-console"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 3, class: 0x07_8000 }
    }

    fn features(&self) -> u64 {
        F_SIZE | F_MULTIPORT
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2 + 2 * self.0.ports.len()]
    }

    fn attach(&mut self, queues: Arc<Queues>) {
        // The transport attaches once.
        let _ = self.0.queues.set(queues);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (cols, rows) = *lock(&self.0.size);
        let mut config = [0; 12];
        config[0..2].copy_from_slice(&cols.to_le_bytes());
        config[2..4].copy_from_slice(&rows.to_le_bytes());
        config[4..8].copy_from_slice(&(self.0.ports.len() as u32).to_le_bytes());
        for (i, d) in data.iter_mut().enumerate() {
            *d = config.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, features: u64) {
        let multiport = features & F_MULTIPORT != 0;
        self.0.multiport.store(multiport, Ordering::Relaxed);
        // Without control queues nobody says when the port is open.
        if !multiport && let Some(port) = self.0.ports.first() {
            port.set_guest_open(true);
        }
    }

    fn notify(&mut self, queue: u16) {
        let Some(queues) = self.0.queues.get() else { return };
        match queue {
            CONTROL_RECEIVE => self.0.control.send(&self.0),
            CONTROL_TRANSMIT => self.0.control.receive(&self.0),
            _ => match self.port_of(queue) {
                Some((port, true)) => port.guest_reads(queues),
                Some((port, false)) => port.guest_writes(queues),
                None => {}
            },
        }
    }

    fn queue_reset(&mut self, queue: u16) {
        if let Some((port, false)) = self.port_of(queue) {
            port.forget();
        }
    }

    fn reset(&mut self) {
        self.0.multiport.store(false, Ordering::Relaxed);
        self.0.control.reset();
        for port in &self.0.ports {
            port.forget();
            port.set_guest_open(false);
        }
    }
}
