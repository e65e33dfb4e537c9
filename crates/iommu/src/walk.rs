//! From a function's address to a guest-physical one (VT-d §3.4, §3.7).

use visor_memory::GuestMemory;
use visor_pci::{DmaDirection, SourceId};
use vm_memory::{Bytes, GuestAddress};

use crate::tables::{Blocked, Context, Entry, Space, context_table};

/// A page of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Guest-physical address of its first byte.
    pub(crate) at: u64,
    /// Logarithm of its size: 12, 21 or 30.
    pub(crate) shift: u8,
    /// All levels allow reads.
    pub(crate) read: bool,
    /// All levels allow writes.
    pub(crate) write: bool,
}

impl Page {
    /// Whether an access may go on.
    pub(crate) fn check(&self, direction: DmaDirection) -> Result<(), Blocked> {
        match direction {
            DmaDirection::Read if !self.read => Err(Blocked::NoRead),
            DmaDirection::Write if !self.write => Err(Blocked::NoWrite),
            _ => Ok(()),
        }
    }
}

/// The context entry of `source` under the root table at `root`; the error comes with whether it may be recorded.
pub(crate) fn context(ram: &GuestMemory, root: u64, source: SourceId) -> Result<Context, (Blocked, bool)> {
    let entry = |table: u64, index: u8| pair(ram, table + 16 * u64::from(index));
    let bus = entry(root, (source.0 >> 8) as u8).ok_or((Blocked::RootTableAccess, false))?;
    let table = context_table(bus).map_err(|e| (e, false))?;
    Context::parse(entry(table, source.0 as u8).ok_or((Blocked::ContextTableAccess, false))?)
}

/// The page that holds `at` in `space`, which has pages.
pub(crate) fn page(ram: &GuestMemory, space: Space, at: u64, direction: DmaDirection) -> Result<Page, Blocked> {
    let Space::Paged { root, levels } = space else {
        return Ok(Page { at: at & !0xfff, shift: 12, read: true, write: true });
    };
    if at >> (9 * levels + 12) != 0 {
        return Err(Blocked::AddressTooWide);
    }
    let (mut table, mut read, mut write) = (root, true, true);
    for level in (1..=levels).rev() {
        let shift = 9 * (level - 1) + 12;
        let index = at >> shift & 0x1ff;
        let entry = ram.view().read_obj(GuestAddress(table + 8 * index)).map_err(|_| Blocked::PagingTableAccess)?;
        let entry = Entry(u64::from_le(entry));
        read &= entry.read();
        write &= entry.write();
        // An entry that allows nothing is not present, and its other bits mean nothing.
        let so_far = Page { at: 0, shift, read, write };
        so_far.check(direction)?;
        if entry.is_page(level)? {
            return Ok(Page { at: entry.address(), ..so_far });
        }
        table = entry.address();
    }
    // Level 1 entries are pages.
    Err(Blocked::PagingReserved)
}

/// The two halves of a 16-byte entry.
pub(crate) fn pair(ram: &GuestMemory, at: u64) -> Option<[u64; 2]> {
    let mut bytes = [0; 16];
    ram.view().read_slice(&mut bytes, GuestAddress(at)).ok()?;
    let value = u128::from_le_bytes(bytes);
    Some([value as u64, (value >> 64) as u64])
}
