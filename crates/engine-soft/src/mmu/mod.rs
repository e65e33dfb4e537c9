//! Linear addresses to guest RAM: the soft TLB, loads and stores.
//!
//! A [`Table`] caches permitted accesses of one kind (loads or stores) in one privilege mode. A hit means that the whole
//! access lies in one page of RAM and needs no further check; everything else (misses, faults, MMIO, page crossings) takes
//! the slow path in [`slow`]. Stores look at the page's code mark after writing (see `visor_memory`).

mod access;
pub(crate) mod slow;
mod tlb;
mod walk;

pub use access::Word;
pub(crate) use access::{peek, poke};
pub use tlb::{Mmu, Privilege, Table, TlbEntry};
pub use walk::{Access, Translation};
