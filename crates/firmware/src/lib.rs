//! What the machine leaves in guest memory before the first instruction of a directly booted kernel: the kernel itself, its
//! initial ramdisk and command line, the memory map, ACPI and SMBIOS tables, and the registers of the boot CPU.
//!
//! A PC's firmware would find a boot loader, which would do this; direct boot skips both. [`boot()`] recognises a kernel by its
//! content and follows the protocol it asks for:
//!
//! | kernel | protocol |
//! |---|---|
//! | bzImage | Linux/x86 boot protocol 2.06 or later, 64-bit entry where the kernel has one |
//! | bzImage, unpacked here | the 64-bit entry of the vmlinux inside (no decompressor run in the guest, no KASLR) |
//! | ELF with a Xen PHYS32_ENTRY note | PVH: `hvm_start_info`, 32-bit entry |
//! | Multiboot header | Multiboot 0.6.96: ELF32, ELF64 or a.out-kludge image, 32-bit entry |
//! | vmlinux without such a note | the Linux 64-bit entry |
//!
//! A guest that boots through a BIOS or UEFI firmware gets its description from [`fw_cfg`] instead; UEFI keeps its variables in
//! [`flash`].
//!
//! The images come from people and the network, so every parser here is total: bad input is a [`BootError`], never a panic.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod acpi;
mod boot;
mod bzimage;
mod elf;
mod entry;
mod error;
pub mod flash;
pub mod fw_cfg;
mod identify;
mod layout;
mod multiboot;
mod pvh;
mod ram;
pub mod smbios;
mod unpack;
mod vmlinux;

#[cfg(test)]
mod tests;

pub use boot::{Boot, BootSource, boot};
pub use error::{BootError, BootErrorKind};
pub use identify::{KernelKind, describe, identify};
pub use layout::{E820, E820Kind, HIGH_RAM, LOW_RAM_LIMIT, MemoryMap, SHADOW, ram_layout};
