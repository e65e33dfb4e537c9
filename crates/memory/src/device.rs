//! Memory that sits on a device: RAM to the guest where the device's window lies, and nothing else moves it.
//!
//! A frame buffer, for instance: the guest writes it at full speed, and whoever shows it asks from time to time which pages were
//! written ([`DeviceMemory::collect`]). It lies in the same mapping as RAM, behind it, so that it has frames and marks like RAM; DMA
//! does not reach it ([`GuestMemory::view`] is RAM alone).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Frame, Gpa, GuestMemory, MemoryError, PAGE, RamRange, Remap};

/// The part of the mapping that devices take memory from.
#[derive(Debug)]
pub(crate) struct Area {
    start: u64,
    /// Bytes that have been given to devices.
    taken: AtomicU64,
}

impl Area {
    pub(crate) fn new(start: u64) -> Self {
        Area { start, taken: AtomicU64::new(0) }
    }
}

impl GuestMemory {
    /// Takes `len` bytes (a multiple of [`PAGE`]) of the area for devices. They come as zeroes and are never given back.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] if that is not a multiple, or more than what is left.
    pub fn take_device_memory(self: &Arc<Self>, len: u64) -> Result<DeviceMemory, MemoryError> {
        if len == 0 || !len.is_multiple_of(PAGE) {
            return Err(MemoryError::Layout("device memory is empty or not page aligned"));
        }
        let limit = self.mapped - self.devices.start;
        let take = |taken: u64| taken.checked_add(len).filter(|end| *end <= limit);
        let at = self.devices.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
        let at = at.map_err(|_| MemoryError::Layout("the area for device memory is full"))?;
        Ok(DeviceMemory { memory: self.clone(), offset: self.devices.start + at, len, place: Arc::default() })
    }

    /// Where in the mapping device memory begins, whose writes somebody follows.
    pub fn devices(&self) -> u64 {
        self.devices.start
    }
}

/// A device's own memory; clones are the same memory.
#[derive(Clone, Debug)]
pub struct DeviceMemory {
    memory: Arc<GuestMemory>,
    offset: u64,
    len: u64,
    place: Arc<Mutex<Option<Gpa>>>,
}

impl DeviceMemory {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Its first frame, for an engine that tracks writes.
    pub fn first_frame(&self) -> Frame {
        Frame((self.offset / PAGE) as u32)
    }

    /// Makes it appear in the guest at `at` (page aligned), or nowhere. Where there is RAM, RAM is seen.
    pub fn place(&self, at: Option<Gpa>) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let range = |start: Gpa| RamRange { start, len: self.len };
        let old = place.take().map(|start| Remap { range: range(start), to: None });
        let new = at.map(|start| Remap { range: range(start), to: Some((self.offset, true)) });
        let changes: Vec<Remap> = old.into_iter().chain(new).collect();
        self.memory.remap(&changes);
        *place = at;
    }

    fn host(&self) -> *mut u8 {
        // SAFETY: `offset` lies in the mapping.
        unsafe { self.memory.base.add(self.offset as usize) }
    }

    /// Copies bytes from `at`; what lies beyond the end reads as zero. The guest may write meanwhile.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        let inside = self.clip(at, data.len());
        let (copy, rest) = data.split_at_mut(inside);
        rest.fill(0);
        // SAFETY: `inside` bytes from `at` are in the mapping; `copy` is ours alone and bytes have no invalid values. A guest that
        // writes them meanwhile makes for torn pixels, not for unsound ones: the copy goes through volatile words.
        unsafe { copy_out(self.host().add(at as usize), copy) };
    }

    /// Copies `data` to `at`; what lies beyond the end is dropped.
    pub fn write(&self, at: u64, data: &[u8]) {
        let inside = self.clip(at, data.len());
        for (i, byte) in data[..inside].iter().enumerate() {
            // SAFETY: inside the mapping.
            unsafe { self.host().add(at as usize + i).write_volatile(*byte) };
        }
        self.wrote(at, inside as u64);
    }

    /// The little-endian word at `at`, a multiple of four; zero beyond the end.
    pub fn load(&self, at: u64) -> u32 {
        if self.clip(at, 4) < 4 || !at.is_multiple_of(4) {
            return 0;
        }
        // SAFETY: inside the mapping, and aligned since the mapping is.
        u32::from_le(unsafe { self.host().add(at as usize).cast::<u32>().read_volatile() })
    }

    /// Stores a little-endian word at `at`, a multiple of four; dropped beyond the end.
    pub fn store(&self, at: u64, value: u32) {
        if self.clip(at, 4) < 4 || !at.is_multiple_of(4) {
            return;
        }
        // SAFETY: as above.
        unsafe { self.host().add(at as usize).cast::<u32>().write_volatile(value.to_le()) };
        self.wrote(at, 4);
    }

    /// Fills `range` with zeroes.
    pub fn clear(&self, range: Range<u64>) {
        let end = range.end.min(self.len);
        let mut at = range.start;
        while at < end {
            let n = (PAGE - at % PAGE).min(end - at);
            // SAFETY: inside the mapping; the guest may see it half done, as on any device.
            unsafe { self.host().add(at as usize).write_bytes(0, n as usize) };
            self.wrote(at, n);
            at += n;
        }
    }

    /// Calls `written` for each of `pages` (numbers from the start) that has been written since the last call with the same `seen`,
    /// which has an entry for each page of the memory. A first call reports them all. What is read after the call is at
    /// least as new as what the next call takes as its base: no write is missed.
    ///
    /// Costs two loads for a page that nobody wrote. On an engine whose writes the host's kernel tracks, call its
    /// `collect_writes` first.
    pub fn collect(&self, pages: Range<usize>, seen: &mut [u32], mut written: impl FnMut(usize)) {
        let end = pages.end.min((self.len / PAGE) as usize).min(seen.len());
        let first = self.first_frame();
        let frame = |page: usize| Frame(first.0 + page as u32);
        let mut barrier = false;
        let range = pages.start.min(end)..end;
        for page in range.clone() {
            if !self.memory.frames.follow(frame(page)) {
                // Even where the stamp is known: a hit under way can have taken the last mark after its stamp was read.
                seen[page] = u32::MAX;
                barrier = true;
            }
        }
        if barrier {
            self.memory.frames.barrier();
        }
        for page in range {
            let stamp = self.memory.frames.stamp(frame(page));
            // All ones stands for "never seen"; a stamp may pass it too, and is then reported once more.
            if seen[page] != stamp || stamp == u32::MAX {
                seen[page] = stamp;
                written(page);
            }
        }
    }

    /// A `seen` for [`DeviceMemory::collect`] with which all pages count as written.
    pub fn unseen(&self) -> Vec<u32> {
        vec![u32::MAX; (self.len / PAGE) as usize]
    }

    fn clip(&self, at: u64, len: usize) -> usize {
        self.len.saturating_sub(at).min(len as u64) as usize
    }

    fn wrote(&self, mut at: u64, len: u64) {
        let end = at + len;
        while at < end {
            let n = (PAGE - at % PAGE).min(end - at);
            let frame = Frame(self.first_frame().0 + (at / PAGE) as u32);
            self.memory.frames.wrote(frame, at % PAGE, n);
            at += n;
        }
    }
}

/// Copies from guest memory that may change.
///
/// # Safety
/// `from` is `data.len()` bytes of the mapping.
unsafe fn copy_out(from: *const u8, data: &mut [u8]) {
    let mut chunks = data.chunks_exact_mut(8);
    let mut at = from;
    for chunk in &mut chunks {
        // SAFETY: as promised; `Unaligned` has alignment one.
        let word = unsafe { at.cast::<Unaligned>().read_volatile() };
        chunk.copy_from_slice(&{ word.0 }.to_ne_bytes());
        // SAFETY: at most one past the end.
        at = unsafe { at.add(8) };
    }
    for (i, byte) in chunks.into_remainder().iter_mut().enumerate() {
        // SAFETY: as promised.
        *byte = unsafe { at.add(i).read_volatile() };
    }
}

#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Unaligned(u64);
