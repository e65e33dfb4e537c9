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
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod device;
mod frames;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

pub use device::DeviceMemory;
pub use frames::{FrameTracker, Frames, GRANULE};
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
    base: *mut u8,
    len: u64,
    /// RAM and the area for devices behind it.
    mapped: u64,
    windows: device::Windows,
    fd: OwnedFd,
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
        Self::with_device_memory(layout, 0)
    }

    /// As [`GuestMemory::new`], with an area of `device` bytes (a multiple of [`PAGE`]) from which devices take memory of their own
    /// ([`GuestMemory::take_device_memory`]). It costs nothing until it is used.
    ///
    /// # Errors
    /// Those of [`GuestMemory::new`].
    pub fn with_device_memory(layout: &[RamRange], device: u64) -> Result<Self, MemoryError> {
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
        if len == 0 || len > 1 << 44 || device > 1 << 40 || device % PAGE != 0 {
            return Err(MemoryError::Layout("no RAM, or more than 16 TiB, or an odd area for devices"));
        }
        let mapped = len + device;
        let (fd, base) = map_shared(mapped).map_err(|source| MemoryError::Map { len: mapped, source })?;
        let frames = Arc::new(Frames::new((mapped / PAGE) as usize));
        let regions = placed.iter().map(|(r, at)| region(base, *at, r, &frames)).collect::<Result<Vec<_>, _>>()?;
        let view = GuestView::from_regions(regions).map_err(|_| MemoryError::Layout("ranges overlap"))?;
        Ok(GuestMemory { view, frames, layout: placed, base, len, mapped, windows: device::Windows::default(), fd })
    }

    /// RAM for devices and loaders.
    pub fn view(&self) -> &GuestView {
        &self.view
    }

    /// The per-frame code marks.
    pub fn frames(&self) -> &Arc<Frames> {
        &self.frames
    }

    /// The page of RAM or of device memory that holds `at`, or `None` where there is neither.
    pub fn page(&self, at: Gpa) -> Option<RamPage> {
        let at = at.0 & !(PAGE - 1);
        let Some((r, offset)) = self.layout.iter().find(|(r, _)| at.wrapping_sub(r.start.0) < r.len) else {
            return device::page(self, at);
        };
        let offset = offset + (at - r.start.0);
        // SAFETY: `offset` is below `len`, inside the mapping.
        Some(RamPage { host: unsafe { self.base.add(offset as usize) }, frame: Frame((offset / PAGE) as u32) })
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
