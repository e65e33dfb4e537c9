//! The machine's side: a thread that accepts, and one per client.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::lines::{LineError, Lines};
use crate::message::{Answer, MAX_REQUEST, Refusal, RefusalKind, Request, VERSION, line};
use crate::place::Place;

/// Most clients served at once.
pub const MAX_CLIENTS: usize = 32;
/// How long a client may say nothing between two requests.
const IDLE: Duration = Duration::from_secs(600);
/// How long a request's line may take to arrive, and an answer to be taken.
const LINE: Duration = Duration::from_secs(10);
/// How long the end waits for answers under way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// The longest path of a socket, less one (unix(7): `sun_path`).
const MAX_PATH: usize = 107;

/// What a verb gives back.
pub enum Reply {
    /// A value.
    Value(Value),
    /// A value, and bytes behind it.
    Payload(Value, Vec<u8>),
    /// A value, after which the connection is the function's: it is called in the client's thread once the answer is sent, and
    /// the connection is closed when it returns. Reads block without limit until it sets one.
    Stream(Value, Box<dyn FnOnce(UnixStream) + Send>),
}

impl Reply {
    /// Done, with nothing to tell.
    pub fn done() -> Self {
        Reply::Value(json!({}))
    }

    /// Anything that can be written down.
    ///
    /// # Errors
    /// What cannot: maps whose keys are no strings.
    pub fn of(value: &impl Serialize) -> Result<Self, Refusal> {
        serde_json::to_value(value).map(Reply::Value).map_err(|e| Refusal::failed(&e))
    }
}

/// Does what is asked for.
pub trait Handler: Send + Sync {
    /// Does `verb`. Called from several threads at once.
    ///
    /// # Errors
    /// Why it was not done.
    fn handle(&self, verb: &str, args: Value) -> Result<Reply, Refusal>;
}

/// A socket that is served until this is dropped.
pub struct Server {
    listener: UnixListener,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Arc<dyn Handler>,
    stopping: AtomicBool,
    clients: Mutex<BTreeMap<u64, UnixStream>>,
}

impl Server {
    /// Serves the socket of `place`, whose name must be this process's (see [`crate::Claim`]).
    ///
    /// # Errors
    /// What the system says.
    pub fn start(place: &Place, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let path = place.socket();
        let _ = std::fs::remove_file(&path);
        let listener = at(place, |p| UnixListener::bind(p))?;
        // Nobody else gets into the directory; this is for who copies it.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        let shared = Arc::new(Shared { handler, stopping: AtomicBool::new(false), clients: Mutex::default() });
        let (acceptor, s) = (listener.try_clone()?, shared.clone());
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || accept(&acceptor, &s))?;
        Ok(Server { listener, shared, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // On Linux this ends an accept that waits.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.hang_up(std::net::Shutdown::Read);
        let end = Instant::now() + LAST_ANSWERS;
        while !self.shared.clients().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.hang_up(std::net::Shutdown::Both);
    }
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, UnixStream>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hang_up(&self, how: std::net::Shutdown) {
        self.clients().values().for_each(|c| _ = c.shutdown(how));
    }
}

/// Calls `f` with a path to the socket of `place` that the system takes, whatever its length.
pub(crate) fn at<T>(place: &Place, f: impl FnOnce(&PathBuf) -> io::Result<T>) -> io::Result<T> {
    let path = place.socket();
    if path.as_os_str().len() <= MAX_PATH {
        return f(&path);
    }
    let directory = std::fs::File::open(place.directory())?;
    f(&PathBuf::from(format!("/proc/self/fd/{}/control.sock", directory.as_raw_fd())))
}

fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    for id in 0u64.. {
        let accepted = listener.accept();
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Too many open files, for one, pass.
                tracing::warn!(error = %e, "a client of the control socket cannot be served");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if shared.clients().len() >= MAX_CLIENTS {
            let what = format!("this machine serves {MAX_CLIENTS} clients at once, and it has that many");
            let _ = send(&stream, &Answer::error(Refusal::new(RefusalKind::Busy, what)), &[]);
            continue;
        }
        let Ok(copy) = stream.try_clone() else { continue };
        shared.clients().insert(id, copy);
        let client = Client { id, shared: shared.clone() };
        // A thread that cannot be made drops the client.
        let _ = std::thread::Builder::new().name("control client".into()).spawn(move || client.serve(stream));
    }
}

/// A client; it counts as one until this is dropped, however its thread ends.
struct Client {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(stream) = self.shared.clients().remove(&self.id) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Client {
    fn serve(self, stream: UnixStream) {
        let mut lines = Lines::new(stream);
        loop {
            let request = match lines.next(MAX_REQUEST, Some(IDLE), LINE) {
                Ok(line) => line,
                Err(e) => return complain(lines.stream(), &e),
            };
            let (answer, payload, then) = match self.answer(&request) {
                Ok(Reply::Value(v)) => (Answer::ok(v, 0), Vec::new(), None),
                Ok(Reply::Payload(v, bytes)) => (Answer::ok(v, bytes.len()), bytes, None),
                Ok(Reply::Stream(v, then)) => (Answer::ok(v, 0), Vec::new(), Some(then)),
                Err(refusal) => (Answer::error(refusal), Vec::new(), None),
            };
            if send(lines.stream(), &answer, &payload).is_err() {
                return;
            }
            if let Some(then) = then {
                // Who has sent more already does not know what it talks to.
                let Some(stream) = lines.into_stream() else { return };
                let _ = stream.set_read_timeout(None);
                return then(stream);
            }
        }
    }

    fn answer(&self, line: &[u8]) -> Result<Reply, Refusal> {
        let malformed = |e| Refusal::new(RefusalKind::Malformed, format!("the line is no request: {e}"));
        let version = |v: &Value| v.get("v").and_then(Value::as_u64);
        let value: Value = serde_json::from_slice(line).map_err(malformed)?;
        if let Some(v) = version(&value).filter(|v| *v != u64::from(VERSION)) {
            let what = format!("the machine speaks version {VERSION} of the control protocol, not {v}");
            return Err(Refusal::new(RefusalKind::Version, what)
                .hint(format!("use visor {}, with which it was started", env!("CARGO_PKG_VERSION"))));
        }
        let request: Request = serde_json::from_value(value).map_err(malformed)?;
        self.shared.handler.handle(&request.verb, request.args)
    }
}

/// Tells a client what is wrong with what it sent, if that is it.
fn complain(stream: &UnixStream, error: &LineError) {
    let what = match error {
        LineError::TooLong => format!("a request has {MAX_REQUEST} bytes at most"),
        LineError::TimedOut => "the request did not come in time".to_owned(),
        LineError::Closed | LineError::Io(_) => return,
    };
    let _ = send(stream, &Answer::error(Refusal::new(RefusalKind::Malformed, what)), &[]);
}

fn send(mut stream: &UnixStream, answer: &Answer, payload: &[u8]) -> io::Result<()> {
    stream.set_write_timeout(Some(LINE))?;
    stream.write_all(&line(answer)?)?;
    stream.write_all(payload)
}
