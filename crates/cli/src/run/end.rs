//! How a run ends: exit statuses, and the words for what went wrong.

use std::time::Duration;

use nix::sys::signal::Signal;
use visor_machine::StopReason;

use super::tail::Tail;
use crate::report::{FAILED, Failure, GUEST_CRASHED, LEFT, TIMED_OUT};

/// Lines of the guest's console in an error message.
const LINES: usize = 8;

/// Why a run is over.
#[derive(Debug)]
pub(super) enum End {
    /// The machine stopped by itself.
    Stopped(StopReason),
    /// The time limit.
    TimedOut(Duration),
    /// The user left by the escape key.
    Left,
    /// Somebody asked for it by the machine's control socket.
    Asked,
    /// A signal.
    Signal(Signal),
    /// Nobody reads standard output any more.
    BrokenPipe,
    /// The command ended with this status.
    Command(u8),
    /// The command could not be run.
    Refused(Failure),
    /// The guest failed, and its console may say why.
    Lost(Failure),
}

/// What a run was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The machine itself: its end is the end.
    Machine,
    /// A command: the machine's end before the command's is a failure.
    Command,
}

impl End {
    /// The exit status, or the failure to report. `hidden` is what of the console the user has not seen.
    pub(super) fn conclude(self, purpose: Purpose, hidden: Option<&Tail>) -> Result<u8, Failure> {
        match self {
            End::Left => Ok(LEFT),
            End::Asked => stopped(&StopReason::Killed, purpose).map_err(|f| with_console(f, hidden)),
            End::Command(status) => Ok(status),
            End::Signal(signal) => Ok(128u8.saturating_add(signal as u8)),
            // What a program gets whose output nobody reads.
            End::BrokenPipe => Ok(128 + Signal::SIGPIPE as u8),
            End::Refused(failure) => Err(failure),
            End::Lost(failure) => Err(with_console(failure, hidden)),
            End::TimedOut(limit) => {
                let text = format!("the time limit of {} s is over", limit.as_secs_f64());
                let failure = Failure { status: TIMED_OUT, ..Failure::new(text) };
                Err(with_console(failure, hidden))
            }
            End::Stopped(reason) => stopped(&reason, purpose).map_err(|f| with_console(f, hidden)),
        }
    }
}

fn stopped(reason: &StopReason, purpose: Purpose) -> Result<u8, Failure> {
    let crash = |text: &str| Failure { status: GUEST_CRASHED, ..Failure::new(text) };
    let early = |text: &str| match purpose {
        Purpose::Machine => Ok(0),
        Purpose::Command => Err(Failure { status: FAILED, ..Failure::new(format!("{text} before the command ended")) }),
    };
    match reason {
        StopReason::PowerOff => early("the guest powered off"),
        StopReason::Reset => early("the guest restarted"),
        StopReason::Killed | StopReason::TimedOut => early("the machine was stopped"),
        StopReason::DebugExit(status) => Ok(*status),
        StopReason::TripleFault => Err(crash("the guest crashed: triple fault, an exception that its kernel could not handle")
            .hint("its last messages may say why; show those of the boot with -v, or of a kernel with --append earlyprintk=serial")),
        StopReason::GuestHung => Err(crash("the guest hangs: all its CPUs are halted with interrupts off, and nothing can wake them")
            .hint("a kernel that panics or cannot power off ends like this: see its last messages")),
        StopReason::Failed(why) => Err(Failure::new(format!("the machine failed: {why}"))
            .hint("another engine may do: --engine soft, --engine kvm; `visor doctor` shows what works here")),
    }
}

fn with_console(mut failure: Failure, hidden: Option<&Tail>) -> Failure {
    let lines = hidden.map(|t| t.lines(LINES)).unwrap_or_default();
    if !lines.is_empty() {
        failure.hints.push("the last lines on its console:".into());
        failure.hints.extend(lines.iter().map(|l| format!("| {l}")));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(end: End, purpose: Purpose) -> (u8, String) {
        match end.conclude(purpose, None) {
            Ok(status) => (status, String::new()),
            Err(failure) => (failure.status, failure.error.to_string()),
        }
    }

    #[test]
    fn statuses() {
        use Purpose::{Command, Machine};
        assert_eq!(status(End::Stopped(StopReason::PowerOff), Machine).0, 0);
        assert_eq!(status(End::Stopped(StopReason::Reset), Machine).0, 0);
        assert_eq!(status(End::Stopped(StopReason::DebugExit(7)), Machine).0, 7);
        let (code, text) = status(End::Stopped(StopReason::PowerOff), Command);
        assert!(code == 125 && text.contains("before the command"), "{text}");
        let (code, text) = status(End::Stopped(StopReason::TripleFault), Machine);
        assert!(code == 123 && text.contains("triple fault"), "{text}");
        let (code, text) = status(End::Stopped(StopReason::GuestHung), Command);
        assert!(code == 123 && text.contains("halted"), "{text}");
        let (code, text) = status(End::TimedOut(Duration::from_millis(1500)), Machine);
        assert!(code == 124 && text.contains("1.5 s"), "{text}");
        assert_eq!(status(End::Stopped(StopReason::Failed("x".into())), Machine).0, 125);
        assert_eq!(status(End::Signal(Signal::SIGTERM), Command).0, 143);
        assert_eq!((status(End::Asked, Machine).0, status(End::Asked, Command).0), (0, 125));
        assert_eq!(status(End::BrokenPipe, Machine).0, 141);
        assert_eq!(status(End::Command(9), Command).0, 9);
    }

    #[test]
    fn a_hidden_console_is_quoted() {
        let mut tail = Tail::default();
        tail.push(b"Kernel panic: no init\r\n");
        let failure = End::Stopped(StopReason::Reset).conclude(Purpose::Command, Some(&tail)).unwrap_err();
        assert_eq!(failure.hints.last().map(String::as_str), Some("| Kernel panic: no init"));
    }
}
