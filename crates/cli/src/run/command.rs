//! A command in a guest: the agent runs it, its streams are ours, its exit status is ours.
//!
//! If standard input and output are terminals, the command gets a terminal of the same size. Otherwise it gets three pipes, and
//! signals are passed on to it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use visor_guest::host::{ExecId, HostEvent};
use visor_guest::protocol::{ErrorKind, ExecSpec, Failure as Refusal, Stream};

use super::agent::Agent;
use super::end::End;
use super::execs::Execs;
use super::live::{Happened, Live, Want, at_terminal, flush};
use super::streams::{Input, Output};
use super::tail::Tail;
use super::timeline;
use crate::report::{FAILED, Failure};
use crate::start::{Manner, StartLine};
use crate::terminal::{self, Escape, Keys, RawTerminal};

/// When to say for the first time that the guest takes long to come up; then at double the time, and so on.
const FIRST_WORRY: Duration = Duration::from_secs(20);
/// How long a guest may take to come up.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a command may go on after its output has lost its reader.
const AFTER_BREAK: Duration = Duration::from_secs(3);
/// Bytes of input read at a time.
const AT_A_TIME: usize = 64 << 10;

/// What the user gets to see besides the command's output.
pub(super) struct Look {
    /// What starts, for the line that tells how far its boot has come.
    pub(super) announce: String,
    /// How that is told.
    pub(super) manner: Manner,
    /// Show the console on standard error.
    pub(super) console: bool,
    /// Say what takes long.
    pub(super) worry: bool,
    /// Nobody looks: what the command writes is kept for who attaches to the console.
    pub(super) background: bool,
}

/// A command on its way.
pub(super) struct Command<'a> {
    live: &'a Live,
    look: Look,
    start: StartLine,
    argv: Vec<String>,
    agent: Agent,
    execs: Execs,
    id: Option<ExecId>,
    status: Option<End>,
    tty: bool,
    raw: Option<RawTerminal>,
    keys: Keys,
    input: Input,
    out: Output,
    err: Output,
    console: Output,
    tail: Tail,
    worry_at: Instant,
    signalled: bool,
    broken_at: Option<Instant>,
}

impl<'a> Command<'a> {
    pub(super) fn new(live: &'a Live, argv: Vec<String>, look: Look) -> Result<Self, Failure> {
        let start = StartLine::new(&look.announce, look.manner);
        Ok(Command {
            live,
            look,
            start,
            argv,
            agent: live.agent()?,
            execs: Execs::default(),
            id: None,
            status: None,
            tty: at_terminal(),
            raw: None,
            keys: Keys::default(),
            input: Input::stdin()?,
            out: Output::stdout()?,
            err: Output::stderr()?,
            console: Output::stderr()?,
            tail: Tail::default(),
            worry_at: live.started + FIRST_WORRY,
            signalled: false,
            broken_at: None,
        })
    }

    /// Runs the command to its end. The tail is what the guest's console said, if the user has not seen it.
    pub(super) fn run(mut self) -> Result<(End, Option<Tail>), Failure> {
        let end = self.attend()?;
        self.start.finish("", "\n");
        flush(self.live, &mut [&mut self.out, &mut self.err])?;
        if !matches!(end, End::Stopped(_) | End::TimedOut(_)) {
            self.live.farewell(Some(&mut self.agent), |_| ())?;
        }
        self.read_console();
        flush(self.live, &mut [&mut self.console])?;
        Ok((end, (!self.look.console).then_some(self.tail)))
    }

    fn attend(&mut self) -> Result<End, Failure> {
        loop {
            // Asked first: a status that was sent before the guest's end counts.
            let stopped = self.live.stopped();
            self.read_console();
            self.serve_agent();
            self.tell_phases();
            self.pass_output_on();
            if let Some(status) = self.status.take() {
                return Ok(status);
            }
            if let Some(reason) = stopped {
                return Ok(End::Stopped(reason));
            }
            if let Some(end) = self.live.timed_out().or_else(|| self.live.asked()).or_else(|| self.lost_patience()) {
                return Ok(end);
            }
            let happened = self.wait()?;
            for signal in &happened.signals {
                if let Some(end) = self.pass_signal_on(*signal) {
                    return Ok(end);
                }
            }
            if happened.resized {
                self.tell_size();
            }
            if happened.input && self.read_input() == Escape::Leave {
                return Ok(End::Left);
            }
        }
    }

    fn wait(&self) -> Result<Happened, Failure> {
        let room = self.id.map_or(0, |id| self.agent.session.stdin_room(id));
        let worry = (self.id.is_none()).then_some(self.worry_at.min(self.live.started + PATIENCE));
        let broken = self.broken_at.map(|t| t + AFTER_BREAK);
        self.live.wait(&Want {
            // Two: see `read_input`.
            input: Some(&self.input).filter(|i| i.is_open() && room >= 2),
            outputs: &[&self.out, &self.err, &self.console],
            until: [worry, broken, self.agent.due()].into_iter().flatten().min(),
        })
    }

    /// Takes over what came on the serial console: shown or kept for an error message.
    fn read_console(&mut self) {
        let bytes = self.live.take_serial(1 << 20);
        self.tail.push(&bytes);
        if self.look.console {
            self.console.push(&bytes);
            self.console.pump();
        }
    }

    fn serve_agent(&mut self) {
        if let Err(lost) = self.agent.pump() {
            self.execs.lost(&lost.to_string());
            // Before the command runs, the next session does as well.
            if self.id.is_some() && self.status.is_none() {
                let failure = Failure::from(anyhow::Error::from(lost).context("the command was lost"));
                self.status = Some(End::Lost(failure));
            }
            return;
        }
        while let Some(event) = self.agent.next_event() {
            if let Some(event) = self.execs.take(event) {
                self.take(event);
            }
        }
        self.execs.pump(self.live.wishes(), &mut self.agent);
        // Answers of this round: the start of the command, credits.
        let _ = self.agent.pump();
    }

    fn take(&mut self, event: HostEvent) {
        match event {
            HostEvent::Ready(_) if self.id.is_none() => self.start(),
            HostEvent::Output { stream, bytes, .. } if self.look.background => {
                self.live.hub().push(&bytes);
                if let Some(id) = self.id {
                    self.agent.session.consumed(id, stream, bytes.len());
                }
            }
            HostEvent::Output { stream: Stream::Stderr, bytes, .. } => self.err.push(&bytes),
            HostEvent::Output { bytes, .. } => self.out.push(&bytes),
            HostEvent::Exited { status, .. } => self.status = Some(End::Command(status.shell_code())),
            HostEvent::Refused { failure, .. } => self.status = Some(End::Refused(refused(&failure))),
            HostEvent::Complaint(c) if self.id.is_none() => {
                self.status = Some(End::Refused(Failure::new(format!("the guest agent refuses: {}", c.message))));
            }
            other => tracing::debug!(?other, "from the agent"),
        }
    }

    fn start(&mut self) {
        self.live.timeline().ready();
        self.tell_phases();
        self.start.finish(if self.tty { "   leave with ctrl-] or ctrl-a x" } else { "" }, "\n");
        let mut spec = ExecSpec::new(self.argv.iter().map(|a| a.as_bytes()));
        if self.tty {
            spec.tty = Some(terminal::size().unwrap_or((80, 24)));
            spec.env.extend(std::env::var("TERM").ok().map(|t| format!("TERM={t}").into_bytes()));
        }
        match self.agent.session.exec(&spec) {
            Ok(id) => self.id = Some(id),
            Err(e) => self.status = Some(End::Refused(anyhow::Error::from(e).into())),
        }
        if self.tty && self.status.is_none() {
            match RawTerminal::enter() {
                Ok(raw) => self.raw = Some(raw),
                Err(e) => self.status = Some(End::Refused(e.context("the terminal refuses raw mode").into())),
            }
        }
    }

    /// Writes the command's output, and gives it room for as much again.
    fn pass_output_on(&mut self) {
        let (out, err) = (self.out.pump(), self.err.pump());
        self.console.pump();
        let Some(id) = self.id else { return };
        for (stream, n) in [(Stream::Stdout, out), (Stream::Stderr, err)] {
            if n > 0 {
                self.agent.session.consumed(id, stream, n);
            }
        }
        if (self.out.broken() || self.err.broken()) && self.broken_at.is_none() {
            self.broken_at = Some(Instant::now());
            // What a program gets that writes to a pipe without reader.
            let _ = self.agent.session.signal(id, Signal::SIGPIPE as u8);
        }
        if out + err > 0 || self.broken_at.is_some() {
            self.serve_agent();
        }
    }

    fn read_input(&mut self) -> Escape {
        let Some(id) = self.id else { return Escape::None };
        let room = self.agent.session.stdin_room(id).min(AT_A_TIME);
        // An escape character kept from the read before can make it one byte more.
        let Some(bytes) = self.input.read(room.saturating_sub(1)) else {
            self.agent.session.close_stdin(id);
            return Escape::None;
        };
        let (mut passed, mut escape) = (bytes, Escape::None);
        if self.raw.is_some() {
            let typed = std::mem::take(&mut passed);
            escape = self.keys.filter(&typed, &mut passed);
        }
        self.agent.session.write_stdin(id, &passed);
        escape
    }

    /// The first signal is the command's; the second ends the machine.
    fn pass_signal_on(&mut self, signal: Signal) -> Option<End> {
        let sent = self.id.filter(|_| !self.signalled).map(|id| self.agent.session.signal(id, signal as u8));
        self.signalled = true;
        match sent {
            Some(Ok(())) => None,
            _ => Some(End::Signal(signal)),
        }
    }

    fn tell_size(&mut self) {
        if let (Some(id), Some((cols, rows)), true) = (self.id, terminal::size(), self.tty) {
            let _ = self.agent.session.resize(id, cols, rows);
        }
    }

    fn lost_patience(&mut self) -> Option<End> {
        if self.broken_at.is_some_and(|t| t.elapsed() >= AFTER_BREAK) {
            return Some(End::BrokenPipe);
        }
        if self.id.is_some() {
            return None;
        }
        let waited = self.live.started.elapsed();
        if waited >= PATIENCE {
            let text = format!("the agent in the guest did not answer within {} s", PATIENCE.as_secs());
            let reached = timeline::reached(&self.live.timeline().events());
            return Some(End::Lost(Failure::new(text).hint(reached).hint("see the whole boot with -v")));
        }
        if Instant::now() >= self.worry_at {
            self.worry_at = self.live.started + waited * 2;
            if self.look.worry {
                self.start.give_way(b"\n", "\n");
                let reached = timeline::reached(&self.live.timeline().events());
                eprintln!("visor: waiting for the agent in the guest ({} s); {reached}", waited.as_secs());
                for line in self.tail.lines(1).iter().filter(|_| !self.look.console) {
                    eprintln!("visor: the last line on its console: {line}");
                }
            }
        }
        None
    }

    fn tell_phases(&mut self) {
        self.start.phases(timeline::named(&self.live.timeline().events()), "\n");
    }
}

/// The guest cannot run the command; statuses as of a shell.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    let status = match refusal.kind {
        ErrorKind::NotFound => 127,
        ErrorKind::NotPermitted => 126,
        _ => FAILED,
    };
    Failure { status, ..Failure::new(format!("in the guest: {}", refusal.message)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_statuses_of_a_shell() {
        let status = |kind| refused(&Refusal { kind, message: "cannot run `x`".into() }).status;
        assert_eq!([ErrorKind::NotFound, ErrorKind::NotPermitted, ErrorKind::Busy].map(status), [127, 126, 125]);
    }
}
