//! Address translation in user space: a guest's Ethernet frames become calls on host sockets, and what the sockets receive
//! becomes frames again. No privilege, no device and no rule of the host is needed.
//!
//! The engine is sans-IO: frames, time and the host's sockets ([`Host`]) come in as parameters. It plays the router, the
//! resolver and the DHCP server of one Ethernet network, and terminates the guests' TCP towards sockets of the host without
//! keeping payload: what goes to a guest stays in the host socket's queue until the guest has acknowledged it, what comes from
//! one is acknowledged when the host's socket has taken it. A flow costs a few hundred bytes.
//!
//! ```text
//!  frames ──ingress──▶ ARP · DHCP · DNS · ICMP · UDP · TCP ──▶ Host (sockets)
//!         ◀──poll────  answers, datagrams, segments        ◀── events
//! ```
//!
//! - [`NatEngine::ingress`] takes a frame of a guest; [`NatEngine::poll`] hands frames for guests to a sink, and is also what makes
//!   events and timers count. The engine needs nothing but these two calls.
//! - A guest may use only the address it was given; everything else is dropped and counted ([`Counters`]).
//! - Every table is bounded: when one is full, the guest with most entries loses its oldest.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod config;
mod core;
mod datagram;
mod dhcp4;
mod dhcp6;
mod dhcp_options;
mod dns;
mod engine;
mod forward;
mod fragment;
mod guests;
mod host;
mod icmp;
mod inbox;
mod listing;
mod nd;
mod outbox;
mod receive;
mod table;
mod tcp;
mod tftp;
mod time;
mod timers;
mod wire;

#[cfg(test)]
mod tests;

pub use config::{ConfigError, NatConfig};
pub use engine::NatEngine;
pub use forward::{Forward, ForwardId};
pub use guests::Lease;
pub use host::{BATCH, Batch, DATAGRAM_HEADROOM, DATAGRAM_MAX, Event, Host, SocketId, Token, Undelivered};
pub use listing::{Counters, Translation};
pub use tftp::{BootFile, BootFiles};
pub use time::Time;
