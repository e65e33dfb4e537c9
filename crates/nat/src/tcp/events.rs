//! News of host sockets, and timers.

use super::flow::{Flow, Key, State};
use super::output::MAX_BACKOFF;
use super::{Fate, TRANSITORY, Tcp};
use crate::core::Core;
use crate::host::{Event, Host};
use crate::table::Id;

impl Tcp {
    /// Something happened on the socket of a flow.
    pub(crate) fn event<H: Host>(&mut self, core: &mut Core<H>, id: Id, event: &Event) {
        let Some((key, flow)) = self.table.get_mut(id) else { return };
        let fate = match flow.state {
            State::Connecting => Self::connected(core, &key, flow),
            State::TimeWait => Fate::Keep,
            _ => return self.news(core, id, event),
        };
        self.settle(core, id, fate);
    }

    fn news<H: Host>(&mut self, core: &mut Core<H>, id: Id, event: &Event) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        if event.readable || event.hangup {
            flow.hangup |= event.hangup;
            flow.more |= flow.fin_seq.is_none();
            if broken(core, flow) {
                return self.abort(core, id);
            }
        }
        if event.writable && flow.armed && flow.state == State::Open {
            room(core, flow);
        }
        self.settle(core, id, Fate::Keep);
    }

    /// Handles the flows whose moment has come.
    pub(crate) fn timers<H: Host>(&mut self, core: &mut Core<H>) {
        while let Some(id) = self.timers.due(core.now) {
            let Some((key, flow)) = self.table.get_mut(id) else { continue };
            flow.in_heap = crate::Time(u64::MAX);
            if flow.timer > core.now {
                self.settle(core, id, Fate::Keep);
                continue;
            }
            match expired(core, &key, flow) {
                Some(fate) => self.settle(core, id, fate),
                None => self.abort(core, id),
            }
        }
    }
}

/// The host's socket has room again: tells the guest, if that is worth a segment.
fn room<H: Host>(core: &mut Core<H>, flow: &mut Flow) {
    flow.armed = false;
    // Bytes were dropped: three duplicates behind the window update make the guest send them now instead of after its
    // retransmission timeout (RFC 5681 §3.2).
    if std::mem::take(&mut flow.blocked) {
        flow.acks = 4;
        return;
    }
    let shown = flow.rcv_edge.wrapping_sub(flow.rcv_nxt);
    let mss = u32::from(flow.mss);
    let room = flow.socket.map_or(0, |s| core.host.tcp_room(s)) as u32;
    if shown < mss || room >= shown + 2 * mss {
        flow.acks = flow.acks.max(1);
    }
}

/// After its end was seen, a connection can still break; before that, the next look into the queue tells.
fn broken<H: Host>(core: &mut Core<H>, flow: &Flow) -> bool {
    let (Some(socket), Some(_)) = (flow.socket, flow.fin_seq) else { return false };
    let mut byte = [0];
    match core.host.tcp_peek(socket, flow.unconsumed as usize, &mut byte) {
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// The moment of a flow has come. `None`: it must be aborted.
fn expired<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow) -> Option<Fate> {
    let idle = core.now.since(flow.used);
    match flow.state {
        State::TimeWait => return Some(Fate::Remove),
        State::Connecting => {
            core.counters.refused += 1;
            super::refuse(core, key, flow, std::io::ErrorKind::TimedOut);
            return Some(Fate::Remove);
        }
        State::SynReceived | State::SynSent => {
            if flow.backoff >= 6 {
                return None;
            }
            flow.backoff += 1;
            flow.timed = None;
            flow.acks = 1;
        }
        State::Open if flow.late_ack => {
            // Sending it sets the flow's timer again.
            flow.acks = flow.acks.max(1);
            flow.set_timer(core.now + core.config.tcp_idle);
            return Some(Fate::Keep);
        }
        State::Open => {
            let limit = if flow.fin_acked { TRANSITORY } else { core.config.tcp_idle };
            if idle >= limit {
                core.counters.expired += 1;
                return None;
            }
            if flow.flight() > 0 {
                return retransmit(core, flow);
            }
            if flow.wnd == 0 && flow.fin_seq.is_none() {
                // The window is shut. Its opening may have been lost (RFC 9293 §3.8.6.1).
                flow.probe = true;
                flow.backoff = (flow.backoff + 1).min(8);
                flow.set_timer(core.now + flow.rto());
                return Some(Fate::Keep);
            }
            flow.set_timer(flow.used + limit);
            return Some(Fate::Keep);
        }
    }
    flow.set_timer(core.now + flow.rto());
    Some(Fate::Keep)
}

/// RFC 6298 §5: the timeout doubles, and everything unacknowledged goes again.
fn retransmit<H: Host>(core: &mut Core<H>, flow: &mut Flow) -> Option<Fate> {
    if flow.backoff >= MAX_BACKOFF {
        core.counters.expired += 1;
        return None;
    }
    core.counters.retransmitted += 1;
    let mss = u32::from(flow.mss);
    flow.ssthresh = (flow.flight() / 2).max(2 * mss);
    flow.cwnd = mss;
    flow.backoff += 1;
    flow.recover = None;
    flow.dup_acks = 0;
    flow.timed = None;
    flow.nxt = flow.una;
    flow.more = true;
    flow.set_timer(core.now + flow.rto());
    Some(Fate::Keep)
}
