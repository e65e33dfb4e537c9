//! Multiboot 0.6.96 (GNU Multiboot Specification, version 1).
//!
//! The header is within the first 8 KiB of the file. The image is loaded as the header's address fields say (flag 16), or
//! as an ELF file of either class; the kernel starts in 32-bit protected mode with a magic in EAX and the information
//! structure in EBX.

use visor_x86::{CpuState, Gpr};

use crate::boot::{BootSource, claim};
use crate::elf::{Elf, is_elf, le32};
use crate::entry;
use crate::error::{BootError, BootErrorKind};
use crate::layout::{EBDA, ONE_MIB};
use crate::ram::Ram;
use crate::vmlinux::place;

const HEADER_MAGIC: u32 = 0x1bad_b002;
const BOOT_MAGIC: u64 = 0x2bad_b002;
const SEARCH: usize = 8192;
/// Header flag: the address fields are valid.
const FLAG_ADDRESSES: u32 = 1 << 16;
/// Header flags whose meaning a loader must know: page-aligned modules and the memory map are always given, a video mode is
/// a wish.
const FLAGS_KNOWN: u32 = 0b111;

/// A Multiboot header and where it lies in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    at: usize,
    flags: u32,
}

/// The header, if the file has one with a right checksum.
pub(crate) fn find_header(data: &[u8]) -> Option<Header> {
    let head = data.get(..SEARCH).unwrap_or(data);
    (0..head.len().saturating_sub(11)).step_by(4).find_map(|at| {
        let (magic, flags, sum) = (le32(head, at)?, le32(head, at + 4)?, le32(head, at + 8)?);
        let right = magic == HEADER_MAGIC && magic.wrapping_add(flags).wrapping_add(sum) == 0;
        right.then_some(Header { at, flags })
    })
}

pub(crate) fn load(ram: &mut Ram<'_>, source: &BootSource<'_>) -> Result<CpuState, BootError> {
    let header = find_header(source.kernel).ok_or_else(|| BootError::corrupt("its Multiboot header is missing"))?;
    let unknown = header.flags & 0xffff & !FLAGS_KNOWN;
    if unknown != 0 {
        return Err(BootError::new(
            BootErrorKind::Unsupported,
            format!("the Multiboot kernel requires unknown features (flags {unknown:#x})"),
        ));
    }
    let at = if header.flags & FLAG_ADDRESSES != 0 {
        load_flat(ram, source.kernel, header)?
    } else if is_elf(source.kernel) {
        let elf = Elf::parse(source.kernel)?;
        place(ram, &elf)?;
        // A 64-bit image may name its entry by its virtual address.
        let high = elf.loads().find(|s| s.vaddr <= elf.entry && elf.entry - s.vaddr < s.memsz);
        high.filter(|_| elf.entry >= 1 << 32).map_or(elf.entry, |s| elf.entry - s.vaddr + s.paddr)
    } else {
        return Err(BootError::corrupt("a Multiboot header without addresses in a file that is not ELF"));
    };
    let info = information(ram, source)?;
    let mut cpu = entry::protected(ram, at)?;
    entry::set(&mut cpu, Gpr::Rax, BOOT_MAGIC);
    entry::set(&mut cpu, Gpr::Rbx, info);
    Ok(cpu)
}

/// Loads by the header's address fields (§3.1.3) and returns the entry point.
fn load_flat(ram: &mut Ram<'_>, data: &[u8], header: Header) -> Result<u64, BootError> {
    let field = |i: usize| {
        le32(data, header.at + 12 + i * 4)
            .map(u64::from)
            .ok_or_else(|| BootError::truncated("the Multiboot header", (header.at + 32) as u64, data.len() as u64))
    };
    let (header_addr, load_addr, load_end, bss_end, at) = (field(0)?, field(1)?, field(2)?, field(3)?, field(4)?);
    let skip = header_addr
        .checked_sub(load_addr)
        .and_then(|d| (header.at as u64).checked_sub(d))
        .ok_or_else(|| BootError::corrupt("its Multiboot addresses lie before the file"))?;
    let rest = data.get(skip as usize..).unwrap_or_default();
    let body = if load_end == 0 {
        rest
    } else {
        let len =
            load_end.checked_sub(load_addr).ok_or_else(|| BootError::corrupt("its Multiboot load end is too low"))?;
        rest.get(..len as usize).ok_or_else(|| BootError::truncated("the image", skip + len, data.len() as u64))?
    };
    let len = (body.len() as u64).max(bss_end.saturating_sub(load_addr));
    claim(ram, load_addr, len)?;
    ram.write(load_addr, body)?;
    ram.zero(load_addr + body.len() as u64, len - body.len() as u64)?;
    Ok(at)
}

/// The information structure (§3.3) with memory sizes and map, command line, the ramdisk as module, and our name.
fn information(ram: &mut Ram<'_>, source: &BootSource<'_>) -> Result<u64, BootError> {
    let string = |s: &str| [s.as_bytes(), b"\0"].concat();
    // By custom the first word names the kernel's file, which kernels skip.
    let cmdline = ram.put_low(&string(format!("kernel {}", source.cmdline).trim_end()))? as u32;
    let loader = ram.put_low(&string("visor"))? as u32;
    let mut flags = 1 | 1 << 2 | 1 << 6 | 1 << 9;
    let mut module = (0, 0);
    if let Some(initrd) = source.initrd.filter(|i| !i.is_empty()) {
        let start = ram.put_initrd(initrd, u64::MAX)? as u32;
        let name = ram.put_low(&string("initrd"))? as u32;
        let entry: Vec<u8> =
            [start, start + initrd.len() as u32, name, 0].iter().flat_map(|v| v.to_le_bytes()).collect();
        module = (1, ram.put_low(&entry)? as u32);
        flags |= 1 << 3;
    }
    let mut map = Vec::new();
    for e in ram.map().entries() {
        // The size field does not count itself.
        map.extend(20u32.to_le_bytes());
        map.extend(e.start.to_le_bytes());
        map.extend(e.len.to_le_bytes());
        map.extend((e.kind as u32).to_le_bytes());
    }
    let map_at = ram.put_low(&map)? as u32;
    let lower = (EBDA / 1024) as u32;
    let upper = ((ram.map().low_end() - ONE_MIB) / 1024) as u32;
    let mut info = [0u32; 29];
    info[..6].copy_from_slice(&[flags, lower, upper, 0, cmdline, module.0]);
    info[6] = module.1;
    info[11] = map.len() as u32;
    info[12] = map_at;
    info[16] = loader;
    let bytes: Vec<u8> = info.iter().flat_map(|v| v.to_le_bytes()).collect();
    ram.put_low(&bytes)
}
