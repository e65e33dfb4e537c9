//! An IOMMU of the kind Intel calls VT-d ("Intel Virtualization Technology for Directed I/O", revision 3; sections are cited as
//! VT-d §n): legacy-mode translation of DMA in three or four levels, and interrupt remapping with 8-bit and 32-bit APIC ids.
//!
//! [`Iommu::registers`] is the register page at [`IOMMU_BASE`]. PCI functions get their memory from [`Iommu::memory`] and their
//! message sink from [`Iommu::msi`]; the I/O APIC gets [`Iommu::ioapic`]. With translation and remapping disabled, as after
//! reset, all of them pass everything through.
//!
//! - `registers`: what software reads and writes, and the command register's state machine;
//! - `tables`, `walk`, `cache`: root, context and second-level tables, and what is remembered of them;
//! - `remap`: interrupt requests and the interrupt remapping table;
//! - `queue`: the invalidation queue;
//! - `faults`: fault recording, and the interrupts that the unit itself sends.
//!
//! **Locks.** The register page's lock, then `in_flight`, then one of the leaves: tables, cache, faults. An invalidation takes
//! `in_flight` for writing after it has emptied the cache, so that it ends only when no access uses the old translation; the
//! threads that hold it for reading never want the register page.
//!
//! Not there: scalable mode, first-level translation, device TLBs, page requests, posted interrupts, protected memory regions,
//! the advanced fault log. The capability registers say so.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod faults;
mod queue;
mod registers;
mod remap;
mod tables;
#[cfg(test)]
mod tests;
mod unit;
mod walk;

pub use registers::Registers;
pub use unit::{IOAPIC_SOURCE, Iommu};

/// Where the register page lies.
pub const IOMMU_BASE: u64 = 0xfed9_0000;
/// Bytes of the register page.
pub const IOMMU_LEN: u64 = 0x1000;
/// Bits of guest-physical addresses that the unit's tables can hold, for ACPI.
pub const HOST_ADDRESS_BITS: u8 = 46;
