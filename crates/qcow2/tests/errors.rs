//! The host fails: writes that fail once or for ever, torn ones, a full file system, flushes. The image stays sound, requests
//! that succeeded keep their data, and what failed can be tried again.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::sync::Arc;

use common::*;
use visor_qcow2::{CreateOptions, ErrorKind, Image};

fn make(options: CreateOptions) -> Mem {
    let file = Mem::default();
    Image::create(Arc::new(file.clone()), &options, &mut |_, _| true).unwrap();
    file
}

fn small() -> CreateOptions {
    CreateOptions { cluster_size: 4096, ..CreateOptions::new(1 << 20) }
}

/// What each sector may hold: exactly one thing, or after a failed write the old or the new one.
struct Model(Vec<Vec<Vec<u8>>>);

impl Model {
    fn new(size: u64) -> Self {
        Model(vec![vec![vec![0; 512]]; (size / 512) as usize])
    }

    fn write(&mut self, at: u64, data: &[u8], ok: bool) {
        for (i, sector) in data.chunks(512).enumerate() {
            let may = &mut self.0[at as usize / 512 + i];
            if ok {
                may.clear();
            }
            may.push(sector.to_vec());
        }
    }

    #[track_caller]
    fn verify(&self, image: &Image) {
        for (i, sector) in contents(image).chunks(512).enumerate() {
            assert!(self.0[i].iter().any(|s| s == sector), "sector {i}");
        }
    }
}

fn work(image: &Image, model: &mut Model, rng: &mut Rng, steps: usize) -> u64 {
    let mut failed = 0;
    for _ in 0..steps {
        let at = rng.below(image.size() / 512 - 40) * 512;
        let len = (1 + rng.below(39)) as usize * 512;
        let (data, result) = match rng.below(8) {
            0 => (vec![0; len], image.write_zeroes(at, len as u64, true)),
            1 => (Vec::new(), image.flush()),
            2 => (Vec::new(), image.create_snapshot("s", 0).and_then(|()| image.delete_snapshot("s"))),
            _ => {
                let data = rng.bytes(len);
                let result = image.write(at, &data);
                (data, result)
            }
        };
        model.write(at, &data, result.is_ok());
        failed += u64::from(result.is_err());
    }
    failed
}

#[test]
fn single_write_errors_at_every_place() {
    for options in [small(), CreateOptions { extended_l2: true, cluster_size: 16384, ..small() }] {
        for n in 0..160 {
            for tear in [false, true] {
                let file = make(options.clone());
                let image = open(&file, writable()).unwrap();
                let (mut model, mut rng) = (Model::new(image.size()), Rng(n));
                file.fail_in(Some(n), false, tear);
                work(&image, &mut model, &mut rng, 40);
                file.fail_in(None, false, false);
                model.verify(&image);
                work(&image, &mut model, &mut rng, 20);
                image.flush().unwrap_or_else(|e| panic!("write {n}: {e}"));
                model.verify(&image);
                assert_sound(&image, true);
                drop(image);
                let image = open(&file, writable()).unwrap();
                model.verify(&image);
                assert_sound(&image, true);
            }
        }
    }
}

#[test]
fn a_device_that_dies_and_comes_back() {
    for n in (0..100).step_by(7) {
        let file = make(small());
        let image = open(&file, writable()).unwrap();
        let (mut model, mut rng) = (Model::new(image.size()), Rng(n));
        file.fail_in(Some(n), true, true);
        let failed = work(&image, &mut model, &mut rng, 60);
        assert!(failed > 0, "it did die");
        file.fail_in(None, false, false);
        model.verify(&image);
        image.flush().unwrap();
        work(&image, &mut model, &mut rng, 20);
        image.flush().unwrap();
        assert_sound(&image, true);
        model.verify(&image);
    }
}

#[test]
fn a_full_file_system_pauses_and_goes_on() {
    let file = make(small());
    let image = open(&file, writable()).unwrap();
    file.limit(Some(100_000));
    let (mut model, mut full) = (Model::new(image.size()), 0);
    let mut rng = Rng(1);
    for i in 0..128u64 {
        let data = rng.bytes(8192);
        match image.write(i * 8192, &data) {
            Ok(()) => model.write(i * 8192, &data, true),
            Err(e) => {
                assert_eq!(e.kind, ErrorKind::NoSpace, "{e}");
                full += 1;
                // Room is made, and the same request succeeds.
                file.limit(Some(120_000 + full * 50_000));
                image.write(i * 8192, &data).unwrap();
                model.write(i * 8192, &data, true);
            }
        }
    }
    assert!(full > 3 && file.failures() >= full);
    image.flush().unwrap();
    model.verify(&image);
    assert_sound(&image, true);
}

#[test]
fn after_a_failed_flush_nothing_is_promised() {
    let file = make(small());
    let image = open(&file, writable()).unwrap();
    image.write(0, &[1; 4096]).unwrap();
    image.flush().unwrap();
    image.write(8192, &[2; 4096]).unwrap();
    file.fail_flushes(true);
    assert_eq!(image.flush().unwrap_err().kind, ErrorKind::Io);
    file.fail_flushes(false);
    let e = image.flush().unwrap_err();
    assert!(e.kind == ErrorKind::Io && e.what.contains("open the image again"), "{e}");
    assert_eq!(image.write(0, &[3; 512]).unwrap_err().kind, ErrorKind::Io);
    let mut data = [0; 512];
    image.read(0, &mut data).unwrap();
    assert_eq!(data, [1; 512], "reading goes on");
    drop(image);
    let image = open(&file, writable()).unwrap();
    assert_sound(&image, true);
    image.read(0, &mut data).unwrap();
    assert_eq!(data, [1; 512]);
}

#[test]
fn a_truncated_file_is_noticed_and_repaired() {
    let file = make(small());
    let image = open(&file, writable()).unwrap();
    let mut rng = Rng(9);
    for i in 0..100 {
        image.write(i * 8192, &rng.bytes(8192)).unwrap();
    }
    image.flush().unwrap();
    drop(image);
    let good = file.bytes();
    for keep in [good.len() * 9 / 10, good.len() / 2, 40_000] {
        let file = Mem::new(good[..keep].to_vec());
        let Ok(image) = open(&file, visor_qcow2::OpenOptions { repair: true, ..writable() }) else { continue };
        let report = image.check(&mut |_, _| true).unwrap();
        assert!(report.corruptions > 0, "{keep} bytes kept");
        image.repair(&mut |_, _| true).unwrap();
        assert_sound(&image, false);
    }
}
