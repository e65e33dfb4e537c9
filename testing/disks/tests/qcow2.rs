//! The power fails at every write of a run of one thread over an image: the image opens, is sound, and holds everything that was flushed,
//! and no state that never was. (`power.rs` has several requests at a time, of which less can be said.)
//!
//! Two hosts are played: one that keeps the order of writes, and one that keeps any part of what was written since the last
//! flush, in sectors, so that writes are torn as well.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;

use visor_qcow2::{CreateOptions, Image, OpenOptions, Preallocation, Source};
use visor_test_disks::{Cut, Log, Medium, Op, Rng};

const SECTOR: usize = 512;

/// The contents of the disk before and after each step.
struct Recorded {
    start: Vec<u8>,
    log: Vec<Op>,
    /// After step n: the disk, and whether step n was a flush.
    steps: Vec<(Vec<u8>, bool)>,
    first: Vec<u8>,
    backing: Option<Arc<Backing>>,
}

fn record(options: CreateOptions, backing: Option<Vec<u8>>, snapshots: bool, seed: u64, steps: usize) -> Recorded {
    let mut options = options;
    let backing = backing.map(|b| Arc::new(Backing(b)));
    if let Some(b) = &backing {
        options.backing = Some(("base".into(), Some("raw".into())));
        options.backing_source = Some(b.clone());
    }
    let log = Log::default();
    let file = Medium::new(Vec::new(), &log);
    let image = Image::create(Arc::new(file.clone()), &options, &mut |_, _| true).unwrap();
    drop(image);
    let start = file.bytes();
    let open_options = OpenOptions { writable: true, backing: source(&backing), ..OpenOptions::default() };
    let image = open(&file, open_options).unwrap();
    let mut model = contents(&image);
    let first = model.clone();
    let mut rng = Rng(seed);
    let mut states = Vec::new();
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    log.take();
    for n in 0..steps {
        let flushed = step(&image, &mut model, &mut rng, snapshots.then_some(&mut kept), n);
        states.push((model.clone(), flushed));
        log.push(Op::Answered(n));
    }
    Recorded { start, log: log.take(), steps: states, first, backing }
}

fn source(backing: &Option<Arc<Backing>>) -> Option<Arc<dyn Source>> {
    backing.clone().map(|b| b as _)
}

/// One step; true if everything is durable after it.
fn step(
    image: &Image,
    model: &mut Vec<u8>,
    rng: &mut Rng,
    snapshots: Option<&mut Vec<(String, Vec<u8>)>>,
    n: usize,
) -> bool {
    let sectors = (model.len() / SECTOR) as u64;
    let at = rng.below(sectors) as usize * SECTOR;
    let len = (1 + rng.below(160.min(sectors - (at / SECTOR) as u64))) as usize * SECTOR;
    let len = len.min(model.len() - at);
    match (rng.below(20), snapshots) {
        (0..=10, _) => {
            let data = noise(rng.draw(), len);
            image.write(at as u64, &data).unwrap();
            model[at..at + len].copy_from_slice(&data);
            false
        }
        (11..=12, _) => {
            image.write_zeroes(at as u64, len as u64, rng.below(2) == 0).unwrap();
            model[at..at + len].fill(0);
            false
        }
        (13, _) => {
            image.discard(at as u64, len as u64).unwrap();
            image.read(at as u64, &mut model[at..at + len]).unwrap();
            false
        }
        (14, Some(kept)) => {
            let name = format!("s{n}");
            image.create_snapshot(&name, 0).unwrap();
            kept.push((name, model.clone()));
            true
        }
        (15, Some(kept)) if !kept.is_empty() => {
            let (name, _) = kept.remove(rng.below(kept.len() as u64) as usize);
            image.delete_snapshot(&name).unwrap();
            true
        }
        (16, Some(kept)) if !kept.is_empty() => {
            let (name, old) = &kept[rng.below(kept.len() as u64) as usize];
            image.revert_snapshot(name).unwrap();
            model.clone_from(old);
            true
        }
        (17, None) => {
            let size = model.len() + 64 * SECTOR;
            image.resize(size as u64, Preallocation::Off, &mut |_, _| true).unwrap();
            model.resize(size, 0);
            true
        }
        _ => {
            image.flush().unwrap();
            true
        }
    }
}

impl Recorded {
    /// The states that may be seen when the cut comes after `done` steps: from the last durable one to the one under way.
    fn possible(&self, done: usize) -> Vec<&[u8]> {
        let durable = (0..done).rev().find(|n| self.steps[*n].1);
        let mut states: Vec<&[u8]> = match durable {
            Some(_) => Vec::new(),
            None => vec![&self.first],
        };
        let from = durable.unwrap_or(0);
        states.extend(self.steps[from..(done + 1).min(self.steps.len())].iter().map(|(s, _)| s.as_slice()));
        states
    }

    fn verify(&self, bytes: Vec<u8>, done: usize, what: &str) {
        let file = Medium::new(bytes, &Log::default());
        let options = OpenOptions { writable: true, backing: source(&self.backing), ..OpenOptions::default() };
        let image = open(&file, options).unwrap_or_else(|e| panic!("{what}: {e}"));
        let report = image.check(&mut |_, _| true).unwrap();
        assert_eq!(report.corruptions, 0, "{what}: {:?}", report.findings);
        let disk = contents(&image);
        let states = self.possible(done);
        for (i, sector) in disk.chunks(SECTOR).enumerate() {
            let range = i * SECTOR..(i + 1) * SECTOR;
            // A discard may have come into effect or not: what it made zero may be zero.
            let fits = states.iter().any(|s| s.get(range.clone()).is_none_or(|s| s == sector));
            assert!(fits, "{what}: sector {i} holds what was never there since the last flush");
        }
        for s in image.snapshots() {
            image.revert_snapshot(&s.name).unwrap_or_else(|e| panic!("{what}: snapshot {}: {e}", s.name));
        }
        let report = image.check(&mut |_, _| true).unwrap();
        assert_eq!(report.corruptions, 0, "{what}, snapshots: {:?}", report.findings);
    }

    /// Cuts after every write, and after every flush, of this host.
    fn cut(&self, mut host: Cut, what: &str) {
        let mut done = 0;
        for (i, op) in self.log.iter().enumerate() {
            match op {
                Op::Answered(n) => done = n + 1,
                Op::Sent(_) | Op::FlushBegins => {}
                _ => self.verify(host.at(&self.log, i + 1), done, &format!("{what}, cut after {i}")),
            }
        }
    }
}

/// The whole disk.
fn contents(image: &Image) -> Vec<u8> {
    let mut data = vec![0xcc; image.size() as usize];
    image.read(0, &mut data).unwrap();
    data
}

fn open(file: &Medium, options: OpenOptions) -> visor_qcow2::Result<Image> {
    Image::open(Arc::new(file.clone()), options)
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng(seed);
    (0..len.div_ceil(8)).flat_map(|_| rng.draw().to_le_bytes()).take(len).collect()
}

/// A backing file in memory.
struct Backing(Vec<u8>);

impl Source for Backing {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, at: u64, data: &mut [u8]) -> visor_qcow2::Result<()> {
        data.copy_from_slice(&self.0[at as usize..at as usize + data.len()]);
        Ok(())
    }
}

fn go(options: CreateOptions, backing: Option<Vec<u8>>, snapshots: bool, seed: u64) {
    let run = record(options, backing, snapshots, seed, 120);
    run.cut(Cut::orderly(run.start.clone()), "in order");
    for s in seed * 100..seed * 100 + 3 {
        run.cut(Cut::anyhow(run.start.clone(), s), &format!("seed {s}"));
    }
}

fn small(cluster_size: u64) -> CreateOptions {
    CreateOptions { cluster_size, ..CreateOptions::new(512 << 10) }
}

#[test]
fn plain() {
    go(small(4096), None, false, 1);
    go(small(512), None, false, 2);
}

#[test]
fn with_snapshots() {
    go(small(4096), None, true, 3);
    go(small(1024), None, true, 4);
}

#[test]
fn with_a_backing_file() {
    go(small(4096), Some(noise(5, 400 << 10)), false, 5);
    go(small(4096), Some(noise(5, 400 << 10)), true, 6);
}

#[test]
fn with_subclusters() {
    go(CreateOptions { extended_l2: true, ..small(16 << 10) }, None, true, 7);
    go(CreateOptions { extended_l2: true, ..small(16 << 10) }, Some(noise(8, 300 << 10)), false, 8);
}

#[test]
fn version_2() {
    go(CreateOptions { version: 2, ..small(4096) }, None, false, 9);
}
