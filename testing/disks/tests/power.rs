//! Power cuts at every place of runs through whole stacks of layers: qcow2, an encrypted disk, and an encrypted one in qcow2, each with
//! several requests at a time, flushes, writes through, discards, snapshots and growth.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::sync::Arc;

use visor_block::{BlockBackend, SECTOR};
use visor_disk::Qcow2Disk;
use visor_disk::testing::read;
use visor_luks::{BackendMedium, FormatOptions, Kdf, Luks, LuksDisk};
use visor_qcow2::{CreateOptions, Image, OpenOptions};
use visor_test_disks::{Cut, Expect, Guest, Log, Medium, MediumDisk};

const KEY: &[u8] = b"a key";
/// Bytes in front of the data of an encrypted volume.
const HEAD: u64 = 16 << 20;

fn image(medium: &Medium) -> Image {
    let options = OpenOptions { writable: true, ..OpenOptions::default() };
    Image::open(Arc::new(medium.clone()), options).unwrap()
}

/// What lies on the medium.
#[derive(Clone, Copy, Debug)]
struct Stack {
    qcow2: Option<u64>,
    luks: bool,
    bytes: u64,
}

impl Stack {
    /// A new one, on a medium that is quiet so far.
    fn make(self, log: &Log) -> Medium {
        let head = if self.luks { HEAD } else { 0 };
        let raw = if self.qcow2.is_some() { 0 } else { (self.bytes + head) as usize };
        let medium = Medium::new(vec![0; raw], log);
        if let Some(cluster_size) = self.qcow2 {
            let options = CreateOptions { cluster_size, ..CreateOptions::new(self.bytes + head) };
            Image::create(Arc::new(medium.clone()), &options, &mut |_, _| true).unwrap();
        }
        if self.luks {
            let below = self.lower(&medium);
            let quick =
                FormatOptions { kdf: Kdf::Pbkdf2 { iterations: 1000 }, sector_size: 512, ..FormatOptions::default() };
            Luks::format(&BackendMedium(below.0.clone()), KEY, &quick).unwrap();
            below.0.drain();
        }
        log.take();
        medium
    }

    /// The disk below the cipher, and the image if there is one.
    fn lower(self, medium: &Medium) -> (Arc<dyn BlockBackend>, Option<Arc<Image>>) {
        if self.qcow2.is_none() {
            return (Arc::new(MediumDisk(medium.clone())), None);
        }
        let image = Arc::new(image(medium));
        let disk = Qcow2Disk::new(image.clone(), Path::new("in memory"), false, 4, true).unwrap();
        (Arc::new(disk), Some(image))
    }

    /// The disk that the guest gets.
    fn open(self, medium: &Medium) -> (Arc<dyn BlockBackend>, Option<Arc<Image>>) {
        let (below, image) = self.lower(medium);
        if !self.luks {
            return (below, image);
        }
        let header = BackendMedium(below.clone());
        let luks = Luks::read(&header).unwrap();
        let key = luks.unlock(&header, KEY).unwrap();
        (Arc::new(LuksDisk::new(below, &luks, &key, true).unwrap()), image)
    }

    fn contents(self, medium: &Medium) -> Vec<u8> {
        if !self.luks {
            let image = image(medium);
            let mut data = vec![0; image.size() as usize];
            image.read(0, &mut data).unwrap();
            return data;
        }
        let (disk, _) = self.open(medium);
        read(&*disk, 0, disk.geometry().sectors).unwrap()
    }

    /// Runs a guest, cuts at every `each`th place - at all with `VISOR_ALL_CUTS` - and looks.
    fn go(self, seed: u64, each: usize) -> usize {
        let each = if std::env::var_os("VISOR_ALL_CUTS").is_some() { 1 } else { each };
        let log = Log::default();
        let medium = self.make(&log);
        let guest = {
            let (disk, _) = self.open(&medium);
            // An encrypted disk holds noise where nothing was written.
            if self.luks {
                let zero = visor_disk::testing::write(&*disk, 0, &vec![0; (disk.geometry().sectors * SECTOR) as usize]);
                zero.unwrap();
                disk.drain();
            }
            log.take();
            Guest::new(disk, &log)
        };
        let start = medium.bytes();
        guest.run(4, 40, seed);
        let expect = guest.expect();
        drop(guest);
        let list = log.take();
        let expect = expect.with(&list).with_noise(self.luks);
        let mut cuts = 0;
        let chances = (0..2).map(|n| Cut::anyhow(start.clone(), seed + n));
        for (n, mut host) in std::iter::once(Cut::orderly(start.clone())).chain(chances).enumerate() {
            for place in (n..=list.len()).step_by(each) {
                let after = Medium::new(host.at(&list, place), &Log::default());
                let what = format!("{self:?}, seed {seed}, host {n}, cut at {place} of {}", list.len());
                expect.judge(&self.contents(&after), place, &what);
                self.judge_image(&after, &expect, place, &what);
                cuts += 1;
            }
        }
        println!("{self:?}, seed {seed}: {} entries, {cuts} cuts", list.len());
        cuts
    }

    /// The image is sound, has the snapshots it must have, and they show what they must.
    fn judge_image(self, after: &Medium, expect: &Expect, place: usize, what: &str) {
        if self.qcow2.is_none() {
            return;
        }
        let opened = image(after);
        let report = opened.check(&mut |_, _| true).unwrap();
        assert_eq!(report.corruptions, 0, "{what}: {:?}", report.findings);
        let there: Vec<String> = opened.snapshots().into_iter().map(|s| s.name).collect();
        let wanted = expect.snapshots(place);
        assert!(wanted.iter().all(|w| there.contains(w)), "{what}: {there:?} instead of {wanted:?}");
        drop(opened);
        // Looking into all of them at all places takes long.
        for name in there.into_iter().filter(|_| place.is_multiple_of(5)) {
            let copy = Medium::new(after.bytes(), &Log::default());
            image(&copy).revert_snapshot(&name).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
            expect.judge_snapshot(&self.contents(&copy), &name, place, what);
        }
    }
}

#[test]
fn qcow2() {
    let stack = Stack { qcow2: Some(4096), luks: false, bytes: 512 << 10 };
    let cuts = (1..=2).map(|seed| stack.go(seed, 11)).sum::<usize>();
    assert!(cuts > 200, "{cuts}");
    Stack { qcow2: Some(64 << 10), bytes: 1 << 20, ..stack }.go(5, 31);
}

#[test]
fn an_encrypted_disk() {
    let stack = Stack { qcow2: None, luks: true, bytes: 256 << 10 };
    assert!(stack.go(6, 7) > 100);
}

#[test]
fn an_encrypted_disk_in_an_image() {
    let stack = Stack { qcow2: Some(64 << 10), luks: true, bytes: 256 << 10 };
    assert!(stack.go(7, 29) > 30);
}

/// The judge is no yea-sayer: a medium whose flushes do nothing is found out.
#[test]
fn a_host_that_lies_is_noticed() {
    let stack = Stack { qcow2: Some(4096), luks: false, bytes: 512 << 10 };
    let log = Log::default();
    let medium = stack.make(&log);
    let start = medium.bytes();
    let guest = Guest::new(stack.open(&medium).0, &log);
    guest.run(4, 40, 8);
    let expect = guest.expect();
    drop(guest);
    let list = log.take();
    let expect = expect.with(&list);
    // As if nothing had ever reached the medium.
    let place = list.len();
    let after = Medium::new(start, &Log::default());
    let found = std::panic::catch_unwind(|| expect.judge(&stack.contents(&after), place, "lost"));
    assert!(found.is_err());
}
