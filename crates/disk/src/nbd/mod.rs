//! Disks over the network: the NBD protocol, fixed newstyle with simple replies, as client and as server.
//!
//! Specification: `doc/proto.md` of the NBD project. The client keeps every request until it is answered and sends it again on
//! a new connection when one is lost; the guest sees a pause at most. TLS starts with the
//! option STARTTLS; a side that wants it speaks of nothing else before. Not here: structured replies, block status.

mod address;
mod client;
mod server;
mod session;
mod stream;
mod tls;
mod wire;

pub use address::NbdAddress;
pub use client::{NbdDisk, NbdOptions};
pub use server::{NbdExport, NbdServer};
pub use tls::{TlsClient, TlsFiles, TlsServer};
