//! Where guest registers live while translated code runs.
//!
//! Thirteen guest registers have a host register, three live in the CPU's memory. RAX, RDX, RBX, RSI and RDI keep their number
//! because instructions use them without naming them; the three that compilers use least are in memory. The host's RSP is its
//! stack, RCX (for JRCXZ) and R14 are scratch.

use crate::cpu::Cpu;

/// A host general-purpose register by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host(pub(super) u8);

impl Host {
    pub(super) const RAX: Host = Host(0);
    /// Scratch: indices, tags, and whatever JRCXZ tests.
    pub(super) const RCX: Host = Host(1);
    /// Scratch: addresses.
    pub(super) const R14: Host = Host(14);
    /// Where stubs keep RCX while they use it.
    pub(super) const RCX_SAVED: Host = Host(15);
}

/// Where a guest register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Host(Host),
    /// In memory, at this offset from the GS base.
    Slot(i32),
}

/// Host register of each guest register, or none.
const MAP: [Option<u8>; 16] = [
    Some(0),
    Some(15),
    Some(2),
    Some(3),
    Some(9),
    Some(5),
    Some(6),
    Some(7),
    Some(8),
    None,
    None,
    None,
    Some(12),
    Some(13),
    Some(10),
    Some(11),
];

/// The guest's RCX, RSP and RBP by number.
pub(super) const RCX: usize = 1;
pub(super) const RSP: usize = 4;
pub(super) const RBP: usize = 5;

/// Where guest register `guest` (0 to 15) is.
pub(super) fn place(guest: usize) -> Place {
    match MAP[guest] {
        Some(host) => Place::Host(Host(host)),
        None => Place::Slot(slot(guest)),
    }
}

/// Host registers that hold guest registers, with the offset at which each is kept outside translated code.
pub(super) fn mapped() -> impl Iterator<Item = (Host, i32)> {
    (0..16).filter_map(|g| MAP[g].map(|h| (Host(h), slot(g))))
}

/// Offset of general-purpose register `guest` (or of the zero and block registers) from the GS base.
pub(super) fn slot(guest: usize) -> i32 {
    (std::mem::offset_of!(Cpu, gpr) + 8 * guest) as i32
}
