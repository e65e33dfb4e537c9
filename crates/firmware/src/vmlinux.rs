//! The Linux kernel proper, as ELF: entered at `startup_64` in 64-bit mode with `boot_params` in RSI, which is what the
//! bzImage's own decompressor does at its end (arch/x86/boot/compressed/head_64.S).
//!
//! The kernel stays at the address it was linked for: relocation entries need no processing then, and the layout is that of
//! `nokaslr`.

use linux_loader::loader::bootparam::setup_header;
use visor_x86::{CpuState, Gpr};

use crate::boot::{BootSource, claim};
use crate::bzimage::{check_cmdline, zero_page};
use crate::elf::{EM_X86_64, Elf};
use crate::entry;
use crate::error::{BootError, BootErrorKind};
use crate::ram::Ram;

/// `loadflags`: the decompressor chose a random address.
const KASLR_FLAG: u8 = 2;

/// Loads a bare vmlinux file, which has no setup header: a current one is made up.
pub(crate) fn load(ram: &mut Ram<'_>, source: &BootSource<'_>) -> Result<CpuState, BootError> {
    check_cmdline(source.cmdline, 2047)?;
    let header = setup_header {
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        cmdline_size: 2047,
        ..setup_header::default()
    };
    let elf = Elf::parse(source.kernel)?;
    place(ram, &elf)?;
    enter(ram, source, &elf, header)
}

/// Loads the vmlinux that was unpacked from a bzImage with this header.
///
/// [`BootErrorKind::Unsupported`]: nothing was written; the packed kernel may still boot.
pub(crate) fn load_unpacked(
    ram: &mut Ram<'_>,
    source: &BootSource<'_>,
    file: &[u8],
    mut header: setup_header,
) -> Result<CpuState, BootError> {
    let no = |why: &str| BootError::new(BootErrorKind::Unsupported, why);
    let elf = Elf::parse(file).map_err(|_| no("its payload is no ELF file"))?;
    if !elf.is_64 || elf.machine != EM_X86_64 {
        return Err(no("its payload is not a 64-bit kernel"));
    }
    let first = elf.loads().map(|s| s.paddr).min().ok_or_else(|| no("its payload has no segments"))?;
    let pref = header.pref_address;
    if header.version < 0x20c || first != pref {
        return Err(no("its payload is not linked for the preferred address"));
    }
    if !elf.loads().any(|s| s.paddr <= elf.entry && elf.entry - s.paddr < s.filesz) {
        return Err(no("its payload has no entry point in memory"));
    }
    if elf.loads().any(|s| elf.bytes(s).is_err() || s.paddr.checked_add(s.memsz).is_none()) {
        return Err(no("its payload is damaged"));
    }
    // The whole `init_size` belongs to the kernel: it allocates its early page tables (brk) behind its image.
    let end = elf.loads().map(|s| s.paddr + s.memsz).max().unwrap_or(pref);
    let end = end.max(pref.saturating_add(header.init_size.into()));
    claim(ram, pref, end - pref)?;
    for s in elf.loads() {
        copy(ram, &elf, s)?;
    }
    header.loadflags &= !KASLR_FLAG;
    header.code32_start = pref as u32;
    enter(ram, source, &elf, header)
}

/// Takes memory for the loadable segments of `elf` and fills it.
pub(crate) fn place(ram: &mut Ram<'_>, elf: &Elf<'_>) -> Result<(), BootError> {
    if elf.loads().next().is_none() {
        return Err(BootError::corrupt("it has nothing to load"));
    }
    for s in elf.loads() {
        elf.bytes(s)?;
        claim(ram, s.paddr, s.memsz)?;
        copy(ram, elf, s)?;
    }
    Ok(())
}

fn copy(ram: &Ram<'_>, elf: &Elf<'_>, s: &crate::elf::Segment) -> Result<(), BootError> {
    let bytes = elf.bytes(s)?;
    ram.write(s.paddr, bytes)?;
    ram.zero(s.paddr + s.filesz, s.memsz - s.filesz)
}

fn enter(
    ram: &mut Ram<'_>,
    source: &BootSource<'_>,
    elf: &Elf<'_>,
    header: setup_header,
) -> Result<CpuState, BootError> {
    let zero_page = zero_page(ram, source, header)?;
    let mut cpu = entry::long(ram, elf.entry)?;
    entry::set(&mut cpu, Gpr::Rsi, zero_page);
    Ok(cpu)
}
