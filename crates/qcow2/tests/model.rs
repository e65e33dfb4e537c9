//! Random operations on an image and on a plain array, which must always show the same; `qemu-img` agrees.
//!
//! `images_of_any_kind` goes on for as long as one likes (`cargo xtask model-disk`).

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use visor_qcow2::{Compression, CreateOptions, ErrorKind, Image, OpenOptions, Preallocation, Storage};

struct Run {
    rng: Rng,
    file: Mem,
    data: Option<Mem>,
    backing: Option<Arc<Backing>>,
    image: Option<Image>,
    model: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
    cluster: u64,
    v2: bool,
    named: u32,
    small_refcounts: bool,
}

impl Run {
    fn new(options: CreateOptions, backing: Option<Vec<u8>>, external: bool, seed: u64) -> Self {
        let mut options = options;
        let (file, data) = (Mem::default(), external.then(Mem::default));
        let mut model = vec![0; options.size as usize];
        let backing = backing.map(|b| Arc::new(Backing(b)));
        if let Some(b) = &backing {
            let n = b.0.len().min(model.len());
            model[..n].copy_from_slice(&b.0[..n]);
            options.backing = Some(("base.raw".into(), Some("raw".into())));
            options.backing_source = Some(b.clone());
        }
        options.data_file = data.as_ref().map(|d| ("data".into(), Arc::new(d.clone()) as Arc<dyn Storage>, false));
        drop(Image::create(Arc::new(file.clone()), &options, &mut |_, _| true).unwrap());
        let (cluster, v2) = (options.cluster_size, options.version == 2);
        let mut run = Run {
            rng: Rng(seed),
            file,
            data,
            backing,
            image: None,
            model,
            snapshots: Vec::new(),
            cluster,
            v2,
            named: 0,
            small_refcounts: options.refcount_bits < 8,
        };
        run.reopen();
        run
    }

    fn reopen(&mut self) {
        self.image = None;
        let options = OpenOptions {
            writable: true,
            backing: self.backing.clone().map(|b| b as _),
            data_file: self.data.clone().map(|d| Arc::new(d) as _),
            repair: false,
        };
        self.image = Some(open(&self.file, options).unwrap());
    }

    fn image(&self) -> &Image {
        self.image.as_ref().unwrap()
    }

    /// A range of sectors: mostly short, sometimes clusters, sometimes long.
    fn range(&mut self) -> (usize, usize) {
        let sectors = self.model.len() as u64 / 512;
        let most = match self.rng.below(4) {
            0 => 2,
            1 => self.cluster / 512 + 1,
            2 => 3 * self.cluster / 512,
            _ => 130,
        };
        let mut at = self.rng.below(sectors);
        let mut len = 1 + self.rng.below(most).min(sectors - at - 1);
        let whole = self.cluster / 512;
        if self.rng.below(4) == 0 && at / whole * whole + whole <= sectors {
            (at, len) = (at / whole * whole, whole);
        }
        (at as usize * 512, len as usize * 512)
    }

    fn step(&mut self) {
        let (at, len) = self.range();
        match self.rng.below(100) {
            0..=44 => {
                let data = self.rng.bytes(len);
                self.image().write(at as u64, &data).unwrap();
                self.model[at..at + len].copy_from_slice(&data);
            }
            45..=64 => {
                let mut data = vec![0xcc; len];
                self.image().read(at as u64, &mut data).unwrap();
                assert!(data == self.model[at..at + len], "read of {len} at {at}");
            }
            65..=74 => self.discard(at, len),
            75..=84 => {
                let unmap = self.rng.below(2) == 0;
                self.image().write_zeroes(at as u64, len as u64, unmap).unwrap();
                self.model[at..at + len].fill(0);
            }
            85..=88 => self.compressed(at),
            89..=91 => self.image().flush().unwrap(),
            92 => self.reopen(),
            93..=94 => self.snapshot(),
            95 => self.resize(),
            _ => {
                let e = self.image().extent(at as u64, len as u64).unwrap();
                assert!(e.len > 0 && e.len <= len as u64);
            }
        }
    }

    fn discard(&mut self, at: usize, len: usize) {
        self.image().discard(at as u64, len as u64).unwrap();
        let mut data = vec![0xcc; len];
        self.image().read(at as u64, &mut data).unwrap();
        for (new, old) in data.chunks(512).zip(self.model[at..at + len].chunks(512)) {
            assert!(new == old || new.iter().all(|b| *b == 0), "discarded sectors keep their contents or are zero");
        }
        self.model[at..at + len].copy_from_slice(&data);
    }

    fn compressed(&mut self, at: usize) {
        let at = at / self.cluster as usize * self.cluster as usize;
        let len = (self.cluster as usize).min(self.model.len() - at);
        let mut data = vec![self.rng.next() as u8; len];
        let noise = self.rng.below(len as u64) as usize;
        data[..noise].copy_from_slice(&self.rng.bytes(noise));
        self.image().write_compressed(at as u64, &data).unwrap();
        self.model[at..at + len].copy_from_slice(&data);
    }

    fn snapshot(&mut self) {
        let pick = self.rng.below(self.snapshots.len() as u64) as usize;
        match self.rng.below(3) {
            0 if self.snapshots.len() < 5 => {
                self.named += 1;
                let name = format!("s{}", self.named);
                match self.image().create_snapshot(&name, 1000) {
                    Ok(()) => self.snapshots.push((name, self.model.clone())),
                    // With one bit, a refcount cannot say two.
                    Err(e) => assert!(matches!(e.kind, ErrorKind::OutOfRange | ErrorKind::Unsupported), "{e}"),
                }
            }
            1 if !self.snapshots.is_empty() => {
                let (name, _) = self.snapshots.remove(pick);
                self.image().delete_snapshot(&name).unwrap();
            }
            _ if !self.snapshots.is_empty() => {
                let (name, model) = self.snapshots[pick].clone();
                match self.image().revert_snapshot(&name) {
                    Ok(()) => self.model = model,
                    // For a moment both sides count.
                    Err(e) => assert!(e.kind == ErrorKind::OutOfRange && self.small_refcounts, "{e}"),
                }
                assert_eq!(self.image().size(), self.model.len() as u64);
            }
            _ => {}
        }
    }

    fn resize(&mut self) {
        let size = self.model.len() as u64 + self.rng.below(3 * self.cluster / 512 + 1) * 512;
        if self.rng.below(3) == 0 && !(self.v2 && self.backing.is_some()) {
            let end = self.image().data_end().unwrap().max(512);
            self.image().resize(end, Preallocation::Off, &mut |_, _| true).unwrap();
            self.model.truncate(end as usize);
        } else if size <= 24 << 20 {
            self.image().resize(size, Preallocation::Off, &mut |_, _| true).unwrap();
            self.model.resize(size as usize, 0);
        }
    }

    fn verify(&mut self) {
        assert!(contents(self.image()) == self.model, "the whole disk");
        self.image().flush().unwrap();
        assert_sound(self.image(), false);
    }

    /// Takes so many steps; all is compared every `pause` of them, and judged by QEMU's tools at the end, snapshots too.
    fn go(&mut self, dir: &Path, steps: u64, pause: u64) {
        for i in 1..=steps {
            self.step();
            if i % pause == 0 {
                self.verify();
            }
        }
        self.verify();
        self.reopen();
        self.verify();
        self.judge(dir);
        for (name, model) in self.snapshots.clone() {
            if self.image().revert_snapshot(&name).is_ok() || !self.small_refcounts {
                self.model = model;
            }
            self.verify();
        }
        self.judge(dir);
    }

    /// Closes the image; `qemu-img` says the same of it.
    fn judge(&mut self, dir: &Path) {
        self.image = None;
        if let Some(b) = &self.backing {
            std::fs::write(dir.join("base.raw"), &b.0).unwrap();
        }
        if let Some(d) = &self.data {
            std::fs::write(dir.join("data"), d.bytes()).unwrap();
        }
        judge(dir, &self.file.bytes(), &self.model);
        self.reopen();
    }
}

fn run(options: CreateOptions, backing: Option<Vec<u8>>, external: bool, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    Run::new(options, backing, external, seed).go(dir.path(), 1500, 250);
}

/// An image of any options: its backing file, and whether its data lies in another file.
fn any(rng: &mut Rng) -> (CreateOptions, Option<Vec<u8>>, bool) {
    let version = if rng.below(6) == 0 { 2 } else { 3 };
    let cluster_size = 512 << rng.below(13);
    let sectors = 64 + rng.below((8 * cluster_size / 512).clamp(512, 16 << 10));
    let mut options = CreateOptions { version, cluster_size, ..size(sectors * 512) };
    let backing = (rng.below(3) == 0).then(|| {
        let len = (1 + rng.below(2 * sectors)) as usize * 512;
        rng.bytes(len)
    });
    let mut external = false;
    if version == 3 {
        options.refcount_bits = 1 << rng.below(7);
        options.extended_l2 = cluster_size >= 16 << 10 && rng.below(3) == 0;
        options.compression = if rng.below(2) == 0 { Compression::Zlib } else { Compression::Zstd };
        external = backing.is_none() && rng.below(8) == 0;
    }
    if backing.is_none() && !external && rng.below(3) == 0 {
        let all = [Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full];
        options.preallocation = all[rng.below(3) as usize];
    }
    (options, backing, external)
}

/// Image n is made from `VISOR_SEED` + n alone. With `VISOR_STEPS` each takes 20,000 steps, until there were so many in all.
#[test]
fn images_of_any_kind() {
    let number = |name: &str| std::env::var(name).ok().map(|s| s.parse::<u64>().unwrap());
    let seed = number("VISOR_SEED").unwrap_or(100);
    let (steps, each, pause) = number("VISOR_STEPS").map_or((14_400, 600, 200), |n| (n, 20_000, 1000));
    for n in 0..steps.div_ceil(each) {
        let (dir, seed) = (tempfile::tempdir().unwrap(), seed.wrapping_add(n));
        let (o, backing, external) = any(&mut Rng(seed));
        println!(
            "seed {seed}: version {}, {} bytes in clusters of {}, {} bits, subclusters {}, {:?}, {:?}, backing {:?}, data file {external}",
            o.version,
            o.size,
            o.cluster_size,
            o.refcount_bits,
            o.extended_l2,
            o.compression,
            o.preallocation,
            backing.as_ref().map(Vec::len),
        );
        Run::new(o, backing, external, seed).go(dir.path(), each.min(steps - n * each), pause);
    }
}

fn size(n: u64) -> CreateOptions {
    CreateOptions::new(n)
}

#[test]
fn usual_clusters() {
    run(size(4 << 20), None, false, 1);
    run(CreateOptions { compression: Compression::Zstd, ..size((3 << 20) + 1536) }, None, false, 2);
}

#[test]
fn smallest_clusters() {
    run(CreateOptions { cluster_size: 512, ..size(256 << 10) }, None, false, 3);
    run(CreateOptions { cluster_size: 1024, refcount_bits: 64, ..size(300 << 10) }, None, false, 4);
}

#[test]
fn largest_clusters() {
    run(CreateOptions { cluster_size: 2 << 20, ..size(9 << 20) }, None, false, 5);
}

#[test]
fn subclusters() {
    run(CreateOptions { extended_l2: true, ..size(4 << 20) }, None, false, 6);
    run(CreateOptions { extended_l2: true, cluster_size: 16 << 10, ..size(1 << 20) }, None, false, 7);
    let base = Rng(9).bytes(1 << 20);
    run(CreateOptions { extended_l2: true, ..size(2 << 20) }, Some(base), false, 8);
}

#[test]
fn backing_files() {
    run(size(2 << 20), Some(Rng(1).bytes((1 << 20) + 512)), false, 10);
    run(CreateOptions { cluster_size: 4096, ..size(1 << 20) }, Some(Rng(1).bytes(3 << 20)), false, 11);
}

#[test]
fn version_2() {
    run(CreateOptions { version: 2, ..size(4 << 20) }, None, false, 12);
    run(CreateOptions { version: 2, cluster_size: 4096, ..size(1 << 20) }, Some(Rng(2).bytes(700 << 10)), false, 13);
}

#[test]
fn refcounts_of_every_width() {
    for (i, bits) in [1, 2, 4, 8, 32, 64].into_iter().enumerate() {
        let options = CreateOptions { refcount_bits: bits, cluster_size: 4096, ..size(1 << 20) };
        run(options, None, false, 20 + i as u64);
    }
}

#[test]
fn external_data_files() {
    run(size(4 << 20), None, true, 30);
    run(CreateOptions { extended_l2: true, ..size(2 << 20) }, None, true, 31);
}

#[test]
fn preallocated() {
    for (i, preallocation) in
        [Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full].into_iter().enumerate()
    {
        run(CreateOptions { preallocation, ..size(4 << 20) }, None, false, 40 + i as u64);
        run(CreateOptions { preallocation, extended_l2: true, ..size(4 << 20) }, None, false, 50 + i as u64);
    }
}
