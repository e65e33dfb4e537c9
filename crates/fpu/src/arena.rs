//! Memory for generated code: chunks of an anonymous file, mapped once to write and once to
//! execute, so that no address is ever writable and executable.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

/// Bytes per chunk.
const CHUNK: usize = 1 << 20;
/// Allocation unit: a cache line, so that a thunk starts on one.
const UNIT: usize = 64;
/// Largest piece of code in units.
const MAX_UNITS: usize = 16;

/// Grows by chunks; freed slots are reused by size.
pub(crate) struct Arena {
    current: Arc<Chunk>,
    used: usize,
    free: [Vec<Slot>; MAX_UNITS],
}

/// A piece of code memory.
#[derive(Clone)]
pub(crate) struct Slot {
    chunk: Arc<Chunk>,
    offset: usize,
    units: usize,
}

struct Chunk {
    writable: *mut u8,
    executable: *mut u8,
}

// SAFETY: the pointers are valid from any thread; writes happen only through `Arena::place`, which
// needs `&mut Arena`, to slots no thunk owns.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Arena {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { current: Arc::new(Chunk::new()?), used: 0, free: Default::default() })
    }

    /// Copies `code` (at most 1024 bytes) to executable memory.
    pub(crate) fn place(&mut self, code: &[u8]) -> io::Result<Slot> {
        let units = code.len().div_ceil(UNIT).max(1);
        let class = units - 1;
        let Some(free) = self.free.get_mut(class) else {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        };
        let slot = match free.pop() {
            Some(slot) => slot,
            None => self.extend(units)?,
        };
        // SAFETY: the slot lies inside the chunk's writable mapping, holds `units * UNIT` >=
        // `code.len()` bytes, and nobody executes it: it is new or was released.
        unsafe {
            let target = slot.chunk.writable.add(slot.offset);
            ptr::write_bytes(target, 0xCC, units * UNIT);
            ptr::copy_nonoverlapping(code.as_ptr(), target, code.len());
        }
        Ok(slot)
    }

    /// Takes back a slot that no thread executes or will execute.
    pub(crate) fn release(&mut self, slot: Slot) {
        if let Some(free) = self.free.get_mut(slot.units - 1) {
            free.push(slot);
        }
    }

    fn extend(&mut self, units: usize) -> io::Result<Slot> {
        if self.used + units * UNIT > CHUNK {
            self.current = Arc::new(Chunk::new()?);
            self.used = 0;
        }
        let slot = Slot { chunk: Arc::clone(&self.current), offset: self.used, units };
        self.used += units * UNIT;
        Ok(slot)
    }
}

impl Slot {
    /// Address at which the code executes; valid while the slot or a clone of it lives.
    pub(crate) fn entry(&self) -> *const u8 {
        // SAFETY: `offset` is inside the mapping.
        unsafe { self.chunk.executable.add(self.offset) }
    }
}

impl Chunk {
    fn new() -> io::Result<Self> {
        // SAFETY: the name is a C string; the result is checked.
        let raw = unsafe { libc::memfd_create(c"fpu-thunks".as_ptr(), libc::MFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `raw` is a fresh descriptor that nobody else owns.
        let file = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: plain system call on our own descriptor.
        if unsafe { libc::ftruncate(file.as_raw_fd(), CHUNK as libc::off_t) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut chunk = Self { writable: ptr::null_mut(), executable: ptr::null_mut() };
        chunk.writable = map(&file, libc::PROT_READ | libc::PROT_WRITE)?;
        chunk.executable = map(&file, libc::PROT_READ | libc::PROT_EXEC)?;
        Ok(chunk)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        for mapping in [self.writable, self.executable] {
            if !mapping.is_null() {
                // SAFETY: the mapping is ours and nothing refers to it any more.
                unsafe { libc::munmap(mapping.cast(), CHUNK) };
            }
        }
    }
}

fn map(file: &OwnedFd, protection: libc::c_int) -> io::Result<*mut u8> {
    // SAFETY: a new mapping at an address of the kernel's choice; the result is checked.
    let address = unsafe { libc::mmap(ptr::null_mut(), CHUNK, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(address.cast())
}
