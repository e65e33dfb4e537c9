//! A few threads that take requests from a queue.
//!
//! The queue has no limit of its own: front ends limit how many requests they have under way.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use visor_block::BlockRequest;

/// The threads; they end when the value is dropped, after the requests submitted until then.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
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
    queue: VecDeque<BlockRequest>,
    /// Submitted and not completed.
    open: usize,
    /// Threads that wait for work. Waking costs a call of the kernel even where nobody sleeps.
    asleep: usize,
    stop: bool,
}

impl Pool {
    /// `count` threads that call `run`, which completes its request.
    ///
    /// # Errors
    /// The host's, where it gives no threads.
    pub fn new(count: usize, name: &str, run: impl Fn(BlockRequest) + Send + Sync + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), work: Condvar::new(), idle: Condvar::new() });
        let run = Arc::new(run);
        let mut pool = Pool { shared, threads: Vec::new() };
        for i in 0..count {
            let (shared, run) = (pool.shared.clone(), run.clone());
            let builder = thread::Builder::new().name(format!("{name}-{i}"));
            pool.threads.push(builder.spawn(move || shared.serve(&*run))?);
        }
        Ok(pool)
    }

    /// Has a thread carry `request` out.
    pub fn submit(&self, request: BlockRequest) {
        let mut s = self.shared.lock();
        s.queue.push_back(request);
        s.open += 1;
        let asleep = s.asleep > 0;
        // Whoever is woken would only wait for the lock.
        drop(s);
        if asleep {
            self.shared.work.notify_one();
        }
    }

    /// Returns when everything submitted has completed.
    pub fn drain(&self) {
        let mut s = self.shared.lock();
        while s.open > 0 {
            s = self.shared.idle.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for t in self.threads.drain(..) {
            // The last user may be a completion on one of these threads, which cannot wait for itself.
            if t.thread().id() != thread::current().id() {
                let _ = t.join();
            }
        }
    }
}

impl Shared {
    fn serve(&self, run: &dyn Fn(BlockRequest)) {
        let (mut s, mut next) = self.next(self.lock());
        while let Some(request) = next {
            drop(s);
            // A completion that panics must not take the thread along; the request reports itself as lost.
            if catch_unwind(AssertUnwindSafe(|| run(request))).is_err() {
                tracing::error!("the completion of a block request panicked");
            }
            s = self.lock();
            s.open -= 1;
            if s.open == 0 {
                self.idle.notify_all();
            }
            (s, next) = self.next(s);
        }
    }

    /// Waits for the next request; `None` at the end.
    fn next<'a>(&'a self, mut s: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Option<BlockRequest>) {
        loop {
            if let Some(request) = s.queue.pop_front() {
                return (s, Some(request));
            }
            if s.stop {
                return (s, None);
            }
            s.asleep += 1;
            s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
            s.asleep -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
