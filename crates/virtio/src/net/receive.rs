//! From the port to the guest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use visor_net::offload::adapt;
use visor_net::{Accepts, Frame, MacAddr, NetPort, Sent};

use super::filter::Filter;
use super::header::{HEADER, emit};
use super::steering::Steering;
use super::{F_GUEST_CSUM, F_MRG_RXBUF, MAX_PAIRS, Shared, count, lock};
use crate::{Chain, Queues};

/// Frames taken from the port at a time; in between, transmission has its turn.
pub(super) const ROUND: u32 = 256;
/// Frames that a vCPU receives when it has sent: some for each that a guest sends in a row, few enough for a guest that waits.
pub(super) const ANSWERS: u32 = 16;
/// Buffers returned to the driver at a time.
const BATCH: usize = 128;

/// What reception works with.
pub(super) struct Receive {
    pub(super) filter: Filter,
    pub(super) steering: Steering,
    /// What the driver takes undone.
    pub(super) accepts: Accepts,
    pairs: [Pair; MAX_PAIRS as usize],
}

#[derive(Default)]
struct Pair {
    /// Buffers taken from the queue and not used yet.
    spare: VecDeque<Chain>,
    /// Filled buffers.
    done: Vec<(Chain, u32)>,
}

impl Receive {
    pub(super) fn new(mac: MacAddr) -> Self {
        Receive {
            filter: Filter::new(mac),
            steering: Steering::default(),
            accepts: Accepts::default(),
            pairs: Default::default(),
        }
    }

    pub(super) fn forget(&mut self, queue: Option<u16>) {
        for (i, pair) in self.pairs.iter_mut().enumerate() {
            if queue.is_none_or(|q| usize::from(q) == 2 * i) {
                *pair = Pair::default();
            }
        }
    }
}

impl Shared {
    /// Hands the guest what the port has, up to `most` frames. True if there may be more.
    pub(super) fn receive(self: &Arc<Self>, port: &mut dyn NetPort, most: u32) -> bool {
        let Some(queues) = self.queues.get() else { return false };
        let mut r = lock(&self.receive);
        let mut left = most;
        port.receive(&mut |frame: Frame<'_>| {
            if left == 0 {
                return Sent::Full;
            }
            left -= 1;
            let sent = self.deliver(&mut r, queues, frame);
            if sent == Sent::Dropped {
                count(&self.counters.received_dropped, 1);
            }
            sent
        });
        for pair in &mut r.pairs {
            queues.complete_all(&mut pair.done);
        }
        left == 0
    }

    fn deliver(&self, r: &mut Receive, queues: &Arc<Queues>, frame: Frame<'_>) -> Sent {
        let up = queues.running() && self.link.load(Ordering::Relaxed);
        if !up || !r.filter.passes(frame.data) {
            return Sent::Dropped;
        }
        let pair = r.steering.pair_of(frame.data);
        let accepts = r.accepts;
        let sent = adapt(frame, accepts, &mut |f| self.fill(&mut r.pairs[pair], queues, pair, f));
        if sent == Sent::Yes {
            count(&self.counters.received, 1);
            count(&self.counters.received_bytes, frame.data.len() as u64);
        }
        sent
    }

    /// Puts a frame into as many buffers as it needs.
    fn fill(&self, p: &mut Pair, queues: &Arc<Queues>, pair: usize, frame: Frame<'_>) -> Sent {
        let merge = self.has(F_MRG_RXBUF);
        let need = HEADER + frame.data.len();
        let (mut count, mut room) = (0, 0);
        while room < need && (merge || count == 0) {
            if count == p.spare.len() {
                let queue = 2 * pair as u16;
                let Some(chain) = self.next_buffer(queues, queue) else {
                    // A driver that never has so many buffers at once must not stop up the port.
                    let hopeless = count >= (usize::from(queues.size(queue)) / 2).max(1);
                    return if hopeless { Sent::Dropped } else { Sent::Full };
                };
                p.spare.push_back(chain);
            }
            let chain = &p.spare[count];
            room += chain.writable.len();
            count += 1;
            let headless = count == 1 && room < HEADER;
            if headless || !chain.readable.is_empty() || count > usize::from(queues.size(chain.queue()).max(1)) {
                queues.fail("receive buffer too small for a header, to be read, or empty ones without end");
                p.spare.clear();
                return Sent::Dropped;
            }
        }
        if room < need {
            // Without mergeable buffers: more than the driver has room for.
            return Sent::Dropped;
        }
        let header = emit(&frame, self.has(F_GUEST_CSUM), count as u16);
        let mut rest = frame.data;
        for (i, chain) in p.spare.drain(..count).enumerate() {
            let skip = if i == 0 { HEADER } else { 0 };
            let (now, later) = rest.split_at(rest.len().min(chain.writable.len() - skip));
            rest = later;
            let ok = i != 0 || chain.writable.put(0, &header).is_ok();
            if !ok || chain.writable.put(skip, now).is_err() {
                // The driver has reset the queue.
                return Sent::Dropped;
            }
            p.done.push((chain, (skip + now.len()) as u32));
        }
        if p.done.len() >= BATCH {
            queues.complete_all(&mut p.done);
        }
        Sent::Yes
    }

    fn next_buffer(&self, queues: &Arc<Queues>, queue: u16) -> Option<Chain> {
        queues.next(queue).or_else(|| {
            // Buffers may come between the look and the note; whoever brings them after the note wakes the pump.
            self.starved.store(true, Ordering::SeqCst);
            queues.next(queue)
        })
    }
}
