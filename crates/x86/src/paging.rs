//! Paging-structure formats (SDM 3A §4.3 to §4.5).
//!
//! ```text
//!  63  62..52  51..40   39..12   11..9   8  7   6  5  4    3    2    1    0
//!  NX  ignored reserved address  ignored G  PS  D  A  PCD  PWT  U/S  R/W  P
//! ```

/// Width of physical addresses that the virtual CPUs announce, in bits (MAXPHYADDR).
pub const PHYS_BITS: u32 = 40;
/// Width of linear addresses in 64-bit mode, in bits.
pub const LINEAR_BITS: u32 = 48;

/// The entry is in use.
pub const PRESENT: u64 = 1 << 0;
/// Writes are allowed.
pub const WRITE: u64 = 1 << 1;
/// Ring 3 may access.
pub const USER: u64 = 1 << 2;
/// Used since software cleared it.
pub const ACCESSED: u64 = 1 << 5;
/// Written since software cleared it (leaf entries).
pub const DIRTY: u64 = 1 << 6;
/// The entry maps a large page.
pub const LARGE: u64 = 1 << 7;
/// The translation survives CR3 loads if CR4.PGE is set (leaf entries).
pub const GLOBAL: u64 = 1 << 8;
/// No instruction fetches, if EFER.NXE is set; else reserved.
pub const NX: u64 = 1 << 63;

/// Bits 51 to 12 below [`PHYS_BITS`]: the address in an entry or CR3.
pub const ADDRESS: u64 = ((1 << PHYS_BITS) - 1) & !0xfff;
/// Address bits above [`PHYS_BITS`], which must be zero in a present entry.
pub const RESERVED_ADDRESS: u64 = ((1 << 52) - 1) & !((1 << PHYS_BITS) - 1);

/// Bits that must be zero in a present PAE page-directory-pointer entry (SDM 3A table 4-8).
pub const PDPTE_RESERVED: u64 = 0x1e6 | !((1 << PHYS_BITS) - 1);

/// True if bits 63 to 47 of a linear address are alike (SDM 1 §3.3.7.1).
#[inline]
pub const fn is_canonical(lin: u64) -> bool {
    ((lin << 16) as i64 >> 16) as u64 == lin
}
