//! A cable: two [`NetPort`]s, each of which receives what the other sends. The queue in each direction is bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::offload::adapt;
use crate::{Accepts, Frame, FrameSink, MAX_FRAME, NetPort, Notify, Offload, Sent};

/// Most frames that wait in one direction.
const MAX_WAITING: usize = 1024;
/// Most bytes that wait in one direction.
const MAX_BYTES: usize = 4 << 20;

/// One end of a cable. Dropping it takes the link down for the other end.
pub struct CableEnd {
    shared: Arc<Mutex<Shared>>,
    /// 0 or 1.
    side: usize,
    /// Taken from the queue, not yet from us.
    inbox: VecDeque<Stored>,
    mtu: u16,
}

#[derive(Default)]
struct Shared {
    /// What each side is to receive.
    queues: [Queue; 2],
}

struct Queue {
    frames: VecDeque<Stored>,
    /// Of the frames that wait, those taken into the receiver's inbox among them.
    waiting: usize,
    bytes: usize,
    /// The other side has met a full queue.
    blocked: bool,
    accepts: Accepts,
    /// The receiver's.
    notify: Option<Notify>,
    open: bool,
}

struct Stored {
    data: Vec<u8>,
    offload: Offload,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            frames: VecDeque::new(),
            waiting: 0,
            bytes: 0,
            blocked: false,
            accepts: Accepts::default(),
            notify: None,
            open: true,
        }
    }
}

/// A cable for IP packets of up to `mtu` bytes.
pub fn cable(mtu: u16) -> (CableEnd, CableEnd) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let end = |side| CableEnd { shared: shared.clone(), side, inbox: VecDeque::new(), mtu };
    (end(0), end(1))
}

impl Queue {
    fn push(&mut self, frame: Frame<'_>) -> Sent {
        if self.waiting >= MAX_WAITING || self.bytes + frame.data.len() > MAX_BYTES {
            self.blocked = true;
            return Sent::Full;
        }
        self.waiting += 1;
        self.bytes += frame.data.len();
        self.frames.push_back(Stored { data: frame.data.to_vec(), offload: frame.offload });
        Sent::Yes
    }
}

impl CableEnd {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NetPort for CableEnd {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        if !(14..=MAX_FRAME).contains(&frame.data.len()) {
            return Sent::Dropped;
        }
        let mut s = self.lock();
        let to = &mut s.queues[1 - self.side];
        if !to.open {
            return Sent::Dropped;
        }
        let was_empty = to.frames.is_empty();
        let accepts = to.accepts;
        let sent = adapt(frame, accepts, &mut |f| to.push(f));
        let notify = to.notify.clone().filter(|_| was_empty && !to.frames.is_empty());
        drop(s);
        if let Some(notify) = notify {
            notify();
        }
        sent
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        let mut taken = 0;
        loop {
            if self.inbox.is_empty() {
                let mut s = self.lock();
                let mut frames = std::mem::take(&mut s.queues[self.side].frames);
                drop(s);
                self.inbox.append(&mut frames);
            }
            let (mut count, mut bytes) = (0, 0);
            let mut full = self.inbox.is_empty();
            while let Some(f) = self.inbox.front() {
                if sink.frame(Frame { data: &f.data, offload: f.offload }) == Sent::Full {
                    full = true;
                    break;
                }
                count += 1;
                bytes += f.data.len();
                self.inbox.pop_front();
            }
            taken += count;
            let mut s = self.lock();
            let q = &mut s.queues[self.side];
            q.waiting -= count.min(q.waiting);
            q.bytes -= bytes.min(q.bytes);
            let unblock = count > 0 && std::mem::take(&mut q.blocked);
            let notify = s.queues[1 - self.side].notify.clone().filter(|_| unblock);
            drop(s);
            if let Some(notify) = notify {
                notify();
            }
            if full {
                return taken;
            }
        }
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        let side = self.side;
        self.lock().queues[side].accepts = accepts;
    }

    fn peer_accepts(&self) -> Accepts {
        self.lock().queues[1 - self.side].accepts
    }

    fn on_ready(&mut self, notify: Notify) {
        let side = self.side;
        self.lock().queues[side].notify = Some(notify);
    }

    fn link_up(&self) -> bool {
        self.lock().queues[1 - self.side].open
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }
}

impl Drop for CableEnd {
    fn drop(&mut self) {
        let side = self.side;
        let mut s = self.lock();
        s.queues[side].open = false;
        s.queues[side].frames.clear();
        let notify = s.queues[1 - side].notify.clone();
        drop(s);
        if let Some(notify) = notify {
            notify();
        }
    }
}
