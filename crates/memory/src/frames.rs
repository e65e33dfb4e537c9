//! Which frames hold code that an engine has decoded or translated, and whether it is still current.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

use crate::{Frame, PAGE};

/// Bytes covered by one bit of a frame's code mark.
pub const GRANULE: u64 = 128;

/// Told of frames whose code was hit.
type Watcher = Box<dyn Fn(Frame) + Send + Sync>;

/// Per-frame tables, indexed by frame number.
pub struct Frames {
    /// Bit *n* set: the 128 bytes from *n* × 128 hold code that an engine keeps.
    code: Box<[AtomicU32]>,
    /// Counts the writes that hit marked code.
    stamp: Box<[AtomicU32]>,
    /// Held while marks and stamp of a frame change together; frame *n* has lock *n* modulo their number.
    locks: [Mutex<()>; LOCKS],
    watchers: RwLock<Vec<Watcher>>,
    /// First frame of device memory, which is marked to follow writes ([`Frames::follow`]) far more often than for code.
    devices: u32,
    /// Code of device memory has been marked.
    device_code: AtomicBool,
}

const LOCKS: usize = 64;

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frames({})", self.code.len())
    }
}

impl Frames {
    pub(crate) fn new(count: usize, devices: u32) -> Self {
        let zeroes = || (0..count).map(|_| AtomicU32::new(0)).collect();
        prepare_process();
        let (watchers, device_code) = (RwLock::default(), AtomicBool::new(false));
        let locks = [const { Mutex::new(()) }; LOCKS];
        Frames { code: zeroes(), stamp: zeroes(), locks, watchers, devices, device_code }
    }

    /// Marks `len` bytes from `offset` of `frame` as code, before the caller reads them, and returns the stamp under
    /// which what it makes of them is valid.
    pub fn mark_code(&self, frame: Frame, offset: u64, len: u64) -> u32 {
        let mask = granules(offset, len);
        if frame.0 >= self.devices {
            self.device_code.store(true, Ordering::SeqCst);
        }
        let guard = self.lock(frame);
        let before = self.code[frame.0 as usize].fetch_or(mask, Ordering::SeqCst);
        // Writers who see any mark look again with care (`hit`); only the first one must not escape those who are just testing. Under
        // the lock: who marks second must not read the code before all writers see the first mark.
        if before == 0 {
            barrier();
        }
        let stamp = self.stamp[frame.0 as usize].load(Ordering::Acquire);
        drop(guard);
        stamp
    }

    /// Marks the whole of `frame`, so that the next write to it moves its stamp; true if it was marked. To be followed by
    /// [`Frames::barrier`], the stamp, and then the bytes.
    pub(crate) fn follow(&self, frame: Frame) -> bool {
        let code = &self.code[frame.0 as usize];
        code.load(Ordering::Relaxed) == !0 || code.fetch_or(!0, Ordering::SeqCst) == !0
    }

    /// Orders the marks made before on this thread against the writes of all others.
    pub(crate) fn barrier(&self) {
        barrier();
    }

    /// Moves the stamp of `frame`, for an engine that learns of writes without [`Frames::wrote`].
    pub fn touch(&self, frame: Frame) {
        self.stamp[frame.0 as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// The current stamp of `frame`: code made under another one is stale.
    #[inline]
    pub fn stamp(&self, frame: Frame) -> u32 {
        self.stamp[frame.0 as usize].load(Ordering::Acquire)
    }

    /// Where the stamp of `frame` is kept, for those who look at it often.
    pub fn stamp_cell(&self, frame: Frame) -> &AtomicU32 {
        &self.stamp[frame.0 as usize]
    }

    /// Tells that `len` bytes from `offset` of `frame` (within the page) have just been written. True if code was hit.
    #[inline]
    pub fn wrote(&self, frame: Frame, offset: u64, len: u64) -> bool {
        let code = &self.code[frame.0 as usize];
        if code.load(Ordering::Acquire) == 0 { false } else { self.hit(frame, offset, len) }
    }

    #[cold]
    fn hit(&self, frame: Frame, offset: u64, len: u64) -> bool {
        let code = &self.code[frame.0 as usize];
        // Either this sees a mark set meanwhile, or whoever set it reads what has just been written.
        fence(Ordering::SeqCst);
        if code.load(Ordering::Relaxed) & granules(offset, len) == 0 {
            return false;
        }
        // Under the lock, so that nobody who marks holds the new stamp without a mark. The stamp moves and the watchers are told
        // before the marks go: a writer who finds the marks gone, and so tells nobody, has been told of its own code.
        let guard = self.lock(frame);
        self.stamp[frame.0 as usize].fetch_add(1, Ordering::SeqCst);
        let is_code = frame.0 < self.devices || self.device_code.load(Ordering::SeqCst);
        if is_code {
            for watcher in self.watchers.read().unwrap_or_else(PoisonError::into_inner).iter() {
                watcher(frame);
            }
        }
        code.store(0, Ordering::SeqCst);
        // `follow` takes no lock: where it found the mark that was just taken, it must see one more change.
        self.stamp[frame.0 as usize].fetch_add(1, Ordering::SeqCst);
        drop(guard);
        is_code
    }

    fn lock(&self, frame: Frame) -> MutexGuard<'_, ()> {
        self.locks[frame.0 as usize % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `f` is called, by whoever wrote and from any thread, for each frame whose stamp has moved. It must not wait, nor
    /// mark code.
    pub fn watch(&self, f: impl Fn(Frame) + Send + Sync + 'static) {
        self.watchers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(f));
    }

    /// Address of the code marks (one `u32` per frame), for generated code that tests them inline.
    pub fn code_marks(&self) -> *const AtomicU32 {
        self.code.as_ptr()
    }

    /// Where the code marks of device memory begin: those, and only those, may be set by others than engines.
    pub fn device_marks(&self) -> *const AtomicU32 {
        self.code.as_ptr().wrapping_add(self.devices as usize)
    }
}

/// Bits of the granules that `len` bytes from `offset` touch; `offset + len` is at most 4096.
fn granules(offset: u64, len: u64) -> u32 {
    let first = offset / GRANULE;
    let last = (offset + len.max(1) - 1).min(PAGE - 1) / GRANULE;
    let count = last - first + 1;
    (((1u64 << count) - 1) << first) as u32
}

/// Tells the kernel that this process will have memory barriers on all its threads (membarrier(2)). Guest memory does so itself; a program
/// that calls this before its first thread starts spares itself the wait: with several threads the kernel answers after an RCU grace
/// period, which is 10 to 20 ms.
pub fn prepare_process() {
    // SAFETY: a system call without pointers.
    unsafe {
        libc::syscall(libc::SYS_membarrier, 1 << 4 /* REGISTER_PRIVATE_EXPEDITED */, 0, 0)
    };
}

/// A full barrier on every thread of the process (membarrier(2)); where the kernel lacks it, threads are stopped from
/// passing by the fence here and the total order of the SeqCst operations in `mark_code` and `hit`.
fn barrier() {
    fence(Ordering::SeqCst);
    // SAFETY: a system call without pointers.
    unsafe {
        libc::syscall(libc::SYS_membarrier, 1 << 3 /* PRIVATE_EXPEDITED */, 0, 0)
    };
}

/// The hook that `vm-memory` calls after each write to RAM.
#[derive(Clone, Debug)]
pub struct FrameTracker {
    frames: Arc<Frames>,
    base: u64,
}

impl FrameTracker {
    pub(crate) fn new(frames: Arc<Frames>, base: u64) -> Self {
        FrameTracker { frames, base }
    }
}

impl WithBitmapSlice<'_> for FrameTracker {
    type S = Self;
}

impl BitmapSlice for FrameTracker {}

impl Bitmap for FrameTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let mut at = self.base + offset as u64;
        let end = at + len as u64;
        while at < end {
            let n = (PAGE - at % PAGE).min(end - at);
            self.frames.wrote(Frame((at / PAGE) as u32), at % PAGE, n);
            at += n;
        }
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        FrameTracker { frames: self.frames.clone(), base: self.base + offset as u64 }
    }
}
