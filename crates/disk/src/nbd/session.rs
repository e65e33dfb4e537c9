//! TLS on a socket that two threads use: one reads, any number write.
//!
//! The connection's state has one lock, which nobody holds while waiting for the socket; so reading never waits for a peer that
//! does not read, nor the other way round. Order on the wire is kept by a second lock, which only writers hold for long.

use std::io::{self, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use rustls::Connection;

use super::stream::Socket;

/// Bytes encrypted before they are sent.
const PIECE: usize = 64 << 10;

pub(super) struct Session {
    connection: Mutex<Connection>,
    /// Held while something is sent.
    sending: Mutex<()>,
    /// Received and not decrypted yet; held by who reads.
    incoming: Mutex<Vec<u8>>,
}

impl Session {
    /// Shakes hands. Takes as long as the socket's limits let it.
    pub(super) fn start(mut connection: Connection, socket: &mut Socket) -> io::Result<Self> {
        connection.set_buffer_limit(Some(4 * PIECE));
        let mut io = &*socket;
        while connection.is_handshaking() {
            if connection.complete_io(&mut io)? == (0, 0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Session { connection: Mutex::new(connection), sending: Mutex::default(), incoming: Mutex::default() })
    }

    /// The other side's own certificate.
    pub(super) fn peer(&self) -> Option<Vec<u8>> {
        lock(&self.connection).peer_certificates().and_then(|c| c.first()).map(|c| c.as_ref().to_vec())
    }

    pub(super) fn send(&self, data: &[u8], socket: &Socket) -> io::Result<()> {
        let _order = lock(&self.sending);
        for piece in data.chunks(PIECE) {
            lock(&self.connection).writer().write_all(piece)?;
            self.flush(socket)?;
        }
        Ok(())
    }

    /// Sends what is ready. Whoever calls holds `sending`.
    fn flush(&self, mut socket: &Socket) -> io::Result<()> {
        loop {
            let mut out = Vec::new();
            let mut c = lock(&self.connection);
            while c.wants_write() {
                c.write_tls(&mut out)?;
            }
            drop(c);
            if out.is_empty() {
                return Ok(());
            }
            socket.write_all(&out)?;
        }
    }

    pub(super) fn read(&self, buf: &mut [u8], mut socket: &Socket) -> io::Result<usize> {
        let mut incoming = lock(&self.incoming);
        loop {
            let mut c = lock(&self.connection);
            match c.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if !incoming.is_empty() {
                let mut rest = &incoming[..];
                c.read_tls(&mut rest)?;
                let used = incoming.len() - rest.len();
                incoming.drain(..used);
                let result = c.process_new_packets();
                let answer = c.wants_write();
                drop(c);
                if answer {
                    self.answer(socket)?;
                }
                result.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                continue;
            }
            drop(c);
            let mut raw = [0; 16 << 10];
            match socket.read(&mut raw) {
                Ok(0) => {
                    // So that the library tells an end from a cut.
                    let mut c = lock(&self.connection);
                    c.read_tls(&mut io::empty())?;
                    return c.reader().read(buf);
                }
                Ok(n) => incoming.extend_from_slice(&raw[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends what the protocol itself has to say, such as an alert. Whoever is sending already takes it along.
    fn answer(&self, socket: &Socket) -> io::Result<()> {
        match self.sending.try_lock() {
            Ok(_order) => self.flush(socket),
            Err(TryLockError::Poisoned(_)) | Err(TryLockError::WouldBlock) => Ok(()),
        }
    }

    /// Says goodbye if that takes no time.
    pub(super) fn close(&self, socket: &Socket) {
        if let Ok(_order) = self.sending.try_lock() {
            lock(&self.connection).send_close_notify();
            let _ = socket.limit(Some(Duration::from_millis(200)));
            let _ = self.flush(socket);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
