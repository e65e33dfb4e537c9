//! Images that lie: damaged anywhere, they give errors, never a panic, endless work or a write over the image's own tables.
//!
//! `VISOR_SEEDS` sets the number of damaged images per kind.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::sync::Arc;

use common::*;
use visor_qcow2::{Compression, CreateOptions, ErrorKind, Image, OpenOptions};

/// An image with a bit of everything.
fn sample(options: CreateOptions) -> Vec<u8> {
    let file = Mem::default();
    let image = Image::create(Arc::new(file.clone()), &options, &mut |_, _| true).unwrap();
    let mut rng = Rng(3);
    for _ in 0..20 {
        let at = rng.below(options.size / 512 - 64) * 512;
        image.write(at, &rng.bytes(8192)).unwrap();
    }
    let cluster = image.cluster_size() as usize;
    image.write_compressed(0, &vec![7; cluster]).unwrap();
    image.write_compressed(cluster as u64, &vec![8; cluster]).unwrap();
    let _ = image.create_snapshot("one", 1);
    image.write(4096, &rng.bytes(20000 / 512 * 512)).unwrap();
    let _ = image.create_snapshot("two", 2);
    image.write_zeroes(65536, 65536, true).unwrap();
    image.flush().unwrap();
    drop(image);
    file.bytes()
}

fn kinds() -> Vec<Vec<u8>> {
    vec![
        sample(CreateOptions { cluster_size: 4096, ..CreateOptions::new(1 << 20) }),
        sample(CreateOptions { cluster_size: 512, ..CreateOptions::new(256 << 10) }),
        sample(CreateOptions {
            extended_l2: true,
            cluster_size: 16 << 10,
            compression: Compression::Zstd,
            ..CreateOptions::new(1 << 20)
        }),
        sample(CreateOptions { version: 2, cluster_size: 4096, ..CreateOptions::new(1 << 20) }),
    ]
}

/// Does everything with a file that may be anything.
fn use_it(bytes: Vec<u8>) {
    let file = Mem::new(bytes.clone());
    let _ = Image::info(&file);
    if let Ok(image) = open(&file, OpenOptions::default()) {
        read_some(&image);
        let _ = image.check(&mut |_, _| true);
        image.snapshots();
        let _ = image.bitmaps();
        let _ = image.used_clusters();
    }
    // What a host has, too: an end.
    file.limit(Some(1 << 28));
    if let Ok(image) = open(&file, writable()) {
        read_some(&image);
        let size = image.size();
        let mut rng = Rng(1);
        for _ in 0..12 {
            let at = rng.below((size / 512).min(4096)) * 512;
            let _ = image.write(at, &[0x5a; 512]);
            let _ = image.write_zeroes(at, 4096.min(size.saturating_sub(at)), true);
            let _ = image.discard(at, 65536.min(size.saturating_sub(at)));
        }
        let _ = image.create_snapshot("new", 0);
        let _ = image.revert_snapshot("one");
        let _ = image.delete_snapshot("two");
        let _ = image.flush();
    }
    let file = Mem::new(bytes);
    file.limit(Some(1 << 28));
    if let Ok(image) = open(&file, OpenOptions { repair: true, ..writable() })
        && image.repair(&mut |_, _| true).is_ok()
    {
        let report = image.check(&mut |_, _| true).unwrap();
        assert_eq!(report.corruptions, 0, "repaired, and still: {:?}", report.findings);
    }
}

fn read_some(image: &Image) {
    let size = image.size();
    let mut data = vec![0; 65536];
    let mut at = 0;
    for _ in 0..40 {
        if at >= size {
            break;
        }
        let n = data.len().min((size - at) as usize);
        let _ = image.read(at, &mut data[..n]);
        let step = image.extent(at, size - at).map_or(65536, |e| e.len);
        at += step.max(65536);
    }
}

fn seeds() -> u64 {
    std::env::var("VISOR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(400)
}

#[test]
fn damaged_anywhere() {
    for (k, good) in kinds().into_iter().enumerate() {
        for seed in 0..seeds() {
            let mut rng = Rng(seed * 10 + k as u64);
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(6) {
                // The tables are where it hurts.
                let within = if rng.below(2) == 0 { 8192 } else { bytes.len() as u64 };
                let at = rng.below(within) as usize;
                let value: Vec<u8> = match rng.below(4) {
                    0 => vec![rng.next() as u8],
                    1 => vec![0xff; 8],
                    2 => rng.below(1 << 20).to_be_bytes().to_vec(),
                    _ => rng.next().to_be_bytes().to_vec(),
                };
                let at = if rng.below(2) == 0 { at & !7 } else { at };
                for (b, v) in bytes[at.min(good.len() - 8)..].iter_mut().zip(value) {
                    *b = v;
                }
            }
            if rng.below(8) == 0 {
                bytes.truncate(rng.below(good.len() as u64) as usize);
            }
            use_it(bytes);
        }
    }
}

#[test]
fn every_header_field_with_extreme_values() {
    for good in kinds() {
        for at in (0..112).step_by(4) {
            for value in [0u32, 1, 2, 9, 21, 22, 31, 63, 0x200, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                let mut bytes = good.clone();
                bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
                use_it(bytes);
            }
        }
    }
}

#[test]
fn random_bytes_are_no_image() {
    for seed in 0..200 {
        let mut bytes = Rng(seed).bytes(8192);
        use_it(bytes.clone());
        bytes[..8].copy_from_slice(&[b'Q', b'F', b'I', 0xfb, 0, 0, 0, 3]);
        use_it(bytes);
    }
}

#[test]
fn a_guest_cannot_write_over_tables() {
    let good = sample(CreateOptions { cluster_size: 4096, ..CreateOptions::new(1 << 20) });
    let be = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap());
    let l1 = be(40) as usize;
    let reftable = be(48) as usize;
    let l2 = (be(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let block = be(reftable) as usize;
    for (what, target) in [("L1 table", l1), ("refcount table", reftable), ("block", block), ("L2", l2)] {
        let mut bytes = good.clone();
        let entry = (target as u64 | 1 << 63).to_be_bytes();
        bytes[l2 + 8 * 200..l2 + 8 * 201].copy_from_slice(&entry);
        let before = bytes.clone();
        let file = Mem::new(bytes);
        let image = open(&file, writable()).unwrap();
        let result = image.write(200 * 4096, &[0xee; 4096]);
        assert_eq!(result.unwrap_err().kind, ErrorKind::Corrupt, "{what}");
        assert_eq!(image.write(0, &[1; 512]).unwrap_err().kind, ErrorKind::Io, "no more writes");
        drop(image);
        assert_eq!(file.bytes()[target..target + 4096], before[target..target + 4096], "{what} is as it was");
        assert!(Image::info(&file).unwrap().corrupt, "{what}: marked");
        assert_eq!(open(&file, writable()).err().unwrap().kind, ErrorKind::Corrupt);
    }
}

#[test]
fn unknown_features_are_named() {
    let mut bytes = sample(CreateOptions { cluster_size: 4096, ..CreateOptions::new(1 << 20) });
    bytes[72..80].copy_from_slice(&(1u64 << 40).to_be_bytes());
    let e = open(&Mem::new(bytes), OpenOptions::default()).err().unwrap();
    assert_eq!(e.kind, ErrorKind::Unsupported);
    assert!(e.what.contains("number 40"), "{e}");
}
