//! qcow2 images.

use std::sync::Arc;

use visor_disk::{Access, Format, ImageOptions, Opened, open_image};
use visor_qcow2::{Compression, CreateOptions, Image, OpenOptions, Preallocation};

use super::memory::MemoryFile;
use super::patches;
use super::sandbox::{SANDBOX, look};
use crate::{Input, Script};

/// Operations on an open image.
const OPERATIONS: u8 = 16;

pub(super) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let file = Arc::new(MemoryFile::new(&patches::read(&mut input)));
    let _ = Image::info(&*file);
    let how = input.u8();
    let options = || OpenOptions { writable: how & 1 == 0, backing: None, data_file: None, repair: how & 2 != 0 };
    let Ok(mut image) = Image::open(file.clone(), options()) else { return };
    let mut steps = 0;
    while !input.is_empty() && steps < 64 {
        steps += 1;
        if input.u8() % 32 == 31 {
            drop(image);
            match Image::open(file.clone(), options()) {
                Ok(again) => image = again,
                Err(_) => return,
            }
        }
        operate(&image, &mut input);
    }
    look(&image, &[input.u64()]);
}

fn operate(image: &Image, input: &mut Input<'_>) {
    let op = input.u8() % OPERATIONS;
    let (at, len) = (input.u64() % image.size().max(1), u64::from(input.u16()));
    let len = len.min(image.size() - at.min(image.size()));
    let mut data = vec![op; len as usize];
    let name = format!("s{}", len % 3);
    // Long jobs tell how far they are; a person who waits would stop them.
    let mut calls = 0;
    let mut progress = |_, _| {
        calls += 1;
        calls < 100_000
    };
    match op {
        0 | 1 => _ = image.read(at, &mut data),
        2 | 3 => _ = image.write(at, &data),
        4 => _ = image.discard(at, len),
        5 => _ = image.write_zeroes(at, len, input.u8() & 1 != 0),
        6 => _ = image.create_snapshot(&name, 7),
        7 => _ = image.revert_snapshot(&name),
        8 => _ = image.delete_snapshot(&name),
        9 => {
            let by = u64::from(input.u32()) * 512;
            let size = if input.u8() & 1 == 0 { image.size().saturating_add(by) } else { by };
            _ = image.resize(size.min(1 << 40), Preallocation::Off, &mut progress);
        }
        10 => _ = image.check(&mut progress).map(|r| r.is_clean()),
        11 => _ = image.repair(&mut progress),
        12 => _ = (image.extent(at, len.max(1)), image.used_clusters(), image.data_end()),
        13 => _ = (image.snapshots(), image.bitmaps(), image.describe()),
        14 => _ = (image.write_compressed(at / image.cluster_size() * image.cluster_size(), &data), image.trim()),
        _ => _ = (image.set_backing_name(Some("base"), Some("raw")), image.flush()),
    }
}

/// Images of several kinds.
fn images() -> Vec<Vec<u8>> {
    let plain = CreateOptions { cluster_size: 512, ..CreateOptions::new(1 << 20) };
    let backed = CreateOptions { backing: Some(("base".into(), Some("raw".into()))), ..plain.clone() };
    let all = [
        plain.clone(),
        CreateOptions { version: 2, ..plain.clone() },
        CreateOptions { refcount_bits: 1, lazy_refcounts: true, ..plain.clone() },
        CreateOptions { refcount_bits: 64, compression: Compression::Zstd, ..plain.clone() },
        CreateOptions { extended_l2: true, cluster_size: 16384, ..plain.clone() },
        CreateOptions { preallocation: Preallocation::Metadata, ..CreateOptions { size: 1 << 16, ..plain.clone() } },
        backed,
    ];
    all.iter().filter_map(|o| image(o).ok()).collect()
}

fn image(options: &CreateOptions) -> visor_qcow2::Result<Vec<u8>> {
    let file = Arc::new(MemoryFile::default());
    let image = Image::create(file.clone(), options, &mut |_, _| true)?;
    image.write(512, &[7; 1024])?;
    image.write_zeroes(8192, 4096, true)?;
    if options.backing.is_none() && options.preallocation == Preallocation::Off {
        let cluster = options.cluster_size;
        image.write_compressed(64 * 1024 / cluster * cluster, &vec![3; cluster as usize])?;
        image.create_snapshot("s0", 1)?;
        image.write(512, &[8; 512])?;
    }
    image.flush()?;
    drop(image);
    Ok(file.content())
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let step = |s: Script, op: u8, at: u64, len: u16| s.raw(&[0, op]).raw(&at.to_le_bytes()).raw(&len.to_le_bytes());
    let works: [&[u8]; 4] = [&[0, 2, 0, 10], &[6, 2, 7, 8, 10], &[4, 3, 12, 13, 14, 0], &[11, 2, 10]];
    let mut seeds = Vec::new();
    for (n, image) in images().iter().enumerate() {
        let work = works[n % works.len()];
        let script = patches::write(image).raw(&[u8::from(work[0] == 11) << 1]);
        seeds.push(work.iter().fold(script, |s, op| step(s, *op, 700, 3000)).raw(&[1, 0]).end());
    }
    let first = images().into_iter().next().unwrap_or_default();
    seeds.push(step(step(patches::write(&first).raw(&[0]), 9, 0, 0).raw(&[0, 8, 0, 0, 0]), 10, 0, 0).end());
    seeds
}

/// The image as a file of the host, which may name others.
pub(super) fn run_file(data: &[u8]) {
    let mut input = Input::new(data);
    let path = SANDBOX.image(&patches::read(&mut input));
    for (access, repair) in [(Access::ReadOnly, false), (Access::ReadWrite, true)] {
        let options = ImageOptions { format: Some(Format::Qcow2), lock: false, repair, ..ImageOptions::new(access) };
        let Ok(opened) = open_image(&path, &options) else { continue };
        look(&*opened.source(), &[input.u64()]);
        if let (Opened::Qcow2(image), Access::ReadWrite) = (&opened, access) {
            operate(image, &mut input);
            let _ = image.repair(&mut |_, _| true);
        }
    }
}

pub(super) fn file_seeds() -> Vec<Vec<u8>> {
    let plain = CreateOptions { cluster_size: 512, ..CreateOptions::new(1 << 16) };
    let named = |name: &str, format: Option<&str>| CreateOptions {
        backing: Some((name.into(), format.map(Into::into))),
        ..plain.clone()
    };
    let all = [
        named("base", Some("raw")),
        named("base", None),
        named("../secret", Some("raw")),
        named("link", Some("raw")),
        named("/etc/passwd", Some("raw")),
        named("image", Some("qcow2")),
        named("json:{}", Some("raw")),
        named("http://127.0.0.1/x", Some("raw")),
        named("file:base", Some("vmdk")),
        plain.clone(),
    ];
    all.iter().filter_map(|o| image(o).ok()).map(|i| patches::write(&i).raw(&[9; 16]).end()).collect()
}
