//! What can be looked at from outside: the flows, and what was counted.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use visor_net::Protocol;

/// One flow. It travels to other processes as it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Translation {
    /// Which protocol.
    pub protocol: Protocol,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The local address of the host's socket, if it has one yet.
    pub host: Option<SocketAddr>,
    /// The far end, as the host's socket sees it.
    pub remote: SocketAddr,
    /// Opened from outside, through a forwarded port.
    pub inbound: bool,
    /// A word for its state: of TCP the name of RFC 9293 as the guest's peer would be in, else `open`.
    pub state: Cow<'static, str>,
    /// Since it was opened.
    pub age: Duration,
    /// Since the guest's last packet, of UDP and ICMP since the last in either direction.
    pub idle: Duration,
    /// Payload bytes from the guest.
    pub sent: u64,
    /// Payload bytes to the guest.
    pub received: u64,
}

/// Counters since the engine began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames from guests.
    pub frames_in: u64,
    /// Frames to guests.
    pub frames_out: u64,
    /// Frames that could not be understood.
    pub malformed: u64,
    /// Frames with a wrong checksum.
    pub bad_checksum: u64,
    /// Frames with a source address that is not the sender's.
    pub spoofed: u64,
    /// Packets to addresses that no guest may reach, the host's loopback among them.
    pub forbidden: u64,
    /// Flows refused by the policy.
    pub denied: u64,
    /// Flows opened.
    pub opened: u64,
    /// Flows that the other side or the host refused.
    pub refused: u64,
    /// Flows that had to go because a table was full.
    pub evicted: u64,
    /// Flows forgotten because nothing happened for long.
    pub expired: u64,
    /// Segments of guests that came out of order.
    pub out_of_order: u64,
    /// Segments sent to guests again.
    pub retransmitted: u64,
    /// Answers dropped because the guest does not take frames.
    pub replies_dropped: u64,
    /// Datagrams dropped: no flow of the guest asked for them, or there was no room.
    pub datagrams_dropped: u64,
    /// Leases refused because the pool is empty.
    pub no_lease: u64,
}
