//! Limits on the requests and bytes of a disk per second.
//!
//! A bucket per limit fills with time and holds what a second allows. A request may start when no bucket is empty, and takes
//! what it needs even if that makes the bucket negative: requests larger than a second's share pass, and are paid for
//! afterwards. Without limits, requests pass on the submitter's thread as if this were not there; limits can be set while the disk
//! is in use. Requests leave in the order in which they came; flushes and discards count as requests without bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use visor_block::{
    BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, DiskLimits, DiskResize,
    DiskSnapshots,
};

/// Limits; zero means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per second.
    pub iops: u64,
    /// Bytes read and written per second.
    pub bps: u64,
}

impl Limits {
    /// Whether there is nothing to limit.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }
}

/// A disk with limits.
pub struct Throttle {
    inner: Arc<dyn BlockBackend>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    /// There are limits, or requests wait for the time when there were: whoever submits joins the queue.
    limited: AtomicBool,
    state: Mutex<State>,
    /// A request waits, or the end has come.
    work: Condvar,
    /// None waits any more.
    empty: Condvar,
}

struct State {
    bucket: Bucket,
    waiting: VecDeque<BlockRequest>,
    /// A request was taken out and is not handed on yet.
    passing: bool,
    stop: bool,
}

/// What may still start, as a function of time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    limits: Limits,
    requests: f64,
    bytes: f64,
    /// Seconds of the time up to which it was filled.
    filled: f64,
}

impl Bucket {
    fn new(limits: Limits) -> Self {
        Bucket { limits, requests: limits.iops as f64, bytes: limits.bps as f64, filled: 0.0 }
    }

    /// Lets a request of `len` bytes start at `now`, or says after how many seconds it may be tried again.
    fn take(&mut self, now: f64, len: u64) -> Result<(), f64> {
        let (iops, bps) = (self.limits.iops as f64, self.limits.bps as f64);
        let passed = (now - self.filled).max(0.0);
        self.filled = self.filled.max(now);
        self.requests = (self.requests + passed * iops).min(iops.max(1.0));
        self.bytes = (self.bytes + passed * bps).min(bps);
        let by_requests =
            if self.limits.iops == 0 || self.requests >= 1.0 { 0.0 } else { (1.0 - self.requests) / iops };
        let by_bytes = if self.limits.bps == 0 || self.bytes > 0.0 { 0.0 } else { (1.0 - self.bytes) / bps };
        let wait = by_requests.max(by_bytes);
        if wait > 0.0 {
            // Shorter times may vanish when they are added to the time that has passed.
            return Err(wait.max(1e-6));
        }
        self.requests -= if self.limits.iops == 0 { 0.0 } else { 1.0 };
        self.bytes -= if self.limits.bps == 0 { 0.0 } else { len as f64 };
        Ok(())
    }
}

impl Throttle {
    /// `inner` with `limits`.
    ///
    /// # Errors
    /// [`BlockErrorKind::Io`] where the host gives no thread.
    pub fn new(inner: Arc<dyn BlockBackend>, limits: Limits) -> Result<Self, BlockError> {
        let state = State { bucket: Bucket::new(limits), waiting: VecDeque::new(), passing: false, stop: false };
        let limited = AtomicBool::new(!limits.is_none());
        let shared =
            Arc::new(Shared { limited, state: Mutex::new(state), work: Condvar::new(), empty: Condvar::new() });
        let (worker, below) = (shared.clone(), inner.clone());
        let thread =
            thread::Builder::new().name("throttle".into()).spawn(move || worker.pass(&*below)).map_err(|e| {
                BlockError {
                    kind: BlockErrorKind::Io,
                    what: "no thread for the limits of a disk".into(),
                    source: Some(e),
                }
            })?;
        Ok(Throttle { inner, shared, thread: Some(thread) })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands requests on when their time has come.
    fn pass(&self, inner: &dyn BlockBackend) {
        let started = Instant::now();
        let mut s = self.lock();
        loop {
            let Some(len) = s.waiting.front().map(cost) else {
                if s.stop {
                    return;
                }
                s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            // At the end nobody waits for the sake of limits.
            let turn = if s.stop || s.bucket.limits.is_none() {
                Ok(())
            } else {
                s.bucket.take(started.elapsed().as_secs_f64(), len)
            };
            match turn {
                Err(seconds) => {
                    let time = Duration::from_secs_f64(seconds.clamp(0.0001, 10.0));
                    s = self.work.wait_timeout(s, time).unwrap_or_else(PoisonError::into_inner).0;
                }
                Ok(()) => {
                    let request = s.waiting.pop_front();
                    s.passing = true;
                    drop(s);
                    if let Some(request) = request {
                        inner.submit(request);
                    }
                    s = self.lock();
                    s.passing = false;
                    if s.waiting.is_empty() {
                        self.limited.store(!s.bucket.limits.is_none(), Ordering::Relaxed);
                        self.empty.notify_all();
                    }
                }
            }
        }
    }
}

/// Bytes that a request moves.
fn cost(request: &BlockRequest) -> u64 {
    if matches!(request.op, BlockOp::Read | BlockOp::Write) { request.len } else { 0 }
}

impl BlockBackend for Throttle {
    fn geometry(&self) -> BlockGeometry {
        self.inner.geometry()
    }

    fn submit(&self, request: BlockRequest) {
        if !self.shared.limited.load(Ordering::Relaxed) {
            return self.inner.submit(request);
        }
        self.shared.lock().waiting.push_back(request);
        self.shared.work.notify_one();
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
        Some(self)
    }

    fn drain(&self) {
        let mut s = self.shared.lock();
        while !s.waiting.is_empty() || s.passing {
            s = self.shared.empty.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        drop(s);
        self.inner.drain();
    }
}

impl DiskLimits for Throttle {
    fn limits(&self) -> (u64, u64) {
        let limits = self.shared.lock().bucket.limits;
        (limits.iops, limits.bps)
    }

    fn set_limits(&self, requests: u64, bytes: u64) {
        let mut s = self.shared.lock();
        let filled = s.bucket.filled;
        s.bucket = Bucket { filled, ..Bucket::new(Limits { iops: requests, bps: bytes }) };
        if !s.bucket.limits.is_none() || s.waiting.is_empty() && !s.passing {
            self.shared.limited.store(!s.bucket.limits.is_none(), Ordering::Relaxed);
        }
        self.shared.work.notify_all();
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        if let Some(t) = self.thread.take().filter(|t| t.thread().id() != thread::current().id()) {
            let _ = t.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::{Alloc, RawDisk, RawOptions};

    /// Starts requests of `len` bytes as soon as they may for `seconds`, and counts them.
    fn started(limits: Limits, len: u64, seconds: f64) -> u64 {
        let (mut bucket, mut now, mut count) = (Bucket::new(limits), 0.0, 0);
        while now < seconds {
            match bucket.take(now, len) {
                Ok(()) => count += 1,
                Err(wait) => {
                    assert!(wait > 0.0);
                    now += wait;
                }
            }
        }
        count
    }

    #[test]
    fn rates_are_kept() {
        // A second's share may be had at once, then the rate holds.
        let by_requests = started(Limits { iops: 100, bps: 0 }, 4096, 10.0);
        assert!((1090..=1101).contains(&by_requests), "{by_requests}");
        let by_bytes = started(Limits { iops: 0, bps: 1 << 20 }, 64 << 10, 10.0);
        assert!((170..=180).contains(&by_bytes), "{by_bytes}");
        let both = started(Limits { iops: 10, bps: 1 << 30 }, 512, 10.0);
        assert!((105..=111).contains(&both), "{both}");
        let large = started(Limits { iops: 0, bps: 1 << 20 }, 8 << 20, 100.0);
        assert!((12..=14).contains(&large), "larger than a second's share: {large}");
    }

    #[test]
    fn a_limited_disk_conforms() {
        let dir = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        testing::block(|sectors| {
            count.set(count.get() + 1);
            let path = dir.path().join(count.get().to_string());
            RawDisk::create(&path, sectors * 512, Alloc::Dynamic).unwrap();
            let raw = RawDisk::open(&path, crate::Access::ReadWrite, &RawOptions::default()).unwrap();
            Throttle::new(Arc::new(raw), Limits { iops: 1 << 20, bps: 1 << 40 }).unwrap()
        });
    }

    #[test]
    fn limits_change_while_requests_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        RawDisk::create(&path, 1 << 20, Alloc::Dynamic).unwrap();
        let raw = Arc::new(RawDisk::open(&path, crate::Access::ReadWrite, &RawOptions::default()).unwrap());
        let disk = Throttle::new(raw, Limits { iops: 1, bps: 0 }).unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        let write = |i: u64| {
            let (tx, buffer) = (tx.clone(), Box::new(visor_block::SharedBuffer::new(vec![1; 512])));
            let done = move |r: Result<(), _>| tx.send(r.is_ok()).unwrap();
            disk.submit(BlockRequest::new(BlockOp::Write, visor_block::Sector(i), 512, buffer, done));
        };
        (0..200).for_each(write);
        assert_eq!(disk.as_limits().unwrap().limits(), (1, 0));
        assert!(rx.iter().take(2).all(|ok| ok));
        disk.as_limits().unwrap().set_limits(0, 0);
        // 200 s with the limit that was.
        assert!(rx.iter().take(198).all(|ok| ok));
        disk.drain();
        assert!(!disk.shared.limited.load(Ordering::Relaxed), "nothing stands between any more");
        write(7);
        assert!(rx.recv().unwrap());
        disk.as_limits().unwrap().set_limits(0, 1 << 20);
        assert!(disk.shared.limited.load(Ordering::Relaxed));
        write(8);
        assert!(rx.recv().unwrap());
    }

    #[test]
    fn requests_wait_and_are_not_lost_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        RawDisk::create(&path, 1 << 20, Alloc::Dynamic).unwrap();
        let raw = Arc::new(RawDisk::open(&path, crate::Access::ReadWrite, &RawOptions::default()).unwrap());
        let slow = Throttle::new(raw, Limits { iops: 1, bps: 0 }).unwrap();
        let (tx, rx) = std::sync::mpsc::channel();
        for i in 0..20u64 {
            let (tx, buffer) = (tx.clone(), Box::new(visor_block::SharedBuffer::new(vec![1; 512])));
            let done = move |r: Result<(), _>| tx.send(r.is_ok()).unwrap();
            slow.submit(BlockRequest::new(BlockOp::Write, visor_block::Sector(i), 512, buffer, done));
        }
        drop(tx);
        assert!(rx.recv().unwrap(), "the first passes at once");
        drop(slow);
        assert_eq!(rx.iter().filter(|ok| *ok).count(), 19);
    }
}
