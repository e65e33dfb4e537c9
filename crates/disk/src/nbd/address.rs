//! Where a server is: `nbd://host[:port]/export`, `nbd+unix:///export?socket=/path`.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

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
    },
    /// Over a socket of this host.
    Unix {
        /// The socket.
        socket: PathBuf,
        /// Name of the export; empty for the server's default.
        export: String,
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
        if let Some(rest) = text.strip_prefix("nbd+unix:///") {
            let (export, query) = rest.split_once('?').ok_or("a socket is missing: nbd+unix:///EXPORT?socket=/path")?;
            let socket = query.strip_prefix("socket=").filter(|s| !s.is_empty());
            let socket = socket.ok_or("a socket is missing: nbd+unix:///EXPORT?socket=/path")?;
            return Ok(NbdAddress::Unix { socket: decode(socket)?.into(), export: decode(export)? });
        }
        let rest = text.strip_prefix("nbd://").ok_or_else(|| format!("`{text}`: write nbd://HOST:PORT/EXPORT"))?;
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
        Ok(NbdAddress::Tcp { host: host.to_owned(), port, export: decode(export)? })
    }

    /// Name of the export.
    pub fn export(&self) -> &str {
        match self {
            NbdAddress::Tcp { export, .. } | NbdAddress::Unix { export, .. } => export,
        }
    }

    /// Connects.
    pub(super) fn connect(&self, limit: Duration) -> io::Result<Stream> {
        match self {
            NbdAddress::Unix { socket, .. } => UnixStream::connect(socket).map(Stream::Unix),
            NbdAddress::Tcp { host, port, .. } => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, limit) {
                        Ok(s) => {
                            s.set_nodelay(true)?;
                            return Ok(Stream::Tcp(s));
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
        match self {
            NbdAddress::Tcp { host, port, export } => write!(f, "nbd://{host}:{port}/{export}"),
            NbdAddress::Unix { socket, export } => write!(f, "nbd+unix:///{export}?socket={}", socket.display()),
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

/// A connection of either kind.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn try_clone(&self) -> io::Result<Stream> {
        Ok(match self {
            Stream::Tcp(s) => Stream::Tcp(s.try_clone()?),
            Stream::Unix(s) => Stream::Unix(s.try_clone()?),
        })
    }

    /// Sends all of `data`.
    pub(super) fn send(&self, data: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => (&mut &*s).write_all(data),
            Stream::Unix(s) => (&mut &*s).write_all(data),
        }
    }

    /// Ends both directions, also for whoever reads on a clone.
    pub(super) fn shut(&self) {
        let _ = match self {
            Stream::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
            Stream::Unix(s) => s.shutdown(std::net::Shutdown::Both),
        };
    }

    /// Accepted connections wait, whatever their listener does.
    pub(super) fn blocking(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nonblocking(false).and_then(|()| s.set_nodelay(true)),
            Stream::Unix(s) => s.set_nonblocking(false),
        }
    }

    pub(super) fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
            Stream::Unix(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buf),
            Stream::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.write(buf),
            Stream::Unix(s) => s.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let tcp = |host: &str, port, export: &str| NbdAddress::Tcp { host: host.into(), port, export: export.into() };
        assert_eq!(NbdAddress::parse("nbd://store").unwrap(), tcp("store", PORT, ""));
        assert_eq!(NbdAddress::parse("nbd://store:99/a%20b").unwrap(), tcp("store", 99, "a b"));
        assert_eq!(NbdAddress::parse("nbd://[::1]:7/x").unwrap(), tcp("::1", 7, "x"));
        assert_eq!(NbdAddress::parse("nbd://[::1]/x").unwrap(), tcp("::1", PORT, "x"));
        let unix = NbdAddress::Unix { socket: "/tmp/s".into(), export: "e".into() };
        assert_eq!(NbdAddress::parse("nbd+unix:///e?socket=/tmp/s").unwrap(), unix);
        for bad in ["nbd://", "nbd+unix:///e", "nbd://h:x/", "http://x", "nbd://h/%4"] {
            assert!(NbdAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
