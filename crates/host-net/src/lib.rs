//! The host's side of networks: sockets, epoll and tap devices. The only network crate that touches the operating system.
//!
//! - [`HostSockets`]: the sockets that a [`visor_nat::NatEngine`] works with;
//! - [`Nat`] and [`NatPort`]: such an engine with a cable to plug a network device into;
//! - [`CablePort`]: a cable to a device or network in another process;
//! - [`Directory`]: files that guests fetch when they boot from their network;
//! - [`TapPort`]: a tap device of the host, for bridges and host-only networks where that is allowed, or what stands for one in a
//!   namespace of the process's own.
//!
//! Nothing blocks. Whoever owns a port calls it from its own thread; the one thread that each port has of its own waits for the
//! host's news and does nothing but wake the owner ([`visor_net::Notify`]).
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod boot_files;
mod cable;
mod errors;
mod nat;
mod ping;
mod resolv;
mod segments;
mod sockets;
mod sys;
mod tap;
mod veth;
mod waker;

#[cfg(test)]
mod tests;

pub use boot_files::Directory;
pub use cable::{CableListener, CablePort, connect_cable, receive_greeting, send_greeting};
pub use nat::{Engine, Nat, NatPort};
pub use resolv::Resolvers;
pub use sockets::HostSockets;
pub use sys::raise_open_files;
pub use tap::{TapError, TapPort, add_default_route, interface_up};
