//! Acknowledgements and data for the guest.

use std::io::ErrorKind;

use visor_net::{FrameSink, Sent};

use super::flow::{Flow, Key, State};
use super::{Fate, SCALE, reset_guest};
use crate::core::Core;
use crate::host::Host;
use crate::wire::emit::{self, HEADROOM, Leave, Route, TcpHeader};
use crate::wire::tcp::{ACK, FIN, PSH, SYN, before};

/// Payload bytes that one look into the host's queue takes at most; with headers they fit an IP packet.
pub(crate) const CHUNK: usize = 65535 - 60;
/// Chunks that a flow sends before the next one has its turn.
const TURN: usize = 8;
/// Retransmissions in a row after which the guest is given up; with a timeout that doubles these are more than five minutes.
pub(super) const MAX_BACKOFF: u8 = 12;

/// How far a flow came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It has nothing more, or its turn is over.
    Done,
    /// The sink is full.
    Full,
}

/// Sends what a flow has for the guest.
pub(super) fn push<H: Host>(
    core: &mut Core<H>,
    key: &Key,
    flow: &mut Flow,
    sink: &mut dyn FrameSink,
) -> (Progress, Fate) {
    let progress = match flow.state {
        State::Connecting => Ok(Progress::Done),
        State::SynReceived | State::SynSent => Ok(handshake(core, key, flow, sink)),
        State::TimeWait => Ok(acknowledge(core, key, flow, sink)),
        State::Open => data(core, key, flow, sink),
    };
    match progress {
        Ok(Progress::Done) => (acknowledge(core, key, flow, sink), Fate::Keep),
        Ok(Progress::Full) => (Progress::Full, Fate::Keep),
        Err(()) => {
            reset_guest(core, key, flow);
            if let Some(socket) = flow.socket.take() {
                core.host.tcp_abort(socket);
            }
            (Progress::Done, Fate::Remove)
        }
    }
}

/// SYN, or SYN and acknowledgement.
fn handshake<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow, sink: &mut dyn FrameSink) -> Progress {
    if flow.acks == 0 {
        return Progress::Done;
    }
    let iss = flow.una;
    let mut header = header(core, key, flow, iss, SYN);
    header.mss = core.mss(key.guest);
    if flow.state == State::SynReceived {
        header.flags |= ACK;
        header.window_scale = flow.rcv_scale;
        // The window of a SYN is never scaled.
        header.window = (flow.rcv_edge.wrapping_sub(flow.rcv_nxt)).min(65535) as u16;
    } else {
        (header.window_scale, header.window, header.ack) = (Some(SCALE), 65535, 0);
    }
    if emit_segment(core, flow, &header, HEADROOM, 0, sink) == Sent::Full {
        return Progress::Full;
    }
    flow.acks = 0;
    flow.nxt = iss;
    flow.advanced(iss.wrapping_add(1), core.now);
    Progress::Done
}

/// Acknowledgements that nothing else carried, and window probes.
fn acknowledge<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow, sink: &mut dyn FrameSink) -> Progress {
    if matches!(flow.state, State::Connecting | State::SynReceived | State::SynSent) {
        return Progress::Done;
    }
    if flow.probe {
        // One number too old: the guest must answer with its window (RFC 9293 §3.8.6.1).
        let probe = header(core, key, flow, flow.una.wrapping_sub(1), ACK);
        if emit_segment(core, flow, &probe, HEADROOM, 0, sink) == Sent::Full {
            return Progress::Full;
        }
        flow.probe = false;
    }
    while flow.acks > 0 {
        let ack = header(core, key, flow, flow.nxt, ACK);
        if emit_segment(core, flow, &ack, HEADROOM, 0, sink) == Sent::Full {
            return Progress::Full;
        }
        flow.acks -= 1;
    }
    Progress::Done
}

/// Sends data as windows allow. An error: the host's connection is broken.
fn data<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow, sink: &mut dyn FrameSink) -> Result<Progress, ()> {
    if flow.resend {
        if resend(core, key, flow, sink)? == Progress::Full {
            return Ok(Progress::Full);
        }
        flow.resend = false;
    }
    if !flow.more {
        return Ok(Progress::Done);
    }
    for _ in 0..TURN {
        if flow.fin_seq.is_some_and(|fin| before(fin, flow.nxt)) {
            flow.more = false;
            return Ok(Progress::Done);
        }
        if flow.fin_seq == Some(flow.nxt) {
            return Ok(send_fin(core, key, flow, sink));
        }
        let want = allowed(core, key, flow);
        if want == 0 {
            flow.more = false;
            stalled(core, flow);
            return Ok(Progress::Done);
        }
        let offset = (flow.unconsumed + flow.flight()) as usize;
        let len = match peek(core, flow, offset, want)? {
            Some(0) => return Ok(send_fin(core, key, flow, sink)),
            Some(len) => len,
            None => {
                flow.more = false;
                return Ok(Progress::Done);
            }
        };
        let end = len < want && !flow.hangup;
        if segments(core, key, flow, len, end, sink) == Progress::Full {
            return Ok(Progress::Full);
        }
        if end {
            flow.more = false;
            return Ok(Progress::Done);
        }
    }
    Ok(Progress::Done)
}

/// Payload bytes that may go now.
fn allowed<H: Host>(core: &Core<H>, key: &Key, flow: &Flow) -> usize {
    let mss = usize::from(flow.mss);
    let flight = flow.flight();
    let usable = flow.wnd.min(flow.cwnd.max(u32::from(flow.mss))).saturating_sub(flight) as usize;
    // RFC 9293 §3.8.6.2.1: no small segments while something is under way, lest windows stay small.
    if usable < mss {
        return if flight == 0 { usable } else { 0 };
    }
    let whole = if core.splits(key.guest) { CHUNK } else { CHUNK / mss * mss };
    let usable = usable.min(whole);
    usable / mss * mss
}

/// Nothing may go: sees to it that the flow wakes up when the guest's word gets lost.
fn stalled<H: Host>(core: &mut Core<H>, flow: &mut Flow) {
    if flow.flight() == 0 {
        flow.set_timer(core.now + flow.rto());
    }
}

/// Copies from the host's queue into the scratch buffer. `None`: nothing there.
fn peek<H: Host>(core: &mut Core<H>, flow: &mut Flow, offset: usize, want: usize) -> Result<Option<usize>, ()> {
    let Some(socket) = flow.socket else { return Err(()) };
    match core.host.tcp_peek(socket, offset, &mut core.scratch[HEADROOM..HEADROOM + want]) {
        Ok(len) => Ok(Some(len.min(want))),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(_) => Err(()),
    }
}

/// Sends the first `len` bytes of the scratch buffer, in one frame if the receiver splits, else in as many as needed.
fn segments<H: Host>(
    core: &mut Core<H>,
    key: &Key,
    flow: &mut Flow,
    len: usize,
    end: bool,
    sink: &mut dyn FrameSink,
) -> Progress {
    let step = if core.splits(key.guest) { len } else { usize::from(flow.mss) };
    let mut at = 0;
    while at < len {
        let part = step.min(len - at);
        let push = if end && at + part == len { PSH } else { 0 };
        let header = header(core, key, flow, flow.nxt, ACK | push);
        // The header overwrites the end of the part before, which is gone already.
        if emit_segment(core, flow, &header, HEADROOM + at, part, sink) == Sent::Full {
            return Progress::Full;
        }
        // More than one acknowledgement is a request to send again, which data does not carry.
        flow.acks -= u8::from(flow.acks == 1);
        flow.advanced(flow.nxt.wrapping_add(part as u32), core.now);
        at += part;
    }
    Progress::Done
}

fn send_fin<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow, sink: &mut dyn FrameSink) -> Progress {
    let fin = header(core, key, flow, flow.nxt, FIN | ACK);
    if emit_segment(core, flow, &fin, HEADROOM, 0, sink) == Sent::Full {
        return Progress::Full;
    }
    flow.acks = 0;
    flow.fin_seq = Some(flow.nxt);
    flow.advanced(flow.nxt.wrapping_add(1), core.now);
    flow.more = false;
    Progress::Done
}

/// Sends the first unacknowledged segment again.
fn resend<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow, sink: &mut dyn FrameSink) -> Result<Progress, ()> {
    let outstanding = flow.max.wrapping_sub(flow.una) - u32::from(flow.fin_seq.is_some_and(|f| before(f, flow.max)));
    let want = (outstanding as usize).min(usize::from(flow.mss));
    let (flags, len) = match want {
        0 if flow.fin_seq == Some(flow.una) && flow.max != flow.una => (FIN | ACK, 0),
        0 => return Ok(Progress::Done),
        _ => (ACK, peek(core, flow, flow.unconsumed as usize, want)?.unwrap_or(0)),
    };
    if flags == ACK && len == 0 {
        return Ok(Progress::Done);
    }
    core.counters.retransmitted += 1;
    let header = header(core, key, flow, flow.una, flags);
    if emit_segment(core, flow, &header, HEADROOM, len, sink) == Sent::Full {
        return Ok(Progress::Full);
    }
    flow.set_timer(core.now + flow.rto());
    Ok(Progress::Done)
}

/// The header of a segment, with acknowledgement and window.
fn header<H: Host>(core: &mut Core<H>, key: &Key, flow: &mut Flow, seq: u32, flags: u8) -> TcpHeader {
    TcpHeader {
        from: key.remote,
        to: key.guest,
        seq,
        ack: flow.rcv_nxt,
        flags,
        window: window(core, flow),
        mss: 0,
        window_scale: None,
    }
}

/// The window to advertise: what the host's socket has room for. Asks to be woken when that is little.
fn window<H: Host>(core: &mut Core<H>, flow: &mut Flow) -> u16 {
    let Some(socket) = flow.socket.filter(|_| !flow.guest_fin && flow.state != State::SynSent) else {
        return 0;
    };
    let scale = flow.rcv_scale.unwrap_or(0);
    let promised = flow.rcv_edge.wrapping_sub(flow.rcv_nxt);
    let unused = if before(flow.rcv_edge, flow.rcv_nxt) { 0 } else { promised };
    // While more than half a megabyte is promised, or half of what the scale can say, there is no need to ask.
    if !flow.blocked && unused > (512 << 10).min(32767 << scale) {
        return (unused >> scale).min(65535) as u16;
    }
    // RFC 9293 §3.8.6: a promise is kept, but for bytes that had to be dropped; and no silly windows.
    let room = match core.host.tcp_room(socket) as u32 {
        _ if flow.blocked => 0,
        room if room < u32::from(flow.mss) => unused,
        room => room.max(unused),
    };
    if room < 4 * u32::from(flow.mss) + (32 << 10) && !flow.armed {
        flow.armed = true;
        core.host.wake_on_room(socket);
    }
    let shown = (room >> scale).min(65535);
    flow.rcv_edge = flow.rcv_nxt.wrapping_add(shown << scale);
    shown as u16
}

fn emit_segment<H: Host>(
    core: &mut Core<H>,
    flow: &mut Flow,
    header: &TcpHeader,
    at: usize,
    len: usize,
    sink: &mut dyn FrameSink,
) -> Sent {
    let leave = Leave { checksum: core.accepts.checksum, split: core.splits(header.to).then_some(flow.mss) };
    let route = Route { from_mac: core.config.mac, to_mac: flow.mac };
    let sent = sink.frame(emit::tcp(&mut core.scratch, at, len, header, route, leave));
    if sent != Sent::Full {
        core.counters.frames_out += 1;
        // Every segment acknowledges.
        flow.late_ack = false;
    }
    sent
}
