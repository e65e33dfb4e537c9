//! How `systemctl` talks to PID 1: one line with a request over a unix socket, and the answer up to the end.
//!
//! The answer begins with `ok` or `error TEXT` on a line of its own; more lines may follow `ok`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::manager::{Manager, Waiter};

/// The socket PID 1 listens on.
pub const SOCKET: &str = "/run/visor/init.sock";

/// Most clients at once; more wait in the socket's queue.
const MAX_CLIENTS: usize = 16;

/// Longest request.
const MAX_REQUEST: usize = 512;

/// PID 1's end of the socket.
pub struct Server {
    listener: UnixListener,
    clients: Vec<Client>,
    next: Waiter,
}

struct Client {
    waiter: Waiter,
    stream: UnixStream,
    request: Vec<u8>,
    asked: bool,
}

impl Server {
    /// Listens at `path`; what was there before is replaced.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new(), next: 1 })
    }

    /// Descriptors to wait on for reading.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let listener = (self.clients.len() < MAX_CLIENTS).then(|| self.listener.as_fd());
        let clients = self.clients.iter().map(|c| c.stream.as_fd());
        listener.into_iter().chain(clients).collect()
    }

    /// Takes new clients and requests, and sends the answers the manager has.
    pub fn step(&mut self, manager: &mut Manager) {
        while self.clients.len() < MAX_CLIENTS {
            let Ok((stream, _)) = self.listener.accept() else {
                break;
            };
            if stream.set_nonblocking(true).is_ok() {
                let client = Client { waiter: self.next, stream, request: Vec::new(), asked: false };
                self.next += 1;
                self.clients.push(client);
            }
        }
        self.clients.retain_mut(|client| client.step(manager));
        for (waiter, answer) in manager.take_answers() {
            if let Some(at) = self.clients.iter().position(|c| c.waiter == waiter) {
                let client = self.clients.swap_remove(at);
                client.answer(&match answer {
                    Ok(()) => "ok\n".to_owned(),
                    Err(words) => format!("error {words}\n"),
                });
            }
        }
    }
}

impl Client {
    /// Reads more; false when the client is done with.
    fn step(&mut self, manager: &mut Manager) -> bool {
        let mut buffer = [0u8; MAX_REQUEST];
        match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) if !self.asked => self.request.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Ok(_) => {}
            Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
        }
        if self.asked {
            return true;
        }
        if self.request.contains(&b'\n') {
            self.asked = true;
            let line = String::from_utf8_lossy(&self.request).into_owned();
            return match perform(line.trim(), self.waiter, manager) {
                Some(answer) => {
                    self.answer(&answer);
                    false
                }
                None => true,
            };
        }
        self.request.len() <= MAX_REQUEST
    }

    fn answer(&self, text: &str) {
        // Some thousand bytes fit into the socket's buffer; a client that went away is not our loss.
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_write_timeout(Some(Duration::from_millis(200)));
        let _ = (&self.stream).write_all(text.as_bytes());
    }
}

/// Carries out a request; `None`: the manager answers later.
fn perform(line: &str, waiter: Waiter, manager: &mut Manager) -> Option<String> {
    let mut words = line.split_whitespace();
    let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match verb {
        "start" => manager.start(name, Some(waiter)),
        "stop" => manager.stop(name, Some(waiter)),
        "restart" => manager.restart(name, Some(waiter)),
        "kill" => {
            let signo = words.next().and_then(|s| s.parse().ok()).unwrap_or(libc::SIGTERM);
            return Some(match manager.signal(name, signo) {
                Ok(()) => "ok\n".to_owned(),
                Err(words) => format!("error {words}\n"),
            });
        }
        "show" => return Some(format!("ok\n{}", manager.show(name))),
        "list" => return Some(format!("ok\n{}", manager.list())),
        "reload" => {
            manager.reload();
            return Some("ok\n".to_owned());
        }
        other => return Some(format!("error unknown request `{other}`\n")),
    }
    None
}

/// Sends a request to PID 1 and returns what follows `ok`.
///
/// # Errors
/// The text after `error`, or that PID 1 cannot be reached.
pub fn ask(socket: &Path, request: &str) -> Result<String, String> {
    let exchange = || -> io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange().map_err(|e| format!("Failed to connect to bus: {e}"))?;
    match answer.split_once('\n') {
        Some(("ok", rest)) => Ok(rest.to_owned()),
        Some((line, _)) => Err(line.strip_prefix("error ").unwrap_or(line).to_owned()),
        None => Err("PID 1 gave no answer".to_owned()),
    }
}
