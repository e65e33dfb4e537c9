use std::fs::{self, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use visor_block::{BlockBackend, BlockErrorKind, BlockOp, BlockRequest, Sector, SharedBuffer};

use crate::testing::{read, run, write};
use crate::*;

fn dir() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.img");
    (dir, path)
}

fn open(path: &std::path::Path) -> RawDisk {
    RawDisk::open(path, Access::ReadWrite, &RawOptions::default()).unwrap()
}

#[test]
fn raw_files_conform() {
    for (i, alloc) in [Alloc::Dynamic, Alloc::Static].into_iter().enumerate() {
        for threads in [1, 4] {
            let dir = TempDir::new().unwrap();
            let n = std::cell::Cell::new(0);
            testing::block(|sectors| {
                n.set(n.get() + 1);
                let path = dir.path().join(format!("{i}-{}", n.get()));
                RawDisk::create(&path, sectors * 512, alloc).unwrap();
                let options = RawOptions { threads, discard: alloc == Alloc::Dynamic, ..RawOptions::default() };
                RawDisk::open(&path, Access::ReadWrite, &options).unwrap()
            });
        }
    }
}

#[test]
fn space_is_taken_at_once_or_when_written_and_given_back() {
    let (_dir, path) = dir();
    let taken = |p: &PathBuf| fs::metadata(p).unwrap().blocks() * 512;
    RawDisk::create(&path, 1 << 20, Alloc::Static).unwrap();
    assert!(taken(&path) >= 1 << 20);
    fs::remove_file(&path).unwrap();
    RawDisk::create(&path, 1 << 20, Alloc::Dynamic).unwrap();
    assert_eq!((fs::metadata(&path).unwrap().len(), taken(&path)), (1 << 20, 0));
    let disk = open(&path);
    write(&disk, 0, &[1; 1 << 18]).unwrap();
    run(&disk, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
    assert!(taken(&path) >= 1 << 18);
    run(&disk, BlockOp::Discard, 0, 1 << 18, Box::new(SharedBuffer::default())).unwrap();
    assert!(taken(&path) < 1 << 18);
    assert_eq!(read(&disk, 0, 1).unwrap(), [0; 512]);
}

#[test]
fn create_refuses_bad_sizes_and_existing_files() {
    let (_dir, path) = dir();
    for size in [0, 100, 513, u64::MAX - 511] {
        assert_eq!(RawDisk::create(&path, size, Alloc::Dynamic).unwrap_err().kind, BlockErrorKind::OutOfRange);
    }
    fs::write(&path, b"precious").unwrap();
    let e = RawDisk::create(&path, 512, Alloc::Dynamic).unwrap_err();
    assert_eq!((e.kind, fs::read(&path).unwrap()), (BlockErrorKind::Io, b"precious".to_vec()));
    assert_eq!(e.source.unwrap().kind(), std::io::ErrorKind::AlreadyExists);
    fs::remove_file(&path).unwrap();
    let e = RawDisk::create(&path, 1 << 62, Alloc::Static).unwrap_err();
    assert!(matches!(e.kind, BlockErrorKind::NoSpace), "{e:?}");
    assert!(!path.exists(), "nothing is left behind");
}

#[test]
fn one_writer_or_many_readers() {
    let (_dir, path) = dir();
    RawDisk::create(&path, 4096, Alloc::Dynamic).unwrap();
    let try_open = |access| RawDisk::open(&path, access, &RawOptions::default());
    let writer = open(&path);
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let e = try_open(access).err().unwrap();
        assert_eq!(e.kind, BlockErrorKind::Locked);
        assert!(e.what.contains("in use by this process"), "{}", e.what);
    }
    let unlocked = RawOptions { lock: false, ..RawOptions::default() };
    assert!(RawDisk::open(&path, Access::ReadOnly, &unlocked).is_ok());
    drop(writer);
    let readers = [try_open(Access::ReadOnly).unwrap(), try_open(Access::ReadOnly).unwrap()];
    assert_eq!(try_open(Access::ReadWrite).err().unwrap().kind, BlockErrorKind::Locked);
    drop(readers);
    try_open(Access::ReadWrite).unwrap();
}

#[test]
fn read_only_disks_read_and_refuse_the_rest() {
    let (_dir, path) = dir();
    fs::write(&path, [7; 1024]).unwrap();
    let disk = RawDisk::open(&path, Access::ReadOnly, &RawOptions::default()).unwrap();
    assert!(disk.geometry().read_only);
    assert_eq!(read(&disk, 1, 1).unwrap(), [7; 512]);
    assert_eq!(write(&disk, 0, &[0; 512]).unwrap_err().kind, BlockErrorKind::ReadOnly);
    for op in [BlockOp::Discard, BlockOp::WriteZeroes { may_unmap: true }] {
        let e = run(&disk, op, 0, 512, Box::new(SharedBuffer::default())).unwrap_err();
        assert_eq!(e.kind, BlockErrorKind::ReadOnly);
    }
    run(&disk, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [7; 1024]);
}

#[test]
fn an_odd_size_shows_a_whole_last_sector() {
    let (_dir, path) = dir();
    fs::write(&path, [7; 1000]).unwrap();
    let disk = open(&path);
    assert_eq!(disk.geometry().sectors, 2);
    let last = read(&disk, 1, 1).unwrap();
    assert_eq!((&last[..488], &last[488..]), (&[7; 488][..], &[0; 24][..]));
    write(&disk, 1, &[8; 512]).unwrap();
    assert_eq!(read(&disk, 0, 2).unwrap(), [[7; 512], [8; 512]].concat());
    assert_eq!(fs::metadata(&path).unwrap().len(), 1024);
}

#[test]
fn a_file_that_shrinks_gives_errors_not_zeroes() {
    let (_dir, path) = dir();
    fs::write(&path, [7; 2048]).unwrap();
    let disk = open(&path);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1024).unwrap();
    assert_eq!(read(&disk, 1, 1).unwrap(), [7; 512]);
    assert_eq!(read(&disk, 1, 2).unwrap_err().kind, BlockErrorKind::Io);
    assert_eq!(read(&disk, 3, 1).unwrap_err().kind, BlockErrorKind::Io);
}

#[test]
fn what_is_no_disk_is_refused() {
    let options = RawOptions { lock: false, ..RawOptions::default() };
    let e = RawDisk::open(std::path::Path::new("/dev/full"), Access::ReadWrite, &options).err().unwrap();
    assert_eq!(e.kind, BlockErrorKind::Unsupported);
    let (dir, _) = dir();
    assert_eq!(RawDisk::open(dir.path(), Access::ReadOnly, &options).err().unwrap().kind, BlockErrorKind::Unsupported);
    let missing = RawDisk::open(&dir.path().join("missing"), Access::ReadOnly, &options).err().unwrap();
    assert_eq!(missing.source.unwrap().kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn odd_requests_are_refused() {
    let (_dir, path) = dir();
    RawDisk::create(&path, 4096, Alloc::Dynamic).unwrap();
    let disk = open(&path);
    let e = run(&disk, BlockOp::Read, 0, 100, Box::new(SharedBuffer::new(vec![0; 100]))).unwrap_err();
    assert_eq!(e.kind, BlockErrorKind::OutOfRange);
    let e = run(&disk, BlockOp::Write, 0, 1024, Box::new(SharedBuffer::new(vec![0; 512]))).unwrap_err();
    assert_eq!(e.kind, BlockErrorKind::BadBuffer);
    write(&disk, 8, &[]).unwrap();
}

#[test]
fn dropping_a_disk_finishes_its_requests_even_from_a_completion() {
    let (_dir, path) = dir();
    RawDisk::create(&path, 1 << 20, Alloc::Dynamic).unwrap();
    let disk = Arc::new(open(&path));
    let (tx, rx) = std::sync::mpsc::channel();
    for s in 0..100 {
        let (tx, disk) = (tx.clone(), disk.clone());
        let buffer = Box::new(SharedBuffer::new(vec![s as u8; 512]));
        let holder = disk.clone();
        let done = move |r: Result<(), _>| {
            drop(holder);
            tx.send(r.is_ok()).unwrap();
        };
        disk.submit(BlockRequest::new(BlockOp::Write, Sector(s), 512, buffer, done));
    }
    drop((disk, tx));
    assert_eq!(rx.iter().collect::<Vec<_>>(), [true; 100]);
    let bytes = fs::read(&path).unwrap();
    assert!((0..100).all(|s| bytes[s * 512] == s as u8));
}

#[test]
fn a_completion_that_panics_does_not_stop_the_disk() {
    let (_dir, path) = dir();
    RawDisk::create(&path, 4096, Alloc::Dynamic).unwrap();
    let options = RawOptions { threads: 1, ..RawOptions::default() };
    let disk = RawDisk::open(&path, Access::ReadWrite, &options).unwrap();
    let buffer = Box::new(SharedBuffer::new(vec![0; 512]));
    disk.submit(BlockRequest::new(BlockOp::Read, Sector(0), 512, buffer, |_| panic!("expected by the test")));
    disk.drain();
    assert_eq!(read(&disk, 0, 1).unwrap(), [0; 512]);
}
