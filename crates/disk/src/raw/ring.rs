//! The requests of a raw image through io_uring: one thread hands over all that has come in one call of the kernel and completes what
//! has been done. What the kernel has in its cache is read in that very call; the rest it does by itself, many at a time.
//!
//! Flushes have a thread of their own ([`Flusher`]), and so have discards and zeroes, since they can take long.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use visor_block::{BlockError, BlockErrorKind, BlockOp, BlockRequest};
use visor_uring::{Done, Ring, Waker};

use super::io::RawFile;
use crate::flush::Flusher;
use crate::pool::Pool;

/// Requests under way in the kernel.
const DEPTH: u32 = 128;
/// Bytes of one of them; longer requests of the guest take several, one after the other.
const CHUNK: usize = 256 << 10;
/// Buffers that are kept for the next requests, and the largest of them.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 64 << 10;

/// The thread; it ends when the value is dropped, after the requests submitted until then.
pub(super) struct RingServer {
    shared: Arc<Shared>,
    beside: Arc<Pool>,
    flusher: Flusher,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Everything submitted has completed.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<BlockRequest>,
    /// Submitted and not completed.
    open: usize,
    /// The thread waits in the kernel and has to be woken.
    asleep: bool,
    stop: bool,
}

/// A request under way.
struct Job {
    request: BlockRequest,
    /// Where it starts in the file.
    at: u64,
    /// Bytes done.
    done: usize,
}

impl RingServer {
    /// The thread over `file`.
    ///
    /// # Errors
    /// The host's, where it gives no thread or no ring.
    pub(super) fn new(file: Arc<RawFile>) -> io::Result<Self> {
        let worker = file.clone();
        let beside = Arc::new(Pool::new(1, "disk", move |r| worker.serve(r))?);
        let flushed = file.clone();
        let flusher = Flusher::new("disk-flush", move || flushed.flush())?;
        let shared = Arc::new(Shared { state: Mutex::default(), idle: Condvar::new() });
        let (tx, rx) = mpsc::channel();
        let (theirs, slow) = (shared.clone(), beside.clone());
        let thread = thread::Builder::new().name("disk-ring".into()).spawn(move || {
            // A ring belongs to the thread that made it.
            let ring = match Ring::new(DEPTH) {
                Ok(ring) => ring,
                Err(e) => return drop(tx.send(Err(e))),
            };
            let _ = tx.send(Ok(ring.waker()));
            Worker { shared: theirs, file, ring, beside: slow, spare: Vec::new() }.run();
        })?;
        let waker = rx.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the ring has gone")))?;
        Ok(RingServer { shared, beside, flusher, waker, thread: Some(thread) })
    }

    pub(super) fn submit(&self, request: BlockRequest) {
        // It covers what has completed, so that it may pass by what is under way.
        if request.op == BlockOp::Flush {
            return self.flusher.submit(request);
        }
        let mut s = self.shared.lock();
        s.queue.push_back(request);
        s.open += 1;
        let asleep = std::mem::take(&mut s.asleep);
        drop(s);
        if asleep {
            self.waker.wake();
        }
    }

    /// Returns when everything submitted has completed.
    pub(super) fn drain(&self) {
        let mut s = self.shared.lock();
        while s.open > 0 {
            s = self.shared.idle.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        drop(s);
        self.beside.drain();
        self.flusher.drain();
    }
}

impl Drop for RingServer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.waker.wake();
        // The last user may be a completion on the thread itself, which cannot wait for itself.
        if let Some(t) = self.thread.take().filter(|t| t.thread().id() != thread::current().id()) {
            let _ = t.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    shared: Arc<Shared>,
    file: Arc<RawFile>,
    ring: Ring<Job>,
    beside: Arc<Pool>,
    spare: Vec<Vec<u8>>,
}

impl Worker {
    fn run(mut self) {
        while let Some((requests, block)) = self.take() {
            for request in requests {
                self.start(request);
            }
            // What has just been put in may be done when the call returns, so that it is looked at before anything waits.
            if let Err(error) = self.ring.wait(block) {
                tracing::error!(%error, "io_uring has failed");
                return self.give_up();
            }
            while let Some(done) = self.ring.done() {
                self.step(done);
            }
        }
    }

    /// What has come, as far as there is room, and whether there is nothing to do but wait. `None` at the end.
    fn take(&mut self) -> Option<(Vec<BlockRequest>, bool)> {
        let mut s = self.shared.lock();
        let n = self.ring.room().min(s.queue.len());
        let requests: Vec<BlockRequest> = s.queue.drain(..n).collect();
        if requests.is_empty() && self.ring.under_way() == 0 && s.stop {
            return None;
        }
        s.asleep = requests.is_empty();
        Some((requests, s.asleep))
    }

    fn start(&mut self, request: BlockRequest) {
        let at = match crate::request::check(&request, &self.file.geometry()) {
            Ok(at) => at,
            Err(e) => return self.finish(request, Err(e)),
        };
        match request.op {
            BlockOp::Read | BlockOp::Write if request.len == 0 => self.finish(request, Ok(())),
            BlockOp::Read | BlockOp::Write => self.go_on(Job { request, at, done: 0 }),
            BlockOp::Flush | BlockOp::Discard | BlockOp::WriteZeroes { .. } => self.hand_over(request),
        }
    }

    /// Puts the next part of a read or write in.
    fn go_on(&mut self, job: Job) {
        let len = CHUNK.min(job.request.buffer.len() - job.done);
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(len, 0);
        let (at, file) = (job.at + job.done as u64, self.file.file().clone());
        let pushed = if job.request.op == BlockOp::Read {
            self.ring.read(&file, at, buffer, job)
        } else {
            let filled =
                job.request.buffer.get(job.done, &mut buffer).and_then(|()| self.file.check_start(at, &buffer));
            if let Err(e) = filled {
                return self.finish(job.request, Err(e));
            }
            self.ring.write(&file, at, buffer, job)
        };
        if let Err((_, job)) = pushed {
            self.hand_over(job.request);
        }
    }

    /// A part of a request is done.
    fn step(&mut self, done: Done<Job>) {
        let Done { tag: mut job, buffer, result } = done;
        let at = job.at + job.done as u64;
        let n = match result {
            Ok(n) => n.min(buffer.len()),
            // What the ring cannot do a thread can; nothing is done twice that must not be.
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::Unsupported
                ) =>
            {
                return self.hand_over(job.request);
            }
            Err(e) => {
                let error = self.file.error(job.request.op, at, e);
                return self.finish(job.request, Err(error));
            }
        };
        let moved = match job.request.op {
            BlockOp::Read => self.take_in(&mut job, &buffer, n),
            // Nothing was written and nothing went wrong: a file system that does so would do so for ever.
            _ if n == 0 => Err(self.file.error(job.request.op, at, io::ErrorKind::WriteZero.into())),
            _ => Ok(n),
        };
        if buffer.capacity() <= KEPT_BYTES && self.spare.len() < KEPT {
            self.spare.push(buffer);
        }
        match moved {
            Err(e) => self.finish(job.request, Err(e)),
            Ok(n) => {
                job.done += n;
                if job.done < job.request.buffer.len() { self.go_on(job) } else { self.finish(job.request, Ok(())) }
            }
        }
    }

    /// Copies what was read to the guest; the bytes that count as read.
    fn take_in(&self, job: &mut Job, buffer: &[u8], n: usize) -> Result<usize, BlockError> {
        let read = buffer.get(..n).unwrap_or_default();
        job.request.buffer.put(job.done, read)?;
        let end = job.at + (job.done + n) as u64;
        if n == buffer.len() || n > 0 && end < self.file.bytes() {
            return Ok(n);
        }
        // Only the rest of the last sector lies behind the end.
        if end < self.file.bytes() {
            return Err(self.file.too_short());
        }
        let rest = job.request.buffer.len() - job.done - n;
        job.request.buffer.put(job.done + n, &vec![0; rest.min(CHUNK)])?;
        Ok(n + rest)
    }

    /// Leaves a request to the thread beside, from its beginning.
    fn hand_over(&mut self, request: BlockRequest) {
        self.beside.submit(request);
        self.closed();
    }

    fn finish(&mut self, request: BlockRequest, result: Result<(), BlockError>) {
        // A completion that panics must not take the thread along; the request reports itself as lost.
        if catch_unwind(AssertUnwindSafe(|| request.complete(result))).is_err() {
            tracing::error!("the completion of a block request panicked");
        }
        self.closed();
    }

    fn closed(&self) {
        let mut s = self.shared.lock();
        s.open -= 1;
        if s.open == 0 {
            self.shared.idle.notify_all();
        }
    }

    /// The ring is of no use any more: what comes, and what has come, goes to the thread beside.
    fn give_up(mut self) {
        let lost = BlockError::new(BlockErrorKind::Io, "io_uring failed while the request was under way");
        tracing::error!("{lost}; a thread takes over");
        loop {
            let mut s = self.shared.lock();
            let requests: Vec<BlockRequest> = s.queue.drain(..).collect();
            s.asleep = false;
            if requests.is_empty() && s.stop {
                return;
            }
            drop(s);
            requests.into_iter().for_each(|r| self.hand_over(r));
            thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
