//! PVH direct boot (Xen's docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h).
//!
//! The kernel is an ELF file with the note `Xen`, type 18 (`XEN_ELFNOTE_PHYS32_ENTRY`): a physical address that is entered
//! in flat 32-bit protected mode with EBX pointing to an `hvm_start_info`.

use visor_x86::{CpuState, Gpr};

use crate::boot::BootSource;
use crate::elf::{Elf, le32, le64};
use crate::entry;
use crate::error::BootError;
use crate::layout::RSDP;
use crate::ram::Ram;
use crate::vmlinux::place;

const PHYS32_ENTRY: u32 = 18;
const MAGIC: u32 = 0x336e_c578;
/// Version 1 has the memory map.
const VERSION: u32 = 1;
/// Size of `hvm_start_info`.
const INFO: u64 = 56;

/// The 32-bit entry point, if the file has one.
pub(crate) fn entry(elf: &Elf<'_>) -> Option<u64> {
    let note = elf.note(b"Xen", PHYS32_ENTRY)?;
    let at = if note.desc.len() >= 8 { le64(note.desc, 0)? } else { le32(note.desc, 0)?.into() };
    (at < 1 << 32).then_some(at)
}

pub(crate) fn load(ram: &mut Ram<'_>, source: &BootSource<'_>) -> Result<CpuState, BootError> {
    let elf = Elf::parse(source.kernel)?;
    let at = entry(&elf).ok_or_else(|| BootError::corrupt("its PVH entry point is missing"))?;
    place(ram, &elf)?;
    let info = start_info(ram, source)?;
    let mut cpu = entry::protected(ram, at)?;
    entry::set(&mut cpu, Gpr::Rbx, info);
    Ok(cpu)
}

fn start_info(ram: &mut Ram<'_>, source: &BootSource<'_>) -> Result<u64, BootError> {
    let mut cmdline = source.cmdline.as_bytes().to_vec();
    cmdline.push(0);
    let cmdline = ram.put_low(&cmdline)?;
    let mut modules = Vec::new();
    if let Some(initrd) = source.initrd.filter(|i| !i.is_empty()) {
        let at = ram.put_initrd(initrd, u64::MAX)?;
        for field in [at, initrd.len() as u64, 0, 0] {
            modules.extend(field.to_le_bytes());
        }
    }
    let mut map = Vec::new();
    for e in ram.map().entries() {
        map.extend(e.start.to_le_bytes());
        map.extend(e.len.to_le_bytes());
        map.extend((e.kind as u32).to_le_bytes());
        map.extend(0u32.to_le_bytes());
    }
    let base = ram.take_low(INFO + (modules.len() + map.len()) as u64)?;
    let modules_at = if modules.is_empty() { 0 } else { base + INFO };
    let map_at = base + INFO + modules.len() as u64;

    let mut info = Vec::new();
    for field in [MAGIC, VERSION, 0, u32::from(!modules.is_empty())] {
        info.extend(field.to_le_bytes());
    }
    for field in [modules_at, cmdline, RSDP, map_at] {
        info.extend(field.to_le_bytes());
    }
    info.extend((ram.map().entries().len() as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes());
    info.extend(modules);
    info.extend(map);
    ram.write(base, &info)?;
    Ok(base)
}
