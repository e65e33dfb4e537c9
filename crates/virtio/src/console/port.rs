//! A port: two bounded byte streams, moved between guest buffers and the host's end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::control::Messages;
use super::{PortConfig, Shared, lock};
use crate::{Chain, Queues};

/// Bytes that a port holds in each direction.
pub const PORT_BUFFER: usize = 64 << 10;

/// Something has happened at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEvent {
    /// Bytes from the guest have come; read until nothing is left.
    Readable,
    /// There is room again after [`ConsolePort::write`] accepted less than it was given.
    Writable,
    /// The guest has opened the port.
    Opened,
    /// The guest has closed the port or was reset; bytes it had not read are gone.
    Closed,
}

/// Told about a port's events.
type Listener = Arc<dyn Fn(PortEvent) + Send + Sync>;

/// The host's end of a port.
#[derive(Clone)]
pub struct ConsolePort {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
}

impl ConsolePort {
    /// Says who is told about events. The listener is called from vCPU threads, with the device locked: it must only wake
    /// somebody up (write to an eventfd). It may call this port's methods, but no device or bus.
    pub fn on_event(&self, listener: impl Fn(PortEvent) + Send + Sync + 'static) {
        *lock(&self.port().listener) = Some(Arc::new(listener));
    }

    /// Connects or disconnects the host's end; it starts disconnected. What the guest writes to a disconnected port is thrown
    /// away, since a guest's console driver may otherwise wait for ever. Whoever connects must read.
    pub fn set_open(&self, open: bool) {
        let mut s = lock(&self.port().state);
        s.host_open = open;
        if !open {
            s.to_host.clear();
            self.port().move_out(&mut s, self.shared.queues.get());
        }
        drop(s);
        self.shared.control.post_if_known(&self.shared, self.index, Messages::OPEN);
    }

    /// Whether the guest has the port open.
    pub fn guest_open(&self) -> bool {
        lock(&self.port().state).guest_open
    }

    /// Offers `data` to the guest. Returns how many bytes were accepted: none while the guest has not opened the port, less than
    /// all when [`PORT_BUFFER`] bytes wait already ([`PortEvent::Writable`] follows).
    pub fn write(&self, data: &[u8]) -> usize {
        let mut s = lock(&self.port().state);
        if !s.guest_open {
            return 0;
        }
        let queues = self.shared.queues.get();
        let n = s.accept(data);
        self.port().move_in(&mut s, queues);
        // What has gone to the guest has made room.
        let n = n + s.accept(&data[n..]);
        self.port().move_in(&mut s, queues);
        s.short = n < data.len();
        n
    }

    /// Takes bytes that the guest has written; 0 if there are none.
    pub fn read(&self, data: &mut [u8]) -> usize {
        let mut s = lock(&self.port().state);
        let mut done = 0;
        while done < data.len() {
            let n = s.to_host.len().min(data.len() - done);
            for (d, b) in data[done..].iter_mut().zip(s.to_host.drain(..n)) {
                *d = b;
            }
            done += n;
            // The room made may be what the guest is waiting for.
            if !self.port().move_out(&mut s, self.shared.queues.get()) {
                break;
            }
        }
        done
    }

    fn port(&self) -> &Port {
        &self.shared.ports[self.index]
    }
}

/// The device's side of a port.
pub(super) struct Port {
    pub(super) name: String,
    pub(super) console: bool,
    /// Its queues, towards the guest and towards the host.
    receive: u16,
    transmit: u16,
    state: Mutex<State>,
    listener: Mutex<Option<Listener>>,
}

#[derive(Default)]
struct State {
    to_guest: VecDeque<u8>,
    to_host: VecDeque<u8>,
    /// The chain being read, and how much of it has been.
    partial: Option<(Chain, usize)>,
    guest_open: bool,
    host_open: bool,
    /// The host's last write was not accepted in full.
    short: bool,
}

impl State {
    fn accept(&mut self, data: &[u8]) -> usize {
        let n = data.len().min(PORT_BUFFER - self.to_guest.len());
        self.to_guest.extend(&data[..n]);
        n
    }
}

impl Port {
    pub(super) fn new(index: usize, config: &PortConfig) -> Self {
        let receive = if index == 0 { 0 } else { 2 * index as u16 + 2 };
        Port {
            name: config.name.clone(),
            console: config.console,
            receive,
            transmit: receive + 1,
            state: Mutex::default(),
            listener: Mutex::new(None),
        }
    }

    pub(super) fn host_open(&self) -> bool {
        lock(&self.state).host_open
    }

    /// The guest has opened or closed the port.
    pub(super) fn set_guest_open(&self, open: bool) {
        let mut s = lock(&self.state);
        let changed = s.guest_open != open;
        s.guest_open = open;
        if !open {
            s.to_guest.clear();
            s.short = false;
        }
        drop(s);
        if changed {
            self.tell(if open { PortEvent::Opened } else { PortEvent::Closed });
        }
    }

    /// The guest has given buffers to fill.
    pub(super) fn guest_reads(&self, queues: &Arc<Queues>) {
        let mut s = lock(&self.state);
        self.move_in(&mut s, Some(queues));
        let room = s.short && s.to_guest.len() < PORT_BUFFER;
        if room {
            s.short = false;
        }
        drop(s);
        if room {
            self.tell(PortEvent::Writable);
        }
    }

    /// The guest has given buffers to read.
    pub(super) fn guest_writes(&self, queues: &Arc<Queues>) {
        let came = self.move_out(&mut lock(&self.state), Some(queues));
        if came {
            self.tell(PortEvent::Readable);
        }
    }

    /// The guest has reset a queue or the device: chains are void. What it wrote before stays readable.
    pub(super) fn forget(&self) {
        lock(&self.state).partial = None;
    }

    /// Moves bytes to the guest while there are bytes and buffers.
    fn move_in(&self, s: &mut State, queues: Option<&Arc<Queues>>) {
        let Some(queues) = queues else { return };
        for _ in 0..rounds(queues, self.receive) {
            if s.to_guest.is_empty() {
                break;
            }
            let Some(chain) = queues.next(self.receive) else { break };
            let n = chain.writable.len().min(s.to_guest.len());
            let bytes: Vec<u8> = s.to_guest.drain(..n).collect();
            let ok = chain.writable.put(0, &bytes).is_ok();
            chain.complete(if ok { n as u32 } else { 0 });
        }
    }

    /// Moves bytes from the guest while there are bytes and room. True if any have come.
    fn move_out(&self, s: &mut State, queues: Option<&Arc<Queues>>) -> bool {
        let Some(queues) = queues else { return false };
        let before = s.to_host.len();
        for _ in 0..rounds(queues, self.transmit) {
            let room = PORT_BUFFER - s.to_host.len();
            if s.host_open && room == 0 {
                break;
            }
            let Some((chain, done)) = s.partial.take().or_else(|| Some((queues.next(self.transmit)?, 0))) else {
                break;
            };
            if !s.host_open {
                chain.complete(0);
                continue;
            }
            let mut bytes = vec![0; room.min(chain.readable.len() - done)];
            if chain.readable.get(done, &mut bytes).is_err() {
                chain.complete(0);
                continue;
            }
            let done = done + bytes.len();
            s.to_host.extend(bytes);
            if done == chain.readable.len() {
                chain.complete(0);
            } else {
                s.partial = Some((chain, done));
            }
        }
        s.to_host.len() > before
    }

    fn tell(&self, event: PortEvent) {
        let listener = lock(&self.listener).clone();
        if let Some(listener) = listener {
            listener(event);
        }
    }
}

/// Most chains handled at a time, so that a driver that refills as fast as the device empties cannot hold a thread.
fn rounds(queues: &Queues, queue: u16) -> u32 {
    16 * u32::from(queues.size(queue))
}
