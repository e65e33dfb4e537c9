//! The registers of the boot CPU at a kernel's entry point.

use visor_x86::segment::{SegAttr, TableReg};
use visor_x86::{CpuState, Cr0, Cr4, Efer, Gpr, Seg, Segment};

use crate::error::BootError;
use crate::ram::Ram;

/// Selectors as the Linux boot protocol wants them: `__BOOT_CS` and `__BOOT_DS`.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

const CODE32: u64 = 0x00cf_9b00_0000_ffff;
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const DATA32: u64 = 0x00cf_9300_0000_ffff;
/// A busy 32-bit TSS at 0 with limit 67h.
const TASK: u64 = 0x0000_8b00_0000_0067;

/// Flat 32-bit protected mode without paging at `rip`; interrupts off.
pub(crate) fn protected(ram: &mut Ram<'_>, rip: u64) -> Result<CpuState, BootError> {
    let mut cpu = flat(ram, CODE32)?;
    cpu.rip = rip;
    Ok(cpu)
}

/// 64-bit mode at `rip` with the first 4 GiB mapped one to one by 2 MiB pages; interrupts off.
pub(crate) fn long(ram: &mut Ram<'_>, rip: u64) -> Result<CpuState, BootError> {
    let mut cpu = flat(ram, CODE64)?;
    cpu.rip = rip;
    cpu.cr3 = identity_map(ram)?;
    cpu.cr0 |= Cr0::PG.bits();
    cpu.cr4 = Cr4::PAE.bits();
    cpu.efer = (Efer::LME | Efer::LMA).bits();
    Ok(cpu)
}

/// Sets a general register.
pub(crate) fn set(cpu: &mut CpuState, reg: Gpr, value: u64) {
    cpu.gpr[reg as usize] = value;
}

fn flat(ram: &mut Ram<'_>, code: u64) -> Result<CpuState, BootError> {
    let table = [0, 0, code, DATA32, TASK];
    let bytes: Vec<u8> = table.iter().flat_map(|d: &u64| d.to_le_bytes()).collect();
    let gdt = ram.put_low(&bytes)?;
    let mut cpu = CpuState { rflags: 2, ..CpuState::default() };
    cpu.gdtr = TableReg { base: gdt, limit: (bytes.len() - 1) as u16 };
    cpu.idtr = TableReg { base: 0, limit: 0 };
    cpu.seg = [Segment::from_descriptor(DATA, DATA32); 6];
    cpu.seg[Seg::Cs as usize] = Segment::from_descriptor(CODE, code);
    cpu.tr = Segment::from_descriptor(TSS, TASK);
    cpu.ldtr = Segment { attr: SegAttr::UNUSABLE, ..Segment::default() };
    cpu.cr0 = (Cr0::PE | Cr0::ET).bits();
    Ok(cpu)
}

/// PML4, PDPT and four page directories: 4 GiB (SDM 3A §4.5).
fn identity_map(ram: &mut Ram<'_>) -> Result<u64, BootError> {
    const PRESENT_WRITE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const GIB: u64 = 4;
    let pml4 = ram.take_low(0x1000 * (2 + GIB))?;
    let pdpt = pml4 + 0x1000;
    let directories = pml4 + 0x2000;
    let mut bytes = vec![0u8; 0x1000 * (2 + GIB as usize)];
    let mut entry = |at: u64, value: u64| {
        let at = at as usize;
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    entry(0, pdpt | PRESENT_WRITE);
    for g in 0..GIB {
        entry(0x1000 + g * 8, (directories + g * 0x1000) | PRESENT_WRITE);
    }
    for page in 0..GIB * 512 {
        entry(0x2000 + page * 8, (page << 21) | LARGE | PRESENT_WRITE);
    }
    ram.write(pml4, &bytes)?;
    Ok(pml4)
}
