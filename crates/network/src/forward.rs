//! Forwarded ports as a person writes them: `[[bind:]host port:]guest port[/protocol]`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use visor_host_net::Nat;
use visor_nat::Forward;
use visor_net::Protocol;

use crate::nat::NetworkError;

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ForwardSpec {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens; port 0 for any free one.
    pub bind: SocketAddr,
    /// The guest's port.
    pub port: u16,
}

/// A text that is no [`ForwardSpec`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardSpecError {
    /// A port number.
    #[error("`{0}` is no port; they are numbered 1 to 65535")]
    Port(String),
    /// The address to listen on.
    #[error("`{0}` is no address of the host; write for example 127.0.0.1, 0.0.0.0 or [::1]")]
    Bind(String),
    /// The protocol.
    #[error("`{0}` is no protocol; there are tcp and udp")]
    Protocol(String),
}

/// A forwarded port as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ForwardStatus {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where the host listens.
    pub bind: SocketAddr,
    /// Who gets what comes in.
    pub guest: SocketAddr,
}

impl From<&Forward> for ForwardStatus {
    fn from(f: &Forward) -> Self {
        ForwardStatus { protocol: f.protocol, bind: f.bind, guest: f.guest }
    }
}

/// Forwards a port to a guest.
pub(crate) fn listen(nat: &Nat, spec: ForwardSpec, guest: IpAddr) -> Result<Forward, NetworkError> {
    let (protocol, at, guest) = (spec.protocol, spec.bind, SocketAddr::new(guest, spec.port));
    nat.with(|engine, _| engine.add_forward(protocol, at, guest)).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            return NetworkError::Taken { protocol, at, holder: crate::port_holder(protocol, at) };
        }
        NetworkError::Listen { protocol, at, source }
    })
}

impl std::str::FromStr for ForwardSpec {
    type Err = ForwardSpecError;

    /// The host listens on 127.0.0.1 unless the text says otherwise; without a host port, or with 0, on any free one.
    fn from_str(text: &str) -> Result<Self, ForwardSpecError> {
        let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(ForwardSpecError::Protocol(other.into())),
        };
        let (before, guest) = match text.rsplit_once(':') {
            Some((before, guest)) => (Some(before), guest),
            None => (None, text),
        };
        let number = |t: &str, least: u16| {
            let n = t.parse::<u16>().ok().filter(|n| *n >= least && t.bytes().all(|b| b.is_ascii_digit()));
            n.ok_or_else(|| ForwardSpecError::Port(t.into()))
        };
        let port = number(guest, 1)?;
        let (address, host) = match before {
            None => (None, ""),
            Some(before) if before.ends_with(']') => (Some(before), ""),
            Some(before) => before.rsplit_once(':').map_or((None, before), |(a, p)| (Some(a), p)),
        };
        let host = if host.is_empty() { 0 } else { number(host, 0)? };
        let address = match address {
            None | Some("") => IpAddr::from(Ipv4Addr::LOCALHOST),
            Some("localhost") => IpAddr::from(Ipv4Addr::LOCALHOST),
            Some(a) => {
                let bare = a.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(a);
                bare.parse().map_err(|_| ForwardSpecError::Bind(a.into()))?
            }
        };
        Ok(ForwardSpec { protocol, bind: SocketAddr::new(address, host), port })
    }
}

impl std::fmt::Display for ForwardSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.bind, self.port, self.protocol)
    }
}

impl std::fmt::Display for ForwardStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}/{}", self.bind, self.guest.port(), self.protocol)
    }
}
