//! Power cuts under an export: a server over a disk whose list of writes and flushes is kept, and clients whose writes say with
//! `NBD_CMD_FLAG_FUA` that they are to be durable when they are answered; then the same with a second server between, whose disk is a
//! client of the first.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use visor_block::{BlockBackend, SECTOR};
use visor_disk::{NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer};
use visor_test_disks::{Cut, Guest, Log, Medium, MediumDisk, Op};

const BYTES: usize = 1 << 20;
const FUA: u16 = 1;

/// A server on a thread.
struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(socket: &Path, backend: Arc<dyn BlockBackend>) -> Self {
        let exports = BTreeMap::from([("disk".to_owned(), NbdExport { backend, read_only: false, allow: None })]);
        let server = NbdServer::unix(socket, exports).unwrap();
        let stop = server.stopper();
        Serving { stop, thread: Some(thread::spawn(move || server.serve().unwrap())) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn client(socket: &Path) -> NbdDisk {
    let address = NbdAddress::Unix { socket: socket.to_owned(), export: "disk".into(), tls: false };
    NbdDisk::connect(&address, NbdOptions::default()).unwrap()
}

/// The least of a client that has forced unit access; a connection for each request under way.
struct Forced {
    socket: PathBuf,
    spare: Mutex<Vec<UnixStream>>,
}

impl Forced {
    fn connect(&self) -> UnixStream {
        let mut s = UnixStream::connect(&self.socket).unwrap();
        let mut hello = [0; 18];
        s.read_exact(&mut hello).unwrap();
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle, no zeroes; NBD_OPT_EXPORT_NAME.
        let mut message = 3u32.to_be_bytes().to_vec();
        message.extend(b"IHAVEOPT");
        message.extend(1u32.to_be_bytes());
        message.extend(4u32.to_be_bytes());
        message.extend(b"disk");
        s.write_all(&message).unwrap();
        let mut about = [0; 10];
        s.read_exact(&mut about).unwrap();
        assert_eq!(u64::from_be_bytes(about[..8].try_into().unwrap()), BYTES as u64);
        assert_eq!(about[9] >> 3 & 1, 1, "the server takes NBD_CMD_FLAG_FUA");
        s
    }

    fn write(&self, flags: u16, sector: u64, data: &[u8]) {
        let spare = self.spare.lock().unwrap().pop();
        let mut s = spare.unwrap_or_else(|| self.connect());
        let mut message = 0x2560_9513u32.to_be_bytes().to_vec();
        message.extend(flags.to_be_bytes());
        message.extend(1u16.to_be_bytes());
        message.extend(sector.to_be_bytes());
        message.extend((sector * SECTOR).to_be_bytes());
        message.extend((data.len() as u32).to_be_bytes());
        message.extend(data);
        s.write_all(&message).unwrap();
        let mut reply = [0; 16];
        s.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "success");
        assert_eq!(reply[8..], sector.to_be_bytes());
        self.spare.lock().unwrap().push(s);
    }
}

/// Runs a guest whose writes through have `flags`, and judges hosts at every `each`th place; says at how many.
fn run(servers: usize, flags: u16, seed: u64, each: usize) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::default();
    let medium = Medium::new(vec![0; BYTES], &log);
    let mut disk: Arc<dyn BlockBackend> = Arc::new(MediumDisk(medium));
    let mut serving = Vec::new();
    let mut socket = PathBuf::new();
    for n in 0..servers {
        socket = dir.path().join(format!("s{n}"));
        serving.push(Serving::start(&socket, disk));
        disk = Arc::new(client(&socket));
    }
    let forced = Arc::new(Forced { socket, spare: Mutex::default() });
    let writer = forced.clone();
    let guest = Guest::new(disk, &log).with_through(Arc::new(move |at, data| writer.write(flags, at, data)));
    guest.run(4, 60, seed);
    let expect = guest.expect();
    forced.spare.lock().unwrap().clear();
    drop(guest);
    // The last first: each uses the one before.
    while let Some(last) = serving.pop() {
        drop(last);
    }
    let list = log.take();
    let expect = expect.with(&list);
    assert!(list.iter().any(|op| matches!(op, Op::FlushEnds { .. })));
    let mut cuts = 0;
    let hosts = (0..2).map(|n| Cut::anyhow(vec![0; BYTES], seed + n));
    for mut host in std::iter::once(Cut::orderly(vec![0; BYTES])).chain(hosts) {
        for place in (0..=list.len()).step_by(each) {
            expect.judge(&host.at(&list, place), place, &format!("{servers} servers, seed {seed}, cut at {place}"));
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn a_forced_write_is_durable_when_it_is_answered() {
    let cuts: usize = (1..=3).map(|seed| run(1, FUA, seed, visor_test_disks::apart(5))).sum();
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn also_through_a_server_that_is_a_client() {
    let cuts: usize = (4..=5).map(|seed| run(2, FUA, seed, visor_test_disks::apart(5))).sum();
    assert!(cuts > 300, "{cuts}");
}

/// The judge is no yea-sayer: without the flag the same writes are not durable yet, and that shows.
#[test]
fn without_the_flag_they_are_not() {
    assert!(std::panic::catch_unwind(|| run(1, 0, 6, 5)).is_err());
}
