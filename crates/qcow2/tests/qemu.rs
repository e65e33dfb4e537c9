//! Images of `qemu-img` in all combinations of its options are read and written here; those made here are read there.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::fs::{File, OpenOptions as FileOptions};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::*;
use visor_qcow2::{Compression, CreateOptions, FileStorage, Image, OpenOptions, Preallocation, Source, Storage};

const SIZE: u64 = 6 << 20;

fn storage(path: &Path) -> Arc<dyn Storage> {
    let file = FileOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    Arc::new(FileStorage::new(file))
}

fn open_at(path: &Path, writable: bool) -> Image {
    let info = Image::info(&*storage(path)).unwrap();
    let folder = path.parent().unwrap();
    let backing = info
        .backing_file
        .as_ref()
        .map(|name| Arc::new(Backing(std::fs::read(folder.join(name)).unwrap())) as Arc<dyn Source>);
    let data_file = info.data_file.as_ref().map(|name| storage(&folder.join(name)));
    Image::open(storage(path), OpenOptions { writable, backing, data_file, repair: false }).unwrap()
}

#[track_caller]
fn qemu_io(path: &Path, commands: &[String]) {
    let mut args = vec!["-f".to_owned(), "qcow2".to_owned()];
    args.extend(commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()]));
    let out = Command::new("qemu-io").args(&args).arg(path).output().expect("these tests need qemu-io (qemu-utils)");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !text.contains("rror"), "{commands:?}: {text}");
}

/// Lets QEMU write this and that.
fn scribble(path: &Path, compressed: bool, rng: &mut Rng) {
    let mut commands = Vec::new();
    for _ in 0..12 {
        let at = rng.below(SIZE / 512 - 200) * 512;
        let len = (1 + rng.below(199)) * 512;
        let pattern = 1 + rng.below(250);
        commands.push(match rng.below(5) {
            0 => format!("write -z -u {at} {len}"),
            1 => format!("discard {at} {len}"),
            _ => format!("write -P {pattern} {at} {len}"),
        });
    }
    if compressed {
        // Divided by all cluster sizes. QEMU compresses only into what is not allocated.
        commands.insert(0, "write -c -P 77 2M 2M".to_owned());
    }
    commands.push("flush".into());
    qemu_io(path, &commands);
}

/// What QEMU reads.
fn by_qemu(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("qemu.raw");
    let (status, text) =
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
    let data = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    data
}

#[track_caller]
fn check_by_qemu(path: &Path) {
    let (status, text) = qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
    assert_eq!(status, 0, "{text}");
}

/// Reads and writes an image of QEMU's, and lets QEMU look at the result.
fn through_both(path: &Path, compressed: bool, seed: u64) {
    let mut rng = Rng(seed);
    scribble(path, compressed, &mut rng);
    let mut expected = by_qemu(path);
    {
        let image = open_at(path, false);
        assert!(contents(&image) == expected, "{}: read differently", path.display());
        assert_sound(&image, false);
    }
    {
        let image = open_at(path, true);
        for _ in 0..30 {
            let at = rng.below(SIZE / 512 - 200) * 512;
            let len = (1 + rng.below(199)) as usize * 512;
            let data = rng.bytes(len);
            let range = at as usize..at as usize + data.len();
            if rng.below(4) == 0 {
                image.write_zeroes(at, data.len() as u64, true).unwrap();
                expected[range].fill(0);
            } else {
                image.write(at, &data).unwrap();
                expected[range].copy_from_slice(&data);
            }
        }
        image.flush().unwrap();
        assert_sound(&image, false);
    }
    check_by_qemu(path);
    assert!(by_qemu(path) == expected, "{}: QEMU reads something else", path.display());
}

#[test]
fn images_of_qemu_in_all_combinations() {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = 0;
    for cluster in ["512", "4k", "64k", "2M"] {
        for format in ["compat=0.10", "compat=1.1", "compat=1.1,compression_type=zstd", "compat=1.1,lazy_refcounts=on"]
        {
            for bits in [1, 16, 64] {
                for preallocation in ["off", "metadata", "falloc", "full"] {
                    if bits != 16 && (format == "compat=0.10" || preallocation != "off") {
                        continue;
                    }
                    seed += 1;
                    let bits = if format == "compat=0.10" { String::new() } else { format!(",refcount_bits={bits}") };
                    let options = format!("cluster_size={cluster},{format}{bits},preallocation={preallocation}");
                    let path = dir.path().join(format!("{seed}.qcow2"));
                    let name = path.to_str().unwrap();
                    let (status, text) =
                        qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, name, &SIZE.to_string()]);
                    assert_eq!(status, 0, "{options}: {text}");
                    through_both(&path, preallocation == "off", seed);
                    std::fs::remove_file(path).unwrap();
                }
            }
        }
    }
    assert!(seed > 60, "{seed} combinations");
}

#[test]
fn subclusters_backing_and_data_files_of_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.raw");
    std::fs::write(&base, Rng(4).bytes(5 << 20)).unwrap();
    let mut cases = Vec::new();
    for cluster in ["16k", "64k", "2M"] {
        cases.push(format!("cluster_size={cluster},extended_l2=on"));
        cases.push(format!("cluster_size={cluster},extended_l2=on,preallocation=metadata"));
        cases.push(format!("cluster_size={cluster},extended_l2=on,backing_file=base.raw,backing_fmt=raw"));
        cases.push(format!("cluster_size={cluster},backing_file=base.raw,backing_fmt=raw"));
        cases.push(format!("cluster_size={cluster},compat=0.10,backing_file=base.raw,backing_fmt=raw"));
    }
    for (i, options) in cases.iter().enumerate() {
        let path = dir.path().join(format!("{i}.qcow2"));
        let (status, text) =
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, path.to_str().unwrap(), &SIZE.to_string()]);
        assert_eq!(status, 0, "{options}: {text}");
        through_both(&path, !options.contains("prealloc"), 1000 + i as u64);
    }
    for (i, raw) in ["off", "on"].into_iter().enumerate() {
        let data = dir.path().join(format!("data{i}"));
        let options = format!("data_file={},data_file_raw={raw}", data.display());
        let path = dir.path().join(format!("data{i}.qcow2"));
        let (status, text) =
            qemu_img(&["create", "-q", "-f", "qcow2", "-o", &options, path.to_str().unwrap(), &SIZE.to_string()]);
        assert_eq!(status, 0, "{options}: {text}");
        through_both(&path, false, 2000 + i as u64);
        if raw == "on" {
            assert!(std::fs::read(&data).unwrap() == by_qemu(&path), "the data file is a raw image of the disk");
        }
    }
}

#[test]
fn snapshots_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.qcow2");
    let name = path.to_str().unwrap();
    assert_eq!(qemu_img(&["create", "-q", "-f", "qcow2", name, &SIZE.to_string()]).0, 0);
    let mut rng = Rng(77);
    scribble(&path, true, &mut rng);
    let first = by_qemu(&path);
    assert_eq!(qemu_img(&["snapshot", "-c", "theirs", name]).0, 0);
    scribble(&path, false, &mut rng);
    let second = by_qemu(&path);
    {
        let image = open_at(&path, true);
        assert_eq!(image.snapshots()[0].name, "theirs");
        image.create_snapshot("ours", 1_700_000_000).unwrap();
        image.write(0, &[9; 100_000 / 512 * 512]).unwrap();
        image.revert_snapshot("theirs").unwrap();
        assert!(contents(&image) == first);
    }
    check_by_qemu(&path);
    assert!(by_qemu(&path) == first);
    assert_eq!(qemu_img(&["snapshot", "-a", "ours", name]).0, 0);
    assert!(by_qemu(&path) == second);
    {
        let image = open_at(&path, true);
        assert!(contents(&image) == second);
        image.delete_snapshot("theirs").unwrap();
        image.delete_snapshot("ours").unwrap();
        assert_sound(&image, false);
    }
    check_by_qemu(&path);
    assert!(by_qemu(&path) == second);
}

#[test]
fn bitmaps_survive_and_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("b.qcow2");
    let name = path.to_str().unwrap();
    assert_eq!(qemu_img(&["create", "-q", "-f", "qcow2", name, &SIZE.to_string()]).0, 0);
    assert_eq!(qemu_img(&["bitmap", "--add", "-g", "64k", name, "records"]).0, 0);
    assert_eq!(qemu_img(&["bitmap", "--add", "--disable", "-g", "32k", name, "rests"]).0, 0);
    qemu_io(&path, &["write -P 1 0 64k".into()]);
    {
        let image = open_at(&path, true);
        assert_eq!(image.bitmaps().unwrap(), ["records", "rests"]);
        image.write(3 << 20, &[5; 4096]).unwrap();
        image.flush().unwrap();
        let mut in_use = Vec::new();
        File::open(&path).and_then(|mut f| std::io::Read::read_to_end(&mut f, &mut in_use)).unwrap();
        assert_sound(&image, false);
    }
    check_by_qemu(&path);
    let (status, text) = qemu_img(&["info", "--output=json", name]);
    assert_eq!(status, 0);
    assert!(!text.contains("in-use"), "{text}");
    // QEMU shows the recorded parts as data of an export of the bitmap.
    let map = dirty_by_qemu(&path, "records");
    assert_eq!(map, [(0, 65536), (3 << 20, 65536)]);
    assert_eq!(dirty_by_qemu(&path, "rests"), []);
}

/// The dirty ranges of a bitmap as a QEMU server tells them.
fn dirty_by_qemu(path: &Path, bitmap: &str) -> Vec<(u64, u64)> {
    let socket = path.with_extension("sock");
    let pid_file = path.with_extension("pid");
    let out = Command::new("qemu-nbd")
        .args(["--fork", "-r", "-f", "qcow2", "-B", bitmap, "-k", socket.to_str().unwrap(), "--pid-file"])
        .arg(&pid_file)
        .arg(path)
        .output()
        .expect("these tests need qemu-nbd (qemu-utils)");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let spec = format!(
        "driver=nbd,server.type=unix,server.path={},x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}",
        socket.display()
    );
    let (status, text) = qemu_img(&["map", "--output=json", "--image-opts", &spec]);
    assert_eq!(status, 0, "{text}");
    // A dirty range is told as a hole without data.
    let mut ranges = Vec::new();
    for entry in text.split('{').skip(1).filter(|e| e.contains("\"data\": false")) {
        let number = |key: &str| {
            let rest = entry.split(&format!("\"{key}\": ")).nth(1).unwrap();
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        };
        ranges.push((number("start"), number("length")));
    }
    ranges
}

#[test]
fn ours_in_all_combinations_are_read_by_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng(5);
    let mut made = 0;
    for cluster_size in [512, 4096, 16 << 10, 64 << 10, 2 << 20] {
        for version in [2, 3] {
            for compression in [Compression::Zlib, Compression::Zstd] {
                for extended_l2 in [false, true] {
                    for preallocation in [Preallocation::Off, Preallocation::Metadata, Preallocation::Full] {
                        let bits = if version == 2 { 16 } else { 1 << rng.below(7) };
                        let options = CreateOptions {
                            version,
                            cluster_size,
                            compression,
                            extended_l2,
                            preallocation,
                            refcount_bits: bits,
                            ..CreateOptions::new(SIZE)
                        };
                        let path = dir.path().join("ours.qcow2");
                        let _ = std::fs::remove_file(&path);
                        let Ok(image) = Image::create(storage(&path), &options, &mut |_, _| true) else {
                            assert!(
                                version == 2 || extended_l2 && cluster_size < 16384,
                                "{options:?}",
                                options = options.cluster_size
                            );
                            continue;
                        };
                        drop(image);
                        fill(&path, &mut rng);
                        made += 1;
                    }
                }
            }
        }
    }
    assert!(made > 40, "{made} combinations");
}

/// Fills an image of ours and lets QEMU read it.
fn fill(path: &Path, rng: &mut Rng) {
    let image = open_at(path, true);
    let mut expected = vec![0; SIZE as usize];
    let cluster = image.cluster_size();
    for _ in 0..20 {
        let at = rng.below(SIZE / 512 - 100) * 512;
        let len = (1 + rng.below(99)) as usize * 512;
        let data = rng.bytes(len);
        image.write(at, &data).unwrap();
        expected[at as usize..at as usize + data.len()].copy_from_slice(&data);
    }
    for _ in 0..5 {
        let at = rng.below(SIZE / cluster) * cluster;
        let data = vec![rng.next() as u8; cluster as usize];
        image.write_compressed(at, &data).unwrap();
        expected[at as usize..at as usize + data.len()].copy_from_slice(&data);
    }
    image.flush().unwrap();
    drop(image);
    check_by_qemu(path);
    assert!(by_qemu(path) == expected);
}
