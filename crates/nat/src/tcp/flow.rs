//! One TCP flow: the sequence space of both directions, and nothing of the payload.
//!
//! Bytes for the guest stay in the host socket's receive queue until the guest has acknowledged them; bytes from the guest are
//! acknowledged when the host socket has taken them. So a flow is a few hundred bytes however much is under way.

use std::net::SocketAddr;
use std::time::Duration;

use visor_net::{Direction, MacAddr};

use crate::Time;
use crate::host::SocketId;
use crate::wire::tcp::before;

/// Retransmission timeout before the first measurement (RFC 6298 §2).
const RTO_FIRST: Duration = Duration::from_secs(1);
/// Least retransmission timeout: guests delay acknowledgements by up to 200 ms, and slow ones by more.
const RTO_MIN: Duration = Duration::from_millis(250);
/// Most.
const RTO_MAX: Duration = Duration::from_secs(60);
/// Congestion window of a new flow. The cable is memory, so it starts wide; it exists for switches that drop.
pub(crate) const CWND_FIRST: u32 = 256 << 10;
/// Most bytes under way to the guest.
pub(crate) const CWND_MAX: u32 = 8 << 20;

/// Life of a flow as the guest sees it. What has been closed is told by [`Flow::guest_fin`] and [`Flow::fin_acked`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The host is connecting; the guest has no answer yet.
    Connecting,
    /// The guest's SYN was answered.
    SynReceived,
    /// A SYN was sent to the guest.
    SynSent,
    Open,
    /// Everything is done; a lost last acknowledgement is repeated.
    TimeWait,
}

/// Both ends of a flow on the guest's cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// A flow.
pub(crate) struct Flow {
    pub(crate) state: State,
    pub(crate) direction: Direction,
    pub(crate) mac: MacAddr,
    pub(crate) socket: Option<SocketId>,
    /// The other end of the host's socket; the guest may see another address.
    pub(crate) peer: SocketAddr,

    // From the guest to the host.
    pub(crate) rcv_nxt: u32,
    /// First sequence number beyond the window that was advertised.
    pub(crate) rcv_edge: u32,
    pub(crate) rcv_scale: Option<u8>,
    /// Bytes inside the window had to be dropped, since the socket took less than it had promised.
    pub(crate) blocked: bool,
    /// The host tells when there is room.
    pub(crate) armed: bool,
    pub(crate) guest_fin: bool,
    pub(crate) reorder: Option<Box<super::reorder::Reorder>>,
    /// Acknowledgements to send; more than one repeats it.
    pub(crate) acks: u8,
    /// The guest's FIN is to be acknowledged when the timer goes off, unless something carries that before.
    pub(crate) late_ack: bool,

    // From the host to the guest.
    pub(crate) una: u32,
    pub(crate) nxt: u32,
    pub(crate) max: u32,
    /// Window of the guest in bytes.
    pub(crate) wnd: u32,
    /// Sequence number of the segment that set `wnd`.
    pub(crate) wl1: u32,
    pub(crate) snd_scale: u8,
    pub(crate) mss: u16,
    /// Acknowledged bytes that still stand in the host's queue.
    pub(crate) unconsumed: u32,
    /// The host's queue may hold more.
    pub(crate) more: bool,
    pub(crate) hangup: bool,
    /// Where our FIN stands, once the host's end was seen.
    pub(crate) fin_seq: Option<u32>,
    pub(crate) fin_acked: bool,

    // Loss.
    pub(crate) cwnd: u32,
    pub(crate) ssthresh: u32,
    pub(crate) recover: Option<u32>,
    pub(crate) dup_acks: u8,
    pub(crate) resend: bool,
    pub(crate) probe: bool,
    pub(crate) srtt: u32,
    pub(crate) rttvar: u32,
    pub(crate) timed: Option<(u32, Time)>,
    pub(crate) backoff: u8,

    // Bookkeeping.
    pub(crate) queued: bool,
    pub(crate) timer: Time,
    pub(crate) in_heap: Time,
    pub(crate) created: Time,
    pub(crate) used: Time,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl Flow {
    /// A new flow with our initial sequence number.
    pub(crate) fn new(state: State, direction: Direction, mac: MacAddr, peer: SocketAddr, iss: u32, now: Time) -> Flow {
        Flow {
            state,
            direction,
            mac,
            socket: None,
            peer,
            rcv_nxt: 0,
            rcv_edge: 0,
            rcv_scale: None,
            blocked: false,
            armed: false,
            guest_fin: false,
            reorder: None,
            acks: 0,
            late_ack: false,
            una: iss,
            nxt: iss,
            max: iss,
            wnd: 0,
            wl1: 0,
            snd_scale: 0,
            mss: 536,
            unconsumed: 0,
            more: false,
            hangup: false,
            fin_seq: None,
            fin_acked: false,
            cwnd: CWND_FIRST,
            ssthresh: CWND_MAX,
            recover: None,
            dup_acks: 0,
            resend: false,
            probe: false,
            srtt: 0,
            rttvar: 0,
            timed: None,
            backoff: 0,
            queued: false,
            timer: Time(u64::MAX),
            in_heap: Time(u64::MAX),
            created: now,
            used: now,
            sent: 0,
            received: 0,
        }
    }

    /// Takes what a SYN of the guest says. `mtu_mss` is the most that its cable carries.
    pub(crate) fn take_syn(&mut self, segment: &crate::wire::tcp::Segment<'_>, mtu_mss: u16, scale: u8) {
        self.rcv_nxt = segment.seq.wrapping_add(1);
        self.rcv_edge = self.rcv_nxt;
        self.mss = segment.mss.unwrap_or(536).clamp(64, mtu_mss);
        // RFC 7323 §2.2: scaling counts only if both sides offer it.
        self.snd_scale = segment.window_scale.unwrap_or(0);
        self.rcv_scale = segment.window_scale.map(|_| scale);
        self.wnd = u32::from(segment.window);
        self.wl1 = segment.seq;
    }

    /// Bytes sent and not acknowledged, our SYN or FIN among them.
    pub(crate) fn flight(&self) -> u32 {
        self.nxt.wrapping_sub(self.una)
    }

    /// How long to wait for an acknowledgement.
    pub(crate) fn rto(&self) -> Duration {
        let base = match self.srtt {
            0 => RTO_FIRST,
            srtt => Duration::from_micros(u64::from(srtt) + u64::from(self.rttvar.max(1000)) * 4).max(RTO_MIN),
        };
        (base * (1 << self.backoff.min(8))).min(RTO_MAX)
    }

    /// Counts a measured round trip in (RFC 6298 §2).
    pub(crate) fn measured(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).clamp(1, 60_000_000);
        if self.srtt == 0 {
            (self.srtt, self.rttvar) = (rtt, rtt / 2);
        } else {
            self.rttvar = self.rttvar - self.rttvar / 4 + self.srtt.abs_diff(rtt) / 4;
            self.srtt = self.srtt - self.srtt / 8 + rtt / 8;
        }
    }

    /// Takes note of a sent piece of sequence space.
    pub(crate) fn advanced(&mut self, to: u32, now: Time) {
        if self.flight() == 0 {
            self.set_timer(now + self.rto());
        }
        // Karn: only bytes sent for the first time are timed.
        if self.timed.is_none() && !before(to, self.max) && self.nxt == self.max {
            self.timed = Some((to, now));
        }
        self.nxt = to;
        if before(self.max, to) {
            self.max = to;
        }
    }

    /// Sets the next moment at which the flow has something to do.
    pub(crate) fn set_timer(&mut self, at: Time) {
        self.timer = at;
    }

    /// True once both sides have said that they will send no more, and both know of it.
    pub(crate) fn is_done(&self) -> bool {
        self.guest_fin && self.fin_acked
    }

    /// The state's name in listings (RFC 9293 §3.3.2, seen from the guest's peer).
    pub(crate) fn name(&self) -> &'static str {
        match self.state {
            State::Connecting => "connecting",
            State::SynReceived => "syn-received",
            State::SynSent => "syn-sent",
            State::TimeWait => "time-wait",
            State::Open => match (self.guest_fin, self.fin_seq.is_some(), self.fin_acked) {
                (false, false, _) => "established",
                (true, false, _) => "close-wait",
                (true, true, _) => "last-ack",
                (false, true, false) => "fin-wait-1",
                (false, true, true) => "fin-wait-2",
            },
        }
    }
}
