//! The control queues (virtio 1.2 §5.3.6.2): how ports are announced, named, opened and closed.
//!
//! ```text
//! driver                        device
//! DEVICE_READY 1 ─────────────▶
//!                ◀───────────── PORT_ADD for each port
//! PORT_READY 1   ─────────────▶
//!                ◀───────────── CONSOLE_PORT and RESIZE for a console, PORT_NAME, PORT_OPEN when the host is connected
//! PORT_OPEN 0/1  ◀────────────▶ PORT_OPEN 0/1
//! ```
//! What the device has to say is a set of messages for each port rather than a list: it stays bounded when the driver gives no
//! buffers.

use std::sync::Mutex;

use super::{Shared, lock};

/// Queue of messages to the guest.
pub(super) const CONTROL_RECEIVE: u16 = 2;
/// Queue of messages from the guest.
pub(super) const CONTROL_TRANSMIT: u16 = 3;

const DEVICE_READY: u16 = 0;
const PORT_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Messages that wait for a buffer of the guest.
#[derive(Clone, Copy, Default)]
pub(super) struct Messages(u8);

impl Messages {
    const ADD: Messages = Messages(1);
    const CONSOLE: Messages = Messages(2);
    pub(super) const RESIZE: Messages = Messages(4);
    const NAME: Messages = Messages(8);
    pub(super) const OPEN: Messages = Messages(16);
    /// In the order in which they are sent.
    const ALL: [Messages; 5] = [Self::ADD, Self::CONSOLE, Self::RESIZE, Self::NAME, Self::OPEN];

    fn has(self, other: Messages) -> bool {
        self.0 & other.0 != 0
    }
}

/// What is to be said about each port.
pub(super) struct Control(Mutex<Vec<Pending>>);

#[derive(Clone, Copy, Default)]
struct Pending {
    messages: Messages,
    /// The driver has said PORT_READY.
    known: bool,
}

impl Control {
    pub(super) fn new(ports: usize) -> Self {
        Control(Mutex::new(vec![Pending::default(); ports]))
    }

    pub(super) fn reset(&self) {
        lock(&self.0).fill(Pending::default());
    }

    /// Says `messages` about `port` if the driver knows the port already.
    pub(super) fn post_if_known(&self, shared: &Shared, port: usize, messages: Messages) {
        let known = lock(&self.0).get(port).is_some_and(|p| p.known);
        if known {
            self.post(port, messages);
            self.send(shared);
        }
    }

    fn post(&self, port: usize, messages: Messages) {
        if let Some(p) = lock(&self.0).get_mut(port) {
            p.messages.0 |= messages.0;
        }
    }

    /// Sends what waits, as far as the guest has given buffers.
    pub(super) fn send(&self, shared: &Shared) {
        let Some(queues) = shared.queues.get().filter(|_| shared.multiport()) else { return };
        let mut pending = lock(&self.0);
        for (port, p) in pending.iter_mut().enumerate() {
            for message in Messages::ALL.into_iter().filter(|m| p.messages.has(*m)).collect::<Vec<_>>() {
                let Some(chain) = queues.next(CONTROL_RECEIVE) else { return };
                p.messages.0 &= !message.0;
                let bytes = encode(shared, port, message);
                let n = bytes.len().min(chain.writable.len());
                let ok = chain.writable.put(0, &bytes[..n]).is_ok();
                chain.complete(if ok { n as u32 } else { 0 });
            }
        }
    }

    /// Handles what the guest has sent.
    pub(super) fn receive(&self, shared: &Shared) {
        let Some(queues) = shared.queues.get().filter(|_| shared.multiport()) else { return };
        for _ in 0..16 * u32::from(queues.size(CONTROL_TRANSMIT)) {
            let Some(chain) = queues.next(CONTROL_TRANSMIT) else { break };
            let mut m = [0; 8];
            if chain.readable.get(0, &mut m).is_ok() {
                let id = u32::from_le_bytes([m[0], m[1], m[2], m[3]]);
                self.handle(shared, id, u16::from_le_bytes([m[4], m[5]]), u16::from_le_bytes([m[6], m[7]]));
            }
            chain.complete(0);
        }
        self.send(shared);
    }

    fn handle(&self, shared: &Shared, id: u32, event: u16, value: u16) {
        let port = shared.ports.get(id as usize);
        match (event, port) {
            (DEVICE_READY, _) if value == 1 => (0..shared.ports.len()).for_each(|p| self.post(p, Messages::ADD)),
            (PORT_READY, Some(port)) if value == 1 => {
                let mut m = Messages::default();
                if port.console {
                    m.0 |= Messages::CONSOLE.0 | Messages::RESIZE.0;
                }
                if !port.name.is_empty() {
                    m.0 |= Messages::NAME.0;
                }
                if port.host_open() {
                    m.0 |= Messages::OPEN.0;
                }
                if let Some(p) = lock(&self.0).get_mut(id as usize) {
                    p.known = true;
                    p.messages.0 |= m.0;
                }
            }
            (PORT_OPEN, Some(port)) => port.set_guest_open(value == 1),
            _ => tracing::debug!(id, event, value, "virtio console control message ignored"),
        }
    }
}

/// A message's bytes: port, event, value, and what belongs to the event.
fn encode(shared: &Shared, port: usize, message: Messages) -> Vec<u8> {
    let (event, value, tail) = match message.0 {
        1 => (PORT_ADD, 1, Vec::new()),
        2 => (CONSOLE_PORT, 1, Vec::new()),
        4 => {
            let (cols, rows) = *lock(&shared.size);
            (RESIZE, 0, [cols.to_le_bytes(), rows.to_le_bytes()].concat())
        }
        8 => (PORT_NAME, 1, shared.ports[port].name.clone().into_bytes()),
        _ => (PORT_OPEN, u16::from(shared.ports[port].host_open()), Vec::new()),
    };
    let mut bytes = (port as u32).to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(u16::to_le_bytes(value));
    bytes.extend(tail);
    bytes
}
