//! Placing things in guest RAM without overlap.

use visor_memory::{GuestMemory, PAGE};
use vm_memory::{Bytes, GuestAddress};

use crate::error::{BootError, BootErrorKind};
use crate::layout::{E820Kind, EBDA, MemoryMap};

/// Boot structures of a few KiB lie between here and the EBDA; page 0 holds the real-mode vectors and the BIOS data area.
const LOW: u64 = 0x1000;

/// Guest RAM being filled.
pub(crate) struct Ram<'a> {
    memory: &'a GuestMemory,
    map: &'a MemoryMap,
    /// Ranges in use, first and end.
    taken: Vec<(u64, u64)>,
}

impl<'a> Ram<'a> {
    pub(crate) fn new(memory: &'a GuestMemory, map: &'a MemoryMap) -> Self {
        Ram { memory, map, taken: vec![(0, LOW)] }
    }

    pub(crate) fn map(&self) -> &'a MemoryMap {
        self.map
    }

    /// Whether the range is RAM the guest may use and nothing lies there yet.
    pub(crate) fn is_free(&self, at: u64, len: u64) -> bool {
        let Some(end) = at.checked_add(len) else { return false };
        let ram = self.map.entries().iter().any(|e| e.kind == E820Kind::Ram && e.start <= at && end <= e.end());
        ram && !self.taken.iter().any(|&(s, e)| s < end && at < e)
    }

    /// Takes a range; false if it is not free. An empty range is always free.
    pub(crate) fn take(&mut self, at: u64, len: u64) -> bool {
        let free = len == 0 || self.is_free(at, len);
        if free && len > 0 {
            self.taken.push((at, at + len));
        }
        free
    }

    /// Takes the lowest free page-aligned range of low memory. Boot structures lie low because Linux's decompressor saves
    /// and overwrites a few pages below the EBDA while it still uses them.
    pub(crate) fn take_low(&mut self, len: u64) -> Result<u64, BootError> {
        let len = len.max(1);
        let mut at = LOW;
        while at + len <= EBDA {
            if self.take(at, len) {
                return Ok(at);
            }
            at += PAGE;
        }
        Err(BootError::new(BootErrorKind::Memory, format!("no room for {len} bytes of boot structures below 640 KiB")))
    }

    /// Takes the highest free page-aligned range that ends at or below `limit` (at most the end of low RAM).
    pub(crate) fn take_high(&mut self, len: u64, limit: u64) -> Option<u64> {
        let mut limit = limit.min(self.map.low_end());
        loop {
            let at = limit.checked_sub(len)? & !(PAGE - 1);
            if self.take(at, len) {
                return Some(at);
            }
            // Below the lowest range in the way, or there is no RAM here.
            let end = at + len;
            limit = self.taken.iter().filter(|&&(s, e)| s < end && at < e).map(|&(s, _)| s).min()?;
        }
    }

    /// Copies `data` to `at`.
    pub(crate) fn write(&self, at: u64, data: &[u8]) -> Result<(), BootError> {
        write(self.memory, at, data)
    }

    /// Clears a range: after a guest's reset memory holds what it left there.
    pub(crate) fn zero(&self, at: u64, len: u64) -> Result<(), BootError> {
        const CHUNK: usize = 1 << 16;
        let zeroes = vec![0; CHUNK.min(len as usize)];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(CHUNK as u64);
            self.write(at + done, &zeroes[..n as usize])?;
            done += n;
        }
        Ok(())
    }

    /// Takes low memory for `data` and copies it there.
    pub(crate) fn put_low(&mut self, data: &[u8]) -> Result<u64, BootError> {
        let at = self.take_low(data.len() as u64)?;
        self.write(at, data)?;
        Ok(at)
    }

    /// Places an initial ramdisk as high as `limit` allows.
    pub(crate) fn put_initrd(&mut self, data: &[u8], limit: u64) -> Result<u64, BootError> {
        let len = data.len() as u64;
        let at = self.take_high(len, limit).ok_or_else(|| {
            BootError::new(
                BootErrorKind::InitrdTooLarge,
                format!(
                    "the initial ramdisk of {} does not fit beside the kernel into {} of memory",
                    size(len),
                    size(self.map.low_end())
                ),
            )
            .hint("give the machine more memory or make the initial ramdisk smaller")
        })?;
        self.write(at, data)?;
        Ok(at)
    }
}

/// Copies `data` to guest memory at `at`, reserved areas included.
pub(crate) fn write(memory: &GuestMemory, at: u64, data: &[u8]) -> Result<(), BootError> {
    memory.view().write_slice(data, GuestAddress(at)).map_err(|e| {
        BootError::new(BootErrorKind::Memory, format!("cannot write {} bytes at {at:#x}: {e}", data.len()))
    })
}

pub(crate) fn read(memory: &GuestMemory, at: u64, data: &mut [u8]) -> Result<(), BootError> {
    let len = data.len();
    memory
        .view()
        .read_slice(data, GuestAddress(at))
        .map_err(|e| BootError::new(BootErrorKind::Memory, format!("cannot read {len} bytes at {at:#x}: {e}")))
}

/// A size for people: rounded up to KiB or MiB.
pub(crate) fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 {
        format!("{} MiB", bytes.div_ceil(1 << 20))
    } else {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    }
}
