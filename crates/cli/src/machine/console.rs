//! `visor console`: the serial console of a machine, attached from another terminal.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Target, find};
use crate::report::Failure;
use crate::terminal::{self, Escape, Keys, RawTerminal};

/// Bytes of what came before that are shown.
const SCROLLBACK: usize = 16 << 10;
/// All that a machine keeps.
const EVERYTHING: usize = 1 << 20;

/// Attaches, or with `log` prints what has come so far.
pub(super) fn console(name: &str, log: bool, quiet: bool) -> Result<u8, Failure> {
    let target = find(name)?;
    if log {
        let wish = json!({ "scrollback": EVERYTHING });
        let answer = target.connect().and_then(|mut c| c.call_with_payload::<Value>("console.log", &wish));
        let log = answer.map_err(|e| target.failure(e))?.1;
        // As text: what a terminal would obey, or even answer, was meant for another one.
        let lines = String::from_utf8_lossy(&log).split('\n').map(crate::run::printable).collect::<Vec<_>>();
        print!("{}", lines.join("\n"));
        return Ok(0);
    }
    let wish = json!({ "scrollback": SCROLLBACK });
    let attached = target.connect().and_then(|c| c.stream("console.attach", &wish));
    let (about, first, stream) = attached.map_err(|e| target.failure(e))?;
    let raw = std::io::stdin().is_terminal();
    if raw && !quiet {
        eprintln!("visor: the console of {name}; leave with ctrl-] or ctrl-a x, the machine goes on");
        if about["state"] == "paused" {
            eprintln!("visor: {name} is paused; visor resume {name} lets it go on");
        }
    }
    let mut out = std::io::stdout();
    out.write_all(&first)?;
    out.flush()?;
    let terminal = if raw { Some(RawTerminal::enter()?) } else { None };
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let copy: OwnedFd = wake.as_fd().try_clone_to_owned()?;
    terminal::catch_signals(copy)?;
    let mut session = Session { target: &target, stream, wake, keys: Keys::default(), raw, typing: true };
    session.tell_size();
    let end = session.run();
    drop(terminal);
    let end = end?;
    if raw {
        eprintln!();
    }
    if end == End::Machine && !quiet {
        eprintln!("visor: {name} has ended");
    }
    Ok(match end {
        End::Left | End::Machine => 0,
        End::Signal(s) => 128u8.saturating_add(s as u8),
    })
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Left,
    Machine,
    Signal(Signal),
}

struct Session<'a> {
    target: &'a Target,
    stream: UnixStream,
    wake: EventFd,
    keys: Keys,
    raw: bool,
    /// Standard input has not ended.
    typing: bool,
}

impl Session<'_> {
    fn run(&mut self) -> Result<End, Failure> {
        loop {
            let (shown, typed) = self.wait()?;
            let _ = self.wake.read();
            for signal in terminal::take_signals() {
                match signal {
                    Signal::SIGWINCH => self.tell_size(),
                    other => return Ok(End::Signal(other)),
                }
            }
            if shown && !self.show()? {
                return Ok(End::Machine);
            }
            if typed && self.type_in()? == Escape::Leave {
                return Ok(End::Left);
            }
        }
    }

    /// Whether there is output, and whether there is something typed.
    fn wait(&self) -> Result<(bool, bool), Failure> {
        let stdin = std::io::stdin();
        let mut fds = vec![
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
        ];
        if self.typing {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(anyhow::Error::from(e).context("waiting failed").into()),
        }
        let ready = |i: usize| fds.get(i).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        Ok((ready(1), ready(2)))
    }

    /// Shows output; false at its end.
    fn show(&mut self) -> Result<bool, Failure> {
        let mut bytes = [0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(n) => {
                let mut out = std::io::stdout();
                out.write_all(bytes.get(..n).unwrap_or_default())?;
                out.flush()?;
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Ok(false),
        }
    }

    fn type_in(&mut self) -> Result<Escape, Failure> {
        let mut bytes = [0; 4096];
        // Past the standard library's buffer, which poll does not see.
        let n = match nix::unistd::read(std::io::stdin().as_fd(), &mut bytes) {
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => return Ok(Escape::None),
            Ok(n) => n,
            Err(_) => 0,
        };
        if n == 0 {
            self.typing = false;
            let _ = self.stream.shutdown(Shutdown::Write);
            // Whoever had a terminal has none any more.
            return Ok(if self.raw { Escape::Leave } else { Escape::None });
        }
        let typed = bytes.get(..n).unwrap_or_default();
        let (mut passed, mut escape) = (Vec::new(), Escape::None);
        if self.raw {
            escape = self.keys.filter(typed, &mut passed);
        } else {
            passed.extend(typed);
        }
        // A machine that has ended is noticed by its output's end.
        let _ = self.stream.write_all(&passed);
        Ok(escape)
    }

    /// Passes the terminal's size on; a machine that cannot use it goes without.
    fn tell_size(&self) {
        if let (true, Some((columns, rows))) = (self.raw, terminal::size()) {
            let _ = self.target.call::<Value>("console.resize", &json!({ "columns": columns, "rows": rows }));
        }
    }
}
