//! What people hand over as kernels.

use std::sync::Arc;

use visor_firmware::{BootSource, MemoryMap, boot, describe, identify, ram_layout};
use visor_memory::GuestMemory;

use super::code;
use crate::Input;

/// Guest memory in bytes; only what is written is taken from the host.
const RAM: u64 = 64 << 20;

fn load(data: &[u8]) -> Option<(Arc<GuestMemory>, visor_x86::CpuState)> {
    let mut input = Input::new(data);
    let how = input.u8();
    let initrd = (how & 1 != 0).then(|| input.bytes());
    let cmdline = "x".repeat(if how & 2 != 0 { usize::from(input.u16()) } else { 10 });
    let kernel = input.rest();
    let _ = (identify(kernel), describe(kernel));
    let memory = Arc::new(GuestMemory::new(&ram_layout(RAM)).expect("64 MiB can be had"));
    let source = BootSource { kernel, initrd, cmdline: &cmdline, decompress: how & 4 != 0 };
    let booted = boot(&memory, &MemoryMap::new(RAM), &source).ok()?;
    Some((memory, booted.cpu))
}

pub(super) fn run(data: &[u8]) {
    let _ = load(data);
}

/// Loads it, and gives it a moment of CPU.
pub(super) fn execute(data: &[u8]) {
    if let Some((memory, cpu)) = load(data) {
        code::execute(memory, &cpu);
    }
}

/// A few instructions that do something, and then wait.
const CODE: &[u8] = &[0xb8, 1, 0, 0, 0, 0x89, 0xc3, 0x01, 0xd8, 0xe6, 0x80, 0x0f, 0xa2, 0xf4, 0xeb, 0xfd];

fn elf(bits: u8, note: &[u8], front: &[u8]) -> Vec<u8> {
    let at = 1u64 << 20;
    let wide = bits == 64;
    let word = |v: u64| if wide { v.to_le_bytes().to_vec() } else { (v as u32).to_le_bytes().to_vec() };
    let (head, entry) = if wide { (64, 56) } else { (52, 32) };
    let data = head + 2 * entry;
    let code = [front, CODE].concat();
    let mut f = vec![
        0x7f,
        b'E',
        b'L',
        b'F',
        1 + u8::from(wide),
        1,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        2,
        0,
        if wide { 62 } else { 3 },
        0,
        1,
        0,
        0,
        0,
    ];
    f.extend([word(at + front.len() as u64), word(head as u64), word(0)].concat());
    f.extend([0, 0, 0, 0, head as u8, 0, entry as u8, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    let segment = |kind: u32, offset: usize, at: u64, len: usize, memory: u64| {
        let (kind, flags) = (kind.to_le_bytes().to_vec(), 7u32.to_le_bytes().to_vec());
        // Linux's own mapping, by which a bare vmlinux is known.
        let linear = if wide { at | 0xffff_ffff_8000_0000 } else { at };
        let place = [word(offset as u64), word(linear), word(at), word(len as u64), word(memory)].concat();
        if wide { [kind, flags, place, word(4)].concat() } else { [kind, place, flags, word(4)].concat() }
    };
    f.extend(segment(1, data, at, code.len(), 0x2000));
    f.extend(segment(4, data + code.len(), 0, note.len(), note.len() as u64));
    f.extend(code);
    f.extend_from_slice(note);
    f
}

fn bzimage(payload: &[u8]) -> Vec<u8> {
    const STUB: usize = 0x400;
    let mut body = vec![0xf4; STUB];
    body[0x200..0x200 + CODE.len()].copy_from_slice(CODE);
    body.extend(payload);
    body.resize(body.len().next_multiple_of(16), 0);
    let mut f = vec![0; 5 * 512];
    let mut put = |at: usize, v: &[u8]| f[at..at + v.len()].copy_from_slice(v);
    put(0x1f1, &[4]);
    put(0x1f4, &((body.len() / 16) as u32).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x211, &[3]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &[3, 0]);
    put(0x238, &2047u32.to_le_bytes());
    put(0x248, &(STUB as u32).to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x258, &(16u64 << 20).to_le_bytes());
    put(0x260, &(4u32 << 20).to_le_bytes());
    f.extend(body);
    f
}

/// LZ4 as Linux has it: one block of literals.
fn lz4(data: &[u8]) -> Vec<u8> {
    let mut block = vec![0xf0];
    let mut left = data.len().saturating_sub(15);
    while left >= 255 {
        block.push(255);
        left -= 255;
    }
    block.push(left as u8);
    block.extend_from_slice(data);
    let head = [&[2, 0x21, 0x4c, 0x18][..], &(block.len() as u32).to_le_bytes()].concat();
    [head, block, (data.len() as u32).to_le_bytes().to_vec()].concat()
}

/// gzip: one stored block, whose checksum is wrong.
fn gzip(data: &[u8]) -> Vec<u8> {
    let len = data.len() as u16;
    let head = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1][..], &len.to_le_bytes(), &(!len).to_le_bytes()].concat();
    [&head, data, &[0; 4], &u32::from(len).to_le_bytes()].concat()
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let note = [&[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0][..], b"Xen\0", &(1u32 << 20).to_le_bytes()].concat();
    let magic = [0x1bad_b002u32, 3, (0u32).wrapping_sub(0x1bad_b002 + 3)];
    let multiboot: Vec<u8> = magic.iter().flat_map(|v| v.to_le_bytes()).collect();
    let kludge = [
        0x1bad_b002u32,
        0x1_0000,
        0u32.wrapping_sub(0x1bad_b002 + 0x1_0000),
        0x10_0000,
        0x10_0000,
        0x10_0100,
        0x10_0200,
        0x10_0020,
    ];
    let kludge: Vec<u8> = kludge.iter().flat_map(|v| v.to_le_bytes()).chain(CODE.iter().copied()).collect();
    let vmlinux = elf(64, &[], &[]);
    let plain = |kernel: Vec<u8>| [&[0][..], &kernel].concat();
    vec![
        plain(vmlinux.clone()),
        plain(elf(64, &note, &[])),
        plain(elf(32, &note, &[])),
        plain(elf(32, &[], &multiboot)),
        plain([&kludge[..], &[0; 0x200]].concat()),
        plain(bzimage(&[1, 2, 3])),
        [&[5, 4, 0, 9, 9, 9, 9][..], &bzimage(&lz4(&vmlinux))].concat(),
        [&[6, 0, 2][..], &bzimage(&gzip(&vmlinux))].concat(),
        plain(gzip(&vmlinux)),
    ]
}
