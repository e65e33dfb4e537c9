//! A cable to another process: a Unix socket of type SOCK_SEQPACKET, one message for one frame.
//!
//! ```text
//! message  00 kind: 0 frame, 1 what the sender takes undone
//! frame    01 virtio's header (10 bytes, host byte order)  0B the frame
//! accepts  01 bits: 0 checksums, 1 TCP over IPv4, 2 TCP over IPv6
//! ```
//! Neither side trusts the other: a message that makes no sense is dropped, a frame's offloads are checked by whoever uses them.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use visor_net::offload::adapt;
use visor_net::{Accepts, Frame, FrameSink, MAX_FRAME, NetPort, Notify, Sent};

use crate::sys::{check, check_len};
use crate::tap::{HEADER, emit_header, parse_header};
use crate::waker::Waker;

const FRAME: u8 = 0;
const ACCEPTS: u8 = 1;
/// Bytes that the kernel may hold for each direction.
const BUFFER: libc::c_int = 4 << 20;
/// Frames handed out in one go.
const TURN: usize = 256;

/// One end of a cable.
pub struct CablePort {
    // The waker's thread watches a duplicate of the descriptor.
    waker: Waker,
    fd: OwnedFd,
    mtu: u16,
    buffer: Vec<u8>,
    /// Bytes of a message that nobody took yet.
    pending: usize,
    peer: Accepts,
    /// What the other side is still to be told.
    own: Option<Accepts>,
    up: bool,
}

/// Where cables are plugged in.
pub struct CableListener {
    fd: OwnedFd,
}

impl CableListener {
    /// Listens at `path`, which must not exist.
    ///
    /// # Errors
    ///
    /// What the kernel says, such as `AddrInUse`.
    pub fn bind(path: &Path) -> io::Result<CableListener> {
        let fd = seqpacket()?;
        let (address, len) = address(path)?;
        // SAFETY: pointer and length describe the address.
        unsafe {
            check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len))?;
            check(libc::listen(fd.as_raw_fd(), 64))?;
        }
        Ok(CableListener { fd })
    }

    /// Accepts nobody any more: who waits in [`CableListener::accept`], and who comes there later, gets an error (shutdown(2)).
    pub fn close(&self) {
        // SAFETY: a plain system call on a descriptor that this owns.
        unsafe { libc::shutdown(self.fd.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Waits for the next cable.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn accept(&self) -> io::Result<OwnedFd> {
        use std::os::fd::FromRawFd;
        loop {
            // SAFETY: no address is asked for; the descriptor is new.
            let fd = unsafe {
                libc::accept4(self.fd.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC)
            };
            match check(fd) {
                // SAFETY: the descriptor is new, and nobody else knows it.
                Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Connects to the listener at `path`.
///
/// # Errors
///
/// What the kernel says: `NotFound`, `ConnectionRefused` if nobody listens.
pub fn connect_cable(path: &Path) -> io::Result<OwnedFd> {
    let fd = seqpacket()?;
    let (address, len) = address(path)?;
    // SAFETY: pointer and length describe the address.
    retry(|| check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }))?;
    Ok(fd)
}

/// Sends a message before the cable is a [`CablePort`]: a greeting.
///
/// # Errors
///
/// What the kernel says.
pub fn send_greeting(fd: &OwnedFd, data: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe the message.
    retry(|| check_len(unsafe { libc::send(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) }))
        .map(drop)
}

/// Waits for such a message, of at most `most` bytes, up to half a minute.
///
/// # Errors
///
/// What the kernel says; `UnexpectedEof` if the other side has gone, `WouldBlock` if it does not speak.
pub fn receive_greeting(fd: &OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let limit = libc::timeval { tv_sec: 30, tv_usec: 0 };
    crate::sys::set_option_raw(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, &limit)?;
    let mut data = vec![0; most];
    // SAFETY: pointer and length describe the buffer.
    let n = retry(|| check_len(unsafe { libc::recv(fd.as_raw_fd(), data.as_mut_ptr().cast(), data.len(), 0) }))?;
    data.truncate(n);
    if n == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(data) }
}

impl CablePort {
    /// The end of a cable, for IP packets of up to `mtu` bytes.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn new(fd: OwnedFd, mtu: u16) -> io::Result<CablePort> {
        for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            crate::sys::set_option(fd.as_raw_fd(), libc::SOL_SOCKET, option, BUFFER)?;
        }
        // SAFETY: no pointers.
        unsafe {
            let flags = check(libc::fcntl(fd.as_raw_fd(), libc::F_GETFL))?;
            check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK))?;
        }
        let waker = Waker::new("cable", fd.try_clone()?, libc::EPOLLIN as u32)?;
        let buffer = vec![0; 1 + HEADER + MAX_FRAME];
        Ok(CablePort { waker, fd, mtu, buffer, pending: 0, peer: Accepts::default(), own: None, up: true })
    }

    /// Sends a message of two parts.
    fn push(&mut self, head: &[u8], data: &[u8]) -> Sent {
        let mut vectors =
            [head, data].map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: all zeros are a valid msghdr; the vectors describe the parts, which are only read.
        let result = unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = vectors.as_mut_ptr();
            message.msg_iovlen = vectors.len() as _;
            libc::sendmsg(self.fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
        };
        match check_len(result) {
            Ok(_) => Sent::Yes,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock) || e.raw_os_error() == Some(libc::ENOBUFS) => {
                self.waker.set_interest((libc::EPOLLIN | libc::EPOLLOUT) as u32);
                Sent::Full
            }
            Err(_) => {
                self.up = false;
                Sent::Dropped
            }
        }
    }

    /// Tells the other side what we take, as soon as there is room for it.
    fn announce(&mut self) {
        if let Some(a) = self.own.take() {
            let bits = u8::from(a.checksum) | u8::from(a.tcp4) << 1 | u8::from(a.tcp6) << 2;
            if self.push(&[ACCEPTS], &[bits]) == Sent::Full {
                self.own = Some(a);
            }
        }
    }

    /// Reads the next frame into the buffer. False if there is none.
    fn fill(&mut self) -> bool {
        while self.pending == 0 {
            // SAFETY: pointer and length describe the buffer.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), self.buffer.as_mut_ptr().cast(), self.buffer.len(), 0) };
            match check_len(n) {
                Ok(0) => {
                    self.up = false;
                    return false;
                }
                Ok(n) => match self.buffer[..n] {
                    [FRAME, ..] if n > 1 + HEADER => self.pending = n,
                    [ACCEPTS, bits, ..] => {
                        self.peer = Accepts { checksum: bits & 1 != 0, tcp4: bits & 2 != 0, tcp6: bits & 4 != 0 };
                    }
                    _ => {}
                },
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    self.up &= e.kind() == ErrorKind::WouldBlock;
                    return false;
                }
            }
        }
        true
    }
}

impl NetPort for CablePort {
    fn send(&mut self, frame: Frame<'_>) -> Sent {
        self.announce();
        if !self.up {
            return Sent::Dropped;
        }
        adapt(frame, self.peer, &mut |f| {
            let mut head = [FRAME; 1 + HEADER];
            head[1..].copy_from_slice(&emit_header(&f.offload));
            self.push(&head, f.data)
        })
    }

    fn receive(&mut self, sink: &mut dyn FrameSink) -> usize {
        self.waker.looking();
        self.waker.set_interest(libc::EPOLLIN as u32);
        self.announce();
        let mut taken = 0;
        while taken < TURN && self.fill() {
            let offload = parse_header(&self.buffer[1..1 + HEADER]);
            let data = &self.buffer[1 + HEADER..self.pending];
            if sink.frame(Frame { data, offload }) == Sent::Full {
                // Nothing is watched until the owner looks again: it knows when there is room.
                return taken;
            }
            self.pending = 0;
            taken += 1;
        }
        // The end of the other side would be reported for ever.
        if self.up {
            self.waker.rearm(None);
        }
        taken
    }

    fn set_accepts(&mut self, accepts: Accepts) {
        self.own = Some(accepts);
        self.announce();
    }

    fn peer_accepts(&self) -> Accepts {
        self.peer
    }

    fn on_ready(&mut self, notify: Notify) {
        self.waker.set_notify(notify);
    }

    fn link_up(&self) -> bool {
        self.up
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }
}

/// Again when a signal has come in between: with a limit of time a system call is not restarted by itself (signal(7)).
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn seqpacket() -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: no pointers; the descriptor is new, and nobody else knows it.
    unsafe {
        Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0))?))
    }
}

/// The address of a path; it must be shorter than 108 bytes.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all zeros are a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path of the socket is too long"));
    }
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as u32))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use visor_net::{Offload, SegmentKind, Segments};

    use super::*;

    fn pair() -> (CablePort, CablePort) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("visor-cable-{}-{number}", std::process::id()));
        let listener = CableListener::bind(&path).unwrap();
        let near = connect_cable(&path).unwrap();
        let far = listener.accept().unwrap();
        send_greeting(&near, b"hello").unwrap();
        assert_eq!(receive_greeting(&far, 100).unwrap(), b"hello");
        std::fs::remove_file(&path).unwrap();
        (CablePort::new(near, 1500).unwrap(), CablePort::new(far, 1500).unwrap())
    }

    fn received(port: &mut CablePort) -> Vec<(Vec<u8>, Offload)> {
        let mut all = Vec::new();
        port.receive(&mut |f: Frame<'_>| {
            all.push((f.data.to_vec(), f.offload));
            Sent::Yes
        });
        all
    }

    #[test]
    fn frames_cross_with_their_offloads() {
        let (mut a, mut b) = pair();
        let (tx, rx) = channel();
        b.on_ready(Arc::new(move || _ = tx.send(())));
        b.set_accepts(Accepts::ALL);
        received(&mut a);
        assert_eq!(a.peer_accepts(), Accepts::ALL);
        let mut f = [&[2; 12][..], &[8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]].concat();
        f.extend([0; 12]);
        f.extend([0x50; 50_000]);
        let segments = Some(Segments { kind: SegmentKind::Tcp4, size: 1000 });
        let offload = Offload { checksum: Some((34, 16)), trusted: false, segments };
        while rx.try_recv().is_ok() {}
        received(&mut b);
        assert_eq!(a.send(Frame { data: &f, offload }), Sent::Yes);
        rx.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(received(&mut b), [(f, offload)]);
    }

    #[test]
    fn a_full_cable_wakes_and_an_end_that_goes_is_seen() {
        let (mut a, mut b) = pair();
        let (tx, rx) = channel();
        a.on_ready(Arc::new(move || _ = tx.send(())));
        received(&mut a);
        let mut sent = 0;
        while a.send(Frame::plain(&[7; 60_000])) == Sent::Yes {
            sent += 1;
        }
        assert!(sent > 1);
        while rx.try_recv().is_ok() {}
        received(&mut a);
        assert_eq!(a.send(Frame::plain(&[7; 60_000])), Sent::Full);
        let mut got = 0;
        while got < sent {
            got += received(&mut b).len();
        }
        rx.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(a.send(Frame::plain(&[7; 60_000])), Sent::Yes);
        drop(b);
        received(&mut a);
        assert!(!a.link_up());
        assert_eq!(a.send(Frame::plain(&[7; 60])), Sent::Dropped);
    }
}
