//! io_uring (io_uring(7)) for whoever reads and writes files in large numbers: a ring whose requests own buffer and file, so that nothing
//! can be freed under the kernel's hands.
//!
//! A [`Ring`] belongs to one thread, which puts requests in, waits, and takes results out; other threads end its wait by a
//! [`Waker`]. Whether the host allows all that is found out once, by [`probe`]: kernels before 5.6 cannot, and containers and
//! administrators forbid it (`kernel.io_uring_disabled`, seccomp).
//!
//! All unsafe code is in this file. What it rests on: the memory that a request names - the bytes of its vector, which do not move
//! when the vector does - is owned by the ring from the push until the completion is taken, and a ring that is dropped waits for all
//! completions first.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, OnceLock};

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// User data of the request that waits for the waker.
const WAKE: u64 = u64::MAX;

/// What became of a request with the tag `T`.
#[derive(Debug)]
pub struct Done<T> {
    /// The tag that it was given.
    pub tag: T,
    /// Its buffer; empty for [`Ring::sync`].
    pub buffer: Vec<u8>,
    /// Bytes that were read or written, which may be fewer than wanted, or the host's error.
    pub result: io::Result<usize>,
}

/// A request under way.
struct Flight<T> {
    tag: T,
    buffer: Vec<u8>,
    // Only kept open.
    _file: Arc<File>,
}

/// Ends the wait of a ring's thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// Makes [`Ring::wait`] return, now or when it is called next.
    pub fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = self.0.write(1);
    }
}

/// A ring.
pub struct Ring<T> {
    ring: IoUring,
    flights: Vec<Option<Flight<T>>>,
    free: Vec<usize>,
    wake: Waker,
    /// The request that waits for the waker is under way.
    armed: bool,
    woken: bool,
}

/// Whether this host has what a [`Ring`] needs; the reason, if not.
pub fn probe() -> Result<(), &'static str> {
    static FOUND: OnceLock<Result<(), &'static str>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let ring = IoUring::new(2).map_err(|e| match e.raw_os_error() {
            Some(libc_errno::ENOSYS) => "the kernel has no io_uring",
            Some(libc_errno::EPERM | libc_errno::EACCES) => "io_uring is forbidden here",
            Some(libc_errno::ENOMEM) => "no memory may be locked for io_uring (ulimit -l)",
            _ => "the kernel gives no ring",
        })?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).map_err(|_| "the kernel's io_uring is too old")?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::PollAdd::CODE];
        match needed.into_iter().all(|code| probe.is_supported(code)) {
            true => Ok(()),
            false => Err("the kernel's io_uring is too old"),
        }
    })
}

/// Numbers of errors, the same on every Linux that visor runs on.
mod libc_errno {
    pub(super) const EPERM: i32 = nix::errno::Errno::EPERM as i32;
    pub(super) const EACCES: i32 = nix::errno::Errno::EACCES as i32;
    pub(super) const ENOMEM: i32 = nix::errno::Errno::ENOMEM as i32;
    pub(super) const ENOSYS: i32 = nix::errno::Errno::ENOSYS as i32;
}

impl<T> Ring<T> {
    /// A ring for up to `depth` requests at a time, 1 to 4096.
    ///
    /// # Errors
    /// The host's, as [`probe`] would say.
    pub fn new(depth: u32) -> io::Result<Self> {
        let depth = depth.clamp(1, 4096);
        // One more for the waker. Completions in the submitter's own time save interrupts; older kernels do not know the flag.
        let entries = (depth + 1).next_power_of_two();
        let ring = IoUring::builder().setup_coop_taskrun().build(entries).or_else(|_| IoUring::new(entries))?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (flights, free) = ((0..depth).map(|_| None).collect(), (0..depth as usize).rev().collect());
        Ok(Ring { ring, flights, free, wake: Waker(Arc::new(event)), armed: false, woken: false })
    }

    /// What ends this ring's wait.
    pub fn waker(&self) -> Waker {
        self.wake.clone()
    }

    /// Requests that fit in now.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Reads to `buffer` from byte `at` of `file`. Gives everything back if there is no room.
    ///
    /// # Errors
    /// Buffer and tag, if there is no room.
    pub fn read(&mut self, file: &Arc<File>, at: u64, mut buffer: Vec<u8>, tag: T) -> Result<(), (Vec<u8>, T)> {
        let (start, len) = (buffer.as_mut_ptr(), u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), start, len).offset(at).build();
        self.push(entry, file, buffer, tag)
    }

    /// Writes `buffer` to byte `at` of `file`, as [`Ring::read`].
    ///
    /// # Errors
    /// Buffer and tag, if there is no room.
    pub fn write(&mut self, file: &Arc<File>, at: u64, buffer: Vec<u8>, tag: T) -> Result<(), (Vec<u8>, T)> {
        let (start, len) = (buffer.as_ptr(), u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        let entry = opcode::Write::new(types::Fd(file.as_raw_fd()), start, len).offset(at).build();
        self.push(entry, file, buffer, tag)
    }

    /// Makes durable what was written to `file`, as fdatasync(2).
    ///
    /// # Errors
    /// The tag, if there is no room.
    pub fn sync(&mut self, file: &Arc<File>, tag: T) -> Result<(), T> {
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(types::FsyncFlags::DATASYNC).build();
        self.push(entry, file, Vec::new(), tag).map_err(|(_, tag)| tag)
    }

    /// Hands over what was put in. Waits, if `block`, until a request has completed or somebody woke the ring.
    ///
    /// # Errors
    /// The host's.
    pub fn wait(&mut self, block: bool) -> io::Result<()> {
        if block && !self.armed {
            self.arm();
        }
        let ready = !self.ring.completion().is_empty();
        match self.ring.submit_and_wait(usize::from(block && !ready)) {
            Ok(_) => Ok(()),
            // Interrupted, or completions have to be taken first.
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ResourceBusy) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The next request that has completed.
    pub fn done(&mut self) -> Option<Done<T>> {
        loop {
            let entry: cqueue::Entry = self.ring.completion().next()?;
            if entry.user_data() == WAKE {
                (self.armed, self.woken) = (false, true);
                let _ = self.wake.0.read();
                continue;
            }
            let index = entry.user_data() as usize;
            let flight = self.flights.get_mut(index).and_then(Option::take)?;
            self.free.push(index);
            let n = entry.result();
            let result = usize::try_from(n).map_err(|_| io::Error::from_raw_os_error(-n));
            return Some(Done { tag: flight.tag, buffer: flight.buffer, result });
        }
    }

    fn push(&mut self, entry: squeue::Entry, file: &Arc<File>, buffer: Vec<u8>, tag: T) -> Result<(), (Vec<u8>, T)> {
        let Some(index) = self.free.pop() else { return Err((buffer, tag)) };
        let entry = entry.user_data(index as u64);
        // SAFETY: the entry names the bytes of `buffer` and the descriptor of `file`. Both go into `flights` below and stay there until
        // `done` takes the completion; moving the vector does not move its bytes. `Drop` waits for completions.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        if pushed.is_err() {
            self.free.push(index);
            return Err((buffer, tag));
        }
        if let Some(place) = self.flights.get_mut(index) {
            *place = Some(Flight { tag, buffer, _file: file.clone() });
        }
        Ok(())
    }

    fn arm(&mut self) {
        const READABLE: u32 = nix::poll::PollFlags::POLLIN.bits() as u32;
        let fd: RawFd = self.wake.0.as_raw_fd();
        let entry = opcode::PollAdd::new(types::Fd(fd), READABLE).build().user_data(WAKE);
        // SAFETY: the entry names no memory. The descriptor is open as long as the ring.
        self.armed = unsafe { self.ring.submission().push(&entry) }.is_ok();
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.under_way() > 0 {
            // Buffers must not go while the kernel may use them. A host that cannot even wait keeps them for good.
            if self.wait(true).is_err() {
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            while self.done().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests;
