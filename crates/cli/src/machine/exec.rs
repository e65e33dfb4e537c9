//! `visor exec`, `visor shell`: a command in a guest that runs already.
//!
//! On the connection each side sends frames. To the machine: what the command reads, the end of that, the size of the terminal, signals.
//! From it: what the command writes, then how it ended.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use serde_json::json;
use visor_control::{read_frame, write_frame};

use super::find;
use crate::report::{FAILED as STATUS_FAILED, Failure, LEFT};
use crate::terminal::{self, Escape, Keys, RawTerminal};

/// Bytes for the command's standard input.
pub(crate) const STDIN: u8 = 0;
/// Bytes of its standard output.
pub(crate) const STDOUT: u8 = 1;
/// Bytes of its standard error.
pub(crate) const STDERR: u8 = 2;
/// Its exit status, one byte: the end.
pub(crate) const EXITED: u8 = 3;
/// An exit status and words: it could not be run, or was lost. The end.
pub(crate) const FAILED: u8 = 4;
/// The end of its standard input.
pub(crate) const STDIN_END: u8 = 5;
/// Columns and rows of the terminal, two bytes each, big endian.
pub(crate) const SIZE: u8 = 6;
/// The number of a signal.
pub(crate) const SIGNAL: u8 = 7;

/// Runs `argv` in the guest and gives its exit status; `banner` tells how to leave.
pub(super) fn exec(
    name: &str,
    argv: &[String],
    env: &[String],
    cwd: Option<&str>,
    banner: bool,
) -> Result<u8, Failure> {
    let target = find(name)?;
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut env = env.to_vec();
    if tty {
        env.extend(std::env::var("TERM").ok().map(|t| format!("TERM={t}")));
    }
    let size = tty.then(|| terminal::size().unwrap_or((80, 24)));
    let wish = json!({ "argv": argv, "env": env, "cwd": cwd.unwrap_or_default(), "tty": size });
    let connected = target.connect().and_then(|c| c.stream("exec.run", &wish));
    let (_, first, stream) = connected.map_err(|e| target.failure(e))?;
    if tty && banner {
        eprintln!("visor: leave with ctrl-] or ctrl-a x");
    }
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let copy: OwnedFd = wake.as_fd().try_clone_to_owned()?;
    terminal::catch_signals(copy)?;
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let left = Arc::new(AtomicBool::new(false));
    let to = Arc::new(Mutex::new(stream.try_clone()?));
    let hands = Hands { to: to.clone(), left: left.clone(), tty };
    // It ends with the process: nothing else ends a read of a terminal.
    std::thread::Builder::new().name("stdin".into()).spawn(move || hands.work())?;
    let done = Eyes { stream: &stream, first, wake, to, tty }.watch();
    drop(raw);
    match done {
        Err(_) | Ok(Ended::Gone) if left.load(Ordering::SeqCst) => Ok(LEFT),
        Ok(Ended::Exited(status)) => Ok(status),
        Ok(Ended::Failed(status, why)) => Err(Failure { status, ..Failure::new(format!("{name}: {why}")) }),
        Ok(Ended::Signal(s)) => Ok(128u8.saturating_add(s as u8)),
        Ok(Ended::Gone) => Err(Failure::new(format!("the machine `{name}` ended before the command"))),
        Err(e) => Err(e),
    }
}

/// A command's end, with what it wrote.
pub(crate) struct Captured {
    /// Its exit status.
    pub(crate) status: u8,
    /// Its standard output.
    pub(crate) out: Vec<u8>,
    /// Its standard error.
    pub(crate) err: Vec<u8>,
}

/// Most that is kept of each stream of a captured command.
const MOST_CAPTURED: usize = 1 << 20;

/// Runs `argv` in the guest without input and gives its end.
///
/// # Errors
/// Where the guest cannot run it, or the machine ends first.
pub(crate) fn capture(target: &super::Target, argv: &[String]) -> Result<Captured, Failure> {
    let connected = target.connect().and_then(|c| c.stream("exec.run", &json!({ "argv": argv, "tty": null })));
    let (_, first, stream) = connected.map_err(|e| target.failure(e))?;
    write_frame(&mut &stream, STDIN_END, &[])?;
    let mut from = std::io::Read::chain(std::io::Cursor::new(first), &stream);
    let mut captured = Captured { status: 0, out: Vec::new(), err: Vec::new() };
    let keep = |to: &mut Vec<u8>, bytes: &[u8]| {
        let room = MOST_CAPTURED.saturating_sub(to.len()).min(bytes.len());
        to.extend_from_slice(bytes.get(..room).unwrap_or_default());
    };
    loop {
        match read_frame(&mut from) {
            Ok(Some((STDOUT, bytes))) => keep(&mut captured.out, &bytes),
            Ok(Some((STDERR, bytes))) => keep(&mut captured.err, &bytes),
            Ok(Some((EXITED, status))) => {
                captured.status = status.first().copied().unwrap_or(STATUS_FAILED);
                return Ok(captured);
            }
            Ok(Some((FAILED, data))) => {
                let (status, why) = data.split_first().unwrap_or((&STATUS_FAILED, &[]));
                let why = String::from_utf8_lossy(why).into_owned();
                return Err(Failure { status: *status, ..Failure::new(format!("{}: {why}", target.name())) });
            }
            Ok(Some((kind, _))) => return Err(Failure::new(format!("a frame of the unknown kind {kind}"))),
            Ok(None) | Err(_) => {
                return Err(Failure::new(format!("the machine `{}` ended before the command", target.name())));
            }
        }
    }
}

enum Ended {
    Exited(u8),
    Failed(u8, String),
    Signal(Signal),
    Gone,
}

/// What is typed or read from a file, on its way to the command.
struct Hands {
    to: Arc<Mutex<UnixStream>>,
    left: Arc<AtomicBool>,
    tty: bool,
}

impl Hands {
    fn work(self) {
        let mut keys = Keys::default();
        let mut bytes = [0; 32 << 10];
        loop {
            let n = match nix::unistd::read(std::io::stdin().as_fd(), &mut bytes) {
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => continue,
                Ok(n) => n,
                Err(_) => 0,
            };
            let typed = bytes.get(..n).unwrap_or_default();
            let (mut passed, mut escape) = (Vec::new(), Escape::None);
            match self.tty {
                true => escape = keys.filter(typed, &mut passed),
                false => passed.extend(typed),
            }
            let Ok(mut to) = self.to.lock() else { return };
            if escape == Escape::Leave {
                self.left.store(true, Ordering::SeqCst);
                let _ = to.shutdown(std::net::Shutdown::Both);
                return;
            }
            let sent = match n {
                0 => write_frame(&mut *to, STDIN_END, &[]),
                _ => write_frame(&mut *to, STDIN, &passed),
            };
            if n == 0 || sent.is_err() {
                return;
            }
        }
    }
}

/// What the command writes, on its way out; and signals on their way in.
struct Eyes<'a> {
    stream: &'a UnixStream,
    /// Came with the answer.
    first: Vec<u8>,
    wake: EventFd,
    to: Arc<Mutex<UnixStream>>,
    tty: bool,
}

impl Eyes<'_> {
    fn watch(mut self) -> Result<Ended, Failure> {
        let mut signalled = false;
        let mut from = std::io::Read::chain(std::io::Cursor::new(std::mem::take(&mut self.first)), self.stream);
        let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
        loop {
            let mut fds = [
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
            ];
            let first = from.get_ref().0;
            let buffered = (first.position() as usize) < first.get_ref().len();
            let wait = if buffered { PollTimeout::ZERO } else { PollTimeout::NONE };
            match poll(&mut fds, wait) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(anyhow::Error::from(e).context("waiting failed").into()),
            }
            let ready = buffered || fds[1].revents().is_some_and(|r| !r.is_empty());
            let _ = self.wake.read();
            for signal in terminal::take_signals() {
                // The first is the command's; a second one ends this program, and the command is hung up.
                let passed = !signalled && self.pass_on(signal);
                if signal != Signal::SIGWINCH {
                    if !passed {
                        return Ok(Ended::Signal(signal));
                    }
                    signalled = true;
                }
            }
            if !ready {
                continue;
            }
            match read_frame(&mut from) {
                Ok(Some((STDOUT, bytes))) => out.write_all(&bytes).and_then(|()| out.flush())?,
                Ok(Some((STDERR, bytes))) => err.write_all(&bytes)?,
                Ok(Some((EXITED, status))) => {
                    return Ok(Ended::Exited(status.first().copied().unwrap_or(STATUS_FAILED)));
                }
                Ok(Some((FAILED, data))) => {
                    let (status, why) = data.split_first().unwrap_or((&STATUS_FAILED, &[]));
                    return Ok(Ended::Failed(*status, String::from_utf8_lossy(why).into_owned()));
                }
                Ok(Some((kind, _))) => return Err(Failure::new(format!("a frame of the unknown kind {kind}"))),
                Ok(None) | Err(_) => return Ok(Ended::Gone),
            }
        }
    }

    /// Passes a signal on, unless the connection is full of input.
    fn pass_on(&self, signal: Signal) -> bool {
        let Ok(mut to) = self.to.try_lock() else { return false };
        match (signal, terminal::size()) {
            (Signal::SIGWINCH, Some((columns, rows))) if self.tty => {
                let [a, b] = columns.to_be_bytes();
                let [c, d] = rows.to_be_bytes();
                write_frame(&mut *to, SIZE, &[a, b, c, d]).is_ok()
            }
            (Signal::SIGWINCH, _) => true,
            (signal, _) => write_frame(&mut *to, SIGNAL, &[signal as u8]).is_ok(),
        }
    }
}
