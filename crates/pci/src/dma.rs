//! Guest memory as a PCI function sees it: behind an IOMMU where the machine has one.
//!
//! A [`DmaMemory`] is given to each function instead of the machine's RAM. It implements the `vm-memory` traits, so a device does not
//! notice; each page that it touches is translated by the [`DmaRemapper`] at the time of the access, for the function's own
//! source id. An access holds [`DmaRemapper::in_flight`] for reading until its bytes are copied, so that an IOMMU can wait for
//! the end of all accesses that used what it has just been told to forget.

use std::iter::FusedIterator;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use visor_memory::{FrameTracker, GuestMemory, GuestView};
use vm_memory::guest_memory::{Error as MemoryError, GuestMemorySliceIterator, Result as MemoryResult};
use vm_memory::{GuestAddress, GuestMemory as DmaAccess, GuestMemoryBackend, Permissions, VolatileSlice};

use crate::PciAddress;

/// The source id (requester id) of a function: bus in bits 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u16);

impl From<PciAddress> for SourceId {
    fn from(at: PciAddress) -> Self {
        SourceId(u16::from(at.device & 31) << 3 | u16::from(at.function & 7))
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmaDirection {
    /// The function reads memory.
    Read,
    /// It writes memory.
    Write,
}

/// Where a function's address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaTarget {
    /// Guest-physical address.
    pub at: u64,
    /// Bytes from there that are contiguous in both address spaces, at least 1.
    pub len: u64,
}

/// Translates the addresses that functions use.
pub trait DmaRemapper: Send + Sync {
    /// The guest-physical address of `at` as `source` uses it, or `None` if that access is refused, which the remapper reports
    /// to the guest in its own way. Called with [`DmaRemapper::in_flight`] held for reading, and maybe device locks.
    fn translate(&self, source: SourceId, at: u64, direction: DmaDirection) -> Option<DmaTarget>;

    /// Held for reading during each access. Taking it for writing waits until all accesses are over.
    fn in_flight(&self) -> &RwLock<()>;
}

/// Guest memory through a function's eyes.
#[derive(Clone)]
pub struct DmaMemory {
    ram: Arc<GuestMemory>,
    remapper: Option<(Arc<dyn DmaRemapper>, SourceId)>,
}

impl DmaMemory {
    /// The memory that the function `source` reaches through `remapper`.
    pub fn remapped(ram: Arc<GuestMemory>, remapper: Arc<dyn DmaRemapper>, source: SourceId) -> Self {
        DmaMemory { ram, remapper: Some((remapper, source)) }
    }

    /// Whether addresses may differ from guest-physical ones.
    pub fn is_remapped(&self) -> bool {
        self.remapper.is_some()
    }

    fn access(&self, at: u64, len: u64, direction: DmaDirection) -> Slices<'_> {
        let remapper = self.remapper.as_ref().map(|(r, source)| Remapping {
            remapper: r.as_ref(),
            source: *source,
            direction,
            _in_flight: r.in_flight().read().unwrap_or_else(PoisonError::into_inner),
        });
        Slices { view: self.ram.view(), remapper, at, left: len }
    }
}

impl From<Arc<GuestMemory>> for DmaMemory {
    /// Guest memory without an IOMMU.
    fn from(ram: Arc<GuestMemory>) -> Self {
        DmaMemory { ram, remapper: None }
    }
}

impl std::fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaMemory({:?})", self.remapper.as_ref().map(|(_, source)| source))
    }
}

impl DmaAccess for DmaMemory {
    type PhysicalMemory = GuestView;
    type Bitmap = FrameTracker;

    fn check_range(&self, addr: GuestAddress, count: usize, access: Permissions) -> bool {
        if addr.0.checked_add(count as u64).is_none() {
            return false;
        }
        // What may be read and written is what passes both tests.
        let of = |direction| self.access(addr.0, count as u64, direction).all_in_ram();
        match access {
            Permissions::No | Permissions::Read => of(DmaDirection::Read),
            Permissions::Write => of(DmaDirection::Write),
            Permissions::ReadWrite => of(DmaDirection::Read) && of(DmaDirection::Write),
        }
    }

    fn get_slices<'a>(
        &'a self,
        addr: GuestAddress,
        count: usize,
        access: Permissions,
    ) -> MemoryResult<impl GuestMemorySliceIterator<'a, FrameTracker>> {
        let direction = if access.has_write() { DmaDirection::Write } else { DmaDirection::Read };
        Ok(self.access(addr.0, count as u64, direction))
    }

    fn physical_memory(&self) -> Option<&GuestView> {
        if self.remapper.is_none() { Some(self.ram.view()) } else { None }
    }
}

struct Remapping<'a> {
    remapper: &'a dyn DmaRemapper,
    source: SourceId,
    direction: DmaDirection,
    _in_flight: RwLockReadGuard<'a, ()>,
}

/// The pieces of a range, translated as they are asked for.
struct Slices<'a> {
    view: &'a GuestView,
    remapper: Option<Remapping<'a>>,
    at: u64,
    left: u64,
}

impl Slices<'_> {
    /// Where the next bytes are.
    fn target(&self) -> Option<DmaTarget> {
        let whole = DmaTarget { at: self.at, len: self.left };
        let Some(r) = &self.remapper else { return Some(whole) };
        let target = r.remapper.translate(r.source, self.at, r.direction)?;
        Some(DmaTarget { at: target.at, len: target.len.clamp(1, self.left) })
    }

    fn all_in_ram(mut self) -> bool {
        while self.left > 0 {
            let Some(target) = self.target() else { return false };
            if !GuestMemoryBackend::check_range(self.view, GuestAddress(target.at), target.len as usize) {
                return false;
            }
            self.at = self.at.wrapping_add(target.len);
            self.left -= target.len;
        }
        true
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = MemoryResult<VolatileSlice<'a, FrameTracker>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let here = GuestAddress(self.at);
        let slice = match self.target() {
            Some(target) => {
                GuestMemoryBackend::get_slices(self.view, GuestAddress(target.at), target.len as usize).next()
            }
            None => None,
        };
        match slice {
            Some(Ok(slice)) if !slice.is_empty() => {
                self.at = self.at.wrapping_add(slice.len() as u64);
                self.left = self.left.saturating_sub(slice.len() as u64);
                Some(Ok(slice))
            }
            Some(Err(e)) => {
                self.left = 0;
                Some(Err(e))
            }
            _ => {
                self.left = 0;
                Some(Err(MemoryError::InvalidGuestAddress(here)))
            }
        }
    }
}

impl FusedIterator for Slices<'_> {}

impl<'a> GuestMemorySliceIterator<'a, FrameTracker> for Slices<'a> {}

#[cfg(test)]
mod tests {
    use super::*;
    use visor_memory::{Gpa, RamRange};
    use vm_memory::Bytes;

    /// Swaps pages 1 and 2, refuses page 3 and writes to page 2.
    #[derive(Default)]
    struct Swap(RwLock<()>);

    impl DmaRemapper for Swap {
        fn translate(&self, source: SourceId, at: u64, direction: DmaDirection) -> Option<DmaTarget> {
            assert_eq!(source, SourceId(0x18));
            let page = match (at >> 12, direction) {
                (1, _) => 2,
                (2, DmaDirection::Read) => 1,
                (2 | 3, _) => return None,
                (n, _) => n,
            };
            Some(DmaTarget { at: page << 12 | at & 0xfff, len: 0x1000 - (at & 0xfff) })
        }

        fn in_flight(&self) -> &RwLock<()> {
            &self.0
        }
    }

    #[test]
    fn accesses_are_translated_page_by_page() {
        let ram = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 0x4000 }]).unwrap());
        let swap = Arc::new(Swap::default());
        let source = SourceId::from(PciAddress::device(3));
        let dma = DmaMemory::remapped(ram.clone(), swap.clone(), source);
        ram.view().write_slice(b"end of one", GuestAddress(0x2ff6)).unwrap();
        ram.view().write_slice(b"start of two", GuestAddress(0x1000)).unwrap();
        let mut data = [0; 22];
        dma.read_slice(&mut data, GuestAddress(0x1ff6)).unwrap();
        assert_eq!(&data, b"end of onestart of two");
        dma.write_slice(b"x", GuestAddress(0x1000)).unwrap();
        assert_eq!(ram.view().read_obj::<u8>(GuestAddress(0x2000)).unwrap(), b'x');
        assert!(dma.write_slice(b"x", GuestAddress(0x2000)).is_err(), "read-only");
        assert!(dma.read_obj::<u8>(GuestAddress(0x3000)).is_err(), "not mapped");
        assert!(dma.read_obj::<u8>(GuestAddress(0x5000)).is_err(), "no RAM");
        let check = |at, len, access| DmaAccess::check_range(&dma, GuestAddress(at), len, access);
        assert!(check(0x1800, 0x1000, Permissions::Read));
        assert!(!check(0x1800, 0x1000, Permissions::ReadWrite));
        assert!(!check(0x2800, 0x1000, Permissions::Read));
        assert!(!check(u64::MAX, 2, Permissions::Read));
        assert!(check(0x3000, 0, Permissions::Read));
        assert!(swap.0.try_write().is_ok(), "no access is left in flight");
    }

    #[test]
    fn without_a_remapper_addresses_are_physical() {
        let ram = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 0x1000 }]).unwrap());
        let dma = DmaMemory::from(ram.clone());
        dma.write_obj(7u32, GuestAddress(0x100)).unwrap();
        assert_eq!(ram.view().read_obj::<u32>(GuestAddress(0x100)).unwrap(), 7);
        assert!(!DmaAccess::check_range(&dma, GuestAddress(0xfff), 2, Permissions::Read));
        assert!(!dma.is_remapped());
    }
}
