//! Forwarded ports: sockets that listen on the host for a guest.

use std::net::SocketAddr;

use visor_net::Protocol;

use crate::host::SocketId;

/// Name of a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId(pub u32);

/// A forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its name.
    pub id: ForwardId,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens; the port is the real one, even if any was asked for.
    pub bind: SocketAddr,
    /// Who gets what comes in.
    pub guest: SocketAddr,
    pub(crate) socket: SocketId,
}
