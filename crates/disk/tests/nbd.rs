//! NBD: our client and server with each other and with QEMU's, over sockets of this host and loopback. Needs qemu-utils.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use visor_block::SharedBuffer;
use visor_block::{BlockBackend, BlockErrorKind, BlockOp, BlockRequest, Sector};
use visor_disk::testing::{block, read, run, write};
use visor_disk::{
    Access, Alloc, ImageOptions, NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer, RawDisk, open_disk,
};

/// A server on a thread.
struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    port: Option<u16>,
}

impl Serving {
    fn start(server: NbdServer) -> Self {
        let (stop, port) = (server.stopper(), server.port());
        let thread = thread::spawn(move || server.serve().unwrap());
        Serving { stop, thread: Some(thread), port }
    }

    fn unix(socket: &Path, backend: Arc<dyn BlockBackend>, read_only: bool) -> Self {
        let _ = fs::remove_file(socket);
        Self::start(NbdServer::unix(socket, exports(backend, read_only)).unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn exports(backend: Arc<dyn BlockBackend>, read_only: bool) -> BTreeMap<String, NbdExport> {
    [("disk".to_owned(), NbdExport { backend, read_only, allow: None })].into()
}

fn disk(dir: &Path, name: &str, size: u64) -> Arc<dyn BlockBackend> {
    let path = dir.join(name);
    if !path.exists() {
        RawDisk::create(&path, size, Alloc::Dynamic).unwrap();
    }
    open_disk(&path, &ImageOptions::new(Access::ReadWrite)).unwrap()
}

fn at(socket: &Path) -> NbdAddress {
    NbdAddress::Unix { socket: socket.to_owned(), export: "disk".into(), tls: false }
}

fn client(address: &NbdAddress) -> NbdDisk {
    NbdDisk::connect(address, NbdOptions::default()).unwrap()
}

/// A client with its server.
struct Both(NbdDisk, #[expect(dead_code, reason = "lives as long")] Serving);

impl BlockBackend for Both {
    fn geometry(&self) -> visor_block::BlockGeometry {
        self.0.geometry()
    }
    fn submit(&self, request: BlockRequest) {
        self.0.submit(request);
    }
    fn drain(&self) {
        self.0.drain();
    }
}

#[test]
fn client_and_server_conform() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    block(|sectors| {
        count.set(count.get() + 1);
        let backend = disk(dir.path(), &format!("{}.img", count.get()), sectors * 512);
        if count.get() % 2 == 0 {
            let socket = dir.path().join(format!("{}.sock", count.get()));
            let serving = Serving::unix(&socket, backend, false);
            return Both(client(&at(&socket)), serving);
        }
        let serving = Serving::start(NbdServer::tcp("127.0.0.1:0", exports(backend, false)).unwrap());
        let address = format!("nbd://127.0.0.1:{}/disk", serving.port.unwrap());
        Both(client(&NbdAddress::parse(&address).unwrap()), serving)
    });
}

#[track_caller]
fn qemu(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect("these tests need qemu-utils");
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn qemu_uses_our_server() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let uri = format!("nbd+unix:///disk?socket={}", socket.display());
    {
        let _serving = Serving::unix(&socket, disk(dir.path(), "d.img", 8 << 20), false);
        let text = qemu("qemu-img", &["info", &uri]);
        assert!(text.contains("8 MiB"), "{text}");
        qemu("qemu-io", &["-f", "raw", "-c", "write -P 5 1M 3M", "-c", "write -f -P 6 512 1k", "-c", "flush", &uri]);
        qemu("qemu-io", &["-f", "raw", "-c", "write -z -u 2M 1M", "-c", "discard 0 512", &uri]);
        let copy = dir.path().join("copy");
        qemu("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, copy.to_str().unwrap()]);
        let bytes = fs::read(copy).unwrap();
        assert!(bytes[1 << 20..2 << 20].iter().all(|b| *b == 5) && bytes[2 << 20..3 << 20].iter().all(|b| *b == 0));
        assert_eq!(bytes[512..1536], [6; 1024]);
        let list = qemu("qemu-nbd", &["--list", "-k", socket.to_str().unwrap()]);
        assert!(list.contains("'disk'"), "{list}");
        let out = Command::new("qemu-img").args(["info", &uri.replace("disk?", "other?")]).output().unwrap();
        assert!(!out.status.success(), "another name is another export");
    }
    let _serving = Serving::unix(&socket, disk(dir.path(), "d.img", 0), true);
    let out = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 512", &uri]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("read-only") || text.contains("Permission") || text.contains("not permitted"), "{text}");
}

/// A server of QEMU's.
struct Qemu(Child);

impl Qemu {
    fn start(socket: &Path, image: &Path) -> Self {
        let _ = fs::remove_file(socket);
        let child = Command::new("qemu-nbd")
            .args(["-f", "raw", "-x", "disk", "-t", "-e", "8", "-k"])
            .args([socket, image])
            .spawn()
            .expect("these tests need qemu-nbd (package qemu-utils)");
        while UnixStream::connect(socket).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Qemu(child)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn image(dir: &Path, size: u64) -> PathBuf {
    let path = dir.join("image");
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}

#[test]
fn our_client_uses_qemu_and_loses_nothing_when_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, image) = (dir.path().join("s"), image(dir.path(), 16 << 20));
    let mut server = Qemu::start(&socket, &image);
    let disk = Arc::new(client(&at(&socket)));
    assert_eq!(disk.geometry().sectors, 32768);
    write(&*disk, 100, &[7; 4096]).unwrap();
    assert_eq!(read(&*disk, 99, 3).unwrap(), [vec![0; 512], vec![7; 1024]].concat());
    let (tx, rx) = mpsc::channel();
    let requests = 400;
    for i in 0..requests {
        if i % 100 == 50 {
            drop(server);
            server = Qemu::start(&socket, &image);
        }
        let (tx, buffer) = (tx.clone(), Box::new(SharedBuffer::new(vec![(i % 250) as u8 + 1; 16384])));
        disk.submit(BlockRequest::new(BlockOp::Write, Sector(1000 + i * 32), 16384, buffer, move |r| {
            tx.send(r.map_err(|e| e.to_string())).unwrap();
        }));
    }
    drop(tx);
    let results: Vec<_> = rx.iter().collect();
    assert_eq!(results.len() as u64, requests);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    run(&*disk, BlockOp::Flush, 0, 0, Box::new(SharedBuffer::default())).unwrap();
    for i in 0..requests {
        assert_eq!(read(&*disk, 1000 + i * 32, 1).unwrap(), [(i % 250) as u8 + 1; 512]);
    }
    drop(disk);
    drop(server);
    let bytes = fs::read(&image).unwrap();
    assert!((0..requests as usize).all(|i| bytes[(1000 + i * 32) * 512] == (i % 250) as u8 + 1));
}

#[test]
fn patience_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, image) = (dir.path().join("s"), image(dir.path(), 1 << 20));
    let server = Qemu::start(&socket, &image);
    let options = NbdOptions { patience: Duration::from_millis(500), ..NbdOptions::default() };
    let disk = NbdDisk::connect(&at(&socket), options).unwrap();
    drop(server);
    fs::remove_file(&socket).ok();
    let e = read(&disk, 0, 1).unwrap_err();
    assert!(e.kind == BlockErrorKind::Io && e.what.contains("not answered"), "{e}");
    assert_eq!(read(&disk, 0, 1).unwrap_err().kind, BlockErrorKind::Io, "and so do later ones");
}

#[test]
fn an_export_that_has_changed_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let serving = Serving::unix(&socket, disk(dir.path(), "a", 1 << 20), false);
    let client = client(&at(&socket));
    write(&client, 0, &[1; 512]).unwrap();
    drop(serving);
    let _other = Serving::unix(&socket, disk(dir.path(), "b", 2 << 20), false);
    assert_eq!(write(&client, 0, &[2; 512]).unwrap_err().kind, BlockErrorKind::Io);
    assert_eq!(fs::read(dir.path().join("b")).unwrap()[..512], [0; 512]);
}

#[test]
fn bad_manners_end_a_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _serving = Serving::unix(&socket, disk(dir.path(), "a", 1 << 20), false);
    let mut seed = 1u64;
    for round in 0..60 {
        let mut s = UnixStream::connect(&socket).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut message = vec![0, 0, 0, 3];
        if round % 2 == 0 {
            // A proper choice of the export, then rubbish.
            message.extend(b"IHAVEOPT\0\0\0\x01\0\0\0\x04disk");
        }
        for _ in 0..round * 7 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            message.push((seed >> 40) as u8);
        }
        if round % 4 == 0 {
            // A write of four GiB.
            message.extend(b"\x25\x60\x95\x13\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xff");
        }
        let _ = s.write_all(&message);
        let _ = s.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = s.read_to_end(&mut rest);
    }
    write(&client(&at(&socket)), 0, &[1; 512]).unwrap();
}

#[test]
fn a_server_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let hello = b"NBDMAGICIHAVEOPT\0\x03";
    let answers: Vec<Vec<u8>> = vec![
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n".to_vec(),
        b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53".to_vec(),
        [&hello[..], &[0xff; 64]].concat(),
        [&hello[..], b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x03\xff\xff\xff\xff"].concat(),
        // An acknowledgement without a size.
        [&hello[..], b"\x00\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\0\0\0\x01\0\0\0\0"].concat(),
    ];
    for answer in answers {
        let address = at(&socket);
        let connecting = thread::spawn(move || NbdDisk::connect(&address, NbdOptions::default()).err());
        let (mut s, _) = listener.accept().unwrap();
        s.write_all(&answer).unwrap();
        let _ = s.shutdown(std::net::Shutdown::Write);
        let e = connecting.join().unwrap().expect("refused");
        assert_eq!(e.kind, BlockErrorKind::Io);
    }
}
