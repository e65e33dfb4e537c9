//! Commands that others run in the guest through the control socket (`visor exec`).
//!
//! The session with the agent is the main thread's. A [`Line`] joins it with the threads of a client: those leave what came from the
//! client and take what goes to it; the main thread moves both when it is woken.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use visor_guest::host::{ExecId, HostEvent};
use visor_guest::protocol::{Failure as Refusal, Stream};

use super::agent::Agent;
use super::command::refused;
use super::live::{ExecWish, Wishes};
use super::wake::Wake;
use crate::report::FAILED;

/// Most bytes of input that wait for the guest.
const MOST_INPUT: usize = 256 << 10;

/// What goes to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Bytes of the command's output.
    Bytes(Stream, Vec<u8>),
    /// Its end, as a shell has it.
    Exited(u8),
    /// It did not run, or was lost: an exit status, and why.
    Failed(u8, String),
}

/// What joins a command with its client.
pub(super) struct Line {
    state: Mutex<State>,
    changed: Condvar,
    wake: Wake,
}

#[derive(Default)]
struct State {
    input: VecDeque<u8>,
    input_ended: bool,
    size: Option<(u16, u16)>,
    signals: Vec<u8>,
    output: VecDeque<Output>,
    /// Bytes of standard output and error that the client has taken since the agent was told.
    taken: [usize; 2],
    /// Nobody is there any more.
    hung_up: bool,
    /// The last output is in the queue.
    over: bool,
}

impl Line {
    pub(super) fn new(wake: Wake) -> Arc<Self> {
        Arc::new(Line { state: Mutex::default(), changed: Condvar::new(), wake })
    }

    /// Leaves input; waits while there is too much of it. False once the command is over.
    pub(super) fn input(&self, bytes: &[u8]) -> bool {
        let mut s = self.lock();
        while s.input.len() >= MOST_INPUT && !s.over && !s.hung_up {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        let goes_on = !s.over;
        // What nobody will read is not kept.
        if goes_on && !s.hung_up {
            s.input.extend(bytes);
        }
        drop(s);
        self.wake.wake();
        goes_on
    }

    /// No more input comes.
    pub(super) fn end_input(&self) {
        self.tell(|s| s.input_ended = true);
    }

    /// The client's terminal has this size.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        self.tell(|s| s.size = Some((columns, rows)));
    }

    /// The client passes a signal on.
    pub(super) fn signal(&self, number: u8) {
        self.tell(|s| {
            if s.signals.len() < 16 {
                s.signals.push(number);
            }
        });
    }

    /// The client has gone.
    pub(super) fn hang_up(&self) {
        self.tell(|s| s.hung_up = true);
    }

    /// The next output; `None` when there is no more or nobody to take it.
    pub(super) fn next(&self) -> Option<Output> {
        let mut s = self.lock();
        loop {
            if s.hung_up {
                return None;
            }
            if let Some(output) = s.output.pop_front() {
                return Some(output);
            }
            if s.over {
                return None;
            }
            s = self.changed.wait_timeout(s, Duration::from_secs(60)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The client has taken `n` bytes of output, so that the guest may send as many again.
    pub(super) fn took(&self, stream: Stream, n: usize) {
        self.tell(|s| s.taken[usize::from(stream == Stream::Stderr)] += n);
    }

    fn push(&self, output: Output) {
        let mut s = self.lock();
        if s.over {
            return;
        }
        s.over = !matches!(output, Output::Bytes(..));
        match output {
            // What nobody reads is read.
            Output::Bytes(stream, bytes) if s.hung_up => s.taken[usize::from(stream == Stream::Stderr)] += bytes.len(),
            output => s.output.push_back(output),
        }
        drop(s);
        self.changed.notify_all();
    }

    fn tell(&self, f: impl FnOnce(&mut State)) {
        f(&mut self.lock());
        self.changed.notify_all();
        self.wake.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The main thread's side: all such commands of a machine. Dropping it tells their clients that the machine has ended.
#[derive(Default)]
pub(super) struct Execs {
    waiting: Vec<ExecWish>,
    running: Vec<Running>,
}

struct Running {
    id: ExecId,
    line: Arc<Line>,
    input_ended: bool,
    hung_up: bool,
}

impl Execs {
    /// Starts what was asked for, if the agent is ready, and moves what goes to commands that run.
    pub(super) fn pump(&mut self, wishes: &Wishes, agent: &mut Agent) {
        self.waiting.extend(wishes.take_execs());
        self.waiting.retain(|(_, line)| !line.lock().hung_up);
        if !agent.is_ready() {
            return;
        }
        for (spec, line) in self.waiting.drain(..) {
            match agent.session.exec(&spec) {
                Ok(id) => self.running.push(Running { id, line, input_ended: false, hung_up: false }),
                Err(e) => line.push(Output::Failed(FAILED, e.to_string())),
            }
        }
        self.running.iter_mut().for_each(|r| r.pump(agent));
    }

    /// Takes what happened to one of these commands; gives back what happened to none.
    pub(super) fn take(&mut self, event: HostEvent) -> Option<HostEvent> {
        let id = match &event {
            HostEvent::Output { id, .. } | HostEvent::Exited { id, .. } | HostEvent::Refused { id, .. } => *id,
            _ => return Some(event),
        };
        let Some(at) = self.running.iter().position(|r| r.id == id) else { return Some(event) };
        let output = match event {
            HostEvent::Output { stream, bytes, .. } => Output::Bytes(stream, bytes),
            HostEvent::Exited { status, .. } => Output::Exited(status.shell_code()),
            HostEvent::Refused { failure, .. } => failed(&failure),
            other => return Some(other),
        };
        let over = !matches!(output, Output::Bytes(..));
        self.running[at].line.push(output);
        if over {
            self.running.remove(at);
        }
        None
    }

    /// The session with the agent was lost, and all commands with it.
    pub(super) fn lost(&mut self, why: &str) {
        for r in self.running.drain(..) {
            r.line.push(Output::Failed(FAILED, why.to_owned()));
        }
    }
}

impl Drop for Execs {
    fn drop(&mut self) {
        self.lost("the machine ended before the command");
        for (_, line) in self.waiting.drain(..) {
            line.push(Output::Failed(FAILED, "the machine ended before the command".into()));
        }
    }
}

impl Running {
    fn pump(&mut self, agent: &mut Agent) {
        let room = agent.session.stdin_room(self.id);
        let mut s = self.line.lock();
        let n = s.input.len().min(room);
        let input: Vec<u8> = s.input.drain(..n).collect();
        let ended = s.input_ended && s.input.is_empty();
        let (size, signals) = (s.size.take(), std::mem::take(&mut s.signals));
        let (taken, hung_up) = (std::mem::take(&mut s.taken), s.hung_up);
        drop(s);
        if n > 0 {
            self.line.changed.notify_all();
            agent.session.write_stdin(self.id, &input);
        }
        if (ended || hung_up) && !std::mem::replace(&mut self.input_ended, true) {
            agent.session.close_stdin(self.id);
        }
        if let Some((columns, rows)) = size {
            let _ = agent.session.resize(self.id, columns, rows);
        }
        for signal in signals {
            let _ = agent.session.signal(self.id, signal);
        }
        // As with a terminal that is closed.
        if hung_up && !std::mem::replace(&mut self.hung_up, true) {
            let _ = agent.session.signal(self.id, Signal::SIGHUP as u8);
        }
        for (stream, n) in [Stream::Stdout, Stream::Stderr].into_iter().zip(taken) {
            if n > 0 {
                agent.session.consumed(self.id, stream, n);
            }
        }
    }
}

fn failed(refusal: &Refusal) -> Output {
    let failure = refused(refusal);
    Output::Failed(failure.status, failure.error.to_string())
}

#[cfg(test)]
mod tests {
    use visor_guest::protocol::ExecSpec;

    use super::*;

    #[test]
    fn a_line_passes_output_on_and_ends_once() {
        let line = Line::new(Wake::new().unwrap());
        line.push(Output::Bytes(Stream::Stdout, b"a".to_vec()));
        line.push(Output::Exited(3));
        line.push(Output::Failed(125, "late".into()));
        assert_eq!(line.next(), Some(Output::Bytes(Stream::Stdout, b"a".to_vec())));
        assert_eq!((line.next(), line.next()), (Some(Output::Exited(3)), None));
        assert!(!line.input(b"x"), "over");
    }

    #[test]
    fn who_has_gone_does_not_hold_the_guest_up() {
        let line = Line::new(Wake::new().unwrap());
        line.hang_up();
        line.push(Output::Bytes(Stream::Stderr, vec![0; 10]));
        assert_eq!((line.next(), line.lock().taken), (None, [0, 10]));
        assert!(line.input(&vec![0; MOST_INPUT + 1]) && line.input(b"more"), "nor is anybody held up for ever");
        assert!(line.lock().input.is_empty());
    }

    #[test]
    fn commands_that_wait_learn_of_the_end() {
        let line = Line::new(Wake::new().unwrap());
        let mut execs = Execs::default();
        execs.waiting.push((ExecSpec::new(["true"]), line.clone()));
        drop(execs);
        assert_eq!(line.next(), Some(Output::Failed(125, "the machine ended before the command".into())));
    }
}
