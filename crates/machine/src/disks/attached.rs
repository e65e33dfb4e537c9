//! A disk as a machine uses it: its requests are counted, and those that fail because the host is full wait until there is room.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use visor_block::{
    BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, DiskLimits, DiskResize,
    DiskSnapshots, Rescue,
};

use super::Space;

/// What a disk has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Reads that were asked for.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes, zeroes and discards.
    pub writes: u64,
    /// Bytes of the writes.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that waited for room on the host, each time that they did.
    pub waited: u64,
}

/// The disk. Back ends below it stay as they are.
pub(crate) struct Attached {
    inner: Arc<dyn BlockBackend>,
    counters: Counters,
    held: Arc<Held>,
}

#[derive(Default)]
struct Counters {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    flushes: AtomicU64,
}

/// Requests that wait for room.
struct Held {
    name: String,
    state: Mutex<State>,
    /// None waits any more.
    none: Condvar,
    /// The machine ends: nothing waits.
    over: AtomicBool,
    waited: AtomicU64,
    space: Arc<Space>,
}

#[derive(Default)]
struct State {
    requests: VecDeque<BlockRequest>,
    why: String,
}

impl Attached {
    /// `inner` under the name that messages use; `space` hears when requests begin to wait.
    pub(crate) fn new(inner: Arc<dyn BlockBackend>, name: &str, space: Arc<Space>) -> Arc<Self> {
        let held = Held {
            name: name.to_owned(),
            state: Mutex::default(),
            none: Condvar::new(),
            over: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            space,
        };
        Arc::new(Attached { inner, counters: Counters::default(), held: Arc::new(held) })
    }

    pub(crate) fn stats(&self) -> DiskStats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.counters;
        DiskStats {
            reads: get(&c.reads),
            read_bytes: get(&c.read_bytes),
            writes: get(&c.writes),
            written_bytes: get(&c.written_bytes),
            flushes: get(&c.flushes),
            waited: get(&self.held.waited),
        }
    }

    /// Why requests wait, if some do.
    pub(crate) fn waits(&self) -> Option<String> {
        let s = self.held.lock();
        (!s.requests.is_empty()).then(|| format!("{}: {}", self.held.name, s.why))
    }

    /// Submits what waits again; it comes back here if there is still no room.
    pub(crate) fn retry(&self) {
        for request in self.held.take() {
            self.inner.submit(request.rescued_by(self.held.clone()));
        }
    }

    /// Waits until the back end has nothing under way.
    pub(crate) fn settle(&self) {
        self.inner.drain();
    }

    /// Nothing waits any more: what does, and what fails from now on, is an error to whoever asked.
    pub(crate) fn give_up(&self) {
        self.held.over.store(true, Ordering::SeqCst);
        for request in self.held.take() {
            request
                .complete(Err(BlockError::new(BlockErrorKind::NoSpace, "the machine ended while it waited for room")));
        }
    }

    fn count(&self, request: &BlockRequest) {
        let c = &self.counters;
        let (requests, bytes) = match request.op {
            BlockOp::Read => (&c.reads, Some(&c.read_bytes)),
            BlockOp::Write => (&c.writes, Some(&c.written_bytes)),
            BlockOp::Flush => (&c.flushes, None),
            BlockOp::Discard | BlockOp::WriteZeroes { .. } => (&c.writes, None),
        };
        requests.fetch_add(1, Ordering::Relaxed);
        if let Some(bytes) = bytes {
            bytes.fetch_add(request.len, Ordering::Relaxed);
        }
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> VecDeque<BlockRequest> {
        let taken = std::mem::take(&mut self.lock().requests);
        self.none.notify_all();
        taken
    }
}

impl Rescue for Held {
    fn wants(&self, kind: BlockErrorKind) -> bool {
        kind == BlockErrorKind::NoSpace && !self.over.load(Ordering::SeqCst)
    }

    fn rescue(&self, request: BlockRequest, error: BlockError) {
        self.waited.fetch_add(1, Ordering::Relaxed);
        let mut s = self.lock();
        s.why = match &error.source {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        s.requests.push_back(request);
        // It may have been set after the question and before the lock.
        let over = self.over.load(Ordering::SeqCst);
        drop(s);
        if over {
            self.take().into_iter().for_each(|r| r.complete(Err(BlockError::new(BlockErrorKind::NoSpace, "no room"))));
        }
        self.space.lacking();
    }
}

impl BlockBackend for Attached {
    fn geometry(&self) -> BlockGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: BlockRequest) {
        self.count(&request);
        self.inner.submit(request.rescued_by(self.held.clone()));
    }

    fn drain(&self) {
        self.inner.drain();
        let mut s = self.held.lock();
        while !s.requests.is_empty() && !self.held.over.load(Ordering::SeqCst) {
            s = self.held.none.wait(s).unwrap_or_else(PoisonError::into_inner);
            drop(s);
            self.inner.drain();
            s = self.held.lock();
        }
    }

    fn means(&self) -> String {
        self.inner.means()
    }

    fn as_resize(&self) -> Option<&dyn DiskResize> {
        self.inner.as_resize()
    }

    fn as_snapshots(&self) -> Option<&dyn DiskSnapshots> {
        self.inner.as_snapshots()
    }

    fn as_limits(&self) -> Option<&dyn DiskLimits> {
        self.inner.as_limits()
    }
}
