//! Power cuts at every place of runs through whole stacks of layers: qcow2, an encrypted disk, one in the other, and these on a volume of a
//! pool - two stripes of two copies, each on a disk with a cache of its own - with several requests at a time, flushes, writes
//! through, discards, snapshots and growth.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::sync::Arc;

use visor_block::{BlockBackend, SECTOR};
use visor_disk::Qcow2Disk;
use visor_disk::testing::read;
use visor_luks::{BackendMedium, FormatOptions, Kdf, Luks, LuksDisk};
use visor_qcow2::{CreateOptions, Image, OpenOptions, Storage};
use visor_test_disks::{Cut, DiskStorage, Expect, Guest, Log, Medium, MediumDisk, MediumPart};

const KEY: &[u8] = b"a key";
/// Bytes in front of the data of an encrypted volume.
const HEAD: u64 = 16 << 20;
/// Members of the pool, and copies of everything.
const MEMBERS: usize = 4;
const COPIES: usize = 2;
/// Bytes of a chunk of a volume.
const CHUNK: u64 = 16 << 10;

/// What lies on the medium.
#[derive(Clone, Copy, Debug)]
struct Stack {
    qcow2: Option<u64>,
    luks: bool,
    pool: bool,
    bytes: u64,
}

impl Stack {
    /// A new one, on a medium that is quiet so far.
    fn make(self, log: &Log) -> Medium {
        let head = if self.luks { HEAD } else { 0 };
        let flat = match self.qcow2 {
            Some(_) if !self.pool => 0,
            // An image on a volume cannot grow beyond it.
            Some(_) => 4 * (self.bytes + head),
            None => self.bytes + head,
        };
        let volume = visor_pool::testing::part_len(MEMBERS, flat.max(CHUNK), CHUNK, COPIES) * MEMBERS as u64;
        let medium = Medium::new(vec![0; if self.pool { volume } else { flat } as usize], log);
        if self.pool {
            visor_pool::testing::format(&parts(&medium), flat, CHUNK, COPIES).unwrap();
        }
        if let Some(cluster_size) = self.qcow2 {
            let options = CreateOptions { cluster_size, ..CreateOptions::new(self.bytes + head) };
            drop(Image::create(self.file(&medium), &options, &mut |_, _| true).unwrap());
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

    /// The disk below everything.
    fn bottom(self, medium: &Medium) -> Arc<dyn BlockBackend> {
        if !self.pool {
            return Arc::new(MediumDisk(medium.clone()));
        }
        let volume = visor_pool::testing::open(&parts(medium)).unwrap();
        assert!(volume.health().stale.is_empty(), "{:?}", volume.health());
        Arc::new(volume)
    }

    /// Where an image lies.
    fn file(self, medium: &Medium) -> Arc<dyn Storage> {
        if self.pool { Arc::new(DiskStorage::new(self.bottom(medium)).unwrap()) } else { Arc::new(medium.clone()) }
    }

    fn image(self, medium: &Medium) -> Image {
        let options = OpenOptions { writable: true, ..OpenOptions::default() };
        Image::open(self.file(medium), options).unwrap()
    }

    /// The disk below the cipher, and the image if there is one.
    fn lower(self, medium: &Medium) -> (Arc<dyn BlockBackend>, Option<Arc<Image>>) {
        if self.qcow2.is_none() {
            return (self.bottom(medium), None);
        }
        let image = Arc::new(self.image(medium));
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
        if !self.luks && self.qcow2.is_some() {
            let image = self.image(medium);
            let mut data = vec![0; image.size() as usize];
            image.read(0, &mut data).unwrap();
            return data;
        }
        let (disk, _) = self.open(medium);
        read(&*disk, 0, disk.geometry().sectors).unwrap()
    }

    /// Runs a guest, cuts at every `each`th place - at others with `VISOR_ALL_CUTS` - and looks.
    fn go(self, seed: u64, each: usize) -> usize {
        let each = visor_test_disks::apart(each);
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
        let opened = self.image(after);
        let report = opened.check(&mut |_, _| true).unwrap();
        assert_eq!(report.corruptions, 0, "{what}: {:?}", report.findings);
        let there: Vec<String> = opened.snapshots().into_iter().map(|s| s.name).collect();
        let wanted = expect.snapshots(place);
        assert!(wanted.iter().all(|w| there.contains(w)), "{what}: {there:?} instead of {wanted:?}");
        drop(opened);
        // Looking into all of them at all places takes long.
        for name in there.into_iter().filter(|_| place.is_multiple_of(5)) {
            let copy = Medium::new(after.bytes(), &Log::default());
            self.image(&copy).revert_snapshot(&name).unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
            expect.judge_snapshot(&self.contents(&copy), &name, place, what);
        }
    }
}

/// The disks of the pool's members.
fn parts(medium: &Medium) -> Vec<Arc<dyn Storage>> {
    let len = medium.size().unwrap() / MEMBERS as u64;
    let part = |n| Arc::new(MediumPart { medium: medium.clone(), start: n * len, len }) as Arc<dyn Storage>;
    (0..MEMBERS as u64).map(part).collect()
}

#[test]
fn qcow2() {
    let stack = Stack { qcow2: Some(4096), luks: false, pool: false, bytes: 512 << 10 };
    let cuts = (1..=2).map(|seed| stack.go(seed, 11)).sum::<usize>();
    assert!(cuts > 200, "{cuts}");
    Stack { qcow2: Some(64 << 10), bytes: 1 << 20, ..stack }.go(5, 31);
}

#[test]
fn an_encrypted_disk() {
    let stack = Stack { qcow2: None, luks: true, pool: false, bytes: 256 << 10 };
    assert!(stack.go(6, 7) > 100);
}

#[test]
fn an_encrypted_disk_in_an_image() {
    let stack = Stack { qcow2: Some(64 << 10), luks: true, pool: false, bytes: 256 << 10 };
    assert!(stack.go(7, 29) > 30);
}

#[test]
fn a_volume_of_a_pool() {
    let stack = Stack { qcow2: None, luks: false, pool: true, bytes: 512 << 10 };
    assert!(stack.go(9, 31) > 100);
}

#[test]
fn an_image_on_a_volume_of_a_pool() {
    let stack = Stack { qcow2: Some(4096), luks: false, pool: true, bytes: 512 << 10 };
    assert!(stack.go(10, 61) > 50);
}

#[test]
fn an_encrypted_volume_of_a_pool() {
    let stack = Stack { qcow2: None, luks: true, pool: true, bytes: 256 << 10 };
    assert!(stack.go(11, 61) > 30);
}

/// The judge is no yea-sayer: a medium whose flushes do nothing is found out.
#[test]
fn a_host_that_lies_is_noticed() {
    let stack = Stack { qcow2: Some(4096), luks: false, pool: false, bytes: 512 << 10 };
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
