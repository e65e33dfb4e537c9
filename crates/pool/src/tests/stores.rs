//! Pools in folders and on NBD servers of this host.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;
use visor_disk::testing::block;
use visor_disk::{Access, Alloc, ImageOptions, NbdExport, NbdServer, RawDisk, open_disk};

use super::*;

fn registry(dir: &TempDir) -> Registry {
    Registry::new(dir.path().join("pools"))
}

/// Folders as members.
fn folders(dir: &TempDir, names: &[&str]) -> Vec<Place> {
    let place = |n: &&str| {
        let path = dir.path().join(n);
        std::fs::create_dir_all(&path).unwrap();
        Place::Dir(path)
    };
    names.iter().map(place).collect()
}

fn new(name: &str, size: u64) -> NewVolume {
    NewVolume { name: name.into(), size, alloc: Alloc::Dynamic, overcommit: false }
}

fn open(registry: &Registry, volume: &str) -> Result<Volume> {
    Pool::open(registry, "p").unwrap().open_volume(volume, false, |_| {})
}

#[test]
fn volumes_conform() {
    let dir = TempDir::new().unwrap();
    let registry = registry(&dir);
    let places = folders(&dir, &["a", "b", "c", "d"]);
    Pool::create(&registry, "p", &places, 2).unwrap();
    let n = std::cell::Cell::new(0);
    block(|sectors| {
        n.set(n.get() + 1);
        let name = format!("v{}", n.get());
        Pool::open(&registry, "p").unwrap().create_volume(&new(&name, sectors * 512)).unwrap();
        open(&registry, &name).unwrap()
    });
    let info = Pool::open(&registry, "p").unwrap().info();
    assert!(info.volumes.iter().all(|v| v.health.as_ref().unwrap().stale.is_empty()));
    assert_eq!((info.members.len(), info.copies), (4, 2));
    assert!(info.capacity > info.free / 2 && info.promised > 0);
}

#[test]
fn a_folder_goes_and_another_one_takes_its_place() {
    let dir = TempDir::new().unwrap();
    let registry = registry(&dir);
    let mut pool = Pool::create(&registry, "p", &folders(&dir, &["a", "b"]), 2).unwrap();
    pool.create_volume(&new("v", 8 << 20)).unwrap();
    let v = open(&registry, "v").unwrap();
    assert_eq!(open(&registry, "v").err().unwrap().kind, PoolErrorKind::Locked);
    assert_eq!(pool.remove_volume("v").unwrap_err().kind, PoolErrorKind::Locked);
    write(&v, 100, &[3; 1 << 20]).unwrap();
    drop(v);
    std::fs::remove_dir_all(dir.path().join("b")).unwrap();
    let mut pool = Pool::open(&registry, "p").unwrap();
    assert!(matches!(pool.info().members[1].state, MemberState::Missing(_)));
    let v = open(&registry, "v").unwrap();
    write(&v, 100, &[4; 512]).unwrap();
    assert_eq!(v.health().stale.len(), 1);
    drop(v);
    let e = pool.create_volume(&new("w", 1 << 20)).unwrap_err();
    assert_eq!(e.kind, PoolErrorKind::Missing);
    let old = format!("dir:{}", dir.path().join("b").display());
    pool.replace(&old, folders(&dir, &["c"]).remove(0)).unwrap();
    let v = open(&registry, "v").unwrap();
    assert_eq!(v.health().stale.len(), 1);
    assert_eq!(v.rebuild(&mut |_, _| true).unwrap(), 1);
    drop(v);
    // The new one alone.
    std::fs::rename(dir.path().join("a"), dir.path().join("gone")).unwrap();
    let v = open(&registry, "v").unwrap();
    assert_eq!(read(&v, 100, 2).unwrap(), [[4; 512], [3; 512]].concat());
    drop(v);
    // The old one is back: out of date, whatever it has.
    std::fs::rename(dir.path().join("gone"), dir.path().join("a")).unwrap();
    assert_eq!(open(&registry, "v").unwrap().health().stale.len(), 1);
}

#[test]
fn no_more_is_promised_than_there_is() {
    let dir = TempDir::new().unwrap();
    let registry = registry(&dir);
    let mut pool = Pool::create(&registry, "p", &folders(&dir, &["a"]), 1).unwrap();
    let capacity = pool.info().capacity;
    let half = (capacity / 2).next_multiple_of(512);
    pool.create_volume(&new("one", half)).unwrap();
    let e = pool.create_volume(&new("two", half)).unwrap_err();
    assert!(e.kind == PoolErrorKind::NoSpace && e.what.contains("promised"), "{e}");
    assert_eq!(Pool::open(&registry, "p").unwrap().volumes(), ["one"]);
    pool.create_volume(&NewVolume { overcommit: true, ..new("two", half) }).unwrap();
    assert_eq!(pool.create_volume(&new("two", 512)).unwrap_err().kind, PoolErrorKind::Exists);
    assert_eq!(pool.create_volume(&new("x/y", 512)).unwrap_err().kind, PoolErrorKind::Bad);
    assert_eq!(pool.create_volume(&new("odd", 513)).unwrap_err().kind, PoolErrorKind::Bad);
    assert_eq!(Pool::open(&registry, "p").unwrap().remove(false).unwrap_err().kind, PoolErrorKind::Exists);
    Pool::open(&registry, "p").unwrap().remove(true).unwrap();
    assert_eq!(Pool::open(&registry, "p").err().unwrap().kind, PoolErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(dir.path().join("a")).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_store_belongs_to_one_pool() {
    let dir = TempDir::new().unwrap();
    let registry = registry(&dir);
    let places = folders(&dir, &["a", "b", "c"]);
    let mut pool = Pool::create(&registry, "p", &places[..2], 2).unwrap();
    let e = Pool::create(&registry, "q", &places[1..], 1).err().unwrap();
    assert_eq!(e.kind, PoolErrorKind::Exists);
    assert_eq!(registry.names(), ["p"]);
    assert!(!dir.path().join("c/visor-pool/member").exists(), "nothing is left behind");
    assert_eq!(Pool::create(&registry, "p", &places[2..], 1).err().unwrap().kind, PoolErrorKind::Exists);
    assert_eq!(pool.add(&places[2..]).unwrap_err().kind, PoolErrorKind::Bad, "half a group");
    let more = folders(&dir, &["d", "e"]);
    pool.add(&more).unwrap();
    pool.create_volume(&new("wide", 4 << 20)).unwrap();
    assert_eq!(open(&registry, "wide").unwrap().layout().groups.len(), 2);
}

/// A server on a thread.
struct Serving(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Serving {
    fn start(socket: &Path, backend: Arc<dyn BlockBackend>) -> Self {
        let _ = std::fs::remove_file(socket);
        let exports = BTreeMap::from([("disk".to_owned(), NbdExport { backend, read_only: false, allow: None })]);
        let server = NbdServer::unix(socket, exports).unwrap();
        let stop = server.stopper();
        Serving(stop, Some(thread::spawn(move || server.serve().unwrap())))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap();
    }
}

#[test]
fn an_export_is_a_member_like_a_folder() {
    let dir = TempDir::new().unwrap();
    let registry = registry(&dir);
    let (image, socket) = (dir.path().join("store"), dir.path().join("s"));
    RawDisk::create(&image, 32 << 20, Alloc::Dynamic).unwrap();
    let store = || open_disk(&image, &ImageOptions::new(Access::ReadWrite)).unwrap();
    let serving = Serving::start(&socket, store());
    let export = Place::parse(&format!("nbd+unix:///disk?socket={}", socket.display())).unwrap();
    let places = [folders(&dir, &["a"]).remove(0), export];
    let mut pool = Pool::create(&registry, "p", &places, 2).unwrap();
    pool.create_volume(&new("one", 8 << 20)).unwrap();
    pool.create_volume(&new("two", 8 << 20)).unwrap();
    let e = pool.create_volume(&new("three", 20 << 20)).unwrap_err();
    assert_eq!(e.kind, PoolErrorKind::NoSpace);
    pool.remove_volume("one").unwrap();
    pool.create_volume(&new("three", 6 << 20)).unwrap();
    for name in ["two", "three"] {
        let v = open(&registry, name).unwrap();
        write(&v, 5, name.repeat(512).as_bytes().get(..512).unwrap()).unwrap();
        assert!(v.health().stale.is_empty());
    }
    drop(pool);
    drop(serving);
    // Without the server, then with it again.
    let v = open(&registry, "two").unwrap();
    assert_eq!(read(&v, 5, 1).unwrap()[..6], *b"twotwo");
    write(&v, 6, &[1; 512]).unwrap();
    assert_eq!(v.health().stale.len(), 1);
    drop(v);
    let _serving = Serving::start(&socket, store());
    let v = open(&registry, "two").unwrap();
    assert_eq!(v.rebuild(&mut |_, _| true).unwrap(), 1);
    drop(v);
    std::fs::remove_dir_all(dir.path().join("a")).unwrap();
    let v = open(&registry, "two").unwrap();
    assert_eq!((read(&v, 5, 1).unwrap()[..6].to_vec(), read(&v, 6, 1).unwrap()), (b"twotwo".to_vec(), vec![1; 512]));
}
