//! Linear addresses to guest RAM: the soft TLB, loads and stores.
//!
//! A table of the TLB caches permitted accesses of one kind (loads or stores) in one privilege mode. A hit means that the whole
//! access lies in one page of RAM and needs no further check; everything else (misses, faults, MMIO, page crossings) takes
//! the slow path in `slow`. Stores look at the page's code mark after writing (see `visor_memory`).

mod access;
mod home;
mod slow;
mod space;
mod tables;
#[cfg(test)]
mod tests;
mod tlb;
mod walk;

pub(crate) use access::{Word, peek, poke};
pub(crate) use home::CpuBox;
pub(crate) use home::{
    Home, KERNEL_AT, KERNEL_LAYOUT_AT, KERNEL_TARGETS_AT, KERNEL_TARGETS_MASK, KernelTables, SPACES, TargetsAt,
    USER_AT, USER_LAYOUT_AT, USER_TARGETS_AT, USER_TARGETS_MASK, UserTables,
};
pub(crate) use space::Privilege;
pub(crate) use tables::{ENTRIES, LoadTable, StoreTable, Tables};
pub(crate) use tlb::{Mmu, Paging};
pub(crate) use walk::Access;
