//! The formats of root, context and paging-structure entries (VT-d §9.1, §9.3, §9.8).
//!
//! ```text
//! root     63     12 11  1  0        context  63       12 11 4 3  2  1   0     127  88 87 72 71 67 66 64
//!         [ table   |  0  | P ]              [ paging    | 0  | TT |FPD| P ]  [   0   | DID |  -  | AW ]
//!
//! second-level entry  51        12   11   7    1 0
//!                    [ address    | SNP |SP  | W R ]
//! ```

use crate::HOST_ADDRESS_BITS;

/// Why a DMA request is blocked: the fault reasons of VT-d §7.1.3 (legacy mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Blocked {
    RootNotPresent = 0x1,
    ContextNotPresent = 0x2,
    ContextInvalid = 0x3,
    AddressTooWide = 0x4,
    NoWrite = 0x5,
    NoRead = 0x6,
    PagingTableAccess = 0x7,
    RootTableAccess = 0x8,
    ContextTableAccess = 0x9,
    RootReserved = 0xa,
    ContextReserved = 0xb,
    PagingReserved = 0xc,
    InterruptReserved = 0x20,
    InterruptIndex = 0x21,
    InterruptNotPresent = 0x22,
    InterruptTableAccess = 0x23,
    InterruptEntryReserved = 0x24,
    InterruptCompatibility = 0x25,
    InterruptSource = 0x26,
}

/// Bits of an entry that hold an address.
const ADDRESS: u64 = ((1 << HOST_ADDRESS_BITS) - 1) & !0xfff;
/// Address bits that do not exist.
const BEYOND: u64 = ((1 << 52) - 1) & !((1 << HOST_ADDRESS_BITS) - 1);

/// The context table of a root entry.
pub(crate) fn context_table(root: [u64; 2]) -> Result<u64, Blocked> {
    match root {
        [low, _] if low & 1 == 0 => Err(Blocked::RootNotPresent),
        [low, 0] if low & !(ADDRESS | 1) == 0 => Ok(low & ADDRESS),
        _ => Err(Blocked::RootReserved),
    }
}

/// What a context entry says of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    /// Its domain.
    pub(crate) domain: u16,
    /// Faults of its requests are not recorded.
    pub(crate) quiet: bool,
    /// Where its addresses lead.
    pub(crate) space: Space,
}

/// A function's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// Guest-physical addresses.
    PassThrough,
    /// Paging structures of `levels` levels (3 or 4) at `root`.
    Paged { root: u64, levels: u8 },
}

impl Context {
    /// Takes a context entry apart; the error comes with whether it may be recorded.
    pub(crate) fn parse([low, high]: [u64; 2]) -> Result<Self, (Blocked, bool)> {
        let quiet = low & 2 != 0;
        if low & 1 == 0 {
            return Err((Blocked::ContextNotPresent, quiet));
        }
        if low & !(ADDRESS | 0xf) != 0 || high & !0x00ff_ff7f != 0 {
            return Err((Blocked::ContextReserved, quiet));
        }
        let levels = match high & 7 {
            1 => 3,
            2 => 4,
            _ => return Err((Blocked::ContextInvalid, quiet)),
        };
        let space = match low >> 2 & 3 {
            0 => Space::Paged { root: low & ADDRESS, levels },
            2 => Space::PassThrough,
            // Device TLBs are not supported.
            _ => return Err((Blocked::ContextInvalid, quiet)),
        };
        Ok(Context { domain: (high >> 8) as u16, quiet, space })
    }
}

/// A second-level paging entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    /// Reads are allowed.
    pub(crate) fn read(self) -> bool {
        self.0 & 1 != 0
    }

    /// Writes are allowed.
    pub(crate) fn write(self) -> bool {
        self.0 & 2 != 0
    }

    /// The page or the next table.
    pub(crate) fn address(self) -> u64 {
        self.0 & ADDRESS
    }

    /// Whether it is a page, at `level` (1 is the lowest), or has bits set that must be clear there.
    pub(crate) fn is_page(self, level: u8) -> Result<bool, Blocked> {
        let large = self.0 & 0x80 != 0;
        let low = match level {
            1 => 0,
            2 | 3 if large => (1u64 << (9 * (level - 1) + 12)) - 0x1000,
            2 | 3 => 0,
            _ if large => return Err(Blocked::PagingReserved),
            _ => 0,
        };
        if self.0 & (BEYOND | low) != 0 {
            return Err(Blocked::PagingReserved);
        }
        Ok(level == 1 || large)
    }
}
