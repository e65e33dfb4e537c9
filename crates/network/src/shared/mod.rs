//! Networks that guests of several processes share (`docs/adr/0029`).
//!
//! - `message`: what the two sides of a socket say to each other before frames flow;
//! - `place`: where a network keeps its socket, its description and its leases;
//! - `server`: the network's process; `member`: its guests; `uplink`: its connection to the world;
//! - `client`: the machine's end, and questions.

mod client;
mod member;
mod message;
mod place;
mod server;
#[cfg(test)]
mod tests;
mod uplink;

pub use client::{Plug, SharedNetwork, ask, plug_shell};
pub use message::{Answer, GuestStatus, Mode, NetworkStatus, PlugRequest, Question, SharedSpec, VlanSpec, Welcome};
pub use place::{Place, Places};
pub use server::serve;
