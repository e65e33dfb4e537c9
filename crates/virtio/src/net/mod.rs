//! The network device (virtio 1.2 §5.1) over any [`visor_net::NetPort`].
//!
//! ```text
//! queues         0 receive 1   1 transmit 1   2 receive 2   3 transmit 2 ...   then control (2 without multiqueue)
//! configuration  00 mac  06 status  08 max_virtqueue_pairs  0A mtu  0C speed  10 duplex
//! packet         flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers (12 bytes) | frame
//! ```
//! Large segments and missing checksums travel in both directions as they are when the other side takes them; otherwise the device
//! finishes frames itself, so the driver is offered every offload whatever the port can do.
//!
//! **Transmission** runs on the vCPU that notifies, unless another thread holds the port: then, and when the port has no room, the
//! pump does it. **Reception** is the pump's: [`NetHandle`] is woken by the port and copies frames from where the port keeps them
//! straight into guest buffers. A frame for which the guest has no buffer stays in the port. What a port has to say at once to what was
//! sent - acknowledgements, answers to pings, data that a window has opened for - is received on the vCPU as well, a few frames of
//! it: no thread is woken for those. While the port collects small frames, to hand them on together, the driver is not asked to notify
//! us of more; the port rings, and the pump takes what has gathered.
//!
//! **Lock order.** function → port → transmit, receive → queue.

mod control;
mod device;
mod filter;
mod header;
mod receive;
mod steering;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use visor_net::{Accepts, MacAddr, NetPort, Nic, Notify, Traffic};

pub use device::Net;

use crate::Queues;
use receive::Receive;
use transmit::Transmit;

/// Most pairs of queues of a device.
pub const MAX_PAIRS: u16 = 8;

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_CTRL_VQ: u64 = 1 << 17;
const F_CTRL_RX: u64 = 1 << 18;
const F_CTRL_VLAN: u64 = 1 << 19;
const F_CTRL_RX_EXTRA: u64 = 1 << 20;
const F_GUEST_ANNOUNCE: u64 = 1 << 21;
const F_MQ: u64 = 1 << 22;
const F_CTRL_MAC_ADDR: u64 = 1 << 23;
const F_SPEED_DUPLEX: u64 = 1 << 63;

const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;

/// A network device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Its address until the driver sets another one.
    pub mac: MacAddr,
    /// Pairs of queues, 1 to [`MAX_PAIRS`]; values outside are brought within. One for each vCPU serves well.
    pub pairs: u16,
}

/// The host's hold on the device: see [`Nic`].
#[derive(Clone)]
pub struct NetHandle(Arc<Shared>);

impl NetHandle {
    /// Asks the guest to tell its neighbours where it is now (gratuitous ARP), as after a move to another switch. Does nothing
    /// for drivers that cannot.
    pub fn announce(&self) {
        if let Some(queues) = self.0.queues.get()
            && self.0.has(F_GUEST_ANNOUNCE)
            && queues.running()
        {
            self.0.announce.store(true, Ordering::SeqCst);
            queues.config_changed();
        }
    }
}

impl Nic for NetHandle {
    fn pump(&self) {
        self.0.pump();
    }

    fn traffic(&self) -> Traffic {
        self.0.counters.read()
    }

    fn mac(&self) -> MacAddr {
        lock(&self.0.receive).filter.mac
    }

    fn set_link(&self, up: bool) {
        self.0.plugged.store(up, Ordering::SeqCst);
        // The pump looks at the port's side of it.
        (self.0.wake)();
    }
}

const IDLE: u8 = 0;
const ATTENDED: u8 = 1;
const RUNG: u8 = 2;

/// Where a port rings: at the pump, or at the vCPU that is just sending, which then looks itself.
struct Bell {
    state: AtomicU8,
    pump: Notify,
}

impl Bell {
    fn ring(&self) {
        let attended = self.state.compare_exchange(ATTENDED, RUNG, Ordering::SeqCst, Ordering::SeqCst);
        if attended.is_err_and(|state| state == IDLE) {
            (self.pump)();
        }
    }
}

/// What the device and its handle share.
struct Shared {
    queues: OnceLock<Arc<Queues>>,
    /// Wakes whoever calls the pump.
    wake: Notify,
    bell: Arc<Bell>,
    port: Mutex<Box<dyn NetPort>>,
    transmit: Mutex<Transmit>,
    receive: Mutex<Receive>,
    /// Pairs whose transmit queue the pump must look at.
    transmit_due: AtomicU64,
    /// Pairs whose transmit queue the driver does not notify us of, since the port rings soon; whoever looks then, looks there too.
    lingering: AtomicU64,
    /// Frames wait for buffers of the guest.
    starved: AtomicBool,
    features: AtomicU64,
    /// Pairs that exist.
    pairs: u16,
    mtu: u16,
    /// The host's wish.
    plugged: AtomicBool,
    /// What the driver is shown.
    link: AtomicBool,
    announce: AtomicBool,
    counters: Counters,
}

/// [`Traffic`] as it is counted.
#[derive(Default)]
struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    sent_dropped: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    received_dropped: AtomicU64,
}

impl Counters {
    fn read(&self) -> Traffic {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Traffic {
            sent: get(&self.sent),
            sent_bytes: get(&self.sent_bytes),
            sent_dropped: get(&self.sent_dropped),
            received: get(&self.received),
            received_bytes: get(&self.received_bytes),
            received_dropped: get(&self.received_dropped),
        }
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

impl Shared {
    fn has(&self, feature: u64) -> bool {
        self.features.load(Ordering::Relaxed) & feature != 0
    }

    /// Moves everything that can be moved, in both directions, a bounded amount.
    fn pump(self: &Arc<Self>) {
        let mut port = lock(&self.port);
        self.look_at_link(port.link_up());
        // First what the port has collected for, so that it goes with the rest.
        let due = self.transmit_due.swap(0, Ordering::SeqCst) | self.lingering.swap(0, Ordering::SeqCst);
        self.transmit_all(port.as_mut(), due);
        let more = self.receive(port.as_mut(), receive::ROUND);
        // If it collects no longer, the driver has to be asked for notifications.
        let lingering = self.lingering.swap(0, Ordering::SeqCst);
        self.transmit_all(port.as_mut(), lingering);
        self.give_back_all(port.as_mut());
        drop(port);
        // What a vCPU has left to us while we held the port is in `transmit_due` with a wake-up of its own.
        if more {
            (self.wake)();
        }
    }

    /// The driver has put frames into a transmit queue.
    fn transmit_or_delegate(self: &Arc<Self>, pair: u16) {
        match self.port.try_lock() {
            Ok(mut port) => self.transmit_and_look(port.as_mut(), pair),
            Err(TryLockError::Poisoned(port)) => self.transmit_and_look(port.into_inner().as_mut(), pair),
            Err(TryLockError::WouldBlock) => {
                self.transmit_due.fetch_or(1 << pair, Ordering::SeqCst);
                (self.wake)();
            }
        }
    }

    /// Sends, and receives what the port has to say to it at once. The port is held, so there is one such thread at a time.
    fn transmit_and_look(self: &Arc<Self>, port: &mut dyn NetPort, pair: u16) {
        self.bell.state.store(ATTENDED, Ordering::SeqCst);
        self.transmit(port, pair);
        if self.bell.state.swap(IDLE, Ordering::SeqCst) != RUNG {
            return;
        }
        self.look_at_link(port.link_up());
        let more = self.receive(port, receive::ANSWERS);
        let lingering = self.lingering.swap(0, Ordering::SeqCst);
        self.transmit_all(port, lingering);
        self.give_back_all(port);
        // The ring may have been about room for what waits.
        if more || self.transmit_due.load(Ordering::SeqCst) != 0 {
            (self.wake)();
        }
    }

    fn transmit_all(self: &Arc<Self>, port: &mut dyn NetPort, pairs: u64) {
        for pair in (0..self.pairs).filter(|p| pairs & 1 << p != 0) {
            self.transmit(port, pair);
        }
    }

    fn look_at_link(&self, port_up: bool) {
        let up = port_up && self.plugged.load(Ordering::SeqCst);
        if self.link.swap(up, Ordering::SeqCst) != up
            && let Some(queues) = self.queues.get()
        {
            queues.config_changed();
        }
    }

    /// What the driver takes undone under `features`.
    fn accepts(features: u64) -> Accepts {
        let checksum = features & F_GUEST_CSUM != 0;
        // §5.1.3.1: segments require checksums. Without mergeable buffers the driver offers chains of 64 KiB by itself.
        Accepts {
            checksum,
            tcp4: checksum && features & F_GUEST_TSO4 != 0,
            tcp6: checksum && features & F_GUEST_TSO6 != 0,
        }
    }

    /// Forgets what was under way for one queue of the driver, or for all.
    fn forget(&self, queue: Option<u16>) {
        lock(&self.transmit).forget(queue);
        lock(&self.receive).forget(queue);
    }
}

fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
