//! A connection: a socket, maybe with TLS over it, on which one thread reads while another one writes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::session::Session;

/// A socket of either kind.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection.
pub(super) struct Stream {
    socket: Socket,
    tls: Option<Arc<Session>>,
}

impl From<TcpStream> for Stream {
    fn from(s: TcpStream) -> Self {
        Stream { socket: Socket::Tcp(s), tls: None }
    }
}

impl From<UnixStream> for Stream {
    fn from(s: UnixStream) -> Self {
        Stream { socket: Socket::Unix(s), tls: None }
    }
}

impl Stream {
    pub(super) fn try_clone(&self) -> io::Result<Stream> {
        let socket = match &self.socket {
            Socket::Tcp(s) => Socket::Tcp(s.try_clone()?),
            Socket::Unix(s) => Socket::Unix(s.try_clone()?),
        };
        Ok(Stream { socket, tls: self.tls.clone() })
    }

    /// Speaks TLS from here on. Nothing of it may have been read ahead.
    pub(super) fn secure(mut self, connection: rustls::Connection) -> io::Result<Stream> {
        let session = Session::start(connection, &mut self.socket)?;
        Ok(Stream { tls: Some(Arc::new(session)), ..self })
    }

    /// Who the other side is, where it has shown a certificate.
    pub(super) fn peer(&self) -> Option<Vec<u8>> {
        self.tls.as_ref().and_then(|t| t.peer())
    }

    /// Sends all of `data`.
    pub(super) fn send(&self, data: &[u8]) -> io::Result<()> {
        match &self.tls {
            Some(session) => session.send(data, &self.socket),
            None => (&self.socket).write_all(data),
        }
    }

    /// Ends both directions, also for whoever reads on a clone.
    pub(super) fn shut(&self) {
        if let Some(session) = &self.tls {
            session.close(&self.socket);
        }
        let _ = match &self.socket {
            Socket::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
            Socket::Unix(s) => s.shutdown(std::net::Shutdown::Both),
        };
    }

    /// Accepted connections wait, whatever their listener does.
    pub(super) fn blocking(&self) -> io::Result<()> {
        match &self.socket {
            Socket::Tcp(s) => s.set_nonblocking(false).and_then(|()| s.set_nodelay(true)),
            Socket::Unix(s) => s.set_nonblocking(false),
        }
    }

    pub(super) fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.limit(time)
    }
}

impl Socket {
    pub(super) fn limit(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
            Socket::Unix(s) => s.set_read_timeout(time).and_then(|()| s.set_write_timeout(time)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.tls {
            Some(session) => session.read(buf, &self.socket),
            None => (&self.socket).read(buf),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&mut &*s).read(buf),
            Socket::Unix(s) => (&mut &*s).read(buf),
        }
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&mut &*s).write(buf),
            Socket::Unix(s) => (&mut &*s).write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
