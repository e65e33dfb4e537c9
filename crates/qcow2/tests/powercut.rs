//! The power fails at every write of a recorded run: the image opens, is sound, and holds everything that was flushed.
//!
//! Two hosts are played: one that keeps the order of writes, and one that keeps any part of what was written since the last
//! flush, in sectors, so that writes are torn as well.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::sync::Arc;

use common::*;
use visor_qcow2::{CreateOptions, Image, OpenOptions, Preallocation, Source};

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
    let file = Mem::default();
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
    file.record();
    for n in 0..steps {
        let flushed = step(&image, &mut model, &mut rng, snapshots.then_some(&mut kept), n);
        states.push((model.clone(), flushed));
        file.mark(n);
    }
    let log = file.take_log();
    Recorded { start, log, steps: states, first, backing }
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
            let data = rng.bytes(len);
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
        let file = Mem::new(bytes);
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
        assert_sound(&image, true);
    }

    /// The host keeps the order.
    fn cut_in_order(&self) {
        let mut bytes = self.start.clone();
        let mut done = 0;
        for (i, op) in self.log.iter().enumerate() {
            match op {
                Op::Mark(n) => done = n + 1,
                Op::Flush => {}
                op => {
                    apply(&mut bytes, op);
                    self.verify(bytes.clone(), done, &format!("cut after write {i}"));
                }
            }
        }
    }

    /// The host keeps any sectors of what came since the last flush.
    fn cut_anyhow(&self, seed: u64) {
        let mut rng = Rng(seed);
        let (mut durable, mut pending, mut done) = (self.start.clone(), Vec::new(), 0);
        for (i, op) in self.log.iter().enumerate() {
            match op {
                Op::Mark(n) => done = n + 1,
                Op::Flush => pending.drain(..).for_each(|op| apply(&mut durable, op)),
                op => pending.push(op),
            }
            if matches!(op, Op::Mark(_)) {
                continue;
            }
            let mut bytes = durable.clone();
            for op in &pending {
                match op {
                    _ if rng.below(2) == 0 => {}
                    Op::Write(at, data) => torn_write(&mut bytes, *at, data, &mut rng),
                    op => apply(&mut bytes, op),
                }
            }
            self.verify(bytes, done, &format!("seed {seed}, cut with loss after write {i}"));
        }
    }
}

/// Some of the sectors of a write.
fn torn_write(bytes: &mut Vec<u8>, at: u64, data: &[u8], rng: &mut Rng) {
    let lose = rng.below(3) == 0;
    let mut pos = 0;
    while pos < data.len() {
        let n = (SECTOR - (at as usize + pos) % SECTOR).min(data.len() - pos);
        if !lose || rng.below(2) == 0 {
            apply(bytes, &Op::Write(at + pos as u64, data[pos..pos + n].to_vec()));
        }
        pos += n;
    }
}

fn go(options: CreateOptions, backing: Option<Vec<u8>>, snapshots: bool, seed: u64) {
    let run = record(options, backing, snapshots, seed, 120);
    run.cut_in_order();
    for s in 0..3 {
        run.cut_anyhow(seed * 100 + s);
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
    go(small(4096), Some(Rng(5).bytes(400 << 10)), false, 5);
    go(small(4096), Some(Rng(5).bytes(400 << 10)), true, 6);
}

#[test]
fn with_subclusters() {
    go(CreateOptions { extended_l2: true, ..small(16 << 10) }, None, true, 7);
    go(CreateOptions { extended_l2: true, ..small(16 << 10) }, Some(Rng(8).bytes(300 << 10)), false, 8);
}

#[test]
fn version_2() {
    go(CreateOptions { version: 2, ..small(4096) }, None, false, 9);
}
