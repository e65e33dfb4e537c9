//! A learning Ethernet switch in memory.
//!
//! [`Switch`] is the state machine: a frame and the time go in, frames for ports come out; it has no thread, no clock and no
//! queues. [`Hub`] puts bounded queues behind it, so that each port is a [`visor_net::NetPort`] for a guest's network device or an
//! address translator. What wraps a port: [`Captured`] writes what passes to a pcap file, [`Filtered`] asks a
//! [`visor_net::FrameFilter`].
//!
//! - VLANs (IEEE 802.1Q): access ports, trunks with or without a native VLAN;
//! - a bounded table of addresses with ageing, and a share of it for each port, so that no guest can push out another's;
//! - guards per port: source addresses that the port may use, no DHCP server or router unless it is meant to be one;
//! - equal addresses on two ports are reported, whether they are configured or seen;
//! - large segments pass undivided where the receiver takes them, and are cut up otherwise.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod capture;
mod filtered;
mod guard;
mod hub;
mod switch;
mod table;
#[cfg(test)]
mod tests;
mod vlan;

pub use capture::{Capture, CaptureSlot, Captured};
pub use filtered::Filtered;
pub use guard::Guard;
pub use hub::{Hub, SwitchPort};
pub use switch::{Conflict, PortConfig, PortId, PortStatus, Switch, TableEntry};
pub use table::AGEING;
pub use vlan::{Membership, VlanId, VlanIdError};
