//! A switch with queues: each port is a [`NetPort`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use visor_net::offload::adapt;
use visor_net::{Accepts, Frame, FrameSink, NetPort, Notify, Offload, Sent};

use crate::switch::{Conflict, PortConfig, PortId, PortStatus, Switch, TableEntry};
use crate::vlan::Membership;

/// Most frames that wait at a port. What comes then is dropped, as at any switch: a guest that does not listen must not hold up
/// the others.
const MAX_WAITING: usize = 4096;
/// Most bytes that wait at a port.
const MAX_BYTES: usize = 8 << 20;

/// A switch; clones are the same one.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Mutex<Shared>>,
    since: Instant,
    mtu: u16,
}

/// What a device or a translator plugs into. Dropping it removes the port.
pub struct SwitchPort {
    hub: Hub,
    id: PortId,
    inbox: VecDeque<Stored>,
}

#[derive(Default)]
struct Shared {
    switch: Switch,
    boxes: BTreeMap<PortId, Outbox>,
    /// Who is to be told, collected while the switch works.
    told: Vec<Notify>,
}

#[derive(Default)]
struct Outbox {
    frames: VecDeque<Stored>,
    /// Of the frames that wait, those in the port's inbox among them.
    waiting: usize,
    bytes: usize,
    accepts: Accepts,
    notify: Option<Notify>,
}

struct Stored {
    data: Vec<u8>,
    offload: Offload,
}

impl Outbox {
    fn push(&mut self, frame: Frame<'_>) -> Sent {
        if self.waiting >= MAX_WAITING || self.bytes + frame.data.len() > MAX_BYTES {
            return Sent::Dropped;
        }
        self.waiting += 1;
        self.bytes += frame.data.len();
        self.frames.push_back(Stored { data: frame.data.to_vec(), offload: frame.offload });
        Sent::Yes
    }
}

impl Hub {
    /// A switch without ports for IP packets of up to `mtu` bytes.
    pub fn new(mtu: u16) -> Self {
        Hub { shared: Arc::default(), since: Instant::now(), mtu }
    }

    /// Adds a port.
    pub fn plug(&self, config: PortConfig) -> SwitchPort {
        let mut s = self.lock();
        let id = s.switch.add_port(config);
        s.boxes.insert(id, Outbox::default());
        SwitchPort { hub: self.clone(), id, inbox: VecDeque::new() }
    }

    /// See [`Switch::ports`].
    pub fn ports(&self) -> Vec<PortStatus> {
        self.lock().switch.ports()
    }

    /// See [`Switch::table`].
    pub fn table(&self) -> Vec<TableEntry> {
        self.lock().switch.table(self.now())
    }

    /// See [`Switch::conflicts`].
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.lock().switch.conflicts()
    }

    /// See [`Switch::set_vlans`].
    pub fn set_vlans(&self, id: PortId, vlans: Membership) -> bool {
        self.lock().switch.set_vlans(id, vlans)
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, from: PortId, frame: Frame<'_>) -> Sent {
        let mut guard = self.lock();
        let Shared { switch, boxes, told } = &mut *guard;
        let sent = switch.input(self.now(), from, frame, &mut |to, f| {
            let Some(outbox) = boxes.get_mut(&to) else { return Sent::Dropped };
            let was_empty = outbox.frames.is_empty();
            let sent = adapt(f, outbox.accepts, &mut |f| outbox.push(f));
            if was_empty && !outbox.frames.is_empty() {
                told.extend(outbox.notify.clone());
            }
            sent
        });
        let told = std::mem::take(told);
        drop(guard);
        told.iter().for_each(|notify| notify());
        sent
    }
}

impl SwitchPort {
    /// The port's number.
    pub fn id(&self) -> PortId {
        self.id
    }

    fn outbox<R>(&self, f: impl FnOnce(&mut Outbox) -> R) -> Option<R> {
        self.hub.lock().boxes.get_mut(&self.id).map(f)
    }
}

impl NetPort for SwitchPort {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        self.hub.send(self.id, frame)
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let mut taken = 0;
        loop {
            if self.inbox.is_empty() {
                self.inbox = self.outbox(|o| std::mem::take(&mut o.frames)).unwrap_or_default();
            }
            let (mut count, mut bytes, mut over) = (0, 0, self.inbox.is_empty());
            while let Some(f) = self.inbox.front() {
                if sink.frame(Frame { data: &f.data, offload: f.offload }) == Sent::Full {
                    over = true;
                    break;
                }
                count += 1;
                bytes += f.data.len();
                self.inbox.pop_front();
            }
            taken += count;
            self.outbox(|o| {
                o.waiting = o.waiting.saturating_sub(count);
                o.bytes = o.bytes.saturating_sub(bytes);
            });
            if over {
                return taken;
            }
        }
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.outbox(|o| o.accepts = accepts);
    }

    /// Everything: the switch finishes frames for those receivers that need it.
    fn peer_accepts(&self) -> Accepts {
        Accepts::ALL
    }

    fn on_ready(&mut self, notify: Notify) {
        self.outbox(|o| o.notify = Some(notify));
    }

    fn mtu(&self) -> u16 {
        self.hub.mtu
    }
}

impl Drop for SwitchPort {
    fn drop(&mut self) {
        let mut s = self.hub.lock();
        s.switch.remove_port(self.id);
        s.boxes.remove(&self.id);
    }
}
