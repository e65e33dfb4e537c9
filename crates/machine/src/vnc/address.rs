//! Where a VNC server listens: a unix socket, or a port of the loopback interface.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// An address: `unix:PATH`, or `127.0.0.1:PORT` (any loopback address).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VncAddress {
    /// A socket that its owner alone may open.
    Unix(PathBuf),
    /// A port of this host that only this host reaches; port 0: any free one.
    Tcp(SocketAddr),
}

impl std::str::FromStr for VncAddress {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Some(path) = s.strip_prefix("unix:").filter(|p| !p.is_empty()) {
            return Ok(VncAddress::Unix(path.into()));
        }
        let s = s.replacen("localhost:", "127.0.0.1:", 1);
        let address: SocketAddr =
            s.parse().map_err(|_| format!("{s:?} is neither unix:PATH nor an address like 127.0.0.1:5901"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{} can be reached from elsewhere, and VNC is not encrypted: listen on 127.0.0.1 and use a tunnel",
                address.ip()
            ));
        }
        Ok(VncAddress::Tcp(address))
    }
}

impl std::fmt::Display for VncAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            VncAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            VncAddress::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A listening socket; the file of a unix socket goes with it.
pub(super) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

/// A connection.
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    pub(super) fn bind(address: &VncAddress) -> io::Result<Self> {
        match address {
            VncAddress::Unix(path) => {
                remove_stale(path);
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener, path.clone()))
            }
            VncAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
        }
    }

    /// With the port that was chosen.
    pub(super) fn address(&self) -> io::Result<VncAddress> {
        match self {
            Listener::Unix(_, path) => Ok(VncAddress::Unix(path.clone())),
            Listener::Tcp(l) => l.local_addr().map(VncAddress::Tcp),
        }
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Unix(l, _) => {
                let (stream, _) = l.accept()?;
                stream.set_nonblocking(true)?;
                Ok(Stream::Unix(stream))
            }
            Listener::Tcp(l) => {
                let (stream, _) = l.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Unix(l, _) => l.as_fd(),
            Listener::Tcp(l) => l.as_fd(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(s) => s.as_fd(),
            Stream::Tcp(s) => s.as_fd(),
        }
    }
}

impl io::Read for Stream {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(data),
            Stream::Tcp(s) => s.read(data),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(data),
            Stream::Tcp(s) => s.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
