//! Storage in memory that can fail, random numbers, and the outside judge. (`visor-test-disks` has one that remembers every write.)
#![allow(dead_code, reason = "each test uses its part")]

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use visor_qcow2::{Image, OpenOptions, Source, Storage};

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// After so many more writes, one fails; again and again with `sticky`.
    fail_in: Option<u64>,
    sticky: bool,
    /// Bytes that it can hold.
    room: Option<u64>,
    failures: u64,
    flush_fails: bool,
    tear: bool,
}

/// A file in memory.
#[derive(Clone, Default)]
pub(crate) struct Mem(Arc<Mutex<State>>);

impl Mem {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Mem(Arc::new(Mutex::new(State { bytes, ..State::default() })))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().bytes.clone()
    }

    /// The `n`th write from now fails, half of it having reached the medium if `tear`; and all after it with `sticky`.
    pub(crate) fn fail_in(&self, n: Option<u64>, sticky: bool, tear: bool) {
        let mut s = self.0.lock().unwrap();
        (s.fail_in, s.sticky, s.tear) = (n, sticky, tear);
    }

    pub(crate) fn fail_flushes(&self, on: bool) {
        self.0.lock().unwrap().flush_fails = on;
    }

    pub(crate) fn limit(&self, room: Option<u64>) {
        self.0.lock().unwrap().room = room;
    }

    pub(crate) fn failures(&self) -> u64 {
        self.0.lock().unwrap().failures
    }

    /// Counts a write; an error if it is its turn.
    fn turn(&self, end: u64) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        if s.room.is_some_and(|room| end > room) {
            s.failures += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        match s.fail_in {
            Some(0) => {
                if !s.sticky {
                    s.fail_in = None;
                }
                s.failures += 1;
                Err(io::Error::other("injected"))
            }
            Some(n) => {
                s.fail_in = Some(n - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn torn(&self, data: &[u8], at: u64) {
        let half = data.len() / 1024 * 512;
        if self.0.lock().unwrap().tear && half > 0 {
            put(&mut self.0.lock().unwrap().bytes, at, &data[..half]);
        }
    }
}

/// Writes, growing where needed.
fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at as usize..end].copy_from_slice(data);
}

impl Storage for Mem {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read_at(&self, data: &mut [u8], at: u64) -> io::Result<()> {
        let s = self.0.lock().unwrap();
        let at = usize::try_from(at).unwrap().min(s.bytes.len());
        let n = data.len().min(s.bytes.len() - at);
        data[..n].copy_from_slice(&s.bytes[at..at + n]);
        data[n..].fill(0);
        Ok(())
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.turn(at + data.len() as u64).inspect_err(|_| self.torn(data, at))?;
        put(&mut self.0.lock().unwrap().bytes, at, data);
        Ok(())
    }

    fn zero_at(&self, at: u64, len: u64) -> io::Result<()> {
        self.turn(0)?;
        let bytes = &mut self.0.lock().unwrap().bytes;
        let end = ((at + len) as usize).min(bytes.len());
        if (at as usize) < end {
            bytes[at as usize..end].fill(0);
        }
        Ok(())
    }

    fn release(&self, at: u64, len: u64) -> io::Result<()> {
        self.zero_at(at, len)
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        if self.size()? < at + len { self.set_size(at + len) } else { Ok(()) }
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.turn(size)?;
        self.0.lock().unwrap().bytes.resize(size as usize, 0);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.0.lock().unwrap().flush_fails {
            return Err(io::Error::other("injected flush"));
        }
        Ok(())
    }
}

/// A backing file in memory.
pub(crate) struct Backing(pub(crate) Vec<u8>);

impl Source for Backing {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, data: &mut [u8]) -> visor_qcow2::Result<()> {
        data.copy_from_slice(&self.0[at as usize..at as usize + data.len()]);
        Ok(())
    }
}

/// Small random numbers (splitmix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut v: Vec<u8> = (0..n.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        v.truncate(n);
        v
    }
}

pub(crate) fn open(file: &Mem, options: OpenOptions) -> visor_qcow2::Result<Image> {
    Image::open(Arc::new(file.clone()), options)
}

pub(crate) fn writable() -> OpenOptions {
    OpenOptions { writable: true, ..OpenOptions::default() }
}

/// The whole disk.
pub(crate) fn contents(image: &Image) -> Vec<u8> {
    let mut data = vec![0xcc; image.size() as usize];
    image.read(0, &mut data).unwrap();
    data
}

/// A check that finds nothing wrong; leaks may be tolerated.
#[track_caller]
pub(crate) fn assert_sound(image: &Image, leaks: bool) {
    let report = image.check(&mut |_, _| true).unwrap();
    assert_eq!(report.corruptions, 0, "{:?}", report.findings);
    if !leaks {
        assert_eq!(report.leaks, 0, "{:?}", report.findings);
    }
}

/// `qemu-img` with these arguments. The tests need Debian's qemu-utils.
#[track_caller]
pub(crate) fn qemu_img(args: &[&str]) -> (i32, String) {
    qemu_img_in(Path::new("."), args)
}

#[track_caller]
fn qemu_img_in(dir: &Path, args: &[&str]) -> (i32, String) {
    let out = Command::new("qemu-img")
        .args(args)
        .current_dir(dir)
        .output()
        .expect("these tests need qemu-img (package qemu-utils)");
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code().unwrap_or(-1), text)
}

/// Lets `qemu-img` judge an image: it is sound, and shows `disk`.
#[track_caller]
pub(crate) fn judge(dir: &Path, image: &[u8], disk: &[u8]) {
    let (file, raw) = (dir.join("judged.qcow2"), dir.join("judged.raw"));
    std::fs::write(&file, image).unwrap();
    std::fs::write(&raw, disk).unwrap();
    judge_file(&file, &raw);
}

/// The same with files.
#[track_caller]
pub(crate) fn judge_file(file: &Path, raw: &Path) {
    // The name of a data file counts from where the tool runs.
    let dir = file.parent().unwrap();
    let (file, raw) = (file.to_str().unwrap(), raw.to_str().unwrap());
    let (status, text) = qemu_img_in(dir, &["check", "-f", "qcow2", file]);
    assert_eq!(status, 0, "qemu-img check: {text}");
    let (status, text) = qemu_img_in(dir, &["compare", "-f", "qcow2", "-F", "raw", file, raw]);
    assert_eq!(status, 0, "qemu-img compare: {text}");
}
