//! One command of a session: its process, its pipes or terminal, and the windows of its streams.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::protocol::{ExecSpec, ExitStatus, Stream, ToHost, WINDOW};
use crate::sys::{self, PollSet};

/// The environment a command starts with; `ExecSpec::env` goes on top.
pub(crate) const DEFAULT_ENV: [(&str, &str); 6] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LOGNAME", "root"),
    ("SHELL", "/bin/sh"),
    ("LANG", "C.UTF-8"),
];

/// After a command has ended, its output is read until nothing comes for this long: a process it left behind may hold
/// the pipe open for ever, and must not hold the host.
const LINGER: Duration = Duration::from_millis(100);

/// Bytes read from a command at a time.
const CHUNK: usize = 32 * 1024;

/// A running command.
pub(super) struct Process {
    id: u32,
    child: Child,
    ended: OwnedFd,
    status: Option<ExitStatus>,
    last_output: Instant,
    input: Input,
    outputs: [Option<Output>; 2],
    terminal: bool,
}

/// Places in a [`PollSet`].
pub(super) struct Watch {
    ended: Option<usize>,
    input: Option<usize>,
    outputs: [Option<usize>; 2],
}

struct Input {
    pipe: Option<File>,
    waiting: VecDeque<u8>,
    ends: bool,
    owed: usize,
}

struct Output {
    pipe: File,
    credit: usize,
}

impl Process {
    pub(super) fn start(id: u32, spec: &ExecSpec) -> io::Result<Self> {
        let mut command = prepare(spec)?;
        let (child, input, outputs) = match spec.tty {
            Some((cols, rows)) => start_in_terminal(&mut command, cols, rows)?,
            None => start_with_pipes(&mut command)?,
        };
        // Only waiting reaps the child, so its number cannot belong to another process yet.
        let ended = sys::pidfd_open(child.id())?;
        let output = |pipe| Output { pipe, credit: WINDOW };
        Ok(Self {
            id,
            child,
            ended,
            status: None,
            last_output: Instant::now(),
            input: Input { pipe: Some(input), waiting: VecDeque::new(), ends: false, owed: 0 },
            outputs: outputs.map(|p| p.map(output)),
            terminal: spec.tty.is_some(),
        })
    }

    /// Asks the poll set for what this command waits for. `hungry`: output may be read.
    pub(super) fn watch(&self, set: &mut PollSet, hungry: bool) -> Watch {
        let pipe = self.input.pipe.as_ref();
        let input = pipe.filter(|_| !self.input.waiting.is_empty()).map(|p| set.add(p, false, true));
        let outputs = self.outputs.each_ref().map(|o| {
            let ready = o.as_ref().filter(|o| hungry && o.credit > 0);
            ready.map(|o| set.add(&o.pipe, true, false))
        });
        let ended = self.status.is_none().then(|| set.add(&self.ended, true, false));
        Watch { ended, input, outputs }
    }

    /// When to look again although nothing happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let lingers = self.status.is_some() && self.outputs.iter().flatten().any(|o| o.credit > 0);
        lingers.then(|| self.last_output + LINGER)
    }

    /// Moves bytes, and notices the end.
    pub(super) fn step(&mut self, set: &PollSet, watch: &Watch, out: &mut Vec<u8>) {
        if watch.input.is_some_and(|at| set.result(at).write || set.result(at).hangup) {
            self.input.flush(self.id, out);
        }
        if watch.ended.is_some_and(|at| set.result(at).read)
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.status = Some(translate(status));
            self.last_output = Instant::now();
            self.input.drop_all(self.id, out);
        }
        for (index, at) in watch.outputs.iter().enumerate() {
            let Some(state) = at.map(|at| set.result(at)) else {
                continue;
            };
            if state.read || state.hangup {
                self.read_output(index, out);
            } else if self.status.is_some() && self.last_output.elapsed() >= LINGER {
                self.close_output(index);
            }
        }
    }

    /// How it ended, once all output has been passed on.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.status.filter(|_| self.outputs.iter().all(Option::is_none))
    }

    pub(super) fn take_input(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.input.waiting.len() + self.input.owed + bytes.len() > WINDOW {
            // The host forgot about the window. Its bytes are lost either way; that must not look like success.
            return self.signal(9);
        }
        self.input.waiting.extend(bytes);
        self.input.flush(self.id, out);
    }

    pub(super) fn end_input(&mut self) {
        if self.terminal {
            // A terminal has no end of file, only the key for it (termios(3), VEOF).
            self.input.waiting.push_back(4);
        } else {
            self.input.ends = true;
            self.input.close_if_done();
        }
    }

    pub(super) fn resize(&mut self, cols: u16, rows: u16) {
        if let Some(pipe) = self.input.pipe.as_ref().filter(|_| self.terminal) {
            // Only the program's picture suffers when this fails.
            let _ = sys::resize_tty(pipe, cols, rows);
        }
    }

    pub(super) fn signal(&mut self, signo: u8) {
        if self.status.is_none() {
            // It may be ending right now.
            let _ = sys::kill_group(self.child.id(), signo.into());
        }
    }

    pub(super) fn add_credit(&mut self, stream: Stream, bytes: u32) {
        let index = usize::from(stream == Stream::Stderr);
        if let Some(output) = self.outputs.get_mut(index).and_then(Option::as_mut) {
            output.credit = (output.credit + bytes as usize).min(WINDOW);
            self.last_output = Instant::now();
        }
    }

    fn read_output(&mut self, index: usize, out: &mut Vec<u8>) {
        let Some(output) = self.outputs.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let mut buffer = [0u8; CHUNK];
        let room = output.credit.min(CHUNK);
        match output.pipe.read(buffer.get_mut(..room).unwrap_or_default()) {
            Ok(0) => self.close_output(index),
            Ok(n) => {
                output.credit -= n;
                self.last_output = Instant::now();
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                let id = self.id;
                let message = if index == 0 { ToHost::Stdout { id, bytes } } else { ToHost::Stderr { id, bytes } };
                let sent = message.emit(out);
                debug_assert!(sent.is_ok());
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // EIO: the last process that had the terminal open has closed it.
            Err(_) => self.close_output(index),
        }
    }

    fn close_output(&mut self, index: usize) {
        if let Some(slot) = self.outputs.get_mut(index) {
            *slot = None;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = sys::kill_group(self.child.id(), 9);
            // Killed a moment ago: this waits no longer than the kernel needs.
            let _ = self.child.wait();
        }
    }
}

impl Input {
    fn flush(&mut self, id: u32, out: &mut Vec<u8>) {
        let Some(pipe) = &mut self.pipe else {
            return self.drop_all(id, out);
        };
        while !self.waiting.is_empty() {
            match pipe.write(self.waiting.as_slices().0) {
                Ok(n) => {
                    self.waiting.drain(..n);
                    self.owed += n;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The command does not want more. The host goes on sending until it is told, so swallow.
                Err(_) => {
                    self.pipe = None;
                    return self.drop_all(id, out);
                }
            }
        }
        self.close_if_done();
        self.give_credit(id, out);
    }

    fn drop_all(&mut self, id: u32, out: &mut Vec<u8>) {
        self.owed += self.waiting.len();
        self.waiting.clear();
        self.give_credit(id, out);
    }

    fn close_if_done(&mut self) {
        if self.ends && self.waiting.is_empty() {
            self.pipe = None;
        }
    }

    fn give_credit(&mut self, id: u32, out: &mut Vec<u8>) {
        if self.owed >= WINDOW / 4 {
            let bytes = u32::try_from(std::mem::take(&mut self.owed)).unwrap_or(u32::MAX);
            let sent = ToHost::Credit { id, bytes }.emit(out);
            debug_assert!(sent.is_ok());
        }
    }
}

fn prepare(spec: &ExecSpec) -> io::Result<Command> {
    let (program, arguments) = spec.argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(OsStr::from_bytes(program));
    command.args(arguments.iter().map(|a| OsStr::from_bytes(a)));
    command.env_clear().envs(DEFAULT_ENV);
    if spec.tty.is_some() {
        command.env("TERM", "xterm");
    }
    for entry in &spec.env {
        let cut = entry.iter().position(|b| *b == b'=').filter(|at| *at > 0);
        let (name, value) = entry.split_at(cut.ok_or_else(|| io::Error::other("environment entry without a name"))?);
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value.get(1..).unwrap_or_default()));
    }
    if !spec.cwd.is_empty() {
        let directory = Path::new(OsStr::from_bytes(&spec.cwd));
        // Checked here because a failing `chdir` in the child cannot be told from a missing program.
        if !directory.is_dir() {
            let words = format!("no directory `{}`", directory.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, words));
        }
        command.current_dir(directory);
    } else {
        command.current_dir(if Path::new("/root").is_dir() { "/root" } else { "/" });
    }
    Ok(command)
}

type Started = (Child, File, [Option<File>; 2]);

fn start_with_pipes(command: &mut Command) -> io::Result<Started> {
    sys::become_session_leader(command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let lost = || io::Error::other("a pipe is missing");
    let input: OwnedFd = child.stdin.take().ok_or_else(lost)?.into();
    let output: OwnedFd = child.stdout.take().ok_or_else(lost)?.into();
    let errors: OwnedFd = child.stderr.take().ok_or_else(lost)?.into();
    for pipe in [&input, &output, &errors] {
        sys::set_nonblocking(pipe)?;
    }
    Ok((child, input.into(), [Some(output.into()), Some(errors.into())]))
}

fn start_in_terminal(command: &mut Command, cols: u16, rows: u16) -> io::Result<Started> {
    let (master, slave) = sys::open_pty(cols, rows)?;
    sys::set_nonblocking(&master)?;
    sys::acquire_tty_for(command);
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let child = command.spawn()?;
    // The command holds the slave open as long as it exists; then reading the master must fail.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let output = master.try_clone()?;
    Ok((child, master.into(), [Some(output.into()), None]))
}

fn translate(status: std::process::ExitStatus) -> ExitStatus {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(code as u8),
        (None, Some(signal)) => ExitStatus::Signal(signal as u8),
        (None, None) => ExitStatus::Code(255),
    }
}
