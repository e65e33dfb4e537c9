//! Who may talk to whom: the question a switch or a translator asks before it opens a new flow.
//!
//! Only the first packet of a flow is asked about; the answer holds for both directions of it until the flow ends. Whoever
//! changes the rules and wants existing flows judged again says so to the owner of the flows.

use std::net::SocketAddr;
use std::sync::Arc;

/// Protocol of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo: the identifier stands for the port of the side that asks, the other port is 0.
    Icmp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Icmp => "icmp",
        })
    }
}

/// A text that is no [`Protocol`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no protocol; there are tcp, udp and icmp")]
pub struct ProtocolError(pub String);

impl std::str::FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "icmp" => Ok(Protocol::Icmp),
            other => Err(ProtocolError(other.into())),
        }
    }
}

/// The first packet of a flow, as whoever judges it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Which protocol.
    pub protocol: Protocol,
    /// Who opens the flow.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
}

/// Which way the first packet of a flow goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The guest opens the flow.
    Outbound,
    /// The guest is to be reached.
    Inbound,
}

/// Why a flow was refused, in words for a person: the rule's name or the missing rule.
pub type Reason = Arc<str>;

/// What is to become of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be opened.
    Allow,
    /// It is refused, and who asked is told (TCP reset, ICMP "administratively prohibited").
    Reject(Reason),
    /// It is dropped without a word.
    Drop(Reason),
}

/// Decides about new flows. It is asked with locks held: it must not block.
pub trait FlowPolicy: Send + Sync {
    /// What is to become of `flow`.
    fn decide(&self, flow: &FlowKey, direction: Direction) -> Verdict;
}

/// Allows everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl FlowPolicy for AllowAll {
    fn decide(&self, _: &FlowKey, _: Direction) -> Verdict {
        Verdict::Allow
    }
}
