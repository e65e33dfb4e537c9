//! The guest's serial console on standard output and input.
//!
//! A person at a terminal types in raw mode and leaves by an escape key; for a program, standard input goes to the serial port
//! until its end. With visor's own images the boot is hidden until the guest is ready, and the agent passes the terminal's size on.

use std::time::{Duration, Instant};

use visor_guest::host::HostEvent;
use visor_machine::Phase;

use super::agent::Agent;
use super::boot::BootWatch;
use super::end::End;
use super::execs::Execs;
use super::live::{Happened, Live, Want, flush, is_terminal};
use super::streams::{Input, Output};
use super::tail::{Curtain, Tail};
use super::timeline;
use crate::report::Failure;
use crate::start::{Manner, StartLine};
use crate::terminal::{self, Escape, Keys, RawTerminal};

/// Serial output is taken over while less than this waits for standard output. After that the machine holds some more and slows
/// the guest down; when nothing at all is read for seconds, it drops, and we say so at the end.
const ENOUGH: usize = 16 << 20;
/// Bytes moved at a time.
const AT_A_TIME: usize = 64 << 10;
/// How long a boot may stay hidden.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the firmware's last words take to come.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What the user gets to see.
pub(super) struct Look {
    /// Hide the boot until the guest says that it is ready.
    pub(super) curtain: bool,
    /// There is an agent that wants to know the size of the terminal.
    pub(super) agent: bool,
    /// What starts, for the line that tells how far its boot has come.
    pub(super) announce: String,
    /// How that is told.
    pub(super) manner: Manner,
    /// Say how to leave.
    pub(super) banner: bool,
    /// Show the firmware's log.
    pub(super) log: bool,
    /// Nobody looks: the machine runs in the background.
    pub(super) background: bool,
}

/// The console of a running machine.
pub(super) struct Console<'a> {
    live: &'a Live,
    input: Input,
    output: Output,
    keys: Keys,
    /// Typed, not yet taken by the serial port.
    typed: Vec<u8>,
    raw: Option<RawTerminal>,
    agent: Option<Agent>,
    execs: Execs,
    curtain: Option<Curtain>,
    start: StartLine,
    /// The guest writes to the terminal on which its start is told.
    shared: bool,
    tail: Tail,
    boot: BootWatch,
    /// The firmware has nothing to boot, and what it says about that has come by then.
    giving_up: Option<Instant>,
    background: bool,
}

impl<'a> Console<'a> {
    pub(super) fn open(live: &'a Live, look: Look) -> Result<Self, Failure> {
        let interactive = is_terminal(std::io::stdin());
        if interactive && look.banner {
            eprintln!("visor: leave with ctrl-] or ctrl-a x");
        }
        let start = StartLine::new(&look.announce, look.manner);
        Ok(Console {
            live,
            input: Input::stdin()?,
            output: Output::stdout()?,
            keys: Keys::default(),
            typed: Vec::new(),
            raw: if interactive { Some(RawTerminal::enter()?) } else { None },
            agent: if look.agent { Some(live.agent()?) } else { None },
            execs: Execs::default(),
            curtain: look.curtain.then(Curtain::default),
            start,
            shared: is_terminal(std::io::stdout()),
            tail: Tail::default(),
            boot: BootWatch::new(look.log),
            giving_up: None,
            background: look.background,
        })
    }

    /// Runs until the machine ends or the user leaves. The tail is what the guest said last, if the user has not seen it.
    pub(super) fn run(mut self) -> Result<(End, Option<Tail>), Failure> {
        let end = self.converse()?;
        if matches!(end, End::Left | End::Asked | End::Signal(_) | End::BrokenPipe) {
            let (output, hidden) = (&mut self.output, self.curtain.is_some());
            self.live.farewell(self.agent.as_mut(), |bytes| {
                if !hidden {
                    output.push(bytes);
                    output.pump();
                }
            })?;
        }
        flush(self.live, &mut [&mut self.output])?;
        self.start.finish("", self.line_end());
        // The user's next prompt does not belong behind the guest's.
        if self.raw.take().is_some() && matches!(end, End::Left | End::Signal(_) | End::TimedOut(_)) {
            eprintln!();
        }
        if matches!(end, End::Asked) && is_terminal(std::io::stderr()) {
            eprintln!("\nvisor: ended by visor stop");
        }
        if self.live.lost() > 0 {
            eprintln!("visor: {} bytes of the console were lost because nobody read them", self.live.lost());
        }
        Ok((end, self.curtain.is_some().then_some(self.tail)))
    }

    fn converse(&mut self) -> Result<End, Failure> {
        loop {
            // Asked first, so that what the guest wrote before its end is still taken over.
            let stopped = self.live.stopped();
            self.show();
            if self.giving_up.is_some_and(|t| t <= Instant::now()) {
                return Ok(End::Lost(self.live.nothing_to_boot()));
            }
            if self.output.broken() {
                return Ok(End::BrokenPipe);
            }
            if let Some(reason) = stopped.filter(|_| self.output.waiting() < ENOUGH) {
                return Ok(End::Stopped(reason));
            }
            if let Some(end) = self.live.timed_out().or_else(|| self.live.asked()) {
                return Ok(end);
            }
            self.pass_on_typed();
            self.serve_agent();
            let happened = self.wait()?;
            if let Some(signal) = happened.signals.first() {
                return Ok(End::Signal(*signal));
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
        let curtain = self.curtain.as_ref().filter(|_| !self.background).map(|_| self.live.started + PATIENCE);
        let agent = self.agent.as_ref().and_then(Agent::due);
        self.live.wait(&Want {
            input: Some(&self.input).filter(|i| i.is_open() && self.typed.is_empty()),
            outputs: &[&self.output],
            until: [curtain, agent, self.giving_up].into_iter().flatten().min(),
        })
    }

    /// Moves the guest's output towards standard output.
    fn show(&mut self) {
        while self.output.waiting() < ENOUGH {
            let bytes = self.live.take_serial(AT_A_TIME);
            if bytes.is_empty() {
                break;
            }
            self.tail.push(&bytes);
            self.look_at_boot(&bytes);
            match &mut self.curtain {
                None => {
                    if self.shared {
                        self.start.give_way(&bytes, if self.raw.is_some() { "\r\n" } else { "\n" });
                    }
                    self.output.push(&bytes);
                }
                Some(curtain) => {
                    if let Some(rest) = curtain.push(&bytes) {
                        self.output.push(&rest);
                        self.live.timeline().ready();
                        self.open_curtain("");
                    }
                }
            }
            self.output.pump();
        }
        if self.curtain.is_some() && !self.background && self.live.started.elapsed() >= PATIENCE {
            let hidden = self.curtain.as_mut().map(Curtain::lift).unwrap_or_default();
            self.open_curtain("   not ready yet; this is its console");
            self.output.push(&hidden);
        }
        self.output.pump();
        self.look_at_boot(&[]);
        self.tell_phases();
    }

    /// Tells how far the boot has come, to the last phase that can be followed.
    fn tell_phases(&mut self) {
        let (events, end) = (self.live.timeline().events(), self.line_end());
        self.start.phases(timeline::named(&events), end);
        if self.agent.is_none() && events.last().is_some_and(|e| e.phase >= Phase::Init) && !self.start.is_live() {
            self.start.finish("", end);
        }
    }

    /// What ends a line on the terminal.
    fn line_end(&self) -> &'static str {
        if self.raw.is_some() { "\r\n" } else { "\n" }
    }

    /// Shows the firmware's log, and notices when there is nothing to boot: a person is told, a program gets an end.
    /// A machine in the background waits for a person to look after it.
    fn look_at_boot(&mut self, bytes: &[u8]) {
        let end = self.line_end();
        if !self.boot.look(self.live, bytes, end) {
            return;
        }
        let failure = self.live.nothing_to_boot();
        self.live.note_trouble(&failure);
        if self.raw.is_none() && !self.background {
            self.giving_up = Some(Instant::now() + LAST_WORDS);
            return;
        }
        self.start.finish("", end);
        eprint!("visor: {}{end}", failure.error);
        failure.hints.iter().for_each(|h| eprint!("  {h}{end}"));
    }

    fn open_curtain(&mut self, state: &str) {
        self.curtain = None;
        self.tell_phases();
        self.start.finish(state, self.line_end());
    }

    fn read_input(&mut self) -> Escape {
        let Some(bytes) = self.input.read(AT_A_TIME) else { return Escape::None };
        if self.raw.is_some() {
            return self.keys.filter(&bytes, &mut self.typed);
        }
        self.typed.extend(bytes);
        Escape::None
    }

    fn pass_on_typed(&mut self) {
        let taken = self.live.type_in(&self.typed);
        self.typed.drain(..taken);
    }

    fn serve_agent(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        // A guest that restarts is greeted again by the agent's next session.
        if let Err(lost) = agent.pump() {
            self.execs.lost(&lost.to_string());
        }
        let mut ready = false;
        while let Some(event) = agent.next_event() {
            let Some(event) = self.execs.take(event) else { continue };
            match event {
                HostEvent::Ready(_) => ready = true,
                other => tracing::debug!(?other, "from the agent"),
            }
        }
        self.execs.pump(self.live.wishes(), agent);
        if let Err(lost) = agent.pump() {
            self.execs.lost(&lost.to_string());
        }
        // Later than could be waited for with the boot hidden.
        if self.curtain.is_none() && agent.is_ready() {
            self.live.timeline().ready();
        }
        if ready {
            self.tell_size();
        }
    }

    fn tell_size(&mut self) {
        let Some(agent) = self.agent.as_mut().filter(|a| a.is_ready()) else { return };
        if let Some((cols, rows)) = self.live.attached_size().or_else(terminal::size) {
            agent.session.resize_console(cols, rows);
            // A frame of some bytes; what does not go now goes with the next event of the port.
            let _ = agent.pump();
        }
    }
}
