//! A running machine, and the one place where the main thread waits.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use visor_engine::EngineErrorKind;
use visor_guest::protocol::ExecSpec;
use visor_machine::{
    ChosenEngine, FileSource, Machine, MachineError, MachineErrorKind, MachineSpec, MachineState, SerialInput,
    SerialOutput, StopReason, Timeline, choose_with,
};

use super::agent::Agent;
use super::args::{RunArgs, StatsFormat};
use super::boot::nothing_to_boot;
use super::end::End;
use super::execs::Line;
use super::hub::Hub;
use super::screen::{Attendants, ScreenArgs};
use super::spec::{engine_options, wish};
use super::stats;
use super::streams::{Input, Output};
use super::wake::Wake;
use crate::report::Failure;
use crate::terminal;

/// How long a guest may take to switch itself off.
const FAREWELL: Duration = Duration::from_secs(60);
/// How long after a press of the button that woke it a guest is asked again.
const PRESS_AGAIN: Duration = Duration::from_secs(3);

/// A machine that was started, and what wakes the main thread.
pub(super) struct Live {
    /// Ends before the machine does.
    attendants: Attendants,
    machine: Arc<Machine>,
    /// By which others reach it.
    name: Option<String>,
    engine: ChosenEngine,
    serial: SerialOutput,
    keyboard: SerialInput,
    pub(super) started: Instant,
    limit: Option<Duration>,
    /// The time limit was over and has been told of: it ends no wait any more.
    over: Cell<bool>,
    /// It stands because the host is full, and that was told.
    standing: Cell<bool>,
    wake: Wake,
    wishes: Wishes,
    hub: Arc<Hub>,
    /// What keeps the guest from booting, in words.
    trouble: Arc<OnceLock<Vec<String>>>,
    /// The guest must get the chance to end in order: a disk can be written to, or it is a whole system of its own.
    precious: bool,
}

/// What other threads ask of the main thread. Clones ask the same one.
#[derive(Clone)]
pub(super) struct Wishes {
    /// To end the machine in order, for which it has this time.
    end: Arc<Mutex<Option<Duration>>>,
    /// The size of the terminal behind the console.
    size: Arc<Mutex<Size>>,
    /// Commands to be started in the guest.
    execs: Arc<Mutex<Vec<ExecWish>>>,
    wake: Wake,
}

/// A command, and who waits for it.
pub(super) type ExecWish = (ExecSpec, Arc<Line>);

#[derive(Default)]
struct Size {
    now: Option<(u16, u16)>,
    fresh: bool,
}

impl Wishes {
    /// The machine is to end in order, and within `patience` in any case. The first such wish counts.
    pub(super) fn end(&self, patience: Duration) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(patience);
        self.wake.wake();
    }

    /// The console is looked at on a terminal of this size.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        *self.size.lock().unwrap_or_else(PoisonError::into_inner) = Size { now: Some((columns, rows)), fresh: true };
        self.wake.wake();
    }

    /// A command is to be run in the guest, as soon as its agent is ready.
    pub(super) fn exec(&self, spec: ExecSpec) -> Arc<Line> {
        let line = Line::new(self.wake.clone());
        self.execs.lock().unwrap_or_else(PoisonError::into_inner).push((spec, line.clone()));
        self.wake.wake();
        line
    }

    /// What was asked for since the last call.
    pub(super) fn take_execs(&self) -> Vec<ExecWish> {
        std::mem::take(&mut self.execs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn patience(&self) -> Option<Duration> {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the main thread waits for besides callbacks, signals and time.
pub(super) struct Want<'a> {
    /// Input to be there, if any is wanted.
    pub(super) input: Option<&'a Input>,
    /// Room for output, where some waits.
    pub(super) outputs: &'a [&'a Output],
    /// A time.
    pub(super) until: Option<Instant>,
}

/// What ended a wait.
#[derive(Debug, Default)]
pub(super) struct Happened {
    /// Input can be read, or has ended.
    pub(super) input: bool,
    /// Signals that ask for the end.
    pub(super) signals: Vec<Signal>,
    /// The terminal has a new size.
    pub(super) resized: bool,
}

impl Live {
    /// Starts a machine. Signals are events of [`Live::wait`] from here on. `tell` gets what was decided, line by line.
    pub(super) fn start(spec: MachineSpec, args: &RunArgs, tell: impl Fn(&str)) -> Result<Self, Failure> {
        let system = boots_by_itself(args);
        let precious = system || args.disk.iter().any(|d| !d.ends_with(",ro"));
        terminal::survive_file_limit()?;
        let config = spec.validate().map_err(failure)?;
        let engine =
            choose_with(wish(args.engine), &engine_options(&args.tuning, args.stats.is_some())).map_err(|e| {
                let invalid = e.kind == EngineErrorKind::Invalid;
                let failure = Failure::from(anyhow::Error::from(e).context("the engine cannot be used"));
                failure.hint(match invalid {
                    true => "`visor run --help` tells the engines' options",
                    false => "`visor doctor` shows what works on this host",
                })
            })?;
        tell(&format!("engine {} ({})", engine.engine.caps().name, engine.reason));
        let machine = Machine::new(&config, &*engine.engine).map_err(|e| unbootable(e, config.kernel.as_ref()))?;
        machine.notes().iter().for_each(|n| tell(n));
        let wake = Wake::new()?;
        terminal::catch_signals(wake.descriptor()?)?;
        let waker = wake.clone();
        machine.on_event(move || waker.wake());
        let (serial, keyboard) = (machine.serial_output(), machine.serial_input());
        let machine = Arc::new(machine);
        machine.start().map_err(failure)?;
        let attendants = args.screen.attend(&machine, &tell)?;
        let (started, limit) = (Instant::now(), args.timeout);
        Ok(Live {
            attendants,
            machine,
            name: args.network.name().map(ToOwned::to_owned),
            engine,
            serial,
            keyboard,
            started,
            limit,
            over: Cell::new(false),
            standing: Cell::new(false),
            wishes: Wishes { end: Arc::default(), size: Arc::default(), execs: Arc::default(), wake: wake.clone() },
            hub: Arc::default(),
            trouble: Arc::default(),
            wake,
            precious,
        })
    }

    /// The machine, for threads that serve it.
    pub(super) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Where other threads ask the main thread for something.
    pub(super) fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// What runs its CPUs.
    pub(super) fn engine_name(&self) -> String {
        self.engine.engine.caps().name.to_string()
    }

    /// The console's output for who attaches.
    pub(super) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What keeps the guest from booting, if something does: what, then what to do.
    pub(super) fn trouble(&self) -> &Arc<OnceLock<Vec<String>>> {
        &self.trouble
    }

    /// Notes that for who asks.
    pub(super) fn note_trouble(&self, failure: &Failure) {
        let lines = std::iter::once(failure.error.to_string()).chain(failure.hints.iter().cloned());
        let _ = self.trouble.set(lines.collect());
    }

    /// The size of the terminal of whoever has attached to the console last.
    pub(super) fn attached_size(&self) -> Option<(u16, u16)> {
        self.wishes.size.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    /// Whether that has changed since the last call.
    fn attached_resized(&self) -> bool {
        std::mem::take(&mut self.wishes.size.lock().unwrap_or_else(PoisonError::into_inner).fresh)
    }

    /// The end, once somebody has asked for it by the machine's control socket.
    pub(super) fn asked(&self) -> Option<End> {
        self.wishes.patience().map(|_| End::Asked)
    }

    /// A session with the agent in the guest.
    pub(super) fn agent(&self) -> Result<Agent, Failure> {
        let port = self.machine.agent().ok_or_else(|| Failure::new("the machine has no port for the agent"))?;
        Ok(Agent::new(port, self.wake.clone()))
    }

    /// Sleeps until something happens.
    pub(super) fn wait(&self, want: &Want<'_>) -> Result<Happened, Failure> {
        let limit = self.limit.filter(|_| !self.over.get()).map(|l| self.started + l);
        let until = [limit, want.until].into_iter().flatten().min();
        let mut fds = vec![PollFd::new(self.wake.fd(), PollFlags::POLLIN)];
        let input = want.input.map(|i| {
            fds.push(PollFd::new(i.fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        let outputs = want.outputs.iter().filter(|o| o.waiting() > 0 && !o.broken());
        fds.extend(outputs.map(|o| PollFd::new(o.fd(), PollFlags::POLLOUT)));
        match poll(&mut fds, time_to(until)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(anyhow::Error::from(e).context("waiting failed").into()),
        }
        let input = input.is_some_and(|i| fds[i].revents().is_some_and(|r| !r.is_empty()));
        self.wake.forget();
        self.tell_of_room();
        let (resized, signals): (Vec<_>, Vec<_>) =
            terminal::take_signals().into_iter().partition(|s| *s == Signal::SIGWINCH);
        Ok(Happened { input, signals, resized: !resized.is_empty() | self.attached_resized() })
    }

    /// Says when the machine stands because the host is full, and when it goes on.
    fn tell_of_room(&self) {
        let waiting = self.machine.disks().waiting();
        if waiting.is_empty() == self.standing.get() {
            self.standing.set(!waiting.is_empty());
            // The terminal may be in raw mode.
            match waiting.is_empty() {
                true => eprint!("\r\nvisor: there is room again; the machine goes on\r\n"),
                false => eprint!(
                    "\r\nvisor: the machine stands still, because the host has no room for what its guest writes ({}).\r\n\
                     visor: make room on the host; it goes on by itself and nothing is lost\r\n",
                    waiting.join("; ")
                ),
            }
        }
    }

    /// The time limit, once it is over.
    pub(super) fn timed_out(&self) -> Option<End> {
        let limit = self.limit.filter(|l| self.started.elapsed() >= *l)?;
        self.over.set(true);
        Some(End::TimedOut(limit))
    }

    /// Takes up to `most` bytes of the guest's serial output.
    pub(super) fn take_serial(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let n = self.serial.read_timeout(&mut bytes, Duration::ZERO).unwrap_or(0);
        bytes.truncate(n);
        self.hub.push(&bytes);
        bytes
    }

    /// Lines that the firmware has logged since the last call.
    pub(super) fn firmware_lines(&self) -> Vec<String> {
        self.machine.firmware_log().take()
    }

    /// How far the boot has come.
    pub(super) fn timeline(&self) -> &Timeline {
        self.machine.timeline()
    }

    /// The failure that the firmware's giving up is.
    pub(super) fn nothing_to_boot(&self) -> Failure {
        let drive = self.name.as_deref().filter(|_| !self.machine.trays().is_empty());
        nothing_to_boot(self.machine.boot_devices(), drive)
    }

    /// Bytes of serial output that nobody took in time.
    pub(super) fn lost(&self) -> u64 {
        self.serial.dropped()
    }

    /// Passes input to the serial port; the number of bytes it took.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        self.keyboard.try_write(bytes)
    }

    /// Ends the machine for the user: in order if it has a disk that is worth it or was asked for by name, else at once. A second
    /// signal or the time limit cut it short. `show` gets what the guest still writes to its serial port.
    pub(super) fn farewell(&self, agent: Option<&mut Agent>, mut show: impl FnMut(&[u8])) -> Result<(), Failure> {
        let asked = self.wishes.patience();
        if !(self.precious || asked.is_some()) || self.stopped().is_some() {
            return Ok(());
        }
        if self.machine.state() == MachineState::Paused {
            self.machine.resume();
        }
        let mut presses = self.rouse();
        let mut agent = agent.filter(|a| a.is_ready());
        match &mut agent {
            Some(agent) => agent.shut_down(),
            // Nobody listens to the button: a firmware, a boot loader, a system without ACPI.
            None if !self.machine.power_button() => return Ok(()),
            None => {}
        }
        if asked.is_none() && is_terminal(std::io::stderr()) {
            eprint!("\r\nvisor: the guest is asked to power off; ctrl-C ends the machine at once\r\n");
        }
        let end = Instant::now() + asked.unwrap_or(FAREWELL);
        while self.stopped().is_none() && Instant::now() < end && self.timed_out().is_none() {
            let next = match &mut agent {
                Some(agent) => agent.keep_going(),
                None => presses.repeat(&self.machine),
            };
            show(&self.take_serial(1 << 20));
            let until = next.map_or(end, |at| at.min(end));
            let happened = self.wait(&Want { input: None, outputs: &[], until: Some(until) })?;
            if !happened.signals.is_empty() {
                break;
            }
        }
        show(&self.take_serial(1 << 20));
        Ok(())
    }

    /// Wakes a guest that has suspended to RAM, so that it can be asked to power off.
    fn rouse(&self) -> Presses {
        if !self.machine.sleeps() {
            return Presses { next: None, left: 0 };
        }
        self.machine.power_button();
        Presses { next: Some(Instant::now() + PRESS_AGAIN), left: 10 }
    }

    /// Why the machine has stopped, if it has.
    pub(super) fn stopped(&self) -> Option<StopReason> {
        match self.machine.state() {
            MachineState::Stopped(reason) => Some(reason),
            _ => None,
        }
    }

    /// Writes what the screen shows last.
    pub(super) fn write_screen(&self, screen: &ScreenArgs) -> Result<(), Failure> {
        screen.write(&self.machine)
    }

    /// Stops the machine if it still runs, and tells what it did.
    pub(super) fn finish(&mut self, format: StatsFormat) -> String {
        let elapsed = self.started.elapsed();
        self.attendants = Attendants::default();
        self.machine.stop();
        self.machine.wait();
        self.take_serial(1 << 20);
        self.hub.close();
        let cpus = self.machine.stats();
        let report = stats::Report::new(self.engine.engine.caps().name, &self.engine.reason, &cpus, elapsed)
            .disks(self.machine.disks().list());
        match format {
            StatsFormat::Table => report.table(),
            StatsFormat::Json => report.json(),
        }
    }
}

/// The button of a machine that slept: what its system hears while it resumes it takes for what woke it.
struct Presses {
    next: Option<Instant>,
    left: u32,
}

impl Presses {
    /// Presses it if it is time to, and tells when to come again.
    fn repeat(&mut self, machine: &Machine) -> Option<Instant> {
        if self.next.is_some_and(|at| at <= Instant::now()) {
            machine.power_button();
            self.left -= 1;
            self.next = (self.left > 0).then(|| Instant::now() + PRESS_AGAIN);
        }
        self.next
    }
}

/// Whether the arguments boot a system from a disk or a disc, rather than a kernel or an image of ours.
fn boots_by_itself(args: &RunArgs) -> bool {
    args.image.is_none() && args.kernel.is_none()
}

/// A kernel that cannot be booted is named.
fn unbootable(error: MachineError, kernel: Option<&FileSource>) -> Failure {
    let kernel = kernel.filter(|_| error.kind == MachineErrorKind::Boot);
    let mut failure = failure(error);
    if let Some(kernel) = kernel {
        failure.error = failure.error.context(format!("cannot boot {kernel:?}"));
    }
    failure
}

fn failure(error: MachineError) -> Failure {
    let hints = error.hint.clone().into_iter().collect();
    Failure { hints, ..Failure::from(anyhow::Error::from(error)) }
}

/// Writes what waits in `outputs`, at the pace of their readers. A signal ends it, and so does the time limit after two more
/// seconds.
pub(super) fn flush(live: &Live, outputs: &mut [&mut Output]) -> Result<(), Failure> {
    let mut end = None;
    loop {
        for output in outputs.iter_mut() {
            output.pump();
        }
        let waiting: Vec<&Output> = outputs.iter().map(|o| &**o).filter(|o| o.waiting() > 0).collect();
        if end.is_none() && live.timed_out().is_some() {
            end = Some(Instant::now() + Duration::from_secs(2));
        }
        if waiting.is_empty() || end.is_some_and(|e| Instant::now() >= e) {
            return Ok(());
        }
        let happened = live.wait(&Want { input: None, outputs: &waiting, until: end })?;
        if !happened.signals.is_empty() {
            return Ok(());
        }
    }
}

/// The time until `until`, rounded up so that a wait does not end just before it.
fn time_to(until: Option<Instant>) -> PollTimeout {
    let Some(until) = until else { return PollTimeout::NONE };
    let left = until.saturating_duration_since(Instant::now());
    let millis = left.as_nanos().div_ceil(1_000_000);
    // A minute at most: a longer wait is several.
    PollTimeout::from(u16::try_from(millis).unwrap_or(60_000))
}

/// Whether both ends of the conversation are a person's.
pub(super) fn at_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Whether `fd` is a terminal.
pub(super) fn is_terminal(fd: impl AsFd) -> bool {
    let fd: BorrowedFd<'_> = fd.as_fd();
    std::io::IsTerminal::is_terminal(&fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up() {
        assert_eq!(time_to(None), PollTimeout::NONE);
        assert_eq!(time_to(Some(Instant::now())), PollTimeout::ZERO);
        let soon = time_to(Some(Instant::now() + Duration::from_micros(900)));
        assert!(soon <= PollTimeout::from(1u16));
        assert_eq!(time_to(Some(Instant::now() + Duration::from_secs(9999))), PollTimeout::from(60_000u16));
    }
}
