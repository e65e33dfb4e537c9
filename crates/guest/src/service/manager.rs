//! Supervision: which services run, what happens when one ends, and who waits for that.
//!
//! A state machine around processes. It never waits: PID 1 tells it about ended children ([`Manager::child_ended`]) and
//! about time ([`Manager::tick`]), and collects answers for waiting clients ([`Manager::take_answers`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use super::unit::{self, Unit, UnitError, full_name};
use crate::sys;

mod process;
mod service;
#[cfg(test)]
mod tests;

pub(crate) use process::log_path;
use service::Service;

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
