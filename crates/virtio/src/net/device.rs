//! The network device as the transport sees it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use visor_net::{Accepts, MacAddr, NetPort, Notify};

use super::receive::Receive;
use super::*;
use crate::{DeviceType, VirtioDevice};

const STATUS_LINK_UP: u16 = 1;
const STATUS_ANNOUNCE: u16 = 2;
/// Mbit/s that the driver is told; nothing depends on it.
const SPEED: u32 = 10_000;
const FULL_DUPLEX: u8 = 1;

/// The device.
pub struct Net {
    shared: Arc<Shared>,
    mac: MacAddr,
    features: u64,
}

impl Net {
    /// A device plugged into `port`, and the host's hold on it. `wake` is called from any thread, with locks held, when
    /// [`visor_net::Nic::pump`] should be called.
    pub fn new(mut port: Box<dyn NetPort>, config: &NetConfig, wake: Notify) -> (Self, NetHandle) {
        let pairs = config.pairs.clamp(1, MAX_PAIRS);
        let mut features = F_CSUM | F_GUEST_CSUM | F_CTRL_GUEST_OFFLOADS | F_MTU | F_MAC | F_GUEST_TSO4 | F_GUEST_TSO6;
        features |= F_HOST_TSO4 | F_HOST_TSO6 | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN;
        features |= F_CTRL_RX_EXTRA | F_GUEST_ANNOUNCE | F_CTRL_MAC_ADDR | F_SPEED_DUPLEX;
        if pairs > 1 {
            features |= F_MQ;
        }
        let bell = Arc::new(Bell { state: AtomicU8::new(IDLE), pump: wake.clone() });
        let ring = bell.clone();
        port.on_ready(Arc::new(move || ring.ring()));
        let shared = Arc::new(Shared {
            queues: OnceLock::new(),
            wake,
            bell,
            mtu: port.mtu(),
            link: AtomicBool::new(port.link_up()),
            port: Mutex::new(port),
            transmit: Mutex::default(),
            receive: Mutex::new(Receive::new(config.mac)),
            transmit_due: AtomicU64::new(0),
            lingering: AtomicU64::new(0),
            starved: AtomicBool::new(false),
            features: AtomicU64::new(0),
            pairs,
            plugged: AtomicBool::new(true),
            announce: AtomicBool::new(false),
            counters: Counters::default(),
        });
        (Net { shared: shared.clone(), mac: config.mac, features }, NetHandle(shared))
    }

    /// The control queue comes after the pairs that the driver may use.
    fn control_queue(&self) -> u16 {
        if self.shared.has(F_MQ) { 2 * self.shared.pairs } else { 2 }
    }
}

impl VirtioDevice for Net {
    fn name(&self) -> &str {
        "virtio-net"
    }

    fn device_type(&self) -> DeviceType {
        DeviceType { id: 1, class: 0x02_0000 }
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * usize::from(self.shared.pairs)];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn attach(&mut self, queues: Arc<Queues>) {
        // The transport attaches once.
        let _ = self.shared.queues.set(queues);
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let s = &self.shared;
        let mut status = if s.link.load(Ordering::SeqCst) { STATUS_LINK_UP } else { 0 };
        if s.announce.load(Ordering::SeqCst) {
            status |= STATUS_ANNOUNCE;
        }
        let mut c = [0; 17];
        let mut put = |at: usize, value: &[u8]| c[at..at + value.len()].copy_from_slice(value);
        put(0x00, &lock(&s.receive).filter.mac.0);
        put(0x06, &status.to_le_bytes());
        put(0x08, &s.pairs.to_le_bytes());
        put(0x0a, &s.mtu.to_le_bytes());
        put(0x0c, &SPEED.to_le_bytes());
        put(0x10, &[FULL_DUPLEX]);
        for (i, d) in data.iter_mut().enumerate() {
            *d = c.get(offset as usize + i).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, features: u64) {
        let s = &self.shared;
        s.features.store(features, Ordering::Relaxed);
        let accepts = Shared::accepts(features);
        let mut port = lock(&s.port);
        let mut receive = lock(&s.receive);
        receive.accepts = accepts;
        if features & F_CTRL_VLAN != 0 {
            receive.filter.filter_vlans();
        }
        drop(receive);
        port.set_accepts(accepts);
        drop(port);
        (s.wake)();
    }

    fn notify(&mut self, queue: u16) {
        let s = &self.shared;
        if queue == self.control_queue() {
            s.control(queue);
        } else if queue / 2 >= s.pairs {
            // The control queue's place when the driver uses it otherwise: nothing is there.
        } else if queue % 2 == 1 {
            s.transmit_or_delegate(queue / 2);
        } else if s.starved.swap(false, Ordering::SeqCst) {
            (s.wake)();
        }
    }

    fn queue_reset(&mut self, queue: u16) {
        self.shared.forget(Some(queue));
    }

    fn reset(&mut self) {
        let s = &self.shared;
        s.features.store(0, Ordering::Relaxed);
        lock(&s.port).set_accepts(Accepts::default());
        lock(&s.transmit).forget(None);
        *lock(&s.receive) = Receive::new(self.mac);
        s.announce.store(false, Ordering::SeqCst);
    }
}
