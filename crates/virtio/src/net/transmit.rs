//! From the guest to the port.
//!
//! A packet is sent when the driver notifies us, but it may get its buffer back a little later: for each it would be interrupted,
//! which costs a guest several times what the packet did. So small packets are given back together, after [`HOLD`] at the latest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use visor_net::offload::adapt;
use visor_net::{Frame, MAX_FRAME, NetPort, Sent};

use super::header::{HEADER, parse};
use super::{MAX_PAIRS, Shared, count, lock};
use crate::{Chain, Queues};

/// Packets returned to the driver at a time.
const BATCH: usize = 64;

/// How long the driver waits for the buffer of a small packet at most.
const HOLD: Duration = Duration::from_millis(1);
/// Packets it waits for together.
const HELD: usize = 16;
/// Larger ones carry payload that counts against what its socket may have under way; they are given back at once, and all others
/// with them.
const SMALL: usize = 256;

/// What is under way.
pub(super) struct Transmit {
    pairs: [Pair; MAX_PAIRS as usize],
    frame: Vec<u8>,
    /// [`HOLD`].
    pub(super) hold: Duration,
}

impl Default for Transmit {
    fn default() -> Self {
        Transmit { pairs: Default::default(), frame: Vec::new(), hold: HOLD }
    }
}

/// Of one queue.
#[derive(Default)]
struct Pair {
    /// The packet that the port had no room for.
    waiting: Option<Chain>,
    /// What was sent and not given back yet.
    done: Vec<(Chain, u32)>,
    /// Since when.
    since: Option<Instant>,
    /// There is a large one among it.
    large: bool,
}

impl Pair {
    fn give_back(&mut self, queues: &Queues) {
        queues.complete_all(&mut self.done);
        (self.since, self.large) = (None, false);
    }
}

impl Transmit {
    pub(super) fn forget(&mut self, queue: Option<u16>) {
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            if queue.is_none_or(|q| usize::from(q) == 2 * i + 1) {
                *pair = Pair::default();
            }
        }
    }
}

/// What became of a packet.
enum Fate {
    Done,
    NoRoom,
    /// The driver has broken the rules or reset the queue.
    Stop,
}

impl Shared {
    /// Sends what is in the transmit queue of `pair`, until it is empty or the port has no room.
    pub(super) fn transmit(self: &Arc<Self>, port: &mut dyn NetPort, pair: u16) {
        let Some(queues) = self.queues.get() else { return };
        let mut t = lock(&self.transmit);
        let queue = 2 * pair + 1;
        let mut left = 4 * u32::from(queues.size(queue)).max(64);
        while let Some(chain) = self.take(&mut t, queues, port, pair) {
            match self.send(&mut t, queues, &chain, port, pair) {
                Fate::Done => {
                    let large = chain.readable.len() > SMALL;
                    let p = &mut t.pairs[usize::from(pair)];
                    p.large |= large;
                    p.done.push((chain, 0));
                    if p.done.len() >= BATCH {
                        p.give_back(queues);
                    }
                }
                Fate::NoRoom => {
                    t.pairs[usize::from(pair)].waiting = Some(chain);
                    self.transmit_due.fetch_or(1 << pair, Ordering::SeqCst);
                    break;
                }
                Fate::Stop => break,
            }
            left -= 1;
            if left == 0 {
                // A driver that refills as fast as we empty must not hold a vCPU.
                self.transmit_due.fetch_or(1 << pair, Ordering::SeqCst);
                (self.wake)();
                break;
            }
        }
        let hold = t.hold;
        Self::give_back(&mut t.pairs[usize::from(pair)], queues, port, queue, hold);
    }

    /// Gives back what was held for long enough.
    pub(super) fn give_back_all(&self, port: &mut dyn NetPort) {
        let Some(queues) = self.queues.get() else { return };
        let mut t = lock(&self.transmit);
        let hold = t.hold;
        for (i, pair) in t.pairs.iter_mut().enumerate().filter(|(_, p)| !p.done.is_empty()) {
            Self::give_back(pair, queues, port, 2 * i as u16 + 1, hold);
        }
    }

    /// Gives back what was sent, or sees to it that this is done soon.
    fn give_back(pair: &mut Pair, queues: &Queues, port: &mut dyn NetPort, queue: u16, hold: Duration) {
        let count = pair.done.len();
        // A driver that would not be interrupted looks by itself.
        let worth_it = (1..HELD.min(usize::from(queues.size(queue)) / 8)).contains(&count)
            && !pair.large
            && queues.would_interrupt(queue, count as u16);
        let left = hold.saturating_sub(pair.since.get_or_insert_with(Instant::now).elapsed());
        if !(worth_it && !left.is_zero() && port.ring_in(left)) {
            pair.give_back(queues);
        }
    }

    /// The next packet. While the port collects, the driver is not asked to notify of more: the port's ring brings the pump, which
    /// takes what has gathered. A guest that sends one datagram after the other leaves its program for few of them only.
    fn take(&self, t: &mut Transmit, queues: &Arc<Queues>, port: &dyn NetPort, pair: u16) -> Option<Chain> {
        if let Some(chain) = t.pairs[usize::from(pair)].waiting.take() {
            return Some(chain);
        }
        if !port.collects() {
            return queues.next(2 * pair + 1);
        }
        let chain = queues.next_quietly(2 * pair + 1);
        if chain.is_none() {
            self.lingering.fetch_or(1 << pair, Ordering::SeqCst);
        }
        chain
    }

    fn send(&self, t: &mut Transmit, queues: &Queues, chain: &Chain, port: &mut dyn NetPort, pair: u16) -> Fate {
        let packet = &chain.readable;
        let mut header = [0; HEADER];
        if packet.len() < HEADER || !chain.writable.is_empty() {
            queues.fail("packet without header, or not for the device to read");
            return Fate::Stop;
        }
        let len = packet.len() - HEADER;
        if len > MAX_FRAME {
            count(&self.counters.sent_dropped, 1);
            return Fate::Done;
        }
        t.frame.resize(len, 0);
        if packet.get(0, &mut header).is_err() || packet.get(HEADER, &mut t.frame).is_err() {
            return Fate::Stop;
        }
        let Some(offload) = parse(&header).filter(|_| self.link.load(Ordering::Relaxed)) else {
            count(&self.counters.sent_dropped, 1);
            return Fate::Done;
        };
        let accepts = port.peer_accepts();
        match adapt(Frame { data: &t.frame, offload }, accepts, &mut |f| port.send(f)) {
            Sent::Yes => {
                count(&self.counters.sent, 1);
                count(&self.counters.sent_bytes, len as u64);
                if self.pairs > 1 {
                    lock(&self.receive).steering.sent(&t.frame, pair);
                }
            }
            Sent::Dropped => count(&self.counters.sent_dropped, 1),
            Sent::Full => return Fate::NoRoom,
        }
        Fate::Done
    }
}
