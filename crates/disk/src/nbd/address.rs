//! Where a server is: `nbd://host[:port]/export`, `nbd+unix:///export?socket=/path`; `nbds` with TLS.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::stream::Stream;

/// The port that is meant where none is named.
const PORT: u16 = 10809;

/// A server and one of its exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    /// Over TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Name of the export; empty for the server's default.
        export: String,
        /// Through TLS, and not otherwise.
        tls: bool,
    },
    /// Over a socket of this host.
    Unix {
        /// The socket.
        socket: PathBuf,
        /// Name of the export; empty for the server's default.
        export: String,
        /// Through TLS, and not otherwise.
        tls: bool,
    },
}

impl NbdAddress {
    /// Whether `text` is meant as such an address.
    pub fn is_one(text: &str) -> bool {
        ["nbd:", "nbd+unix:", "nbds:", "nbds+unix:"].iter().any(|p| text.starts_with(p))
    }

    /// Reads an address.
    ///
    /// # Errors
    /// In words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let tls = text.starts_with("nbds");
        let plain = if tls { text.replacen("nbds", "nbd", 1) } else { text.to_owned() };
        if let Some(rest) = plain.strip_prefix("nbd+unix:///") {
            let (export, query) = rest.split_once('?').ok_or("a socket is missing: nbd+unix:///EXPORT?socket=/path")?;
            let socket = query.strip_prefix("socket=").filter(|s| !s.is_empty());
            let socket = socket.ok_or("a socket is missing: nbd+unix:///EXPORT?socket=/path")?;
            return Ok(NbdAddress::Unix { socket: decode(socket)?.into(), export: decode(export)?, tls });
        }
        let rest = plain.strip_prefix("nbd://").ok_or_else(|| format!("`{text}`: write nbd://HOST:PORT/EXPORT"))?;
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (server, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("a host is missing: nbd://HOST:PORT/EXPORT".into());
        }
        Ok(NbdAddress::Tcp { host: host.to_owned(), port, export: decode(export)?, tls })
    }

    /// Name of the export.
    pub fn export(&self) -> &str {
        match self {
            NbdAddress::Tcp { export, .. } | NbdAddress::Unix { export, .. } => export,
        }
    }

    /// Through TLS, and not otherwise.
    pub fn tls(&self) -> bool {
        match self {
            NbdAddress::Tcp { tls, .. } | NbdAddress::Unix { tls, .. } => *tls,
        }
    }

    /// The name that the server's certificate has to have.
    pub(super) fn host(&self) -> &str {
        match self {
            NbdAddress::Tcp { host, .. } => host,
            NbdAddress::Unix { .. } => "localhost",
        }
    }

    /// Connects.
    pub(super) fn connect(&self, limit: Duration) -> io::Result<Stream> {
        match self {
            NbdAddress::Unix { socket, .. } => UnixStream::connect(socket).map(Stream::from),
            NbdAddress::Tcp { host, port, .. } => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, limit) {
                        Ok(s) => {
                            s.set_nodelay(true)?;
                            return Ok(Stream::from(s));
                        }
                        Err(e) => last = e,
                    }
                }
                Err(last)
            }
        }
    }
}

impl std::fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nbd = if self.tls() { "nbds" } else { "nbd" };
        match self {
            NbdAddress::Tcp { host, port, export, .. } => write!(f, "{nbd}://{host}:{port}/{export}"),
            NbdAddress::Unix { socket, export, .. } => {
                write!(f, "{nbd}+unix:///{export}?socket={}", socket.display())
            }
        }
    }
}

/// Undoes %xx.
fn decode(text: &str) -> Result<String, String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| (b as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(format!("`{text}`: after % come two hexadecimal digits"));
        };
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).map_err(|_| format!("`{text}` is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port, export: &str| NbdAddress::Tcp {
            host: host.into(),
            port,
            export: export.into(),
            tls: false,
        };
        assert_eq!(NbdAddress::parse("nbd://store").unwrap(), tcp("store", PORT, ""));
        assert_eq!(NbdAddress::parse("nbd://store:99/a%20b").unwrap(), tcp("store", 99, "a b"));
        assert_eq!(NbdAddress::parse("nbd://[::1]:7/x").unwrap(), tcp("::1", 7, "x"));
        assert_eq!(NbdAddress::parse("nbd://[::1]/x").unwrap(), tcp("::1", PORT, "x"));
        let unix = NbdAddress::Unix { socket: "/tmp/s".into(), export: "e".into(), tls: false };
        assert_eq!(NbdAddress::parse("nbd+unix:///e?socket=/tmp/s").unwrap(), unix);
        for text in ["nbds://store:99/a", "nbds+unix:///e?socket=/tmp/s"] {
            let address = NbdAddress::parse(text).unwrap();
            assert!(address.tls());
            assert_eq!(address.to_string(), text);
        }
        for bad in ["nbd://", "nbd+unix:///e", "nbd://h:x/", "http://x", "nbd://h/%4"] {
            assert!(NbdAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
