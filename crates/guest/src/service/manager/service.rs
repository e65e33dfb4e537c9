//! One service: a state machine around its processes. Comes out of every step with its answers pushed.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime};

use super::process;
use super::{Answer, State, Waiter};
use crate::service::unit::{Restart, ServiceType, Unit};
use crate::sys;

/// More starts than this within [`START_WINDOW`] are a service that cannot live (systemd's `StartLimitBurst=`).
const START_BURST: usize = 5;
const START_WINDOW: Duration = Duration::from_secs(10);

/// A service and its processes.
pub(super) struct Service {
    pub(super) unit: Unit,
    pub(super) log: PathBuf,
    pub(super) state: State,
    pub(super) main: Option<u32>,
    pub(super) control: Option<u32>,
    /// Commands of `ExecStart=` or `ExecStop=` that have run.
    pub(super) step: usize,
    pub(super) last_exit: Option<ExitStatus>,
    pub(super) since: SystemTime,
    pub(super) starts: Vec<Instant>,
    pub(super) deadline: Option<Instant>,
    pub(super) killed: bool,
    pub(super) start_waiters: Vec<Waiter>,
    pub(super) stop_waiters: Vec<Waiter>,
    pub(super) start_after_stop: bool,
}

impl Service {
    pub(super) fn new(unit: Unit, log: PathBuf) -> Self {
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

    pub(super) fn is_up(&self) -> bool {
        !matches!(self.state, State::Inactive | State::Failed)
    }

    pub(super) fn set_state(&mut self, state: State) {
        self.state = state;
        self.since = SystemTime::now();
    }

    pub(super) fn request_start(&mut self, waiter: Option<Waiter>, answers: &mut Vec<(Waiter, Answer)>) {
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

    pub(super) fn begin(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
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
    pub(super) fn run_step(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
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

    pub(super) fn started(&mut self, state: State, answers: &mut Vec<(Waiter, Answer)>) {
        self.set_state(state);
        answers.extend(self.start_waiters.drain(..).map(|w| (w, Ok(()))));
    }

    pub(super) fn fail(&mut self, words: String, answers: &mut Vec<(Waiter, Answer)>) {
        self.set_state(State::Failed);
        answers.extend(self.start_waiters.drain(..).map(|w| (w, Err(words.clone()))));
        answers.extend(self.stop_waiters.drain(..).map(|w| (w, Ok(()))));
    }

    pub(super) fn request_stop(&mut self, waiter: Option<Waiter>, answers: &mut Vec<(Waiter, Answer)>) {
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
    pub(super) fn stop_step(&mut self) {
        while let Some(command) = self.unit.exec_stop.get(self.step) {
            self.step += 1;
            if let Ok(pid) = process::spawn(&self.unit, command, &self.log) {
                self.control = Some(pid);
                return;
            }
        }
        self.signal_all(libc::SIGTERM);
    }

    pub(super) fn signal_all(&self, signo: i32) {
        for pid in [self.main, self.control].into_iter().flatten() {
            // A daemon that forked has a group of its own, or none: then the process alone.
            if sys::kill_group(pid, signo).is_err() {
                let _ = sys::kill(pid, signo);
            }
        }
    }

    pub(super) fn stopped(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
        self.deadline = None;
        let failed = self.state == State::Failed || self.killed;
        self.set_state(if failed { State::Failed } else { State::Inactive });
        answers.extend(self.stop_waiters.drain(..).map(|w| (w, Ok(()))));
        if std::mem::take(&mut self.start_after_stop) {
            self.starts.clear();
            self.begin(answers);
        }
    }

    pub(super) fn deadline_passed(&mut self, answers: &mut Vec<(Waiter, Answer)>) {
        match self.state {
            State::AutoRestart => self.begin(answers),
            State::Deactivating => {
                self.killed = true;
                self.signal_all(libc::SIGKILL);
            }
            _ => {}
        }
    }

    pub(super) fn child_ended(&mut self, pid: u32, status: ExitStatus, answers: &mut Vec<(Waiter, Answer)>) {
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

    pub(super) fn start_step_ended(&mut self, status: ExitStatus, answers: &mut Vec<(Waiter, Answer)>) {
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

    pub(super) fn ended_by_itself(&mut self, status: ExitStatus, answers: &mut Vec<(Waiter, Answer)>) {
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

    pub(super) fn show(&self) -> String {
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
