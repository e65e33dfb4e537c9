use visor_device::{Device, PioDevice};
use visor_memory::{Gpa, RamRange};
use vm_memory::{Bytes, GuestAddress};

use super::*;

fn device() -> (FwCfg, Arc<GuestMemory>) {
    let memory = Arc::new(GuestMemory::new(&[RamRange { start: Gpa(0), len: 1 << 20 }]).unwrap());
    let config = FwCfgConfig { ram_bytes: 0x1234_5678, cpus: 3, ..FwCfgConfig::default() };
    (FwCfg::new(&config, Some(memory.clone())), memory)
}

fn take(d: &mut FwCfg, key: u16, n: usize) -> Vec<u8> {
    d.write(0, &key.to_le_bytes());
    let mut out = vec![0xff; n];
    out.iter_mut().for_each(|b| d.read(1, std::slice::from_mut(b)));
    out
}

/// Puts a descriptor at 8000h, starts it and returns the control word it leaves.
fn dma(d: &mut FwCfg, memory: &GuestMemory, control: u32, length: u32, address: u64) -> u32 {
    let mut descriptor = control.to_be_bytes().to_vec();
    descriptor.extend(length.to_be_bytes());
    descriptor.extend(address.to_be_bytes());
    memory.view().write_slice(&descriptor, GuestAddress(0x8000)).unwrap();
    d.write(4, &0u32.to_be_bytes());
    d.write(8, &0x8000u32.to_be_bytes());
    let mut left = [0; 4];
    memory.view().read_slice(&mut left, GuestAddress(0x8000)).unwrap();
    u32::from_be_bytes(left)
}

#[test]
fn items_read_byte_by_byte_and_then_zero() {
    let (mut d, _) = device();
    assert_eq!(take(&mut d, item::SIGNATURE, 5), b"QEMU\0");
    assert_eq!(take(&mut d, item::ID, 4), [3, 0, 0, 0]);
    assert_eq!(take(&mut d, item::CPUS, 4), [3, 0, 0, 0]);
    let mut got = [0xff; 4];
    d.write(0, &3u16.to_le_bytes());
    d.read(1, &mut got);
    assert_eq!(u32::from_le_bytes(got), 0x1234_5678, "a wide read takes several bytes");
    assert_eq!(take(&mut d, 0x8000, 2), [0, 0], "an unknown item is empty");
    assert_eq!(take(&mut d, 0x4000, 2), [0, 0]);
}

#[test]
fn files_are_in_the_directory() {
    let (mut d, _) = device();
    d.set_file("etc/b", *b"second");
    d.set_file("bootorder", *b"first");
    d.set_file("etc/b", *b"again!!");
    d.set_file(&"x".repeat(80), *b"long");
    let dir = take(&mut d, item::DIRECTORY, 4 + 64 * 3 + 1);
    assert_eq!(dir[..4], [0, 0, 0, 3]);
    assert_eq!(dir[4..12], [0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert_eq!(&dir[12..22], b"bootorder\0");
    assert_eq!(dir[68..76], [0, 0, 0, 7, 0, 0x21, 0, 0]);
    assert_eq!(&dir[140..196], [&[b'x'; 55][..], &[0]].concat());
    assert_eq!(take(&mut d, 0x21, 8), b"again!!\0");
    assert_eq!(d.file("bootorder"), Some(&b"first"[..]));
}

#[test]
fn dma_selects_reads_skips_and_refuses_writes() {
    let (mut d, memory) = device();
    d.set_file("f", *b"0123456789");
    let mut signature = [0; 8];
    for (offset, half) in [4, 8].into_iter().zip(signature.chunks_mut(4)) {
        d.read(offset, half);
    }
    assert_eq!(&signature, b"QEMU CFG");
    memory.view().write_slice(&[0xff; 16], GuestAddress(0x100)).unwrap();
    assert_eq!(dma(&mut d, &memory, 0x20 << 16 | 0b1010, 4, 0x100), 0);
    assert_eq!(dma(&mut d, &memory, 0b100, 2, 0), 0);
    assert_eq!(dma(&mut d, &memory, 0b10, 8, 0x104), 0);
    let mut got = [0; 13];
    memory.view().read_slice(&mut got, GuestAddress(0x100)).unwrap();
    assert_eq!(&got, b"01236789\0\0\0\0\xff");
    assert_eq!(dma(&mut d, &memory, 0x20 << 16 | 0b11000, 4, 0x100), 1, "items are read-only");
    assert_eq!(dma(&mut d, &memory, 0x20 << 16 | 0b1010, 4, 0xffff_fffe), 1, "no memory there");
    assert_eq!(dma(&mut d, &memory, 0x20 << 16 | 0b1010, !0, 0x100), 1, "no endless fill");
    assert_eq!(dma(&mut d, &memory, 0x20 << 16 | 0b1000, 0, 0), 0);
}

#[test]
fn random_accesses_do_no_harm() {
    let (mut d, memory) = device();
    d.set_file("f", vec![7; 100]);
    let mut x = 88_172_645_463_325_252u64;
    for _ in 0..50_000 {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let (offset, len) = ((x >> 8) as u16 % 12, [1, 2, 4][x as usize % 3]);
        let len = len.min(usize::from(12 - offset));
        match x >> 60 {
            0..8 => d.write(offset, &x.to_le_bytes()[..len]),
            8..15 => d.read(offset, &mut [0; 4][..len]),
            _ => _ = dma(&mut d, &memory, (x >> 3) as u32, (x >> 20) as u32 & 0xffff, x >> 44),
        }
    }
    d.reset();
    assert_eq!(take(&mut d, 0, 4), b"QEMU");
}
