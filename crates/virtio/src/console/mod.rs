//! The console device (virtio 1.2 §5.3) with several named ports, each a pair of byte streams between guest and host.
//!
//! ```text
//! queues           0 port 0 to guest   1 port 0 to host   2 control to guest   3 control to host   4, 5 port 1 ...
//! configuration    00 cols  02 rows  04 max_nr_ports  08 emerg_wr (not offered)
//! ```
//!
//! [`Console`] is the device; [`ConsoleHandle`] and [`ConsolePort`] are the host's end, usable from any thread. Nothing is
//! buffered without bound: a guest that writes faster than the host reads waits for its buffers, and a host that writes faster
//! than the guest reads is told that its bytes were not accepted.

mod control;
mod device;
mod port;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

pub use device::Console;
pub use port::{ConsolePort, PORT_BUFFER, PortEvent};

use crate::Queues;
use control::{Control, Messages};
use port::Port;

/// Most ports of a device.
pub const MAX_PORTS: usize = 31;

/// A console device to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// Its ports, 1 to [`MAX_PORTS`]. A driver without multiport support sees the first one only.
    pub ports: Vec<PortConfig>,
    /// Width and height of the terminal behind the console ports, in characters.
    pub size: (u16, u16),
}

/// A port to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Name by which the guest finds it, such as `org.visor.agent.0`; may be empty.
    pub name: String,
    /// The guest may use it as a terminal (`/dev/hvc0`).
    pub console: bool,
}

/// The number of ports is not 1 to [`MAX_PORTS`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a console device has 1 to 31 ports, not {0}")]
pub struct PortCountError(pub usize);

/// The host's end of the device.
#[derive(Clone)]
pub struct ConsoleHandle(Arc<Shared>);

impl ConsoleHandle {
    /// The port called `name`.
    pub fn port(&self, name: &str) -> Option<ConsolePort> {
        self.0.ports.iter().position(|p| p.name == name).and_then(|i| self.port_at(i))
    }

    /// Port number `index`.
    pub fn port_at(&self, index: usize) -> Option<ConsolePort> {
        (index < self.0.ports.len()).then(|| ConsolePort { shared: self.0.clone(), index })
    }

    /// Tells the guest that the terminal has now `cols` columns and `rows` rows.
    pub fn resize(&self, cols: u16, rows: u16) {
        *lock(&self.0.size) = (cols, rows);
        if let Some(queues) = self.0.queues.get() {
            queues.config_changed();
        }
        for port in (0..self.0.ports.len()).filter(|p| self.0.ports[*p].console) {
            self.0.control.post_if_known(&self.0, port, Messages::RESIZE);
        }
    }
}

/// What device and handles share. Locks: control, then a port, then its queues.
struct Shared {
    queues: OnceLock<Arc<Queues>>,
    ports: Vec<Port>,
    control: Control,
    size: Mutex<(u16, u16)>,
    /// VIRTIO_CONSOLE_F_MULTIPORT is negotiated.
    multiport: AtomicBool,
}

impl Shared {
    fn multiport(&self) -> bool {
        self.multiport.load(Ordering::Relaxed)
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
