//! Base address registers (PCI 3.0 §6.2.5.1).

use std::ops::Range;

/// Stands for the expansion ROM's register where a BAR's index is wanted.
pub(crate) const ROM_BAR: u8 = 6;

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// Memory below 4 GiB, not prefetchable.
    Mem32,
    /// Memory anywhere, prefetchable; takes two registers.
    Mem64,
    /// Ports.
    Io,
}

impl BarKind {
    /// The read-only low bits of the register.
    pub(crate) fn flags(self) -> u32 {
        match self {
            BarKind::Mem32 => 0,
            BarKind::Mem64 => 0b1100, // type 64-bit, prefetchable
            BarKind::Io => 0b01,
        }
    }

    /// Smallest and largest size in bytes.
    pub(crate) fn sizes(self) -> (u64, u64) {
        match self {
            BarKind::Mem32 => (16, 1 << 31),
            BarKind::Mem64 => (16, 1 << 40),
            BarKind::Io => (4, 256),
        }
    }
}

/// A BAR and where it points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRange {
    /// What it decodes.
    pub kind: BarKind,
    /// First address, aligned to `size`.
    pub base: u64,
    /// Bytes or ports, a power of two.
    pub size: u64,
}

impl BarRange {
    /// Whether the whole range lies within `aperture`.
    pub(crate) fn within(&self, aperture: &Range<u64>) -> bool {
        self.base >= aperture.start && self.base.checked_add(self.size).is_some_and(|end| end <= aperture.end)
    }
}
