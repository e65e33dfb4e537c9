//! Flushes of a disk: a thread of their own, and one call of the host for all that wait.
//!
//! A guest that makes a write durable waits for nothing else, so that each change of threads on the way counts: from the submitter to
//! this thread, and its result straight back to the guest. Those that come while one is under way share the next one.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use visor_block::{BlockError, BlockRequest};

/// The thread; it ends when the value is dropped, after the flushes submitted until then.
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// There is work, or the end has come.
    work: Condvar,
    /// Everything submitted has completed.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: Vec<BlockRequest>,
    /// Submitted and not completed.
    open: usize,
    stop: bool,
}

impl Flusher {
    /// A thread that calls `flush`.
    ///
    /// # Errors
    /// The host's, where it gives no thread.
    pub(crate) fn new(name: &str, flush: impl Fn() -> Result<(), BlockError> + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), idle: Condvar::new() });
        let theirs = shared.clone();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            while let Some(requests) = theirs.take() {
                theirs.carry_out(requests, &flush);
            }
        })?;
        Ok(Flusher { shared, thread: Some(thread) })
    }

    pub(crate) fn submit(&self, request: BlockRequest) {
        let mut s = self.shared.lock();
        s.queue.push(request);
        s.open += 1;
        self.shared.work.notify_one();
    }

    /// Returns when everything submitted has completed.
    pub(crate) fn drain(&self) {
        let mut s = self.shared.lock();
        while s.open > 0 {
            s = self.shared.idle.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_one();
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

    /// All that waits; `None` at the end.
    fn take(&self) -> Option<Vec<BlockRequest>> {
        let mut s = self.lock();
        loop {
            if !s.queue.is_empty() {
                return Some(std::mem::take(&mut s.queue));
            }
            if s.stop {
                return None;
            }
            s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn carry_out(&self, requests: Vec<BlockRequest>, flush: &dyn Fn() -> Result<(), BlockError>) {
        let (count, result) = (requests.len(), flush());
        for request in requests {
            let result = result.as_ref().copied().map_err(copy);
            // A completion that panics must not take the thread along; the request reports itself as lost.
            if catch_unwind(AssertUnwindSafe(|| request.complete(result))).is_err() {
                tracing::error!("the completion of a block request panicked");
            }
        }
        let mut s = self.lock();
        s.open -= count;
        if s.open == 0 {
            self.idle.notify_all();
        }
    }
}

/// The error once more, for another request.
fn copy(e: &BlockError) -> BlockError {
    let source =
        e.source.as_ref().map(|s| s.raw_os_error().map_or_else(|| s.kind().into(), io::Error::from_raw_os_error));
    BlockError { kind: e.kind, what: e.what.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use visor_block::{BlockErrorKind, BlockOp, Sector};

    use super::*;
    use visor_block::SharedBuffer;

    fn request(to: &mpsc::Sender<Result<(), BlockErrorKind>>) -> BlockRequest {
        let to = to.clone();
        BlockRequest::new(BlockOp::Flush, Sector(0), 0, Box::new(SharedBuffer::default()), move |r| {
            to.send(r.map_err(|e| e.kind)).unwrap();
        })
    }

    #[test]
    fn those_that_wait_share_one_and_each_gets_the_result() {
        let (go, gate) = mpsc::channel();
        let (began, begins) = mpsc::channel();
        let flusher = Flusher::new("flush", move || {
            began.send(()).unwrap();
            gate.recv().unwrap()
        })
        .unwrap();
        let (tx, rx) = mpsc::channel();
        flusher.submit(request(&tx));
        begins.recv().unwrap();
        // One that comes now may be after a write that the one under way does not cover.
        (0..3).for_each(|_| flusher.submit(request(&tx)));
        assert!(rx.try_recv().is_err());
        go.send(Ok(())).unwrap();
        assert_eq!(rx.recv().unwrap(), Ok(()));
        begins.recv().unwrap();
        assert!(rx.try_recv().is_err(), "the others wait for one of their own");
        go.send(Err(BlockError::new(BlockErrorKind::Io, "as the test wants"))).unwrap();
        flusher.drain();
        let results: Vec<_> = rx.try_iter().collect();
        assert_eq!(results, [Err(BlockErrorKind::Io); 3]);
        assert!(begins.try_recv().is_err(), "one call for three");
    }
}
