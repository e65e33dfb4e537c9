//! Supervision: which services run, what happens when one ends, and who waits for that.
//!
//! A state machine around processes. It never waits: PID 1 tells it about ended children ([`Manager::child_ended`]) and
//! about time ([`Manager::tick`]), and collects answers for waiting clients ([`Manager::take_answers`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use super::unit::{self, Restart, ServiceType, Unit, UnitError, full_name};
use crate::sys;

mod process;
pub(crate) use process::log_path;
#[cfg(test)]
mod tests;

/// More starts than this within [`START_WINDOW`] are a service that cannot live (systemd's `StartLimitBurst=`).
const START_BURST: usize = 5;
const START_WINDOW: Duration = Duration::from_secs(10);

/// What a service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Inactive,
    /// Its start commands run.
    Activating,
    /// It runs.
    Running,
    /// It has done its work and counts as active (`RemainAfterExit=`).
    Exited,
    /// It has been told to stop.
    Deactivating,
    /// It ended badly.
    Failed,
    /// It will be started again shortly.
    AutoRestart,
}

impl State {
    /// The two words of `systemctl status`: active state and sub-state.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Inactive => ("inactive", "dead"),
            Self::Activating => ("activating", "start"),
            Self::Running => ("active", "running"),
            Self::Exited => ("active", "exited"),
            Self::Deactivating => ("deactivating", "stop-sigterm"),
            Self::Failed => ("failed", "failed"),
            Self::AutoRestart => ("activating", "auto-restart"),
        }
    }
}

/// Who waits for an answer; chosen by the caller.
pub type Waiter = u64;

/// An answer to a request: nothing, or why it did not work.
pub type Answer = Result<(), String>;

/// The services of a system.
pub struct Manager {
    root: PathBuf,
    logs: PathBuf,
    services: BTreeMap<String, Service>,
    answers: Vec<(Waiter, Answer)>,
}

struct Service {
    unit: Unit,
    log: PathBuf,
    state: State,
    main: Option<u32>,
    control: Option<u32>,
    /// Commands of `ExecStart=` or `ExecStop=` that have run.
    step: usize,
    last_exit: Option<ExitStatus>,
    since: SystemTime,
    starts: Vec<Instant>,
    deadline: Option<Instant>,
    killed: bool,
    start_waiters: Vec<Waiter>,
    stop_waiters: Vec<Waiter>,
    start_after_stop: bool,
}

impl Manager {
    /// A manager for the system at `root` (`/` but for tests), with the output of services below the directory `logs`.
    /// Nothing runs yet.
    pub fn new(root: &Path, logs: &Path) -> Self {
        Self { root: root.to_owned(), logs: logs.to_owned(), services: BTreeMap::new(), answers: Vec::new() }
    }

    /// Starts everything that is enabled, in the order of `After=`.
    pub fn start_enabled(&mut self) {
        let names: BTreeSet<String> = unit::enabled(&self.root).into_iter().collect();
        for name in order(&self.root, &names) {
            self.start(&name, None);
        }
    }

    /// Starts a service; the waiter is answered when it is up (for `oneshot`: when it is done).
    pub fn start(&mut self, name: &str, waiter: Option<Waiter>) {
        match self.load(name) {
            Ok(name) => {
                if let Some(service) = self.services.get_mut(&name) {
                    service.starts.clear();
                    service.request_start(waiter, &mut self.answers);
                }
            }
            Err(error) => self.answer(waiter, Err(explain("start", name, &error))),
        }
    }

    /// Stops a service; the waiter is answered when it is gone.
    pub fn stop(&mut self, name: &str, waiter: Option<Waiter>) {
        match self.load(name) {
            Ok(name) => {
                if let Some(service) = self.services.get_mut(&name) {
                    service.start_after_stop = false;
                    service.request_stop(waiter, &mut self.answers);
                }
            }
            Err(error) => self.answer(waiter, Err(explain("stop", name, &error))),
        }
    }

    /// Stops a service if it runs, and starts it.
    pub fn restart(&mut self, name: &str, waiter: Option<Waiter>) {
        let busy = full_name(name).ok().and_then(|n| self.services.get_mut(&n)).filter(|s| s.is_up());
        match busy {
            Some(service) => {
                service.start_after_stop = true;
                service.start_waiters.extend(waiter);
                service.request_stop(None, &mut self.answers);
            }
            None => self.start(name, waiter),
        }
    }

    /// Sends a signal to a service's processes.
    ///
    /// # Errors
    /// When it is unknown or not running.
    pub fn signal(&self, name: &str, signo: i32) -> Answer {
        let service = full_name(name).ok().and_then(|n| self.services.get(&n));
        let pid = service.and_then(|s| s.main).ok_or_else(|| format!("Unit {name} is not running."))?;
        sys::kill_group(pid, signo).map_err(|e| format!("Failed to kill unit {name}: {e}"))
    }

    /// Tells every service to stop, as the machine is going down. Nobody is answered.
    pub fn stop_all(&mut self) {
        for service in self.services.values_mut() {
            service.start_after_stop = false;
            service.request_stop(None, &mut self.answers);
        }
    }

    /// Takes note that a child has ended; false when it belongs to no service.
    pub fn child_ended(&mut self, pid: u32, status: ExitStatus) -> bool {
        let mut services = self.services.values_mut();
        match services.find(|s| s.main == Some(pid) || s.control == Some(pid)) {
            Some(service) => {
                service.child_ended(pid, status, &mut self.answers);
                true
            }
            None => false,
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        for service in self.services.values_mut() {
            if service.deadline.is_some_and(|t| t <= now) {
                service.deadline = None;
                service.deadline_passed(&mut self.answers);
            }
        }
    }

    /// When [`Self::tick`] must be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.services.values().filter_map(|s| s.deadline).min()
    }

    /// Answers that have become known.
    pub fn take_answers(&mut self) -> Vec<(Waiter, Answer)> {
        std::mem::take(&mut self.answers)
    }

    /// Processes of all services.
    pub fn pids(&self) -> Vec<u32> {
        self.services.values().flat_map(|s| [s.main, s.control]).flatten().collect()
    }

    /// What `systemctl show` prints about a unit: one `Key=value` per line.
    pub fn show(&mut self, name: &str) -> String {
        let loaded = self.load(name);
        let Some(service) = loaded.as_ref().ok().and_then(|n| self.services.get(n)) else {
            let state = match loaded {
                Err(UnitError::NotFound | UnitError::BadName) => "not-found",
                _ => "bad-setting",
            };
            let id = full_name(name).unwrap_or_else(|_| name.to_owned());
            return format!("Id={id}\nDescription={id}\nLoadState={state}\nActiveState=inactive\nSubState=dead\n");
        };
        service.show()
    }

    /// One line per loaded unit: name, load state, active state, sub-state, description, separated by tabs.
    pub fn list(&mut self) -> String {
        for name in unit::list(&self.root) {
            if !name.contains("@.") {
                // A broken file is shown by `status`, and is no reason to hide the others.
                let _ = self.load(&name);
            }
        }
        let line = |s: &Service| {
            let (active, sub) = s.state.words();
            format!("{}\tloaded\t{active}\t{sub}\t{}\n", s.unit.name, s.unit.description)
        };
        self.services.values().map(line).collect()
    }

    /// Reads the files of units that do not run again.
    pub fn reload(&mut self) {
        self.services.retain(|_, s| s.is_up() || s.state == State::Failed);
        for (name, service) in &mut self.services {
            if let Ok(unit) = Unit::load(&self.root, name) {
                service.unit = unit;
            }
        }
    }

    fn load(&mut self, name: &str) -> Result<String, UnitError> {
        let name = full_name(name)?;
        if !name.ends_with(".service") {
            return Err(UnitError::NotFound);
        }
        if !self.services.contains_key(&name) {
            let unit = Unit::load(&self.root, &name)?;
            let log = log_path(&self.logs, &name);
            self.services.insert(name.clone(), Service::new(unit, log));
        }
        Ok(name)
    }

    fn answer(&mut self, waiter: Option<Waiter>, answer: Answer) {
        self.answers.extend(waiter.map(|w| (w, answer)));
    }
}

fn explain(verb: &str, name: &str, error: &UnitError) -> String {
    let full = full_name(name).unwrap_or_else(|_| name.to_owned());
    match error {
        UnitError::NotFound => format!("Failed to {verb} {full}: Unit {full} not found."),
        UnitError::BadName => format!("Failed to {verb} {name}: Unit name {name} is not valid."),
        UnitError::Bad(what) => {
            format!("Failed to {verb} {full}: Unit {full} has a bad unit file setting: {what}")
        }
        UnitError::Io(e) => format!("Failed to {verb} {full}: {e}"),
    }
}

/// The names with those a unit comes `After=` in front of it; a circle is broken at its first name.
fn order(root: &Path, names: &BTreeSet<String>) -> Vec<String> {
    fn visit(root: &Path, name: &str, names: &BTreeSet<String>, seen: &mut BTreeSet<String>, out: &mut Vec<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        let after = Unit::load(root, name).map(|u| u.after).unwrap_or_default();
        for earlier in after.iter().filter(|n| names.contains(*n)) {
            visit(root, earlier, names, seen, out);
        }
        out.push(name.to_owned());
    }
    let (mut seen, mut out) = (BTreeSet::new(), Vec::new());
    for name in names {
        visit(root, name, names, &mut seen, &mut out);
    }
    out
}

impl Service {
    fn new(unit: Unit, log: PathBuf) -> Self {
        Self {
            unit,
            log,
            state: State::Inactive,
            main: None,
            control: None,
            step: 0,
            last_exit: None,
            since: SystemTime::now(),
            starts: Vec::new(),
            deadline: None,
            killed: false,
            start_waiters: Vec::new(),
            stop_waiters: Vec::new(),
            start_after_stop: false,
        }
    }

    fn is_up(&self) -> bool {
        !matches!(self.state, State::Inactive | State::Failed)
    }

    fn set_state(&mut self, state: State) {
        self.state = state;
        self.since = SystemTime::now();
    }

    fn request_start(&mut self, waiter: Option<Waiter>, answers: &mut Vec<(Waiter, Answer)>) {
        match self.state {
            State::Running | State::Exited => answers.extend(waiter.map(|w| (w, Ok(())))),
            State::Activating => self.start_waiters.extend(waiter),
            State::Deactivating => {
                self.start_after_stop = true;
                self.start_waiters.extend(waiter);
            }
            State::Inactive | State::Failed | State::AutoRestart => {
                self.start_waiters.extend(waiter);
                self.begin(answers);
            }
        }
    }

    fn begin(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
        let now = Instant::now();
        self.starts.retain(|t| now.duration_since(*t) < START_WINDOW);
        self.deadline = None;
        if self.starts.len() >= START_BURST {
            let name = &self.unit.name;
            let words = format!("Job for {name} failed: start request repeated too quickly.");
            return self.fail(words, answers);
        }
        self.starts.push(now);
        self.step = 0;
        self.killed = false;
        self.set_state(State::Activating);
        self.run_step(answers);
    }

    /// Runs the next command of `ExecStart=`.
    fn run_step(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
        let Some(command) = self.unit.exec_start.get(self.step) else {
            return self.started(State::Exited, answers);
        };
        match process::spawn(&self.unit, command, &self.log) {
            Ok(pid) => self.main = Some(pid),
            Err(error) => {
                let (name, program) = (&self.unit.name, command.argv.first().map_or("", String::as_str));
                let words = format!("Job for {name} failed: cannot run {program}: {error}");
                return self.fail(words, answers);
            }
        }
        if self.unit.service_type == ServiceType::Simple {
            self.started(State::Running, answers);
        }
    }

    fn started(&mut self, state: State, answers: &mut Vec<(Waiter, Answer)>) {
        self.set_state(state);
        answers.extend(self.start_waiters.drain(..).map(|w| (w, Ok(()))));
    }

    fn fail(&mut self, words: String, answers: &mut Vec<(Waiter, Answer)>) {
        self.set_state(State::Failed);
        answers.extend(self.start_waiters.drain(..).map(|w| (w, Err(words.clone()))));
        answers.extend(self.stop_waiters.drain(..).map(|w| (w, Ok(()))));
    }

    fn request_stop(&mut self, waiter: Option<Waiter>, answers: &mut Vec<(Waiter, Answer)>) {
        self.stop_waiters.extend(waiter);
        match self.state {
            State::Inactive | State::Failed | State::Exited | State::AutoRestart => self.stopped(answers),
            State::Deactivating => {}
            State::Activating | State::Running => {
                self.set_state(State::Deactivating);
                self.step = 0;
                self.deadline = Some(Instant::now() + self.unit.stop_timeout);
                self.stop_step();
            }
        }
    }

    /// Runs the next command of `ExecStop=`, then the signal.
    fn stop_step(&mut self) {
        while let Some(command) = self.unit.exec_stop.get(self.step) {
            self.step += 1;
            if let Ok(pid) = process::spawn(&self.unit, command, &self.log) {
                self.control = Some(pid);
                return;
            }
        }
        self.signal_all(libc::SIGTERM);
    }

    fn signal_all(&self, signo: i32) {
        for pid in [self.main, self.control].into_iter().flatten() {
            // A daemon that forked has a group of its own, or none: then the process alone.
            if sys::kill_group(pid, signo).is_err() {
                let _ = sys::kill(pid, signo);
            }
        }
    }

    fn stopped(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
        self.deadline = None;
        let failed = self.state == State::Failed || self.killed;
        self.set_state(if failed { State::Failed } else { State::Inactive });
        answers.extend(self.stop_waiters.drain(..).map(|w| (w, Ok(()))));
        if std::mem::take(&mut self.start_after_stop) {
            self.starts.clear();
            self.begin(answers);
        }
    }

    fn deadline_passed(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
        match self.state {
            State::AutoRestart => self.begin(answers),
            State::Deactivating => {
                self.killed = true;
                self.signal_all(libc::SIGKILL);
            }
            _ => {}
        }
    }

    fn child_ended(&mut self, pid: u32, status: ExitStatus, answers: &mut Vec<(Waiter, Answer)>) {
        if self.control == Some(pid) {
            self.control = None;
            if self.state == State::Deactivating && self.main.is_some() {
                self.stop_step();
            } else if self.state == State::Deactivating {
                self.stopped(answers);
            }
            return;
        }
        self.main = None;
        self.last_exit = Some(status);
        match self.state {
            State::Deactivating if self.control.is_none() => self.stopped(answers),
            State::Activating => self.start_step_ended(status, answers),
            State::Running => self.ended_by_itself(status, answers),
            _ => {}
        }
    }

    fn start_step_ended(&mut self, status: ExitStatus, answers: &mut Vec<(Waiter, Answer)>) {
        let may_fail = self.unit.exec_start.get(self.step).is_some_and(|c| c.may_fail);
        if !status.success() && !may_fail {
            if !self.start_waiters.is_empty() {
                let words =
                    format!("Job for {} failed because the control process exited with error code.", self.unit.name);
                answers.extend(self.start_waiters.drain(..).map(|w| (w, Err(words.clone()))));
            }
            return self.ended_by_itself(status, answers);
        }
        if self.unit.service_type == ServiceType::Forking {
            self.main = process::read_pid_file(&self.unit);
            return self.started(if self.main.is_some() { State::Running } else { State::Exited }, answers);
        }
        self.step += 1;
        if self.step < self.unit.exec_start.len() {
            self.run_step(answers);
        } else if self.unit.remain_after_exit {
            self.started(State::Exited, answers);
        } else {
            self.started(State::Inactive, answers);
        }
    }

    fn ended_by_itself(&mut self, status: ExitStatus, answers: &mut Vec<(Waiter, Answer)>) {
        use std::os::unix::process::ExitStatusExt;
        // These signals are how daemons are asked to end (systemd.service(5), SuccessExitStatus=).
        let asked = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE];
        let may_fail = self.unit.exec_start.first().is_some_and(|c| c.may_fail);
        let well = status.success() || may_fail || status.signal().is_some_and(|s| asked.contains(&s));
        let again = match self.unit.restart {
            Restart::No => false,
            Restart::Always => true,
            Restart::OnFailure => !well,
            Restart::OnSuccess => well,
        };
        if again {
            self.set_state(State::AutoRestart);
            self.deadline = Some(Instant::now() + self.unit.restart_delay);
        } else if well && self.unit.remain_after_exit {
            self.set_state(State::Exited);
        } else if well {
            self.set_state(State::Inactive);
        } else {
            let words = format!("Job for {} failed.", self.unit.name);
            self.fail(words, answers);
        }
    }

    fn show(&self) -> String {
        let (active, sub) = self.state.words();
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let unit = &self.unit;
        let mut out = format!(
            "Id={}\nDescription={}\nLoadState=loaded\nActiveState={active}\nSubState={sub}\nFragmentPath={}\n",
            unit.name,
            unit.description,
            unit.path.display()
        );
        out.push_str(&format!("StateChangeTimestamp={since}\nMainPID={}\n", self.main.unwrap_or(0)));
        if let Some(exit) = self.last_exit {
            out.push_str(&format!("ExecMainStatus={}\n", process::describe(exit)));
        }
        out
    }
}
