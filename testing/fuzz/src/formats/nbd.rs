//! Both ends of the network block device protocol, each with a peer that lies.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use visor_block::SharedBuffer;
use visor_block::{BlockBackend, BlockOp};
use visor_disk::testing::run as request;
use visor_disk::{NbdAddress, NbdDisk, NbdExport, NbdOptions, NbdServer};

use super::sandbox::SANDBOX;
use crate::Script;
use crate::disk::MemoryDisk;

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;

/// The server, served for as long as the process lives.
static SERVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = SANDBOX.path("nbd-server");
    let export = NbdExport { backend: MemoryDisk::new(256, false), read_only: false, allow: None };
    let exports = BTreeMap::from([(String::new(), export.clone()), ("disk".to_owned(), export)]);
    let server = NbdServer::unix(&path, exports).expect("the path is free");
    std::thread::spawn(move || server.serve());
    path
});

pub(super) fn server(data: &[u8]) {
    let mut stream = UnixStream::connect(&*SERVER).expect("the server listens");
    let limit = Some(Duration::from_secs(30));
    stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit)).expect("it is a time");
    // The other way round a client that does not read its answers would wait for a server that cannot write them.
    let mut reader = stream.try_clone().expect("a descriptor can be had");
    let answers = std::thread::spawn(move || {
        let (mut buffer, mut all) = ([0; 4096], 0);
        while let Ok(n) = reader.read(&mut buffer)
            && n > 0
        {
            all += n;
        }
        all
    });
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let _ = answers.join().expect("the reader does not panic");
}

fn be(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    be(&[&OPTION.to_be_bytes(), &number.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data])
}

fn command(kind: u16, at: u64, len: u32, data: &[u8]) -> Vec<u8> {
    be(&[
        &0x2560_9513u32.to_be_bytes(),
        &[0, 0],
        &kind.to_be_bytes(),
        &7u64.to_be_bytes(),
        &at.to_be_bytes(),
        &len.to_be_bytes(),
        data,
    ])
}

pub(super) fn server_seeds() -> Vec<Vec<u8>> {
    let hello = 3u32.to_be_bytes();
    let go = option(7, &be(&[&[0, 0, 0, 4], b"disk", &[0, 2, 0, 1, 0, 3]]));
    let work = be(&[
        &command(0, 512, 1024, &[]),
        &command(1, 0, 512, &[5; 512]),
        &command(3, 0, 0, &[]),
        &command(4, 0, 4096, &[]),
        &command(6, 4096, 512, &[]),
        &command(2, 0, 0, &[]),
    ]);
    vec![
        be(&[&hello, &go, &work]),
        be(&[&hello, &option(3, &[]), &option(6, &[0, 0, 0, 0, 0, 0]), &option(8, &[]), &option(2, &[])]),
        be(&[&hello, &option(1, b"disk"), &work]),
        be(&[&hello, &option(5, &[]), &[22, 3, 1, 0, 5]]),
        be(&[&hello, &go, &command(0, u64::MAX, u32::MAX, &[]), &command(1, 0, 1 << 30, &[])]),
    ]
}

/// The client's peer: a thread that says to the first connection what the input says, and hangs up on those that come after it.
struct Liar {
    path: PathBuf,
    next: Arc<Mutex<Option<Vec<u8>>>>,
}

static LIAR: LazyLock<Liar> = LazyLock::new(|| {
    let path = SANDBOX.path("nbd-liar");
    let listener = UnixListener::bind(&path).expect("the path is free");
    let next = Arc::new(Mutex::new(None));
    let lie: Arc<Mutex<Option<Vec<u8>>>> = next.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let Some(data) = lie.lock().expect("nobody panicked").take() else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.write_all(&data);
            let _ = stream.shutdown(Shutdown::Write);
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        }
    });
    Liar { path, next }
});

pub(super) fn client(data: &[u8]) {
    let liar = &*LIAR;
    *liar.next.lock().expect("nobody panicked") = Some(data.to_vec());
    let address = NbdAddress::Unix { socket: liar.path.clone(), export: "disk".into(), tls: false };
    let options = NbdOptions { patience: Duration::ZERO, ..NbdOptions::default() };
    if let Ok(disk) = NbdDisk::connect(&address, options) {
        let sectors = disk.geometry().sectors;
        let buffer = || Box::new(SharedBuffer::new(vec![0; 1024]));
        let _ = request(&disk, BlockOp::Read, 0, 1024, buffer());
        let _ = request(&disk, BlockOp::Write, sectors.saturating_sub(2), 1024, buffer());
    }
}

pub(super) fn client_seeds() -> Vec<Vec<u8>> {
    let hello = be(&[&MAGIC.to_be_bytes(), &OPTION.to_be_bytes(), &[0, 3]]);
    let reply = |option: u32, kind: u32, data: &[u8]| {
        be(&[
            &OPTION_REPLY.to_be_bytes(),
            &option.to_be_bytes(),
            &kind.to_be_bytes(),
            &(data.len() as u32).to_be_bytes(),
            data,
        ])
    };
    let info = |size: u64, flags: u16| reply(7, 3, &be(&[&[0, 0], &size.to_be_bytes(), &flags.to_be_bytes()]));
    let ack = reply(7, 1, &[]);
    let blocks = reply(7, 3, &be(&[&[0, 3], &1u32.to_be_bytes(), &4096u32.to_be_bytes(), &(1u32 << 25).to_be_bytes()]));
    let data = be(&[&0x6744_6698u32.to_be_bytes(), &0u32.to_be_bytes(), &0u64.to_be_bytes(), &[7; 1024]]);
    let data1 = be(&[&0x6744_6698u32.to_be_bytes(), &0u32.to_be_bytes(), &1u64.to_be_bytes(), &[7; 1024]]);
    vec![
        be(&[&hello, &info(1 << 20, 0x6d), &blocks, &ack, &data, &data1]),
        be(&[&hello, &info(u64::MAX, 0xffff), &ack, &data]),
        be(&[&hello, &reply(7, 0x8000_0006, b"no such export")]),
        be(&[&hello, &reply(7, 0x8000_0001, &[]), &be(&[&(1u64 << 20).to_be_bytes(), &[0, 1], &[0; 124]])]),
        be(&[&MAGIC.to_be_bytes(), &0x0000_4202_8186_1253u64.to_be_bytes(), &[0; 140]]),
        Script::new().raw(&hello).end(),
    ]
}
