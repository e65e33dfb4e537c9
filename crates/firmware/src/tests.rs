//! Loaders on hand-made images, on a real kernel where one is given, and on damaged input.

use linux_loader::loader::bootparam::boot_params;
use visor_memory::GuestMemory;
use visor_x86::Gpr;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::elf::le32;
use crate::*;

const MIB: u64 = 1 << 20;

fn machine(bytes: u64) -> (GuestMemory, MemoryMap) {
    (GuestMemory::new(&ram_layout(bytes)).unwrap(), MemoryMap::new(bytes))
}

fn source(kernel: &[u8]) -> BootSource<'_> {
    BootSource { kernel, initrd: None, cmdline: "console=ttyS0", decompress: false }
}

fn read(m: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
    let mut b = vec![0; len];
    m.view().read_slice(&mut b, GuestAddress(at)).unwrap();
    b
}

fn params(m: &GuestMemory, at: u64) -> boot_params {
    let mut p = boot_params::default();
    p.as_mut_slice().copy_from_slice(&read(m, at, size_of::<boot_params>()));
    p
}

/// A bzImage of protocol 2.15 whose protected-mode part is `stub` bytes followed by `payload`.
fn bzimage(payload: &[u8], pref: u64, init_size: u32) -> Vec<u8> {
    const STUB: usize = 0x400;
    let mut body = vec![0xf4; STUB];
    body.extend(payload);
    body.resize(body.len().next_multiple_of(16), 0);
    let mut f = vec![0; 5 * 512];
    let mut put = |at: usize, v: &[u8]| f[at..at + v.len()].copy_from_slice(v);
    put(0x1f1, &[4]);
    put(0x1f4, &((body.len() / 16) as u32).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[1 | 2]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &[3, 0]);
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &(STUB as u32).to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x258, &pref.to_le_bytes());
    put(0x260, &init_size.to_le_bytes());
    f.extend(body);
    f
}

/// An ELF64 executable with one segment at `paddr`, optionally with a note segment.
fn elf64(vaddr: u64, paddr: u64, code: &[u8], memsz: u64, note: Option<&[u8]>) -> Vec<u8> {
    let count = 1 + usize::from(note.is_some());
    let data = 64 + 56 * count;
    let mut f = b"\x7fELF\x02\x01\x01".to_vec();
    f.resize(16, 0);
    f.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    f.extend(paddr.to_le_bytes());
    f.extend(64u64.to_le_bytes());
    f.extend([0; 12]);
    f.extend([64, 0, 56, 0, count as u8, 0, 0, 0, 0, 0, 0, 0]);
    f.truncate(64);
    let mut segment = |kind: u32, offset: usize, vaddr: u64, paddr: u64, filesz: usize, memsz: u64| {
        f.extend(kind.to_le_bytes());
        f.extend(7u32.to_le_bytes());
        for v in [offset as u64, vaddr, paddr, filesz as u64, memsz, 4] {
            f.extend(v.to_le_bytes());
        }
    };
    segment(1, data, vaddr, paddr, code.len(), memsz);
    if let Some(n) = note {
        segment(4, data + code.len(), 0, 0, n.len(), n.len() as u64);
    }
    f.extend(code);
    f.extend(note.unwrap_or_default());
    f
}

fn pvh_note(entry: u32) -> Vec<u8> {
    // A foreign note first, with an odd name length.
    let mut n = [6u32, 3, 1].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    n.extend(b"Linux\0\0\0abc\0");
    n.extend([4u32, 4, 18].iter().flat_map(|v| v.to_le_bytes()));
    n.extend(b"Xen\0");
    n.extend(entry.to_le_bytes());
    n
}

#[test]
fn bzimage_gets_its_zero_page_and_64_bit_entry() {
    let (m, map) = machine(128 * MIB);
    let kernel = bzimage(&[1, 2, 3], 16 * MIB, 4 << 20);
    let initrd = vec![0xab; 5000];
    let got = boot(&m, &map, &BootSource { initrd: Some(&initrd), ..source(&kernel) }).unwrap();
    assert_eq!(got.kind, KernelKind::BzImage { protocol: 0x20f, unpacked: false });
    assert_eq!(got.cpu.rip, MIB + 0x200);
    assert_eq!(read(&m, MIB + 0x400, 3), [1, 2, 3]);
    let p = params(&m, got.cpu.gpr[Gpr::Rsi as usize]);
    let (image, size, cmdline) = (p.hdr.ramdisk_image, p.hdr.ramdisk_size, p.hdr.cmd_line_ptr);
    assert_eq!(u64::from(image), (128 * MIB - 5000) & !0xfff);
    assert_eq!(size, 5000);
    assert_eq!(read(&m, image.into(), 5000), initrd);
    assert_eq!(read(&m, cmdline.into(), 14), b"console=ttyS0\0");
    assert_eq!(usize::from(p.e820_entries), map.entries().len());
    assert_eq!((p.sentinel, p.hdr.type_of_loader), (0, 0xff));
    assert_eq!({ p.hdr.header }, 0x5372_6448);
    // The page tables map the first 4 GiB one to one.
    let pml4 = got.cpu.cr3;
    let pdpt = u64::from_le_bytes(read(&m, pml4, 8).try_into().unwrap()) & !0xfff;
    let pd3 = u64::from_le_bytes(read(&m, pdpt + 24, 8).try_into().unwrap()) & !0xfff;
    let last = u64::from_le_bytes(read(&m, pd3 + 511 * 8, 8).try_into().unwrap());
    assert_eq!(last, 0xffe0_0000 | 0x83);
}

#[test]
fn old_kernels_are_entered_in_32_bit_mode() {
    let (m, map) = machine(64 * MIB);
    let mut kernel = bzimage(&[], 16 * MIB, 0);
    kernel[0x206] = 6;
    let got = boot(&m, &map, &source(&kernel)).unwrap();
    assert_eq!((got.cpu.rip, got.cpu.efer, got.cpu.cr0), (MIB, 0, 0x11));
    kernel[0x206] = 5;
    assert_eq!(boot(&m, &map, &source(&kernel)).unwrap_err().kind, BootErrorKind::Unsupported);
}

#[test]
fn limits_are_reported_with_their_numbers() {
    let (m, map) = machine(32 * MIB);
    let kernel = bzimage(&[], 16 * MIB, 8 << 20);
    let big = bzimage(&[], 16 * MIB, 32 << 20);
    let e = boot(&m, &map, &source(&big)).unwrap_err();
    assert_eq!(e.kind, BootErrorKind::KernelTooLarge);
    assert!(e.what.contains("48 MiB") && e.hint.as_deref().unwrap().contains("112 MiB"), "{e:?}");
    let initrd = vec![0; 20 << 20];
    let e = boot(&m, &map, &BootSource { initrd: Some(&initrd), ..source(&kernel) }).unwrap_err();
    assert_eq!(e.kind, BootErrorKind::InitrdTooLarge);
    let long = "x".repeat(2048);
    let e = boot(&m, &map, &BootSource { cmdline: &long, ..source(&kernel) }).unwrap_err();
    assert_eq!(e.kind, BootErrorKind::CmdlineTooLong);
    let e = boot(&m, &map, &source(&kernel[..kernel.len() - 100])).unwrap_err();
    assert_eq!(e.kind, BootErrorKind::Truncated);
}

fn lz4_payload(data: &[u8]) -> Vec<u8> {
    let mut p = vec![0x02, 0x21, 0x4c, 0x18];
    for block in data.chunks(8 << 20) {
        let packed = lz4_flex::block::compress(block);
        p.extend((packed.len() as u32).to_le_bytes());
        p.extend(packed);
    }
    p.extend((data.len() as u32).to_le_bytes());
    p
}

#[test]
fn packed_kernels_are_unpacked_or_the_reason_is_told() {
    let vmlinux = elf64(0xffff_ffff_8100_0000, 16 * MIB, &[0x90; 100], 300, None);
    let gzip = {
        use std::io::Write;
        let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        z.write_all(&vmlinux).unwrap();
        z.finish().unwrap()
    };
    for payload in [lz4_payload(&vmlinux), gzip] {
        let (m, map) = machine(64 * MIB);
        let kernel = bzimage(&payload, 16 * MIB, 4 << 20);
        m.view().write_slice(&[0xee; 300], GuestAddress(16 * MIB)).unwrap();
        let got = boot(&m, &map, &BootSource { decompress: true, ..source(&kernel) }).unwrap();
        assert_eq!(got.kind, KernelKind::BzImage { protocol: 0x20f, unpacked: true });
        assert_eq!(got.cpu.rip, 16 * MIB);
        assert_eq!(read(&m, 16 * MIB + 98, 4), [0x90, 0x90, 0, 0], "bss is cleared");
        assert_eq!(params(&m, got.cpu.gpr[Gpr::Rsi as usize]).hdr.loadflags, 1, "no KASLR");
    }
    let (m, map) = machine(64 * MIB);
    let mut damaged = lz4_payload(&vmlinux);
    damaged[6] = 0xff;
    // 255 MiB are announced, and there are some bytes.
    let mut huge = lz4_payload(&vmlinux);
    let end = huge.len() - 4;
    huge[end..].copy_from_slice(&(255u32 << 20).to_le_bytes());
    for payload in [damaged, huge, b"\xfd7zXZ\0....".to_vec(), lz4_payload(b"no ELF file")] {
        let kernel = bzimage(&payload, 16 * MIB, 4 << 20);
        let got = boot(&m, &map, &BootSource { decompress: true, ..source(&kernel) }).unwrap();
        assert_eq!(got.kind, KernelKind::BzImage { protocol: 0x20f, unpacked: false });
        assert_eq!(got.notes.len(), 1);
    }
}

#[test]
fn pvh_kernel_gets_start_info() {
    let (m, map) = machine(5 << 30);
    let kernel = elf64(MIB, MIB, &[0xf4; 64], 64, Some(&pvh_note(0x10_0010)));
    let got = boot(&m, &map, &BootSource { initrd: Some(b"ramdisk"), ..source(&kernel) }).unwrap();
    assert_eq!((got.kind, got.cpu.rip), (KernelKind::Pvh, 0x10_0010));
    let info = read(&m, got.cpu.gpr[Gpr::Rbx as usize], 56);
    assert_eq!(le32(&info, 0), Some(0x336e_c578));
    assert_eq!(le32(&info, 12), Some(1), "modules");
    let module = read(&m, le32(&info, 16).unwrap().into(), 32);
    assert_eq!(read(&m, le32(&module, 0).unwrap().into(), 7), b"ramdisk");
    assert_eq!(le32(&info, 48), Some(map.entries().len() as u32));
    let last = read(&m, u64::from(le32(&info, 40).unwrap()) + 24 * (map.entries().len() as u64 - 1), 24);
    assert_eq!(u64::from_le_bytes(last[..8].try_into().unwrap()), HIGH_RAM);
}

#[test]
fn multiboot_by_elf_and_by_address_fields() {
    let (m, map) = machine(64 * MIB);
    let mut code = vec![0u8; 32];
    code.extend([0x1bad_b002u32, 0, 0u32.wrapping_sub(0x1bad_b002)].iter().flat_map(|v| v.to_le_bytes()));
    let elf = elf64(4 * MIB, 4 * MIB, &code, 100, None);
    let got = boot(&m, &map, &BootSource { initrd: Some(b"A=1"), ..source(&elf) }).unwrap();
    assert_eq!((got.kind, got.cpu.rip), (KernelKind::Multiboot, 4 * MIB));
    assert_eq!(got.cpu.gpr[Gpr::Rax as usize], 0x2bad_b002);
    let info = read(&m, got.cpu.gpr[Gpr::Rbx as usize], 116);
    let field = |i: usize| le32(&info, i * 4).unwrap();
    assert_eq!((field(1), field(2)), (639, 63 * 1024));
    let module = read(&m, field(6).into(), 16);
    assert_eq!(read(&m, le32(&module, 0).unwrap().into(), 3), b"A=1");
    assert_eq!(le32(&module, 4).unwrap() - le32(&module, 0).unwrap(), 3);
    assert_eq!(field(11) as usize, 24 * map.entries().len());

    let sum = 0u32.wrapping_sub(0x1bad_b002).wrapping_sub(1 << 16);
    let head = [0x1bad_b002, 1 << 16, sum, 0x20_0010, 0x20_0000, 0x20_0040, 0x20_1000, 0x20_0030];
    let mut flat = vec![0x11u8; 16];
    flat.extend(head.iter().flat_map(|v: &u32| v.to_le_bytes()));
    flat.resize(0x40, 0x22);
    let got = boot(&m, &map, &source(&flat)).unwrap();
    assert_eq!(got.cpu.rip, 0x20_0030);
    assert_eq!(read(&m, 0x20_0000, 1), [0x11]);
    assert_eq!(read(&m, 0x20_003f, 2), [0x22, 0]);
    assert_eq!(boot(&m, &map, &source(&flat[..0x30])).unwrap_err().kind, BootErrorKind::Truncated);
}

#[test]
fn other_files_are_called_by_their_name() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "an empty file"),
        (b"#!/bin/sh\n", "a script"),
        (b"QFI\xfb\0\0\0\x03", "a qcow2 disk image"),
        (b"\x1f\x8b\x08", "gzip-compressed data"),
        (b"hello\n", "a text file"),
        (&[7; 600], "data of an unknown format"),
    ];
    for (data, want) in cases {
        let e = identify(data).unwrap_err();
        assert_eq!(e.kind, BootErrorKind::NotAKernel);
        assert!(e.what.ends_with(want), "{e}");
    }
    let program = elf64(0x40_0000, 0x40_0000, &[0xf4; 16], 16, None);
    assert!(describe(&program).contains("x86-64"));
}

#[test]
fn damaged_kernels_never_panic() {
    let (m, map) = machine(32 * MIB);
    let vmlinux = elf64(0xffff_ffff_8100_0000, 16 * MIB, &[0x90; 100], 300, Some(&pvh_note(0x10_0010)));
    let packed = bzimage(&lz4_payload(&vmlinux), 16 * MIB, 1 << 20);
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let mut failed = 0;
    for round in 0..3000 {
        let mut file = if round % 2 == 0 { packed.clone() } else { vmlinux.clone() };
        for _ in 0..1 + random() % 6 {
            // Mostly in the headers.
            let at = if round % 2 == 0 { 0x1f1 + random() % 0x90 } else { random() % file.len() };
            file[at] = random() as u8;
        }
        if random() % 4 == 0 {
            file.truncate(random() % file.len());
        }
        failed += usize::from(boot(&m, &map, &BootSource { decompress: true, ..source(&file) }).is_err());
    }
    assert!(failed > 100, "{failed}");
}

/// `VISOR_TEST_KERNEL` names a distribution's bzImage with an LZ4 or gzip payload.
#[test]
fn a_real_kernel_loads_both_ways() {
    let Some(path) = std::env::var_os("VISOR_TEST_KERNEL") else { return };
    let kernel = std::fs::read(path).unwrap();
    for decompress in [false, true] {
        let (m, map) = machine(256 * MIB);
        let got = boot(&m, &map, &BootSource { decompress, ..source(&kernel) }).unwrap();
        assert!(got.notes.is_empty(), "{:?}", got.notes);
        assert!(matches!(got.kind, KernelKind::BzImage { unpacked, .. } if unpacked == decompress));
    }
}
