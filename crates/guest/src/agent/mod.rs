//! The guest's half of a session: runs commands for the host.
//!
//! One thread, one `poll` loop. What the agent holds in memory is bounded: `WINDOW` bytes of input per command, and
//! output is read from commands only while little waits for the port.

mod process;
mod serve;

#[cfg(test)]
mod tests;

pub(crate) use process::DEFAULT_ENV;
pub use serve::{find_port, serve_port};

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::protocol::{
    ErrorKind, ExecSpec, Failure, FrameReader, MAX_CHANNELS, ProtocolError, Ready, SYNC, ShutdownKind, ToGuest, ToHost,
    VERSION,
};
use crate::sys::{self, PollSet};
use process::{Process, Watch};

/// What the agent does to its machine. Apart, so that tests can run the agent on a machine that must survive.
pub trait Platform {
    /// Begins to stop the machine.
    ///
    /// # Errors
    /// When the machine cannot be asked to.
    fn shutdown(&mut self, kind: ShutdownKind) -> io::Result<()>;
    /// Sets the wall clock.
    ///
    /// # Errors
    /// The system's error.
    fn set_clock(&mut self, secs: i64, nanos: u32) -> io::Result<()>;
    /// Tells the serial console its size.
    ///
    /// # Errors
    /// The system's error.
    fn resize_console(&mut self, cols: u16, rows: u16) -> io::Result<()>;
}

/// No output is read from commands while more than this waits to be written to the port.
const OUT_HIGH: usize = 128 * 1024;

/// The agent on one port.
pub struct Agent<P> {
    platform: P,
    reader: FrameReader,
    out: Vec<u8>,
    out_start: usize,
    in_session: bool,
    processes: BTreeMap<u32, Process>,
}

impl<P: Platform> Agent<P> {
    /// An agent without a session.
    pub fn new(platform: P) -> Self {
        Self {
            platform,
            reader: FrameReader::new(),
            out: Vec::new(),
            out_start: 0,
            in_session: false,
            processes: BTreeMap::new(),
        }
    }

    /// Serves the host until its end of `port` closes. `port` must be non-blocking.
    ///
    /// # Errors
    /// An error of the port itself. What a host or a command does wrong is answered, not returned.
    pub fn serve(&mut self, port: &mut File) -> io::Result<()> {
        self.end_session();
        self.announce(0);
        let result = self.run(port);
        self.end_session();
        result
    }

    fn run(&mut self, port: &mut File) -> io::Result<()> {
        loop {
            let mut set = PollSet::new();
            let at_port = set.add(port, true, self.out.len() > self.out_start);
            let hungry = self.pending() < OUT_HIGH;
            let watches: Vec<(u32, Watch)> =
                self.processes.iter().map(|(id, p)| (*id, p.watch(&mut set, hungry))).collect();
            set.wait(self.timeout())?;

            let port_state = set.result(at_port);
            if (port_state.read || port_state.hangup) && !self.read_port(port)? {
                return Ok(());
            }
            for (id, watch) in watches {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.step(&set, &watch, &mut self.out);
                }
            }
            self.collect();
            self.write_port(port)?;
        }
    }

    fn pending(&self) -> usize {
        self.out.len() - self.out_start
    }

    fn timeout(&self) -> Option<Duration> {
        let now = Instant::now();
        self.processes.values().filter_map(Process::deadline).min().map(|t| t.saturating_duration_since(now))
    }

    /// Reads what the host sent; false at the end.
    fn read_port(&mut self, port: &mut File) -> io::Result<bool> {
        let mut buffer = [0u8; 32 * 1024];
        match port.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => self.reader.push(buffer.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
        loop {
            match self.reader.next_frame() {
                Ok(None) => return Ok(true),
                Ok(Some(frame)) => {
                    let fresh = frame.after_sync;
                    match ToGuest::parse(frame) {
                        Ok(ToGuest::Hello { version, nonce }) if fresh => self.open_session(version, nonce),
                        Ok(message) if self.in_session => self.take(message),
                        Ok(_) => {}
                        Err(error) => self.complain(&error),
                    }
                }
                Err(error) => self.complain(&error),
            }
        }
    }

    fn complain(&mut self, error: &ProtocolError) {
        self.refuse(0, ErrorKind::BadRequest, error.to_string());
    }

    fn write_port(&mut self, port: &mut File) -> io::Result<()> {
        while self.pending() > 0 {
            match port.write(self.out.get(self.out_start..).unwrap_or_default()) {
                Ok(n) => self.out_start += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The host is gone; reading says so too, and cleanly.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
                Err(e) => return Err(e),
            }
        }
        if self.out_start > OUT_HIGH || self.pending() == 0 {
            self.out.drain(..self.out_start);
            self.out_start = 0;
        }
        Ok(())
    }

    fn send(&mut self, message: &ToHost) {
        // Every message the agent builds is far below the limit.
        let sent = message.emit(&mut self.out);
        debug_assert!(sent.is_ok());
    }

    fn refuse(&mut self, id: u32, kind: ErrorKind, mut message: String) {
        message.truncate(message.floor_char_boundary(1000));
        self.send(&ToHost::Error { id, failure: Failure { kind, message } });
    }

    fn announce(&mut self, nonce: u64) {
        self.out.extend_from_slice(&SYNC);
        self.send(&ToHost::Ready(Ready {
            version: VERSION,
            nonce,
            uptime_ms: sys::uptime_ms(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: sys::uname_release(),
        }));
    }

    fn open_session(&mut self, version: u16, nonce: u64) {
        self.processes.clear();
        self.in_session = version == VERSION;
        self.announce(nonce);
        if !self.in_session {
            let words = format!("this guest speaks version {VERSION} of the agent protocol, not {version}");
            self.refuse(0, ErrorKind::Version, words);
        }
    }

    fn end_session(&mut self) {
        self.in_session = false;
        self.processes.clear();
        self.reader.reset();
        self.out.clear();
        self.out_start = 0;
    }

    fn take(&mut self, message: ToGuest) {
        match message {
            ToGuest::Hello { .. } => {}
            ToGuest::Exec { id, spec } => self.exec(id, &spec),
            ToGuest::Shutdown(kind) => {
                let done = self.platform.shutdown(kind);
                self.report("shut down", done);
            }
            ToGuest::SetClock { secs, nanos } => {
                let done = self.platform.set_clock(secs, nanos);
                self.report("set the clock", done);
            }
            ToGuest::Resize { id: 0, cols, rows } => {
                let done = self.platform.resize_console(cols, rows);
                self.report("resize the console", done);
            }
            ToGuest::Ping { token } => self.send(&ToHost::Pong { token }),
            // A command may have ended while these were under way: then they are for nobody, and that is no error.
            ToGuest::Stdin { id, bytes } => self.with(id, |p, out| p.take_input(&bytes, out)),
            ToGuest::StdinEof { id } => self.with(id, |p, _| p.end_input()),
            ToGuest::Resize { id, cols, rows } => self.with(id, |p, _| p.resize(cols, rows)),
            ToGuest::Signal { id, signo } => self.with(id, |p, _| p.signal(signo)),
            ToGuest::Credit { id, stream, bytes } => self.with(id, |p, _| p.add_credit(stream, bytes)),
        }
    }

    fn with(&mut self, id: u32, act: impl FnOnce(&mut Process, &mut Vec<u8>)) {
        if let Some(process) = self.processes.get_mut(&id) {
            act(process, &mut self.out);
        }
    }

    fn report(&mut self, what: &str, done: io::Result<()>) {
        if let Err(error) = done {
            self.refuse(0, ErrorKind::Other, format!("cannot {what}: {error}"));
        }
    }

    fn exec(&mut self, id: u32, spec: &ExecSpec) {
        if id == 0 || self.processes.contains_key(&id) {
            return self.refuse(0, ErrorKind::BadRequest, format!("channel {id} cannot be used"));
        }
        if self.processes.len() >= MAX_CHANNELS {
            let words = format!("{MAX_CHANNELS} commands are running already");
            return self.refuse(id, ErrorKind::Busy, words);
        }
        match Process::start(id, spec) {
            Ok(process) => {
                self.processes.insert(id, process);
            }
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::NotFound => ErrorKind::NotFound,
                    io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
                    _ => ErrorKind::Other,
                };
                let name = spec.argv.first().map(|a| String::from_utf8_lossy(a)).unwrap_or_default();
                self.refuse(id, kind, format!("cannot run `{name}`: {error}"));
            }
        }
    }

    fn collect(&mut self) {
        let ended: Vec<_> = self.processes.iter().filter_map(|(id, p)| p.ended().map(|s| (*id, s))).collect();
        for (id, status) in ended {
            self.processes.remove(&id);
            self.send(&ToHost::Exit { id, status });
        }
    }
}
