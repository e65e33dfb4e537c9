//! The client: a disk that is an export of a server.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use visor_block::{BlockBackend, BlockError, BlockErrorKind, BlockGeometry, BlockOp, BlockRequest, SECTOR};

use super::address::NbdAddress;
use super::stream::Stream;
use super::tls::{TlsClient, TlsFiles};
use super::wire::*;

/// Time between attempts to connect again.
const RETRY: Duration = Duration::from_millis(200);
/// Time that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(20);

/// How to use an export.
#[derive(Clone, Debug)]
pub struct NbdOptions {
    /// Never write.
    pub read_only: bool,
    /// How long a lost connection is tried again before its requests fail.
    pub patience: Duration,
    /// What to use where the address wants TLS; by default the host's authorities, and no certificate of our own.
    pub tls: Option<TlsClient>,
}

impl Default for NbdOptions {
    fn default() -> Self {
        NbdOptions { read_only: false, patience: Duration::from_secs(60), tls: None }
    }
}

/// An export in use as a disk.
pub struct NbdDisk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: NbdAddress,
    options: NbdOptions,
    geometry: BlockGeometry,
    flags: u16,
    state: Mutex<State>,
    /// Nothing is under way.
    idle: Condvar,
    /// There is something to send and somewhere to send it, or the end has come.
    work: Condvar,
}

#[derive(Default)]
struct State {
    /// Where to send; nothing while there is no connection.
    stream: Option<Arc<Stream>>,
    /// Counts connections.
    generation: u64,
    /// To be sent on this connection.
    queue: VecDeque<u64>,
    /// Not answered yet, by cookie, which is also their order.
    open: BTreeMap<u64, Arc<Part>>,
    next: u64,
    /// The server was not to be had in time, or the disk is closed.
    ended: bool,
}

/// A part of a request, small enough for the protocol.
struct Part {
    whole: Arc<Whole>,
    head: Request,
    /// Where its data is in the buffer of the request.
    offset: usize,
}

/// A request under way.
struct Whole {
    state: Mutex<WholeState>,
}

struct WholeState {
    request: Option<BlockRequest>,
    left: usize,
    error: Option<BlockError>,
}

impl NbdDisk {
    /// Connects to `address`.
    ///
    /// # Errors
    /// [`BlockErrorKind::Io`] if there is no such server or export, or it speaks another protocol.
    pub fn connect(address: &NbdAddress, mut options: NbdOptions) -> Result<Self, BlockError> {
        let fail = |e| BlockError { kind: BlockErrorKind::Io, what: format!("cannot use {address}"), source: Some(e) };
        if address.tls() && options.tls.is_none() {
            options.tls = Some(TlsClient::new(&TlsFiles::default()).map_err(fail)?);
        }
        let (stream, size, flags) = handshake(address, options.tls.as_ref()).map_err(fail)?;
        let read_only = options.read_only || flags & READ_ONLY != 0;
        let geometry = BlockGeometry { sectors: size / SECTOR, physical_block: 4096, read_only };
        let reader = stream.try_clone().map_err(fail)?;
        let state = State { stream: Some(Arc::new(stream)), ..State::default() };
        let shared = Arc::new(Shared {
            address: address.clone(),
            options,
            geometry,
            flags,
            state: Mutex::new(state),
            idle: Condvar::new(),
            work: Condvar::new(),
        });
        // Two threads, because who waits for room to send must not keep answers from being read, for which the server waits.
        let mut disk = NbdDisk { shared: shared.clone(), threads: Vec::new() };
        let (receiver, sender) = (shared.clone(), shared);
        let named = |name: &str| thread::Builder::new().name(name.into());
        disk.threads.push(named("nbd-receive").spawn(move || receiver.receive(reader)).map_err(fail)?);
        disk.threads.push(named("nbd-send").spawn(move || sender.send()).map_err(fail)?);
        Ok(disk)
    }
}

impl BlockBackend for NbdDisk {
    fn geometry(&self) -> BlockGeometry {
        self.shared.geometry
    }

    fn submit(&self, request: BlockRequest) {
        match crate::request::check(&request, &self.shared.geometry) {
            Ok(at) => self.shared.submit(request, at),
            Err(e) => request.complete(Err(e)),
        }
    }

    fn drain(&self) {
        let mut s = self.shared.lock();
        while !s.open.is_empty() {
            s = self.shared.idle.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for NbdDisk {
    fn drop(&mut self) {
        self.drain();
        let mut s = self.shared.lock();
        s.ended = true;
        if let Some(stream) = s.stream.take() {
            let bye = Request { flags: 0, command: CMD_DISCONNECT, cookie: 0, at: 0, len: 0 };
            let _ = stream.send(&bye.emit());
            stream.shut();
        }
        drop(s);
        self.shared.work.notify_all();
        for t in self.threads.drain(..).filter(|t| t.thread().id() != thread::current().id()) {
            let _ = t.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, request: BlockRequest, at: u64) {
        let (command, flags, needs) = match request.op {
            BlockOp::Read => (CMD_READ, 0, 0),
            BlockOp::Write => (CMD_WRITE, 0, 0),
            BlockOp::Flush => (CMD_FLUSH, 0, SEND_FLUSH),
            BlockOp::Discard => (CMD_TRIM, 0, SEND_TRIM),
            BlockOp::WriteZeroes { may_unmap } => {
                (CMD_WRITE_ZEROES, if may_unmap { 0 } else { FLAG_NO_HOLE }, SEND_WRITE_ZEROES)
            }
        };
        if self.flags & needs != needs {
            let hint = matches!(request.op, BlockOp::Flush | BlockOp::Discard);
            let refused = || BlockError::new(BlockErrorKind::Unsupported, format!("{}: no such command", self.address));
            return request.complete(if hint { Ok(()) } else { Err(refused()) });
        }
        let total = if request.op == BlockOp::Flush { 0 } else { request.len };
        let most = if matches!(request.op, BlockOp::Read | BlockOp::Write) { u64::from(MAX_DATA) } else { 1 << 30 };
        let count = total.div_ceil(most).max(1) as usize;
        let whole = WholeState { request: Some(request), left: count, error: None };
        let whole = Arc::new(Whole { state: Mutex::new(whole) });
        let mut s = self.lock();
        for i in 0..count as u64 {
            let cookie = s.next;
            s.next += 1;
            let len = (total - i * most).min(most) as u32;
            let at = if command == CMD_FLUSH { 0 } else { at + i * most };
            let head = Request { flags, command, cookie, at, len };
            let part = Part { whole: whole.clone(), head, offset: (i * most) as usize };
            if s.ended {
                drop(s);
                part.finish(Err(lost(&self.address)));
                s = self.lock();
                continue;
            }
            s.open.insert(cookie, Arc::new(part));
            s.queue.push_back(cookie);
        }
        drop(s);
        self.work.notify_one();
    }

    /// Sends what is queued until the end.
    fn send(&self) {
        let mut s = self.lock();
        while !s.ended {
            let Some((stream, cookie)) = s.stream.clone().zip(s.queue.front().copied()) else {
                s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            s.queue.pop_front();
            let (generation, part) = (s.generation, s.open.get(&cookie).cloned());
            drop(s);
            let result = match part.map(Part::message) {
                None => Ok(()),
                Some(Ok(message)) => stream.send(&message),
                Some(Err((part, e))) => {
                    part.finish(Err(e));
                    self.done(cookie);
                    Ok(())
                }
            };
            s = self.lock();
            if result.is_err() && s.generation == generation {
                // The receiver notices, connects again, and everything unanswered is queued again.
                stream.shut();
                s.stream = None;
            }
        }
    }

    /// The part has its answer.
    fn done(&self, cookie: u64) {
        let mut s = self.lock();
        s.open.remove(&cookie);
        if s.open.is_empty() {
            self.idle.notify_all();
        }
    }

    /// Receives replies until the end; connects again where the connection is lost.
    fn receive(&self, stream: Stream) {
        let mut reader = BufReader::with_capacity(256 << 10, stream);
        loop {
            let e = match self.receive_one(&mut reader) {
                Ok(()) => continue,
                Err(e) => e,
            };
            self.lock().stream = None;
            if self.lock().ended {
                return;
            }
            tracing::warn!("{}: {e}; connecting again", self.address);
            match self.reconnect() {
                Some(stream) => reader = BufReader::with_capacity(256 << 10, stream),
                None => return,
            }
        }
    }

    fn receive_one(&self, from: &mut BufReader<Stream>) -> io::Result<()> {
        if u32_from(from)? != REPLY_MAGIC {
            return Err(protocol("a reply does not start as one"));
        }
        let (error, cookie) = (u32_from(from)?, u64_from(from)?);
        // It stays in the list until its data has come, so that it is asked for again if it does not.
        let (len, is_read) = match self.lock().open.get(&cookie) {
            Some(p) => (p.head.len as usize, p.head.command == CMD_READ),
            None => return Err(protocol("a reply to no request")),
        };
        let mut data = Vec::new();
        if error == 0 && is_read {
            data = vec![0; len];
            from.read_exact(&mut data)?;
        }
        let Some(part) = self.lock().open.get(&cookie).cloned() else { return Ok(()) };
        let result = match error {
            0 if is_read => part.put(&data),
            0 => Ok(()),
            e => Err(self.error(e)),
        };
        part.finish(result);
        self.done(cookie);
        Ok(())
    }

    fn error(&self, code: u32) -> BlockError {
        let kind = match code {
            ENOSPC => BlockErrorKind::NoSpace,
            EPERM => BlockErrorKind::ReadOnly,
            ENOTSUP => BlockErrorKind::Unsupported,
            EINVAL => BlockErrorKind::OutOfRange,
            _ => BlockErrorKind::Io,
        };
        BlockError::new(kind, format!("{} answers with error {code}", self.address))
    }

    /// A new connection on which everything unanswered was sent again; nothing when patience ends.
    fn reconnect(&self) -> Option<Stream> {
        let since = Instant::now();
        loop {
            if self.lock().ended {
                return None;
            }
            match handshake(&self.address, self.options.tls.as_ref()) {
                Ok((stream, size, flags)) => {
                    // Another disk under the same name is not the one the guest has mounted.
                    if size / SECTOR != self.geometry.sectors || flags & READ_ONLY & !self.flags != 0 {
                        tracing::error!("{}: the export has changed; its requests fail", self.address);
                        break;
                    }
                    if let Ok(reader) = stream.try_clone() {
                        let mut s = self.lock();
                        s.stream = Some(Arc::new(stream));
                        s.generation += 1;
                        s.queue = s.open.keys().copied().collect();
                        drop(s);
                        self.work.notify_all();
                        return Some(reader);
                    }
                }
                Err(e) => tracing::debug!("{}: {e}", self.address),
            }
            if since.elapsed() > self.options.patience {
                break;
            }
            thread::sleep(RETRY);
        }
        let mut s = self.lock();
        s.ended = true;
        let open = std::mem::take(&mut s.open);
        drop(s);
        open.into_values().for_each(|p| p.finish(Err(lost(&self.address))));
        self.idle.notify_all();
        self.work.notify_all();
        None
    }
}

impl Part {
    /// The message to send. An error where the guest's memory is gone: what would be written must not be made up.
    fn message(self: Arc<Self>) -> Result<Vec<u8>, (Arc<Self>, BlockError)> {
        let mut message = self.head.emit().to_vec();
        if self.head.command == CMD_WRITE {
            let start = message.len();
            message.resize(start + self.head.len as usize, 0);
            let whole = self.whole.state.lock().unwrap_or_else(PoisonError::into_inner);
            let got = whole.request.as_ref().map_or(Ok(()), |r| r.buffer.get(self.offset, &mut message[start..]));
            drop(whole);
            if let Err(e) = got {
                return Err((self, e));
            }
        }
        Ok(message)
    }

    fn put(&self, data: &[u8]) -> Result<(), BlockError> {
        let mut whole = self.whole.state.lock().unwrap_or_else(PoisonError::into_inner);
        whole.request.as_mut().map_or(Ok(()), |r| r.buffer.put(self.offset, data))
    }

    /// The part is done; the last one completes the request.
    fn finish(&self, result: Result<(), BlockError>) {
        let mut whole = self.whole.state.lock().unwrap_or_else(PoisonError::into_inner);
        whole.left -= 1;
        if let Err(e) = result {
            whole.error.get_or_insert(e);
        }
        if whole.left == 0 {
            let (request, error) = (whole.request.take(), whole.error.take());
            drop(whole);
            if let Some(request) = request {
                request.complete(error.map_or(Ok(()), Err));
            }
        }
    }
}

fn lost(address: &NbdAddress) -> BlockError {
    BlockError::new(BlockErrorKind::Io, format!("{address} has not answered in time"))
}

/// Connects and chooses the export. Returns the connection, the size and the flags.
fn handshake(address: &NbdAddress, tls: Option<&TlsClient>) -> io::Result<(Stream, u64, u16)> {
    let mut s = address.connect(HANDSHAKE)?;
    s.limit(Some(HANDSHAKE))?;
    if u64_from(&mut s)? != MAGIC || u64_from(&mut s)? != OPTION_MAGIC {
        return Err(protocol("this is no NBD server of the newstyle kind"));
    }
    let offered = u16_from(&mut s)?;
    if offered & FIXED_NEWSTYLE == 0 {
        return Err(protocol("the server knows no options"));
    }
    s.send(&u32::from(offered & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
    // Without TLS where it is wanted, nothing more is said, not even which export.
    if let Some(tls) = tls.filter(|_| address.tls()) {
        s = start_tls(s, tls, address)?;
    }
    let name = address.export().as_bytes();
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name);
    data.extend([0, 0]);
    option(&s, OPT_GO, &data)?;
    let mut export = None;
    loop {
        let (kind, body) = answer(&mut s, OPT_GO)?;
        match kind {
            REP_ACK => break,
            REP_INFO if body.len() >= 12 && body[..2] == INFO_EXPORT.to_be_bytes() => {
                let mut rest = &body[2..];
                export = Some((u64_from(&mut rest)?, u16_from(&mut rest)?));
            }
            REP_INFO => {}
            REP_ERR_TLS_REQUIRED => return Err(protocol("the server wants TLS: write nbds:// instead of nbd://")),
            kind => {
                let why = String::from_utf8_lossy(&body).into_owned();
                let what = if kind == REP_ERR_UNKNOWN { "no such export" } else { "the server refuses" };
                return Err(protocol(&format!("{what} (`{}`) {why}", address.export())));
            }
        }
    }
    s.limit(None)?;
    let (size, flags) = export.ok_or_else(|| protocol("the server does not say how large the export is"))?;
    if size == 0 || size > i64::MAX as u64 {
        return Err(protocol("an export of impossible size"));
    }
    Ok((s, size, flags))
}

fn start_tls(mut s: Stream, tls: &TlsClient, address: &NbdAddress) -> io::Result<Stream> {
    option(&s, OPT_STARTTLS, &[])?;
    match answer(&mut s, OPT_STARTTLS)? {
        (REP_ACK, _) => s.secure(tls.connection(address.host())?),
        _ => Err(protocol("the server has no TLS")),
    }
}

/// A reply to an option: its kind and data.
fn answer(s: &mut Stream, option: u32) -> io::Result<(u32, Vec<u8>)> {
    if u64_from(s)? != OPTION_REPLY_MAGIC || u32_from(s)? != option {
        return Err(protocol("an answer to another question"));
    }
    let (kind, len) = (u32_from(s)?, u32_from(s)? as usize);
    if len > MAX_NAME * 2 {
        return Err(protocol("an answer that is too long"));
    }
    let mut body = vec![0; len];
    s.read_exact(&mut body)?;
    Ok((kind, body))
}

fn option(s: &Stream, option: u32, data: &[u8]) -> io::Result<()> {
    let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
    message.extend(option.to_be_bytes());
    message.extend((data.len() as u32).to_be_bytes());
    message.extend(data);
    s.send(&message)
}
