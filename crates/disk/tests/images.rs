//! Images as files: who may open them, what they may refer to, and that QEMU's tools agree about locks. Needs qemu-utils.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use visor_block::SharedBuffer;
use visor_block::{BlockErrorKind, BlockOp};
use visor_disk::testing::{block, read, run, write};
use visor_disk::{Access, Format, ImageOptions, Opened, Policy, Qcow2Disk, open_disk, open_image};
use visor_qcow2::{CreateOptions, FileStorage, Image, OpenOptions};

fn create(path: &Path, options: &CreateOptions) {
    let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    Image::create(Arc::new(FileStorage::new(file)), options, &mut |_, _| true).unwrap();
}

fn rw() -> ImageOptions {
    ImageOptions::new(Access::ReadWrite)
}

fn ro() -> ImageOptions {
    ImageOptions::new(Access::ReadOnly)
}

#[test]
fn qcow2_conforms() {
    for (extended_l2, cluster_size) in [(false, 512), (false, 65536), (true, 65536)] {
        let dir = tempfile::tempdir().unwrap();
        let count = std::cell::Cell::new(0);
        block(|sectors| {
            count.set(count.get() + 1);
            let path = dir.path().join(format!("{}.qcow2", count.get()));
            create(&path, &CreateOptions { extended_l2, cluster_size, ..CreateOptions::new(sectors * 512) });
            let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let open = OpenOptions { writable: true, ..OpenOptions::default() };
            let image = Arc::new(Image::open(Arc::new(FileStorage::new(file)), open).unwrap());
            Qcow2Disk::new(image, &path, false, 4, true).unwrap()
        });
        for n in 1..=count.get() {
            let path = dir.path().join(format!("{n}.qcow2"));
            assert!(qemu_img(&["check", path.to_str().unwrap()]).0, "left sound");
        }
    }
}

fn qemu_img(args: &[&str]) -> (bool, String) {
    let out = Command::new("qemu-img").args(args).output().expect("these tests need qemu-img (package qemu-utils)");
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// A qemu-io that has an image open until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(path: &Path, read_only: bool) -> Self {
        let mut command = Command::new("qemu-io");
        command.args(if read_only { &["-r"][..] } else { &[] });
        let mut child = command.arg(path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("needs qemu-io");
        // Its answer shows that it has opened the image.
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn locks_are_those_of_qemu() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.qcow2");
    create(&path, &CreateOptions::new(1 << 20));
    let name = path.to_str().unwrap();
    {
        let holder = Holder::new(&path, false);
        for options in [rw(), ro()] {
            let e = open_disk(&path, &options).err().unwrap();
            assert_eq!(e.kind, BlockErrorKind::Locked);
            assert!(e.what.contains(&format!("process {} (qemu-io)", holder.0.id())), "{e}");
        }
    }
    {
        let _reader = Holder::new(&path, true);
        assert_eq!(open_disk(&path, &rw()).err().unwrap().kind, BlockErrorKind::Locked);
        open_disk(&path, &ro()).unwrap();
    }
    {
        let _writer = open_disk(&path, &rw()).unwrap();
        let (ok, text) = qemu_img(&["info", name]);
        assert!(!ok && text.contains("lock"), "{text}");
        assert!(qemu_img(&["info", "-U", name]).0);
        assert_eq!(open_image(&path, &rw()).err().unwrap().kind, BlockErrorKind::Locked);
    }
    let _reader = open_disk(&path, &ro()).unwrap();
    assert!(qemu_img(&["info", name]).0, "two readers are fine");
    assert!(!qemu_img(&["resize", name, "2M"]).0, "a writer is not");
}

#[test]
fn two_machines_from_one_image_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base.raw");
    fs::write(&base, vec![7; 1 << 20]).unwrap();
    let overlays: Vec<PathBuf> = (0..2).map(|i| dir.path().join(format!("vm{i}.qcow2"))).collect();
    for o in &overlays {
        create(
            o,
            &CreateOptions { backing: Some(("base.raw".into(), Some("raw".into()))), ..CreateOptions::new(1 << 20) },
        );
    }
    let disks: Vec<_> = overlays.iter().map(|o| open_disk(o, &rw()).unwrap()).collect();
    write(&*disks[0], 10, &[1; 512]).unwrap();
    write(&*disks[1], 11, &[2; 512]).unwrap();
    assert_eq!(read(&*disks[0], 10, 2).unwrap(), [vec![1; 512], vec![7; 512]].concat());
    assert_eq!(read(&*disks[1], 10, 2).unwrap(), [vec![7; 512], vec![2; 512]].concat());
    assert_eq!(open_disk(&base, &rw()).err().unwrap().kind, BlockErrorKind::Locked, "others build on it");
    drop(disks);
    assert!(fs::read(&base).unwrap().iter().all(|b| *b == 7));
}

fn overlay(path: &Path, name: &str, format: Option<&str>) {
    let _ = fs::remove_file(path);
    create(
        path,
        &CreateOptions { backing: Some((name.into(), format.map(Into::into))), ..CreateOptions::new(1 << 20) },
    );
}

#[test]
fn backing_files_outside_the_allowed_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir_all(inside.join("sub")).unwrap();
    fs::create_dir(&outside).unwrap();
    let secret = outside.join("secret");
    fs::write(&secret, vec![0x42; 1 << 20]).unwrap();
    fs::write(inside.join("sub/base"), vec![1; 1 << 20]).unwrap();
    std::os::unix::fs::symlink(&secret, inside.join("link")).unwrap();
    std::os::unix::fs::symlink(&outside, inside.join("folder")).unwrap();
    let path = inside.join("d.qcow2");
    let tricks = [
        secret.to_str().unwrap().to_owned(),
        "../out/secret".into(),
        "sub/../../out/secret".into(),
        "link".into(),
        "folder/secret".into(),
        format!("file:{}", secret.display()),
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}".into(),
        "nbd://127.0.0.1/x".into(),
        "/dev/null".into(),
        "/proc/self/mem".into(),
    ];
    for name in tricks {
        overlay(&path, &name, Some("raw"));
        let e = open_image(&path, &ro()).err().unwrap_or_else(|| panic!("{name} was opened"));
        assert!(matches!(e.kind, BlockErrorKind::Unsupported), "{name}: {e}");
    }
    overlay(&path, "../out/secret", Some("raw"));
    let policy = Policy { folders: vec![outside] };
    let disk = open_disk(&path, &ImageOptions { policy, ..ro() }).unwrap();
    assert_eq!(read(&*disk, 0, 1).unwrap(), [0x42; 512], "allowed by its owner");
    overlay(&path, "sub/base", Some("raw"));
    assert_eq!(read(&*open_disk(&path, &ro()).unwrap(), 0, 1).unwrap(), [1; 512]);
}

#[test]
fn chains_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("self.qcow2");
    overlay(&path, "self.qcow2", Some("qcow2"));
    assert_eq!(open_image(&path, &ro()).err().unwrap().kind, BlockErrorKind::Corrupt);
    let (a, b) = (dir.path().join("a.qcow2"), dir.path().join("b.qcow2"));
    overlay(&a, "b.qcow2", Some("qcow2"));
    overlay(&b, "a.qcow2", Some("qcow2"));
    assert_eq!(open_image(&a, &ro()).err().unwrap().kind, BlockErrorKind::Corrupt);
}

#[test]
fn a_backing_file_without_format_must_not_name_further_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base"), vec![3; 1 << 20]).unwrap();
    let (middle, top) = (dir.path().join("middle"), dir.path().join("top.qcow2"));
    overlay(&middle, "base", Some("raw"));
    overlay(&top, "middle", None);
    let e = open_image(&top, &ro()).err().unwrap();
    assert!(e.kind == BlockErrorKind::Unsupported && e.what.contains("format"), "{e}");
    overlay(&top, "middle", Some("qcow2"));
    assert_eq!(read(&*open_disk(&top, &ro()).unwrap(), 5, 1).unwrap(), [3; 512]);
    overlay(&top, "base", None);
    assert_eq!(read(&*open_disk(&top, &ro()).unwrap(), 5, 1).unwrap(), [3; 512], "raw by its contents");
}

#[test]
fn a_guest_cannot_turn_its_raw_disk_into_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    let evil = dir.path().join("evil.qcow2");
    overlay(&evil, "/etc/passwd", Some("raw"));
    let header = fs::read(&evil).unwrap()[..4096].to_vec();
    let disk = open_disk(&path, &rw()).unwrap();
    assert_eq!(write(&*disk, 0, &header).unwrap_err().kind, BlockErrorKind::Unsupported);
    write(&*disk, 1, &header).unwrap();
    write(&*disk, 0, &[0x55; 512]).unwrap();
    drop(disk);
    let named = ImageOptions { format: Some(Format::Raw), ..rw() };
    write(&*open_disk(&path, &named).unwrap(), 0, &header).unwrap();
    // Who named the format once has to go on: the name `raw` is a reminder of that.
    let raw = dir.path().join("disk.raw");
    fs::rename(&path, &raw).unwrap();
    assert_eq!(open_disk(&raw, &ro()).err().unwrap().kind, BlockErrorKind::Unsupported);
    open_disk(&raw, &named).unwrap();
}

#[test]
fn a_name_that_says_another_format_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    for ending in ["qcow2", "vmdk", "vdi", "vhd", "VHDX"] {
        let path = dir.path().join(format!("disk.{ending}"));
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        let refused = open_disk(&path, &rw()).err().unwrap();
        assert_eq!(refused.kind, BlockErrorKind::Unsupported, "{refused}");
        open_disk(&path, &ImageOptions { format: Some(Format::Raw), ..rw() }).unwrap();
    }
}

#[test]
fn discards_give_space_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.qcow2");
    create(&path, &CreateOptions::new(64 << 20));
    let blocks = || fs::metadata(&path).unwrap().blocks() * 512;
    let disk = open_disk(&path, &rw()).unwrap();
    for i in 0..16 {
        write(&*disk, i * 2048, &vec![9; 1 << 20]).unwrap();
    }
    let flush = || run(&*disk, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
    flush();
    assert!(blocks() >= 16 << 20, "{}", blocks());
    run(&*disk, BlockOp::Discard, 0, 12 << 20, Box::new(SharedBuffer::default())).unwrap();
    flush();
    assert!(blocks() < 6 << 20, "{}", blocks());
    assert_eq!(read(&*disk, 0, 1).unwrap(), [0; 512]);
    assert_eq!(read(&*disk, 12 * 2048, 1).unwrap(), [9; 512]);
}

#[test]
fn a_killed_writer_leaves_a_sound_image() {
    // The writer is this program again, in another process.
    if let Some(path) = std::env::var_os("VISOR_TEST_VICTIM") {
        let disk = open_disk(Path::new(&path), &rw()).unwrap();
        for i in 0u64.. {
            let sector = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 32768;
            write(&*disk, sector, &[i as u8; 4096][..512 * (8.min(32768 - sector) as usize)]).unwrap();
            if i.is_multiple_of(16) {
                run(&*disk, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
                println!("flushed {i}");
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.qcow2");
    create(&path, &CreateOptions { cluster_size: 4096, ..CreateOptions::new(16 << 20) });
    for round in 0..3 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_writer_leaves_a_sound_image", "--nocapture"])
            .env("VISOR_TEST_VICTIM", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let seen = lines.map_while(Result::ok).filter(|l| l.contains("flushed")).take(5 + round * 7).count();
        assert_eq!(seen, 5 + round * 7);
        victim.kill().unwrap();
        victim.wait().unwrap();
        let Opened::Qcow2(image) = open_image(&path, &rw()).unwrap() else { panic!("qcow2") };
        let report = image.check(&mut |_, _| true).unwrap();
        assert_eq!(report.corruptions, 0, "{:?}", report.findings);
        image.repair(&mut |_, _| true).unwrap();
        drop(image);
        assert!(qemu_img(&["check", path.to_str().unwrap()]).0);
    }
}
