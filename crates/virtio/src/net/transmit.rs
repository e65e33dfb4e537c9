//! From the guest to the port.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use visor_net::offload::adapt;
use visor_net::{Frame, MAX_FRAME, NetPort, Sent};

use super::header::{HEADER, parse};
use super::{MAX_PAIRS, Shared, count, lock};
use crate::{Chain, Queues};

/// Packets returned to the driver at a time.
const BATCH: usize = 64;

/// What is under way.
pub(super) struct Transmit {
    /// The packet of each pair that the port had no room for.
    waiting: [Option<Chain>; MAX_PAIRS as usize],
    frame: Vec<u8>,
    done: Vec<(Chain, u32)>,
}

impl Default for Transmit {
    fn default() -> Self {
        Transmit { waiting: [const { None }; MAX_PAIRS as usize], frame: Vec::new(), done: Vec::new() }
    }
}

impl Transmit {
    pub(super) fn forget(&mut self, queue: Option<u16>) {
        for (pair, waiting) in self.waiting.iter_mut().enumerate() {
            if queue.is_none_or(|q| usize::from(q) == 2 * pair + 1) {
                *waiting = None;
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
                Fate::Done => t.done.push((chain, 0)),
                Fate::NoRoom => {
                    t.waiting[usize::from(pair)] = Some(chain);
                    self.transmit_due.fetch_or(1 << pair, Ordering::SeqCst);
                    break;
                }
                Fate::Stop => break,
            }
            if t.done.len() >= BATCH {
                queues.complete_all(&mut t.done);
            }
            left -= 1;
            if left == 0 {
                // A driver that refills as fast as we empty must not hold a vCPU.
                self.transmit_due.fetch_or(1 << pair, Ordering::SeqCst);
                (self.wake)();
                break;
            }
        }
        queues.complete_all(&mut t.done);
    }

    /// The next packet. While the port collects, the driver is not asked to notify of more: the port's ring brings the pump, which
    /// takes what has gathered. A guest that sends one datagram after the other leaves its program for few of them only.
    fn take(&self, t: &mut Transmit, queues: &Arc<Queues>, port: &dyn NetPort, pair: u16) -> Option<Chain> {
        if let Some(chain) = t.waiting[usize::from(pair)].take() {
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
