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

use visor_block::{BlockBackend, BlockError, BlockErrorKind, BlockOp, BlockRequest, SECTOR, Sector, SharedBuffer};

use super::stream::Stream;
use super::tls::{TlsServer, is_allowed};
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
    /// Only for clients with one of these certificates: DNS names in them, or `sha256:` and a fingerprint. For others it does not
    /// exist. Needs a server with TLS that asks for certificates.
    pub allow: Option<Vec<String>>,
}

/// A server, listening.
pub struct NbdServer {
    listener: Listener,
    exports: Arc<BTreeMap<String, NbdExport>>,
    tls: Option<TlsServer>,
    stop: Arc<AtomicBool>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl NbdServer {
    /// Listens at an address such as `127.0.0.1:10809`. Without [`NbdServer::secured`] there is no encryption and
    /// no authentication: whoever reaches the address has the disks.
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
        NbdServer { listener, exports: Arc::new(exports), tls: None, stop: Arc::default() }
    }

    /// The same, speaking TLS only.
    pub fn secured(self, tls: TlsServer) -> Self {
        NbdServer { tls: Some(tls), ..self }
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
                    Listener::Tcp(l) => l.accept().map(|(s, _)| Stream::from(s)),
                    Listener::Unix(l) => l.accept().map(|(s, _)| Stream::from(s)),
                };
                match accepted {
                    Ok(stream) if Arc::strong_count(&count) <= MAX_CONNECTIONS => {
                        let (held, exports, open) = (count.clone(), self.exports.clone(), open.clone());
                        let tls = self.tls.clone();
                        let stream = Arc::new(stream);
                        lock(&open).push(stream.clone());
                        scope.spawn(move || {
                            if let Err(e) = connection(&stream, &exports, tls.as_ref()) {
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

/// How the talk about exports ended.
enum Outcome {
    Export(NbdExport),
    Left,
    StartTls,
}

/// Serves one client.
fn connection(stream: &Stream, exports: &BTreeMap<String, NbdExport>, tls: Option<&TlsServer>) -> io::Result<()> {
    stream.blocking()?;
    stream.limit(Some(HANDSHAKE))?;
    // Nothing is read ahead before the transmission, since what follows STARTTLS is another protocol's.
    let mut stream = stream.try_clone()?;
    let mut hello = MAGIC.to_be_bytes().to_vec();
    hello.extend(OPTION_MAGIC.to_be_bytes());
    hello.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    stream.send(&hello)?;
    let flags = u32_from(&mut stream)?;
    let mut talk = Talk { flags, secure: false, tls: tls.is_some(), exports: visible(exports, None) };
    let mut outcome = talk.negotiate(&mut stream)?;
    if let (Outcome::StartTls, Some(tls)) = (&outcome, tls) {
        stream = stream.secure(tls.connection()?)?;
        talk = Talk { flags, secure: true, tls: true, exports: visible(exports, stream.peer().as_deref()) };
        outcome = talk.negotiate(&mut stream)?;
    }
    let Outcome::Export(export) = outcome else { return Ok(()) };
    stream.limit(None)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream.try_clone()?);
    transmit(&Arc::new(stream), &mut reader, &export)
}

/// The exports that exist for this client.
fn visible(exports: &BTreeMap<String, NbdExport>, peer: Option<&[u8]>) -> BTreeMap<String, NbdExport> {
    let may = |e: &NbdExport| match (&e.allow, peer) {
        (None, _) => true,
        (Some(allowed), Some(peer)) => is_allowed(peer, allowed),
        (Some(_), None) => false,
    };
    exports.iter().filter(|(_, e)| may(e)).map(|(n, e)| (n.clone(), e.clone())).collect()
}

/// The talk about exports.
struct Talk {
    flags: u32,
    /// This is inside TLS.
    secure: bool,
    /// There is TLS.
    tls: bool,
    exports: BTreeMap<String, NbdExport>,
}

impl Talk {
    /// Answers options until the client has chosen.
    fn negotiate(&self, stream: &mut Stream) -> io::Result<Outcome> {
        for _ in 0..MAX_OPTIONS {
            if u64_from(stream)? != OPTION_MAGIC {
                return Err(protocol("an option does not start as one"));
            }
            let (option, len) = (u32_from(stream)?, u32_from(stream)? as usize);
            if len > 2 * MAX_NAME {
                return Err(protocol("an option that is too long"));
            }
            let mut data = vec![0; len];
            stream.read_exact(&mut data)?;
            if let Some(outcome) = self.option(stream, option, &data)? {
                return Ok(outcome);
            }
        }
        Err(protocol("too many options"))
    }

    fn option(&self, stream: &Stream, option: u32, data: &[u8]) -> io::Result<Option<Outcome>> {
        match option {
            OPT_ABORT => {
                stream.send(&answer(option, REP_ACK, &[]))?;
                return Ok(Some(Outcome::Left));
            }
            OPT_STARTTLS if self.tls && !self.secure && data.is_empty() => {
                stream.send(&answer(option, REP_ACK, &[]))?;
                return Ok(Some(Outcome::StartTls));
            }
            OPT_STARTTLS if self.tls => stream.send(&answer(option, REP_ERR_INVALID, &[]))?,
            // This option has no way to say no.
            OPT_EXPORT_NAME if self.tls && !self.secure => return Ok(Some(Outcome::Left)),
            _ if self.tls && !self.secure => {
                stream.send(&answer(option, REP_ERR_TLS_REQUIRED, b"this server speaks TLS only"))?;
            }
            OPT_EXPORT_NAME => {
                let Some(export) = choose(&self.exports, data) else { return Ok(Some(Outcome::Left)) };
                let mut answer = size(export).to_be_bytes().to_vec();
                answer.extend(flags_of(export).to_be_bytes());
                if self.flags & u32::from(NO_ZEROES) == 0 {
                    answer.extend([0; 124]);
                }
                stream.send(&answer)?;
                return Ok(Some(Outcome::Export(export.clone())));
            }
            OPT_LIST => {
                let mut all = Vec::new();
                for name in self.exports.keys() {
                    let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                    entry.extend(name.as_bytes());
                    all.extend(answer(option, REP_SERVER, &entry));
                }
                all.extend(answer(option, REP_ACK, &[]));
                stream.send(&all)?;
            }
            OPT_INFO | OPT_GO => {
                let export = info(stream, option, data, &self.exports)?.filter(|_| option == OPT_GO);
                return Ok(export.map(Outcome::Export));
            }
            _ => stream.send(&answer(option, REP_ERR_UNSUPPORTED, &[]))?,
        }
        Ok(None)
    }
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
    let buffer = SharedBuffer::new(data);
    let shown = buffer.clone();
    let done = move |error: u32| {
        let mut message = reply(error, head.cookie).to_vec();
        if head.command == CMD_READ && error == 0 {
            message.extend_from_slice(&shown.take());
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
            let empty = Box::new(SharedBuffer::default());
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
