//! Guest RAM: one shared mapping, volatile access, and per-frame tracking of translated code.
//!
//! All RAM of a machine is one memfd mapped once, so that a RAM byte has one host address, and a *frame number* (its
//! 4 KiB page within the mapping) that indexes every per-page table. Guest-physical ranges map onto slices of it.
//!
//! Nobody holds a `&[u8]` into guest RAM, because vCPUs and devices change it at any time. Devices go through
//! [`GuestMemory::view`] (the `vm-memory` traits); an engine goes through [`GuestMemory::page`] and volatile accesses.
//!
//! **Self-modifying code.** An engine that keeps decoded or translated code of a frame calls [`Frames::mark_code`]
//! before it reads the bytes; every writer of guest RAM calls [`Frames::wrote`] after it has written (the `vm-memory`
//! view does so by itself, so DMA is covered). A write to a granule that holds code bumps the frame's stamp; code is valid
//! only while the stamp it was made under is current. `mark_code` issues a process-wide memory barrier, which
//! makes "write, then test the code mark" on one thread and "set the mark, then read the bytes" on another safe without a
//! fence on the write path (membarrier(2)).
//!
//! **ROM, flash, shadowed RAM.** See [`Mapping`]: pages that are not plain RAM, and may change at run time.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod device;
mod frames;
mod remap;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

pub use device::DeviceMemory;
pub use frames::{FrameTracker, Frames, GRANULE, prepare_process};
use remap::Remaps;
pub use remap::{Mapping, Remap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Bytes in a page, and in a frame.
pub const PAGE: u64 = 4096;

/// A guest-physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// The index of a 4 KiB page of RAM within the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame(pub u32);

/// What devices use: guest RAM through the traits of `vm-memory`, every write of which is tracked.
pub type GuestView = GuestMemoryMmap<FrameTracker>;

/// A range of guest-physical addresses backed by RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First address, page aligned.
    pub start: Gpa,
    /// Bytes, a multiple of [`PAGE`].
    pub len: u64,
}

/// One page of RAM as an engine sees it.
#[derive(Clone, Copy, Debug)]
pub struct RamPage {
    /// Host address of its first byte; valid as long as the [`GuestMemory`] lives.
    pub host: *mut u8,
    /// Its frame number.
    pub frame: Frame,
    /// Stores may go to it; otherwise they go to the memory bus.
    pub writable: bool,
}

/// Why guest RAM could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A range is empty, not page aligned, overlaps another, or the total exceeds 2^44 bytes.
    #[error("bad RAM layout: {0}")]
    Layout(&'static str),
    /// The host refused the mapping.
    #[error("the host cannot map {len} bytes of guest RAM")]
    Map {
        /// Bytes asked for.
        len: u64,
        /// The host's reason.
        source: std::io::Error,
    },
}

/// The RAM of one machine.
#[derive(Debug)]
pub struct GuestMemory {
    view: GuestView,
    frames: Arc<Frames>,
    layout: Vec<(RamRange, u64)>,
    /// Where mappings count although there is RAM.
    shadow: RamRange,
    remaps: Remaps,
    devices: device::Area,
    base: *mut u8,
    /// RAM.
    len: u64,
    /// RAM and what lies behind it.
    mapped: u64,
    fd: OwnedFd,
}

/// Memory that is not plain RAM, for [`GuestMemory::with_extra`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra {
    /// Bytes of memory behind RAM, a multiple of [`PAGE`]; it begins at [`GuestMemory::extra`].
    pub len: u64,
    /// RAM that is there only as far as mappings say so.
    pub shadow: Option<RamRange>,
    /// Bytes behind that from which devices take memory of their own ([`GuestMemory::take_device_memory`]), a multiple of
    /// [`PAGE`].
    pub devices: u64,
}

// SAFETY: `base` points to a shared mapping that lives as long as the value; all access to it is volatile or atomic.
unsafe impl Send for GuestMemory {}
// SAFETY: as above; no method hands out a reference into the mapping.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Reserves RAM for `layout`, ascending and without overlaps. Host memory is taken page by page on first touch.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] for a layout that breaks the rules, [`MemoryError::Map`] where the host refuses.
    pub fn new(layout: &[RamRange]) -> Result<Self, MemoryError> {
        Self::with_extra(layout, &Extra::default())
    }

    /// As [`GuestMemory::new`], with memory for ROM and the like beside RAM.
    ///
    /// # Errors
    /// See [`GuestMemory::new`].
    pub fn with_extra(layout: &[RamRange], extra: &Extra) -> Result<Self, MemoryError> {
        let mut end = 0;
        let mut len = 0u64;
        let mut placed = Vec::new();
        for r in layout {
            if r.len == 0 || r.len % PAGE != 0 || r.start.0 % PAGE != 0 {
                return Err(MemoryError::Layout("a range is empty or not page aligned"));
            }
            if r.start.0 < end {
                return Err(MemoryError::Layout("ranges overlap or are not ascending"));
            }
            end = r.start.0.checked_add(r.len).ok_or(MemoryError::Layout("a range wraps around"))?;
            placed.push((*r, len));
            len += r.len;
        }
        if len == 0 || len > 1 << 44 {
            return Err(MemoryError::Layout("no RAM, or more than 16 TiB"));
        }
        let aligned = extra.len.is_multiple_of(PAGE) && extra.devices.is_multiple_of(PAGE);
        if !aligned || extra.len > 1 << 40 || extra.devices > 1 << 40 {
            return Err(MemoryError::Layout("extra memory is not page aligned or too large"));
        }
        let devices = device::Area::new(len + extra.len);
        let mapped = len + extra.len + extra.devices;
        let (fd, base) = map_shared(mapped).map_err(|source| MemoryError::Map { len: mapped, source })?;
        let frames = Arc::new(Frames::new((mapped / PAGE) as usize, ((len + extra.len) / PAGE) as u32));
        let regions = placed.iter().map(|(r, at)| region(base, *at, r, &frames)).collect::<Result<Vec<_>, _>>()?;
        let view = GuestView::from_regions(regions).map_err(|_| MemoryError::Layout("ranges overlap"))?;
        let shadow = extra.shadow.unwrap_or(RamRange { start: Gpa(0), len: 0 });
        Ok(GuestMemory {
            view,
            frames,
            layout: placed,
            shadow,
            remaps: Remaps::default(),
            devices,
            base,
            len,
            mapped,
            fd,
        })
    }

    /// RAM for devices and loaders.
    pub fn view(&self) -> &GuestView {
        &self.view
    }

    /// The per-frame code marks.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The page of memory that holds `at`, or `None` where there is none.
    pub fn page(&self, at: Gpa) -> Option<RamPage> {
        let at = at.0 & !(PAGE - 1);
        let plain = at.wrapping_sub(self.shadow.start.0) >= self.shadow.len;
        if let Some((r, offset)) = self.layout.iter().find(|(r, _)| plain && at.wrapping_sub(r.start.0) < r.len) {
            return Some(self.page_at(offset + (at - r.start.0), true));
        }
        let (offset, writable) = self.remaps.find(at)?;
        Some(self.page_at(offset, writable))
    }

    fn page_at(&self, offset: u64, writable: bool) -> RamPage {
        // SAFETY: `offset` is below `mapped`: the ranges of the layout are, and `remap` refuses others.
        RamPage { host: unsafe { self.base.add(offset as usize) }, frame: Frame((offset / PAGE) as u32), writable }
    }

    /// Changes what is shown where. Engines have noticed before their CPUs execute another instruction: one that is running
    /// (the caller, in an access to a device) after it, others as soon as they look up.
    ///
    /// Ranges that are not page aligned or would show what is not in the mapping are left out.
    pub fn remap(&self, changes: &[Remap]) {
        let aligned = |n: u64| n.is_multiple_of(PAGE);
        let fits = |c: &&Remap| {
            let inside =
                |offset: u64| aligned(offset) && offset.checked_add(c.range.len).is_some_and(|end| end <= self.mapped);
            let range = c.range.len > 0 && c.range.start.0.checked_add(c.range.len).is_some();
            range && aligned(c.range.start.0) && aligned(c.range.len) && c.to.is_none_or(|(offset, _)| inside(offset))
        };
        let changes: Vec<Remap> = changes.iter().filter(fits).copied().collect();
        self.remaps.apply(&changes);
    }

    /// Calls `f` after each change of what is shown where, from the thread that changes it. It must not change it again.
    pub fn on_remap(&self, f: impl Fn() + Send + Sync + 'static) {
        self.remaps.on_change(Box::new(f));
    }

    /// Everything that CPUs see at present: RAM outside of the shadowed range, and the mappings.
    pub fn mappings(&self) -> Vec<Mapping> {
        let ram = self.layout.iter().map(|(range, offset)| Mapping { range: *range, offset: *offset, writable: true });
        let mut all: Vec<Mapping> = ram.flat_map(|m| remap::cut(&m, &self.shadow)).collect();
        // Mappings over plain RAM do not count.
        let hidden = |m: &Mapping| {
            let into = m.range.start.0.wrapping_sub(self.shadow.start.0);
            into >= self.shadow.len && self.ram_offset(m.range.start).is_some()
        };
        all.extend(self.remaps.all().into_iter().filter(|m| !hidden(m)));
        all.sort_by_key(|m| m.range.start);
        all
    }

    /// Where in the mapping the RAM at `at` is, shadowed or not.
    pub fn ram_offset(&self, at: Gpa) -> Option<u64> {
        let (r, offset) = self.layout.iter().find(|(r, _)| at.0.wrapping_sub(r.start.0) < r.len)?;
        Some(offset + (at.0 - r.start.0))
    }

    /// Where in the mapping the extra memory begins.
    pub fn extra(&self) -> u64 {
        self.len
    }

    /// Copies `data` to `at` in the mapping, as the hardware does that owns this memory; what lies beyond its end is left out.
    pub fn load(&self, at: u64, data: &[u8]) {
        let mut at = at.min(self.mapped);
        let room = (self.mapped - at) as usize;
        for piece in data[..data.len().min(room)].chunks(PAGE as usize) {
            for (i, byte) in piece.iter().enumerate() {
                // SAFETY: below `mapped`.
                unsafe { self.base.add(at as usize + i).write_volatile(*byte) };
            }
            let mut done = 0;
            while done < piece.len() as u64 {
                let from = at + done;
                let n = (PAGE - from % PAGE).min(piece.len() as u64 - done);
                self.frames.wrote(Frame((from / PAGE) as u32), from % PAGE, n);
                done += n;
            }
            at += piece.len() as u64;
        }
    }

    /// Copies from `at` in the mapping; ones beyond its end.
    pub fn peek(&self, at: u64, data: &mut [u8]) {
        for (at, byte) in (at..).zip(data) {
            // SAFETY: below `mapped`.
            *byte = if at < self.mapped { unsafe { self.base.add(at as usize).read_volatile() } } else { 0xff };
        }
    }

    /// Host address of frame 0; frame `n` is at `n` × 4096 from it.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Total RAM in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true: a machine has RAM.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The guest-physical ranges with their offset in the mapping, ascending.
    pub fn layout(&self) -> &[(RamRange, u64)] {
        &self.layout
    }

    /// The memfd behind the mapping, for a second mapping or another process.
    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping made in `new`; the view's regions do not own it.
        unsafe { libc::munmap(self.base.cast(), self.mapped as usize) };
    }
}

fn map_shared(len: u64) -> std::io::Result<(OwnedFd, *mut u8)> {
    let name = CString::from(c"visor-ram");
    // SAFETY: a plain system call with a valid C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: `fd` was just returned to us and is owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a plain system call on our own descriptor.
    if unsafe { libc::ftruncate(fd.as_raw_fd(), len as i64) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a fresh shared mapping at an address the kernel chooses.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            fd.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok((fd, base.cast()))
}

fn region(
    base: *mut u8,
    at: u64,
    r: &RamRange,
    frames: &Arc<Frames>,
) -> Result<GuestRegionMmap<FrameTracker>, MemoryError> {
    let tracker = FrameTracker::new(frames.clone(), at);
    let builder = MmapRegionBuilder::new_with_bitmap(r.len as usize, tracker)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE);
    // SAFETY: the range lies in the mapping, which outlives the region (both are fields of GuestMemory).
    let mapping = unsafe { builder.with_raw_mmap_pointer(base.add(at as usize)) }
        .build()
        .map_err(|e| MemoryError::Map { len: r.len, source: std::io::Error::other(e) })?;
    GuestRegionMmap::new(mapping, GuestAddress(r.start.0)).ok_or(MemoryError::Layout("a range wraps around"))
}
