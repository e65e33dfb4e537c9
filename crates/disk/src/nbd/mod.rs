//! Disks over the network: the NBD protocol, fixed newstyle with simple replies, as client and as server.
//!
//! Specification: `doc/proto.md` of the NBD project. The client keeps every request until it is answered and sends it again on
//! a new connection when one is lost; the guest sees a pause at most. Not here: TLS, structured replies, block status.

mod address;
mod client;
mod server;
mod wire;

pub use address::NbdAddress;
pub use client::{NbdDisk, NbdOptions};
pub use server::{NbdExport, NbdServer};
