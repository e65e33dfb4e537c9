//! Recognising a kernel and following its protocol.

use visor_memory::GuestMemory;
use visor_x86::CpuState;

use crate::error::{BootError, BootErrorKind};
use crate::identify::{KernelKind, identify};
use crate::layout::{EBDA, MemoryMap};
use crate::ram::{self, Ram};
use crate::{bzimage, multiboot, pvh, unpack, vmlinux};

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct BootSource<'a> {
    /// The kernel file's contents.
    pub kernel: &'a [u8],
    /// The initial ramdisk's contents; for Multiboot the only module.
    pub initrd: Option<&'a [u8]>,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// Unpack a bzImage here instead of in the guest, which spares a slow engine some hundred million instructions. The guest
    /// boots as with `nokaslr`, at the address the kernel was linked for. Where the kernel does not allow it, it is booted
    /// packed, and [`Boot::notes`] says why.
    pub decompress: bool,
}

/// A guest ready to run.
#[derive(Clone, Debug)]
pub struct Boot {
    /// State of the boot CPU.
    pub cpu: CpuState,
    /// What the kernel is and how it is entered.
    pub kind: KernelKind,
    /// Decisions worth telling, in words for a person.
    pub notes: Vec<String>,
}

/// Fills `memory`, whose layout is that of `map`, with kernel, ramdisk and boot structures. ACPI and SMBIOS tables are
/// separate ([`crate::acpi::install`], [`crate::smbios::install`]); kernels that take the address of the former get it.
///
/// May be called again to boot anew after a reset; the contents of free memory do not matter.
///
/// # Errors
/// [`BootError`] for a file that is no kernel, is damaged, or does not fit.
pub fn boot(memory: &GuestMemory, map: &MemoryMap, source: &BootSource<'_>) -> Result<Boot, BootError> {
    if source.cmdline.contains('\0') {
        return Err(BootError::new(BootErrorKind::Unsupported, "the kernel command line contains a NUL character"));
    }
    let unpacked = unpack::file(source.kernel).transpose();
    let unpacked = unpacked.map_err(|e| BootError::corrupt(format!("the kernel is compressed, and {e}")))?;
    let source = &BootSource { kernel: unpacked.as_deref().unwrap_or(source.kernel), ..*source };
    let mut ram = Ram::new(memory, map);
    bios_data_area(&ram)?;
    interrupt_vectors(&ram)?;
    let mut notes = Vec::new();
    let kind = identify(source.kernel)?;
    let (cpu, kind) = match kind {
        KernelKind::BzImage { .. } => bzimage::load(&mut ram, source, &mut notes)?,
        KernelKind::Multiboot => (multiboot::load(&mut ram, source)?, kind),
        KernelKind::Pvh => (pvh::load(&mut ram, source)?, kind),
        KernelKind::Vmlinux => (vmlinux::load(&mut ram, source)?, kind),
    };
    Ok(Boot { cpu, kind, notes })
}

/// The few words of the BIOS data area that kernels read: serial ports, EBDA segment, base memory.
fn bios_data_area(ram: &Ram<'_>) -> Result<(), BootError> {
    let mut bda = [0u8; 0x100];
    bda[0x00..0x02].copy_from_slice(&0x3f8u16.to_le_bytes());
    bda[0x0e..0x10].copy_from_slice(&((EBDA >> 4) as u16).to_le_bytes());
    bda[0x13..0x15].copy_from_slice(&((EBDA >> 10) as u16).to_le_bytes());
    ram.write(0x400, &bda)?;
    // First byte of the EBDA: its size in KiB.
    ram.write(EBDA, &[1])
}

/// Real-mode interrupt vectors as a BIOS leaves them: all lead to an IRET, those of the 8259s (8 to 15, 70h to 77h) to a stub that
/// ends the interrupt first.
fn interrupt_vectors(ram: &Ram<'_>) -> Result<(), BootError> {
    const SEGMENT: u64 = 0xf0000;
    // push ax; mov al, 20h; out 0A0h, al; out 20h, al; pop ax; iret
    const SLAVE: (u16, &[u8]) = (0xfeb0, &[0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf]);
    // push ax; mov al, 20h; out 20h, al; pop ax; iret
    const MASTER: (u16, &[u8]) = (0xfea5, &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]);
    const OTHER: (u16, &[u8]) = (0xff53, &[0xcf]);
    for (at, code) in [SLAVE, MASTER, OTHER] {
        ram.write(SEGMENT + u64::from(at), code)?;
    }
    let mut table = [0u8; 1024];
    for (vector, entry) in table.chunks_exact_mut(4).enumerate() {
        let offset = match vector {
            8..=15 => MASTER.0,
            0x70..=0x77 => SLAVE.0,
            _ => OTHER.0,
        };
        entry[..2].copy_from_slice(&offset.to_le_bytes());
        entry[2..].copy_from_slice(&((SEGMENT >> 4) as u16).to_le_bytes());
    }
    ram.write(0, &table)
}

/// Takes the memory a kernel was linked for, or says why it cannot have it.
pub(crate) fn claim(ram: &mut Ram<'_>, at: u64, len: u64) -> Result<(), BootError> {
    let end = at.checked_add(len).ok_or_else(|| BootError::corrupt("its load address wraps around"))?;
    if ram.take(at, len) {
        return Ok(());
    }
    let low_end = ram.map().low_end();
    if end > low_end && at < crate::layout::HIGH_RAM {
        return Err(BootError::new(
            BootErrorKind::KernelTooLarge,
            format!("the kernel needs memory up to {}, but the machine has {}", ram::size(end), ram::size(low_end)),
        )
        .hint(format!("give the machine at least {} of memory", ram::size(end + (64 << 20)))));
    }
    Err(BootError::new(
        BootErrorKind::Unsupported,
        format!("the kernel wants to lie at {at:#x}..{end:#x}, which is not free memory on a PC"),
    ))
}
