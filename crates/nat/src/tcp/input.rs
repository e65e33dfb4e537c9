//! A segment of the guest (RFC 9293 §3.10.7, RFC 5961).
//!
//! Payload in order goes straight to the host's socket. The guest's cable is memory, so segments come out of order only when a
//! switch had to drop.

use std::io::ErrorKind;
use std::time::Duration;

use visor_net::MacAddr;

use super::flow::{CWND_MAX, Flow, Key, State};
use super::{Fate, SCALE, TIME_WAIT, Tcp};
use crate::core::Core;
use crate::host::{Host, SocketId};
use crate::wire::tcp::{ACK, FIN, RST, SYN, Segment, before};

/// Acknowledged bytes are thrown out of the host's queue when there are this many, or nothing is under way.
const CONSUME: u32 = 64 << 10;

impl Tcp {
    /// Takes one segment whose checksum is right.
    pub(crate) fn input<H: Host>(&mut self, core: &mut Core<H>, mac: MacAddr, segment: &Segment<'_>, key: Key) {
        let Some(id) = self.table.find(&key) else { return self.stranger(core, key, mac, segment) };
        let staged = self.stage(core, id, segment);
        if !staged {
            self.unstage(core);
        }
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        // RFC 9293 §3.6.1: a new connection may follow at once, if its sequence numbers lie ahead.
        if flow.state == State::TimeWait && segment.has(SYN) && !segment.has(ACK) && before(flow.rcv_nxt, segment.seq) {
            self.settle(core, id, Fate::Remove);
            return self.stranger(core, key, mac, segment);
        }
        flow.used = core.now;
        let fate = match staged {
            true => take_acknowledgement(core, flow, segment),
            false => take(core, flow, segment),
        };
        self.table.touch(id);
        match fate {
            Step::Settle(fate) => self.settle(core, id, fate),
            Step::Abort => self.abort(core, id),
        }
    }
}

/// How long the acknowledgement of a FIN waits for the far end's: mostly that one follows at once, and the guest gets one segment in
/// place of two. Nobody waits for it; a guest's retransmission timeout is 200 ms at least.
const FIN_WAIT: Duration = Duration::from_millis(1);

/// What to do with the flow after a segment.
enum Step {
    Settle(Fate),
    Abort,
}

const KEEP: Step = Step::Settle(Fate::Keep);

/// Takes a segment whose payload was collected.
fn take_acknowledgement<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) -> Step {
    flow.acks = flow.acks.max(1);
    take_ack(core, flow, segment);
    KEEP
}

fn take<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) -> Step {
    if flow.state == State::SynSent {
        return take_syn_ack(core, flow, segment);
    }
    if segment.has(RST) {
        return take_reset(core, flow, segment);
    }
    if segment.has(SYN) {
        // A repeated SYN gets its answer again, one out of the blue a challenge (RFC 5961 §4).
        if flow.state != State::Connecting {
            flow.acks = flow.acks.max(1);
        }
        return KEEP;
    }
    if !segment.has(ACK) || flow.state == State::Connecting {
        return KEEP;
    }
    if flow.state == State::SynReceived {
        if segment.ack != flow.nxt {
            return Step::Settle(Fate::Keep);
        }
        flow.una = segment.ack;
        opened(core, flow, segment);
    }
    if !take_ack(core, flow, segment) {
        return KEEP;
    }
    if (!segment.payload.is_empty() || segment.has(FIN) || segment.seq != flow.rcv_nxt)
        && !take_data(core, flow, segment)
    {
        return Step::Abort;
    }
    if flow.is_done() && flow.state != State::TimeWait { finish(core, flow) } else { KEEP }
}

/// The answer to our SYN (RFC 9293 §3.10.7.3).
fn take_syn_ack<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) -> Step {
    if !segment.has(ACK) || segment.ack != flow.max {
        return KEEP;
    }
    if segment.has(RST) {
        core.counters.refused += 1;
        if let Some(socket) = flow.socket.take() {
            core.host.tcp_abort(socket);
        }
        return Step::Settle(Fate::Remove);
    }
    if !segment.has(SYN) {
        return KEEP;
    }
    let most = flow.mss;
    flow.take_syn(segment, most, SCALE);
    flow.una = segment.ack;
    flow.nxt = flow.max;
    flow.acks = 1;
    let window = flow.wnd;
    opened(core, flow, segment);
    // The window of a SYN is never scaled.
    flow.wnd = window;
    KEEP
}

fn opened<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) {
    flow.state = State::Open;
    flow.more = true;
    flow.backoff = 0;
    flow.wnd = u32::from(segment.window) << flow.snd_scale;
    if let Some((_, at)) = flow.timed.take() {
        flow.measured(core.now.since(at));
    }
    flow.set_timer(core.now + core.config.tcp_idle);
}

/// RFC 5961 §3: only a reset with exactly the expected number counts; others inside the window are challenged.
fn take_reset<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) -> Step {
    if segment.seq == flow.rcv_nxt {
        if let Some(socket) = flow.socket.take() {
            core.host.tcp_abort(socket);
        }
        return Step::Settle(Fate::Remove);
    }
    if before(flow.rcv_nxt, segment.seq) && before(segment.seq, flow.rcv_edge) {
        flow.acks = flow.acks.max(1);
    }
    KEEP
}

/// Takes acknowledgement and window. False if the segment must go no further.
fn take_ack<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) -> bool {
    let ack = segment.ack;
    if before(flow.max, ack) {
        flow.acks = flow.acks.max(1);
        return false;
    }
    let window = u32::from(segment.window) << flow.snd_scale;
    if before(flow.una, ack) {
        acknowledged(core, flow, ack);
    } else if ack == flow.una && flow.max != flow.una {
        let pure = segment.payload.is_empty() && !segment.has(FIN);
        // RFC 5681 §2: a duplicate acknowledgement.
        if pure && window == flow.wnd && segment.seq == flow.rcv_nxt {
            duplicate(flow);
        }
    } else if before(ack, flow.una) {
        return true;
    }
    // RFC 9293 §3.10.7.4: an older segment must not set the window back.
    if !before(segment.seq, flow.wl1) {
        flow.wl1 = segment.seq;
        if window != flow.wnd {
            flow.wnd = window;
            flow.more |= flow.max != flow.nxt || flow.fin_seq.is_none();
        }
    }
    true
}

/// `ack` acknowledges something new.
fn acknowledged<H: Host>(core: &mut Core<H>, flow: &mut Flow, ack: u32) {
    let mut bytes = ack.wrapping_sub(flow.una);
    if flow.fin_seq.is_some_and(|fin| before(fin, ack)) {
        bytes -= 1;
        flow.fin_acked = true;
    }
    flow.unconsumed += bytes;
    flow.received += u64::from(bytes);
    flow.una = ack;
    if before(flow.nxt, ack) {
        flow.nxt = ack;
    }
    if let Some((end, at)) = flow.timed.filter(|(end, _)| !before(ack, *end)) {
        debug_assert!(!before(ack, end));
        flow.measured(core.now.since(at));
        flow.timed = None;
    }
    (flow.backoff, flow.dup_acks) = (0, 0);
    match flow.recover {
        // RFC 6582 §3.2: what was lost besides the first segment shows itself one by one.
        Some(recover) if before(ack, recover) => flow.resend = true,
        Some(_) => {
            flow.recover = None;
            flow.cwnd = flow.ssthresh;
        }
        None => grow(flow, bytes),
    }
    flow.more |= flow.nxt != flow.max || flow.fin_seq.is_none();
    consume(core, flow);
    let next = if flow.flight() > 0 { core.now + flow.rto() } else { core.now + core.config.tcp_idle };
    flow.set_timer(next);
}

/// RFC 5681 §3.1: slow start, then congestion avoidance.
fn grow(flow: &mut Flow, bytes: u32) {
    let step = if flow.cwnd < flow.ssthresh {
        bytes
    } else {
        (u64::from(bytes) * u64::from(flow.mss) / u64::from(flow.cwnd.max(1))) as u32
    };
    flow.cwnd = (flow.cwnd + step).min(CWND_MAX);
}

fn duplicate(flow: &mut Flow) {
    flow.dup_acks = flow.dup_acks.saturating_add(1);
    if flow.dup_acks != 3 || flow.recover.is_some() {
        return;
    }
    flow.ssthresh = (flow.flight() / 2).max(2 * u32::from(flow.mss));
    flow.cwnd = flow.ssthresh;
    flow.recover = Some(flow.max);
    flow.resend = true;
    flow.timed = None;
}

fn consume<H: Host>(core: &mut Core<H>, flow: &mut Flow) {
    if flow.unconsumed >= CONSUME || (flow.unconsumed > 0 && flow.una == flow.max) {
        if let Some(socket) = flow.socket {
            // An error shows itself at the next look into the queue.
            let _ = core.host.tcp_consume(socket, flow.unconsumed as usize);
        }
        flow.unconsumed = 0;
    }
}

/// Takes payload and FIN. False if the connection is broken.
fn take_data<H: Host>(core: &mut Core<H>, flow: &mut Flow, segment: &Segment<'_>) -> bool {
    let quiet = flow.acks == 0 && flow.flight() == 0;
    // Whatever is not exactly the next piece is answered, so that a guest that lost our answer gets it again.
    flow.acks = flow.acks.max(1);
    let (payload, fin) = (segment.payload, segment.has(FIN));
    if before(flow.rcv_nxt, segment.seq) {
        flow.acks = (flow.acks + u8::from(flow.acks > 1)).min(4);
        core.counters.out_of_order += 1;
        let end = segment.seq.wrapping_add(payload.len() as u32);
        if !flow.guest_fin && !before(flow.rcv_edge, end) {
            flow.reorder.get_or_insert_default().keep(segment.seq, payload, &mut core.reorder_bytes);
        }
        return true;
    }
    let old = flow.rcv_nxt.wrapping_sub(segment.seq) as usize;
    if old > payload.len() || flow.guest_fin {
        return true;
    }
    let Some(socket) = flow.socket else { return true };
    match pass_on(core, flow, socket, &payload[old..]) {
        Ok(true) => {}
        Ok(false) => return true,
        Err(()) => return false,
    }
    if fin {
        flow.rcv_nxt = flow.rcv_nxt.wrapping_add(1);
        flow.guest_fin = true;
        core.host.tcp_shutdown(socket);
        if quiet && payload.is_empty() && flow.fin_seq.is_none() {
            flow.acks = 0;
            flow.late_ack = true;
            flow.set_timer(core.now + FIN_WAIT);
        }
        return true;
    }
    if flow.reorder.is_some() { take_kept(core, flow, socket) } else { true }
}

/// Takes the segments whose turn has come now. False if the connection is broken.
fn take_kept<H: Host>(core: &mut Core<H>, flow: &mut Flow, socket: SocketId) -> bool {
    let Some(mut reorder) = flow.reorder.take() else { return true };
    let mut fine = Ok(true);
    while fine == Ok(true) {
        let Some(data) = reorder.next(flow.rcv_nxt, &mut core.reorder_bytes) else { break };
        fine = pass_on(core, flow, socket, &data);
    }
    if reorder.bytes() > 0 {
        flow.reorder = Some(reorder);
    }
    fine.is_ok()
}

/// Hands bytes to the host's socket. False if it did not take all; an error if the connection is broken.
pub(super) fn pass_on<H: Host>(core: &mut Core<H>, flow: &mut Flow, socket: SocketId, data: &[u8]) -> Result<bool, ()> {
    if data.is_empty() {
        return Ok(true);
    }
    let taken = match core.host.tcp_send(socket, data) {
        Ok(n) => n.min(data.len()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => return Err(()),
    };
    flow.rcv_nxt = flow.rcv_nxt.wrapping_add(taken as u32);
    flow.sent += taken as u64;
    if taken < data.len() {
        flow.blocked = true;
        flow.armed = true;
        core.host.wake_on_room(socket);
    }
    Ok(taken == data.len())
}

/// Both directions are closed.
fn finish<H: Host>(core: &mut Core<H>, flow: &mut Flow) -> Step {
    if let Some(socket) = flow.socket.take() {
        // Closing with unread bytes would send a reset after them.
        if flow.unconsumed > 0 {
            let _ = core.host.tcp_consume(socket, flow.unconsumed as usize);
        }
        core.host.close(socket);
    }
    flow.unconsumed = 0;
    flow.more = false;
    flow.state = State::TimeWait;
    flow.set_timer(core.now + TIME_WAIT);
    KEEP
}
