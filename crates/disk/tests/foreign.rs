//! Images of other programs, as qemu-img writes them, read byte for byte; and damaged ones, which give errors. Needs qemu-utils.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use visor_block::BlockErrorKind;
use visor_disk::{Access, Format, ImageOptions, open_disk, open_image};
use visor_qcow2::Source;

const SIZE: usize = 21 << 20;

fn rng(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// A disk with data, zeroes and holes.
fn sample(path: &Path) -> Vec<u8> {
    let mut data = vec![0; SIZE];
    let mut seed = 0x1234_5678;
    for _ in 0..40 {
        let at = rng(&mut seed) as usize % (SIZE - 100_000) / 512 * 512;
        let len = rng(&mut seed) as usize % 90_000;
        data[at..at + len].iter_mut().enumerate().for_each(|(i, b)| *b = (i / 7) as u8 ^ at as u8);
    }
    fs::write(path, &data).unwrap();
    data
}

#[track_caller]
fn qemu_img(args: &[&str]) {
    let out = Command::new("qemu-img").args(args).output().expect("these tests need qemu-img (package qemu-utils)");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn source(path: &Path, format: Option<Format>) -> Arc<dyn Source> {
    open_image(path, &ImageOptions { format, ..ImageOptions::new(Access::ReadOnly) }).unwrap().source()
}

fn contents(s: &dyn Source) -> Vec<u8> {
    let mut data = vec![0xcc; s.size() as usize];
    for (i, part) in data.chunks_mut(70_000 / 512 * 512).enumerate() {
        s.read((i * (70_000 / 512 * 512)) as u64, part).unwrap();
    }
    data
}

/// What is said to be zero is.
fn zeroes_agree(s: &dyn Source, data: &[u8]) -> u64 {
    let (mut at, mut zeroes) = (0, 0);
    while at < s.size() {
        let (zero, len) = s.is_zero(at, s.size() - at).unwrap();
        assert!(len > 0 && at + len <= s.size());
        if zero {
            assert!(data[at as usize..(at + len) as usize].iter().all(|b| *b == 0), "at {at}");
            zeroes += len;
        }
        at += len;
    }
    zeroes
}

/// Format of qemu-img, options, and the format to be named where the file's start does not show it.
const VARIANTS: &[(&str, &str, Format, bool)] = &[
    ("vdi", "", Format::Vdi, false),
    ("vdi", "static=on", Format::Vdi, false),
    ("vpc", "", Format::Vhd, false),
    ("vpc", "force_size=on", Format::Vhd, false),
    ("vpc", "subformat=fixed", Format::Vhd, true),
    ("vpc", "subformat=fixed,force_size=on", Format::Vhd, true),
    ("vhdx", "", Format::Vhdx, false),
    ("vhdx", "subformat=fixed", Format::Vhdx, false),
    ("vhdx", "block_size=1M", Format::Vhdx, false),
    ("vhdx", "block_size=32M,log_size=2M", Format::Vhdx, false),
    ("vmdk", "subformat=monolithicSparse", Format::Vmdk, false),
    ("vmdk", "subformat=monolithicSparse,zeroed_grain=on", Format::Vmdk, false),
    ("vmdk", "subformat=monolithicFlat", Format::Vmdk, false),
    ("vmdk", "subformat=twoGbMaxExtentSparse", Format::Vmdk, false),
    ("vmdk", "subformat=twoGbMaxExtentFlat", Format::Vmdk, false),
    ("vmdk", "subformat=streamOptimized", Format::Vmdk, false),
];

/// Why a disk cannot be opened. Programs that other tests start share this one's descriptors, and so its last lock, until they are
/// executed.
fn refusal(path: &Path, options: &ImageOptions) -> BlockErrorKind {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let kind = open_disk(path, options).err().unwrap().kind;
        if kind != BlockErrorKind::Locked || Instant::now() > end {
            return kind;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn images_of_other_programs_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    sample(&raw);
    for (i, (name, options, format, named)) in VARIANTS.iter().enumerate() {
        let path = dir.path().join(format!("{i}.img"));
        let (from, to) = (raw.to_str().unwrap(), path.to_str().unwrap());
        let mut args = vec!["convert", "-f", "raw", "-O", name, from, to];
        if !options.is_empty() {
            args.splice(1..1, ["-o", options]);
        }
        qemu_img(&args);
        let back = dir.path().join("back");
        qemu_img(&["convert", "-f", name, "-O", "raw", to, back.to_str().unwrap()]);
        let expected = fs::read(&back).unwrap();
        let s = source(&path, named.then_some(*format));
        assert_eq!(s.size(), expected.len() as u64, "{name} {options}");
        assert!(contents(&*s) == expected, "{name} {options}");
        let zeroes = zeroes_agree(&*s, &expected);
        // Formats of small blocks know of the holes.
        assert!(
            options.contains("fixed") || options.contains("Flat") || !options.contains("Sparse") || zeroes > 1 << 20
        );
        drop(s);
        let writing = ImageOptions { format: named.then_some(*format), ..ImageOptions::new(Access::ReadWrite) };
        assert_eq!(refusal(&path, &writing), BlockErrorKind::Unsupported);
        let opened = ImageOptions { access: Access::ReadOnly, ..writing };
        let disk = open_disk(&path, &opened).unwrap();
        assert_eq!(visor_disk::testing::read(&*disk, 64, 8).unwrap(), expected[64 * 512..72 * 512]);
        drop(disk);
        if *named {
            // Its last bytes show it, which count only where its name says so.
            let vhd = dir.path().join(format!("{i}.vhd"));
            fs::rename(&path, &vhd).unwrap();
            assert!(contents(&*source(&vhd, None)) == expected, "{name} {options}");
        }
    }
}

/// Sets the checksum of a VHD structure.
fn vhd_checksum(b: &mut [u8], at: usize) {
    b[at..at + 4].fill(0);
    let sum = !b.iter().fold(0u32, |s, x| s.wrapping_add(u32::from(*x)));
    b[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn differencing_vhd() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    sample(&raw);
    let (base, child) = (dir.path().join("base.vhd"), dir.path().join("child.vhd"));
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "force_size=on",
        raw.to_str().unwrap(),
        base.to_str().unwrap(),
    ]);
    let expected = contents(&*source(&base, None));
    // A child whose second block has only its sectors 8 to 15.
    qemu_img(&["create", "-q", "-f", "vpc", "-o", "force_size=on", child.to_str().unwrap(), &SIZE.to_string()]);
    let data: Vec<String> = vec!["write -P 99 2M 64k".into()];
    let out = Command::new("qemu-io").args(["-f", "vpc", "-c", &data[0]]).arg(&child).output().unwrap();
    assert!(out.status.success());
    let mut b = fs::read(&child).unwrap();
    let len = b.len();
    let table = u64::from_be_bytes(b[512 + 0x10..512 + 0x18].try_into().unwrap()) as usize;
    let block = u32::from_be_bytes(b[table + 4..table + 8].try_into().unwrap()) as usize * 512;
    b[block..block + 512].fill(0);
    b[block + 1] = 0xff;
    for at in [0, len - 512] {
        b[at + 0x3f] = 4;
        vhd_checksum(&mut b[at..at + 512], 0x40);
    }
    for (i, unit) in "base.vhd".encode_utf16().enumerate() {
        b[512 + 0x40 + 2 * i..512 + 0x42 + 2 * i].copy_from_slice(&unit.to_be_bytes());
    }
    vhd_checksum(&mut b[512..1536], 0x24);
    fs::write(&child, &b).unwrap();
    let mut want = expected;
    want[(2 << 20) + 8 * 512..(2 << 20) + 16 * 512].fill(99);
    let s = source(&child, None);
    assert!(contents(&*s) == want);
    zeroes_agree(&*s, &want);
    // The parent is subject to the same rules as backing files.
    for (i, unit) in "../base.vhd".encode_utf16().enumerate() {
        b[512 + 0x40 + 2 * i..512 + 0x42 + 2 * i].copy_from_slice(&unit.to_be_bytes());
    }
    vhd_checksum(&mut b[512..1536], 0x24);
    let sub = dir.path().join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("child.vhd"), &b).unwrap();
    let e = open_image(&sub.join("child.vhd"), &ImageOptions::new(Access::ReadOnly)).err().unwrap();
    assert!(e.what.contains("outside the folders"), "{e}");
}

fn crc(b: &mut [u8], at: usize) {
    b[at..at + 4].fill(0);
    let sum = crc32c::crc32c(b);
    b[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

const LOG_ID: [u8; 16] = [7; 16];

/// An entry of a log that writes zeroes, or a sector, to byte `at` of a file of `len` bytes.
fn log_entry(sequence: u64, at: u64, sector: Option<&Vec<u8>>, len: u64) -> Vec<u8> {
    let mut e = vec![0; 4096];
    e[..4].copy_from_slice(b"loge");
    e[16..24].copy_from_slice(&sequence.to_le_bytes());
    e[24] = 1;
    e[32..48].copy_from_slice(&LOG_ID);
    e[48..56].copy_from_slice(&len.to_le_bytes());
    e[56..64].copy_from_slice(&len.to_le_bytes());
    e[80..88].copy_from_slice(&at.to_le_bytes());
    e[88..96].copy_from_slice(&sequence.to_le_bytes());
    match sector {
        None => {
            e[64..68].copy_from_slice(b"zero");
            e[72..80].copy_from_slice(&4096u64.to_le_bytes());
        }
        Some(sector) => {
            e[64..68].copy_from_slice(b"desc");
            e[68..72].copy_from_slice(&sector[4092..]);
            e[72..80].copy_from_slice(&sector[..8]);
            let mut d = sector.clone();
            d[..4].copy_from_slice(b"data");
            d[4..8].copy_from_slice(&((sequence >> 32) as u32).to_le_bytes());
            d[4092..].copy_from_slice(&(sequence as u32).to_le_bytes());
            e.extend(d);
        }
    }
    let whole = e.len() as u32;
    e[8..12].copy_from_slice(&whole.to_le_bytes());
    crc(&mut e, 4);
    e
}

#[test]
fn the_log_of_a_vhdx_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, path) = (dir.path().join("raw"), dir.path().join("d.vhdx"));
    let expected = sample(&raw);
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vhdx",
        "-o",
        "block_size=1M",
        raw.to_str().unwrap(),
        path.to_str().unwrap(),
    ]);
    let mut b = fs::read(&path).unwrap();
    let le64 = |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap());
    // The block table moves into the log: what is in its place is rubbish.
    let bat_guid = [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42];
    let entry = (0..10).map(|i| (192 << 10) + 16 + i * 32).find(|at| b[*at..at + 8] == bat_guid).unwrap();
    let bat = le64(&b, entry + 16) as usize;
    let sector = b[bat..bat + 4096].to_vec();
    b[bat..bat + 4096].fill(0xee);
    let newest = [64 << 10, 128 << 10].into_iter().max_by_key(|at| le64(&b, at + 8)).unwrap();
    let log = le64(&b, newest + 0x48) as usize;
    let len = b.len() as u64;
    // Two entries: the first writes zeroes, the second the table.
    for (n, sequence) in [5u64, 6].into_iter().enumerate() {
        let e = log_entry(sequence, bat as u64, (n == 1).then_some(&sector), len);
        b[log + 4096 * n..log + 4096 * n + e.len()].copy_from_slice(&e);
    }
    for at in [64 << 10, 128 << 10] {
        b[at + 0x30..at + 0x40].copy_from_slice(&LOG_ID);
        crc(&mut b[at..at + 4096], 4);
    }
    fs::write(&path, &b).unwrap();
    let s = source(&path, None);
    assert!(contents(&*s)[..SIZE] == expected, "the log was applied");
    assert!(fs::read(&path).unwrap() == b, "the file is as it was");
    // An entry that is torn does not count, and then nothing does.
    b[log + 4096 + 100] ^= 1;
    b[log + 20] ^= 1;
    fs::write(&path, &b).unwrap();
    let e = open_image(&path, &ImageOptions::new(Access::ReadOnly)).err().unwrap();
    assert_eq!(e.kind, BlockErrorKind::Corrupt);
}

#[test]
fn damaged_images_give_errors() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    fs::write(&raw, vec![5; 256 << 10]).unwrap();
    let seeds: u64 = std::env::var("VISOR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(25);
    for (i, (name, options, format, _)) in VARIANTS.iter().enumerate() {
        if options.contains("Flat") || options.contains("fixed") || options.contains("static") {
            continue;
        }
        let path: PathBuf = dir.path().join(format!("{i}.img"));
        let mut args = vec!["convert", "-f", "raw", "-O", name, raw.to_str().unwrap(), path.to_str().unwrap()];
        if !options.is_empty() {
            args.splice(1..1, ["-o", options]);
        }
        qemu_img(&args);
        let good = fs::read(&path).unwrap();
        for n in 0..seeds {
            let mut seed = (n + 1) * 0x9e37_79b9 + i as u64;
            let mut b = good.clone();
            for _ in 0..1 + rng(&mut seed) % 5 {
                let span = if rng(&mut seed).is_multiple_of(2) { 2048.min(b.len()) } else { b.len() };
                let at = rng(&mut seed) as usize % span;
                let value = [0, 0xff, rng(&mut seed) as u8][rng(&mut seed) as usize % 3];
                let end = (at + [1, 4, 8][rng(&mut seed) as usize % 3]).min(b.len());
                b[at..end].fill(value);
            }
            if rng(&mut seed).is_multiple_of(6) {
                b.truncate(rng(&mut seed) as usize % good.len());
            }
            fs::write(&path, &b).unwrap();
            let options = ImageOptions { format: Some(*format), ..ImageOptions::new(Access::ReadOnly) };
            if let Ok(opened) = open_image(&path, &options) {
                let s = opened.source();
                let mut data = vec![0; 65536];
                for k in 0..10 {
                    let at = k * (s.size() / 10) / 512 * 512;
                    let n = data.len().min((s.size() - at) as usize);
                    let _ = s.read(at, &mut data[..n]);
                    let _ = s.is_zero(at, s.size() - at);
                }
            }
        }
    }
}
