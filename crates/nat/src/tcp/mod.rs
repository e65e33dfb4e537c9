//! TCP: the guest's connections end here, and go on as connections of host sockets.
//!
//! - [`flow`]: what is known of one connection;
//! - [`open`]: how connections come to be, from both sides;
//! - [`input`]: a segment of the guest (RFC 9293 §3.10.7);
//! - [`staging`]: small segments in a row;
//! - [`reorder`]: segments that came before their turn;
//! - [`output`]: acknowledgements and data for the guest;
//! - [`events`]: news of the host socket, and timers.

mod events;
mod flow;
mod input;
mod open;
pub(crate) mod output;
pub(crate) mod reorder;
mod staging;

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use visor_net::{Direction, FrameSink, Protocol};

pub(crate) use flow::{Flow, Key, State};

use crate::core::Core;
use crate::host::{Host, Token, Undelivered};
use crate::listing::Translation;
use crate::table::{Id, Table};
use crate::timers::Timers;
use crate::wire::emit::{Leave, Route, TcpHeader};
use crate::wire::tcp::{ACK, RST, Segment};
use crate::{Time, wire};

/// Our window scale: windows up to 16 MiB in steps of 256 bytes.
pub(crate) const SCALE: u8 = 8;
/// A connection of which only half is left is kept this long without traffic (RFC 5382 REQ-5: 4 minutes).
const TRANSITORY: Duration = Duration::from_secs(240);
/// A last acknowledgement can be repeated this long. The guest is one cable away, so a fraction of RFC 9293's two segment lifetimes.
const TIME_WAIT: Duration = Duration::from_secs(2);

/// What becomes of a flow after something happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Keep,
    Remove,
}

/// All TCP flows.
pub(crate) struct Tcp {
    pub(crate) table: Table<Key, Flow>,
    ready: VecDeque<Id>,
    timers: Timers,
    staging: staging::Staging,
    /// A flow's timer was set to an acknowledgement that can wait.
    pub(crate) put_off: bool,
}

impl Tcp {
    pub(crate) fn new(limit: usize) -> Tcp {
        Tcp {
            table: Table::new(limit),
            ready: VecDeque::new(),
            timers: Timers::default(),
            staging: staging::Staging::default(),
            put_off: false,
        }
    }

    /// When [`Tcp::timers`] has something to do next.
    pub(crate) fn next_timer(&self) -> Option<Time> {
        self.timers.next()
    }

    /// True if frames wait for the guest.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Puts what happened to a flow into effect: queues it, moves its timer, or forgets it.
    pub(crate) fn settle<H: Host>(&mut self, core: &mut Core<H>, id: Id, fate: Fate) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        if fate == Fate::Remove {
            if let Some(socket) = flow.socket.take() {
                core.host.close(socket);
            }
            if let Some(reorder) = flow.reorder.take() {
                core.reorder_bytes -= reorder.bytes();
            }
            self.table.remove(id);
            let table = &self.table;
            self.timers.tidy(|id| table.get(id).is_some(), table.len());
            return;
        }
        self.put_off |= flow.late_ack;
        if flow.timer < flow.in_heap {
            flow.in_heap = flow.timer;
            self.timers.add(flow.timer, id);
        }
        let wants = match flow.state {
            State::Connecting => false,
            State::Open => flow.acks > 0 || flow.more || flow.resend || flow.probe,
            _ => flow.acks > 0,
        };
        if wants && !flow.queued {
            flow.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Ends a flow at once and tells both sides.
    pub(crate) fn abort<H: Host>(&mut self, core: &mut Core<H>, id: Id) {
        let Some((key, flow)) = self.table.get_mut(id) else { return };
        if !matches!(flow.state, State::Connecting | State::TimeWait) {
            reset_guest(core, &key, flow);
        }
        if let Some(socket) = flow.socket.take() {
            core.host.tcp_abort(socket);
        }
        self.settle(core, id, Fate::Remove);
    }

    /// Makes room for one more flow.
    fn make_room<H: Host>(&mut self, core: &mut Core<H>) {
        if !self.table.is_full() {
            return;
        }
        if let Some(id) = self.table.victim() {
            if self.table.get(id).is_some_and(|(_, f)| f.state != State::TimeWait) {
                core.counters.evicted += 1;
            }
            self.abort(core, id);
        }
    }

    /// Sends what waits for the guest, until there is no more (true) or `sink` is full.
    pub(crate) fn flush<H: Host>(&mut self, core: &mut Core<H>, sink: &mut dyn FrameSink) -> bool {
        while let Some(id) = self.ready.pop_front() {
            let Some((key, flow)) = self.table.get_mut(id) else { continue };
            flow.queued = false;
            let (progress, fate) = output::push(core, &key, flow, sink);
            self.settle(core, id, fate);
            if progress == output::Progress::Full {
                self.requeue_first(id);
                return false;
            }
        }
        true
    }

    /// The flow that found the sink full goes first next time.
    fn requeue_first(&mut self, id: Id) {
        let Some((_, flow)) = self.table.get_mut(id) else { return };
        if flow.queued {
            self.ready.pop_back();
        }
        flow.queued = true;
        self.ready.push_front(id);
    }

    /// Appends all flows to a listing.
    pub(crate) fn list<H: Host>(&self, core: &mut Core<H>, now: Time, list: &mut Vec<Translation>) {
        for (_, key, flow) in self.table.iter() {
            list.push(Translation {
                protocol: Protocol::Tcp,
                guest: key.guest,
                host: flow.socket.and_then(|s| core.host.local_address(s)),
                remote: flow.peer,
                inbound: flow.direction == Direction::Inbound,
                state: flow.name().into(),
                age: now.since(flow.created),
                idle: now.since(flow.used),
                sent: flow.sent,
                received: flow.received,
            });
        }
    }
}

/// The engine's name of a flow's socket.
pub(crate) fn token(id: Id) -> Token {
    crate::core::token(crate::core::Kind::Tcp, id)
}

/// Queues a reset for the guest.
fn reset_guest<H: Host>(core: &mut Core<H>, key: &Key, flow: &Flow) {
    let header = TcpHeader {
        from: key.remote,
        to: key.guest,
        seq: flow.nxt,
        ack: flow.rcv_nxt,
        flags: RST | ACK,
        window: 0,
        mss: 0,
        window_scale: None,
    };
    control(core, &header, flow.mac);
}

/// Tells the guest that its connection could not be made: a reset if somebody refused it, else what ICMP calls the trouble.
fn refuse<H: Host>(core: &mut Core<H>, key: &Key, flow: &Flow, kind: ErrorKind) {
    let why = match kind {
        ErrorKind::HostUnreachable | ErrorKind::TimedOut => Undelivered::Host,
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => Undelivered::Net,
        ErrorKind::PermissionDenied => Undelivered::Prohibited,
        _ => return reset_guest(core, key, flow),
    };
    let mut head = [0; 8];
    head[..2].copy_from_slice(&key.guest.port().to_be_bytes());
    head[2..4].copy_from_slice(&key.remote.port().to_be_bytes());
    head[4..].copy_from_slice(&flow.rcv_nxt.wrapping_sub(1).to_be_bytes());
    let about = crate::icmp::About { from: key.guest.ip(), to: key.remote.ip(), protocol: wire::TCP, head };
    crate::icmp::report(core, flow.mac, &about, why);
}

/// Answers a segment that belongs to no flow with a reset (RFC 9293 §3.5.2).
pub(crate) fn reset_stranger<H: Host>(core: &mut Core<H>, key: &Key, mac: visor_net::MacAddr, segment: &Segment<'_>) {
    if segment.has(RST) {
        return;
    }
    let len =
        segment.payload.len() as u32 + u32::from(segment.has(wire::tcp::SYN)) + u32::from(segment.has(wire::tcp::FIN));
    let (seq, ack, flags) =
        if segment.has(ACK) { (segment.ack, 0, RST) } else { (0, segment.seq.wrapping_add(len), RST | ACK) };
    let header = TcpHeader { from: key.remote, to: key.guest, seq, ack, flags, window: 0, mss: 0, window_scale: None };
    control(core, &header, mac);
}

/// Queues a segment without payload.
fn control<H: Host>(core: &mut Core<H>, header: &TcpHeader, mac: visor_net::MacAddr) {
    let mut buffer = [0; wire::emit::HEADROOM];
    let route = Route { from_mac: core.config.mac, to_mac: mac };
    let frame = wire::emit::tcp(&mut buffer, wire::emit::HEADROOM, 0, header, route, Leave::default());
    let frame = frame.data.to_vec();
    core.reply(frame);
}
