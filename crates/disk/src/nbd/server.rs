//! The server: disks of this host as exports for others.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use visor_block::{BlockBackend, BlockBuffer, BlockError, BlockErrorKind, BlockOp, BlockRequest, SECTOR, Sector};

use super::address::Stream;
use super::wire::*;

/// Connections served at a time.
const MAX_CONNECTIONS: usize = 64;
/// Requests of one connection under way.
const MAX_OPEN: usize = 64;
/// Options that a client may ask for before it chooses an export.
const MAX_OPTIONS: usize = 64;
/// Time that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// A disk that is offered.
#[derive(Clone)]
pub struct NbdExport {
    /// The disk.
    pub backend: Arc<dyn BlockBackend>,
    /// Nobody may write.
    pub read_only: bool,
}

/// A server, listening.
pub struct NbdServer {
    listener: Listener,
    exports: Arc<BTreeMap<String, NbdExport>>,
    stop: Arc<AtomicBool>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl NbdServer {
    /// Listens at an address such as `127.0.0.1:10809`. There is no encryption and no authentication: whoever reaches the
    /// address has the disks.
    ///
    /// # Errors
    /// The host's.
    pub fn tcp(address: &str, exports: BTreeMap<String, NbdExport>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::new(Listener::Tcp(listener), exports))
    }

    /// Listens at a socket of this host, which only its owner can reach if its folder says so.
    ///
    /// # Errors
    /// The host's; also if the path exists.
    pub fn unix(socket: &Path, exports: BTreeMap<String, NbdExport>) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok(Self::new(Listener::Unix(listener), exports))
    }

    fn new(listener: Listener, exports: BTreeMap<String, NbdExport>) -> Self {
        NbdServer { listener, exports: Arc::new(exports), stop: Arc::default() }
    }

    /// The port, where it listens at TCP.
    pub fn port(&self) -> Option<u16> {
        match &self.listener {
            Listener::Tcp(l) => l.local_addr().ok().map(|a| a.port()),
            Listener::Unix(_) => None,
        }
    }

    /// Ends [`NbdServer::serve`] when it is set.
    pub fn stopper(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Serves until it is stopped. What is under way then is finished.
    ///
    /// # Errors
    /// The host's, where it gives no connections any more.
    pub fn serve(&self) -> io::Result<()> {
        let count = Arc::new(());
        let open: Arc<Mutex<Vec<Arc<Stream>>>> = Arc::default();
        thread::scope(|scope| {
            let result = loop {
                if self.stop.load(Ordering::Relaxed) {
                    break Ok(());
                }
                let accepted = match &self.listener {
                    Listener::Tcp(l) => l.accept().map(|(s, _)| Stream::Tcp(s)),
                    Listener::Unix(l) => l.accept().map(|(s, _)| Stream::Unix(s)),
                };
                match accepted {
                    Ok(stream) if Arc::strong_count(&count) <= MAX_CONNECTIONS => {
                        let (held, exports, open) = (count.clone(), self.exports.clone(), open.clone());
                        let stream = Arc::new(stream);
                        lock(&open).push(stream.clone());
                        scope.spawn(move || {
                            if let Err(e) = connection(&stream, &exports) {
                                tracing::debug!("a client left: {e}");
                            }
                            stream.shut();
                            lock(&open).retain(|s| !Arc::ptr_eq(s, &stream));
                            drop(held);
                        });
                    }
                    // One too many.
                    Ok(stream) => stream.shut(),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(20)),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => break Err(e),
                }
            };
            lock(&open).iter().for_each(|s| s.shut());
            result
        })
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one client.
fn connection(stream: &Arc<Stream>, exports: &BTreeMap<String, NbdExport>) -> io::Result<()> {
    stream.blocking()?;
    stream.limit(Some(HANDSHAKE))?;
    let mut reader = BufReader::with_capacity(256 << 10, stream.try_clone()?);
    let Some(export) = negotiate(stream, &mut reader, exports)? else { return Ok(()) };
    stream.limit(None)?;
    transmit(stream, &mut reader, &export)
}

/// Answers options until the client has chosen.
fn negotiate(
    stream: &Stream,
    reader: &mut dyn Read,
    exports: &BTreeMap<String, NbdExport>,
) -> io::Result<Option<NbdExport>> {
    let mut hello = MAGIC.to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    stream.send(&hello)?;
    let flags = u32_from(reader)?;
    for _ in 0..MAX_OPTIONS {
        if u64_from(reader)? != OPTION_MAGIC {
            return Err(protocol("an option does not start as one"));
        }
        let (option, len) = (u32_from(reader)?, u32_from(reader)? as usize);
        if len > 2 * MAX_NAME {
            return Err(protocol("an option that is too long"));
        }
        let mut data = vec![0; len];
        reader.read_exact(&mut data)?;
        match option {
            OPT_EXPORT_NAME => {
                let Some(export) = choose(exports, &data) else { return Ok(None) };
                let mut answer = size(export).to_be_bytes().to_vec();
                answer.extend(flags_of(export).to_be_bytes());
                if flags & u32::from(NO_ZEROES) == 0 {
                    answer.extend([0; 124]);
                }
                stream.send(&answer)?;
                return Ok(Some(export.clone()));
            }
            OPT_ABORT => {
                stream.send(&answer(option, REP_ACK, &[]))?;
                return Ok(None);
            }
            OPT_LIST => {
                let mut all = Vec::new();
                for name in exports.keys() {
                    let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                    entry.extend(name.as_bytes());
                    all.extend(answer(option, REP_SERVER, &entry));
                }
                all.extend(answer(option, REP_ACK, &[]));
                stream.send(&all)?;
            }
            OPT_INFO | OPT_GO => {
                if let Some(export) = info(stream, option, &data, exports)?.filter(|_| option == OPT_GO) {
                    return Ok(Some(export));
                }
            }
            _ => stream.send(&answer(option, REP_ERR_UNSUPPORTED, &[]))?,
        }
    }
    Err(protocol("too many options"))
}

/// Answers what an export is.
fn info(
    stream: &Stream,
    option: u32,
    data: &[u8],
    exports: &BTreeMap<String, NbdExport>,
) -> io::Result<Option<NbdExport>> {
    let len = data.get(..4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let Some(name) = data.get(4..).and_then(|d| d.get(..len)) else {
        stream.send(&answer(option, REP_ERR_INVALID, &[]))?;
        return Ok(None);
    };
    let Some(export) = choose(exports, name) else {
        stream.send(&answer(option, REP_ERR_UNKNOWN, b"no such export"))?;
        return Ok(None);
    };
    let mut about = INFO_EXPORT.to_be_bytes().to_vec();
    about.extend(size(export).to_be_bytes());
    about.extend(flags_of(export).to_be_bytes());
    let mut blocks = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
    for n in [SECTOR as u32, export.backend.geometry().physical_block, MAX_DATA] {
        blocks.extend(n.to_be_bytes());
    }
    let mut all = answer(option, REP_INFO, &about);
    all.extend(answer(option, REP_INFO, &blocks));
    all.extend(answer(option, REP_ACK, &[]));
    stream.send(&all)?;
    Ok(Some(export.clone()))
}

/// The export of that name; with an empty name the only one.
fn choose<'a>(exports: &'a BTreeMap<String, NbdExport>, name: &[u8]) -> Option<&'a NbdExport> {
    let name = std::str::from_utf8(name).ok()?;
    exports.get(name).or_else(|| exports.values().next().filter(|_| name.is_empty() && exports.len() == 1))
}

fn answer(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut b = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    b.extend(option.to_be_bytes());
    b.extend(kind.to_be_bytes());
    b.extend((data.len() as u32).to_be_bytes());
    b.extend(data);
    b
}

fn size(e: &NbdExport) -> u64 {
    e.backend.geometry().sectors * SECTOR
}

fn flags_of(e: &NbdExport) -> u16 {
    let write = SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES;
    HAS_FLAGS | CAN_MULTI_CONN | write | if is_read_only(e) { READ_ONLY } else { 0 }
}

fn is_read_only(e: &NbdExport) -> bool {
    e.read_only || e.backend.geometry().read_only
}

/// Requests of a connection under way.
#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    less: Condvar,
}

/// Serves requests until the client leaves.
fn transmit(stream: &Arc<Stream>, reader: &mut dyn Read, export: &NbdExport) -> io::Result<()> {
    let open = Arc::new(Open::default());
    let writer = Arc::new(Mutex::new(stream.clone()));
    let result = requests(reader, export, &open, &writer);
    // Answers go to the connection, which must live as long as they may come.
    let mut n = lock(&open.count);
    while *n > 0 {
        n = open.less.wait(n).unwrap_or_else(PoisonError::into_inner);
    }
    result
}

fn requests(
    reader: &mut dyn Read,
    export: &NbdExport,
    open: &Arc<Open>,
    writer: &Arc<Mutex<Arc<Stream>>>,
) -> io::Result<()> {
    loop {
        let head = Request::read(reader)?;
        if head.command == CMD_DISCONNECT {
            return Ok(());
        }
        let mut data = Vec::new();
        if head.command == CMD_WRITE || head.command == CMD_READ {
            if head.len > MAX_DATA {
                return Err(protocol("a request of too much data"));
            }
            data = vec![0; head.len as usize];
        }
        if head.command == CMD_WRITE {
            reader.read_exact(&mut data)?;
        }
        let mut n = lock(&open.count);
        while *n >= MAX_OPEN {
            n = open.less.wait(n).unwrap_or_else(PoisonError::into_inner);
        }
        *n += 1;
        drop(n);
        start(head, data, export, open.clone(), writer.clone());
    }
}

/// Starts a request. It answers when it is done.
fn start(head: Request, data: Vec<u8>, export: &NbdExport, open: Arc<Open>, writer: Arc<Mutex<Arc<Stream>>>) {
    let buffer = Bytes(Arc::new(Mutex::new(data)));
    let shown = buffer.clone();
    let done = move |error: u32| {
        let mut message = reply(error, head.cookie).to_vec();
        if head.command == CMD_READ && error == 0 {
            message.extend_from_slice(&lock(&shown.0));
        }
        // Where that fails the client is gone, which the reader notices.
        let _ = lock(&writer).send(&message);
        *lock(&open.count) -= 1;
        open.less.notify_all();
    };
    let op = match head.command {
        CMD_READ => BlockOp::Read,
        CMD_WRITE => BlockOp::Write,
        CMD_FLUSH => BlockOp::Flush,
        CMD_TRIM => BlockOp::Discard,
        CMD_WRITE_ZEROES => BlockOp::WriteZeroes { may_unmap: head.flags & FLAG_NO_HOLE == 0 },
        _ => return done(EINVAL),
    };
    if is_read_only(export) && !matches!(op, BlockOp::Read | BlockOp::Flush) {
        return done(EPERM);
    }
    if op != BlockOp::Flush && (!head.at.is_multiple_of(SECTOR) || !u64::from(head.len).is_multiple_of(SECTOR)) {
        return done(EINVAL);
    }
    let backend = export.backend.clone();
    let durable = head.flags & FLAG_FUA != 0 && !matches!(op, BlockOp::Read | BlockOp::Flush);
    let finish = move |result: Result<(), BlockError>| match result {
        Ok(()) if durable => {
            let empty = Box::new(Bytes(Arc::default()));
            let done = move |r| done(code(r));
            backend.submit(BlockRequest::new(BlockOp::Flush, Sector(0), 0, empty, done));
        }
        result => done(code(result)),
    };
    let at = if op == BlockOp::Flush { 0 } else { head.at / SECTOR };
    let len = if op == BlockOp::Flush { 0 } else { u64::from(head.len) };
    export.backend.submit(BlockRequest::new(op, Sector(at), len, Box::new(buffer), finish));
}

fn code(result: Result<(), BlockError>) -> u32 {
    match result.map_err(|e| e.kind) {
        Ok(()) => 0,
        Err(BlockErrorKind::NoSpace) => ENOSPC,
        Err(BlockErrorKind::ReadOnly) => EPERM,
        Err(BlockErrorKind::OutOfRange) => EINVAL,
        Err(BlockErrorKind::Unsupported) => ENOTSUP,
        Err(_) => EIO,
    }
}

/// Data of a request.
#[derive(Clone)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl BlockBuffer for Bytes {
    fn len(&self) -> usize {
        lock(&self.0).len()
    }

    fn put(&mut self, offset: usize, data: &[u8]) -> Result<(), BlockError> {
        let mut bytes = lock(&self.0);
        bytes.get_mut(offset..offset + data.len()).ok_or_else(outside)?.copy_from_slice(data);
        Ok(())
    }

    fn get(&self, offset: usize, data: &mut [u8]) -> Result<(), BlockError> {
        data.copy_from_slice(lock(&self.0).get(offset..offset + data.len()).ok_or_else(outside)?);
        Ok(())
    }
}

fn outside() -> BlockError {
    BlockError::new(BlockErrorKind::BadBuffer, "outside the buffer")
}
