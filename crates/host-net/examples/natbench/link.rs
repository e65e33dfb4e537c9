//! Cables between the guest and a translator.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use visor_host_net::NatPort;
use visor_net::{Accepts, Frame, NetPort, Sent};

/// A cable, from the guest's end.
pub(crate) trait Link {
    /// Sends a frame; false: not now.
    fn send(&mut self, frame: Frame<'_>) -> bool;
    /// Hands out what has come.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize;
    /// Waits until there may be something.
    fn wait(&mut self, most: Duration);
}

/// The translator in this process.
pub(crate) struct Direct {
    port: NatPort,
    bell: Arc<(Mutex<bool>, Condvar)>,
}

impl Direct {
    pub(crate) fn new(mut port: NatPort, offloads: bool) -> Direct {
        port.set_accepts(Accepts { checksum: offloads, tcp4: offloads, tcp6: offloads });
        let bell = Arc::new((Mutex::new(false), Condvar::new()));
        let ring = Arc::clone(&bell);
        port.on_ready(Arc::new(move || {
            *ring.0.lock().expect("no panic") = true;
            ring.1.notify_one();
        }));
        Direct { port, bell }
    }
}

impl Link for Direct {
    fn send(&mut self, frame: Frame<'_>) -> bool {
        self.port.send(frame) != Sent::Full
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        // A device has so many buffers.
        let mut room = 256;
        self.port.receive(&mut |f: Frame<'_>| {
            if room == 0 {
                return Sent::Full;
            }
            room -= 1;
            take(f.data);
            Sent::Yes
        })
    }

    fn wait(&mut self, most: Duration) {
        let rung = self.bell.0.lock().expect("no panic");
        let (mut rung, _) = self.bell.1.wait_timeout_while(rung, most, |r| !*r).expect("no panic");
        *rung = false;
    }
}

/// Frames over a stream, each behind its length in four bytes (as QEMU's `-netdev stream` has them).
pub(crate) struct Stream {
    stream: UnixStream,
    out: VecDeque<u8>,
    input: Vec<u8>,
    have: usize,
}

/// Bytes that wait for the other end before a frame is refused.
const MOST: usize = 1 << 20;

impl Stream {
    pub(crate) fn new(stream: UnixStream) -> Stream {
        stream.set_nonblocking(true).expect("a socket");
        Stream { stream, out: VecDeque::new(), input: vec![0; 4 << 20], have: 0 }
    }

    fn flush(&mut self) {
        while !self.out.is_empty() {
            let (front, _) = self.out.as_slices();
            match self.stream.write(front) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => panic!("the translator is gone: {e}"),
            }
        }
    }
}

impl Link for Stream {
    fn send(&mut self, frame: Frame<'_>) -> bool {
        self.flush();
        if self.out.len() > MOST {
            return false;
        }
        self.out.extend((frame.data.len() as u32).to_be_bytes());
        self.out.extend(frame.data);
        self.flush();
        true
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        self.flush();
        match self.stream.read(&mut self.input[self.have..]) {
            Ok(0) => panic!("the translator closed its end"),
            Ok(n) => self.have += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("the translator is gone: {e}"),
        }
        let (mut at, mut frames) = (0, 0);
        while let Some(head) = self.input[at..self.have].first_chunk::<4>() {
            let len = u32::from_be_bytes(*head) as usize;
            let Some(frame) = self.input[at + 4..self.have].get(..len) else { break };
            take(frame);
            frames += 1;
            at += 4 + len;
        }
        self.input.copy_within(at..self.have, 0);
        self.have -= at;
        frames
    }

    fn wait(&mut self, most: Duration) {
        use std::os::fd::AsRawFd;
        let events = if self.out.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT };
        let mut poll = libc::pollfd { fd: self.stream.as_raw_fd(), events, revents: 0 };
        // SAFETY: one live pollfd.
        unsafe { libc::poll(&raw mut poll, 1, most.as_millis() as i32) };
    }
}

impl Stream {
    /// Waits for the other end, or for `bell`, which is silenced.
    pub(crate) fn wait_with(&mut self, bell: libc::c_int, most: Duration) {
        use std::os::fd::AsRawFd;
        let events = if self.out.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT };
        let ours = libc::pollfd { fd: self.stream.as_raw_fd(), events, revents: 0 };
        let mut polls = [ours, libc::pollfd { fd: bell, events: libc::POLLIN, revents: 0 }];
        let mut number = [0u8; 8];
        // SAFETY: two live pollfds; pointer and length describe the number.
        unsafe {
            libc::poll(polls.as_mut_ptr(), 2, most.as_millis() as i32);
            libc::read(bell, number.as_mut_ptr().cast(), 8);
        }
    }
}
