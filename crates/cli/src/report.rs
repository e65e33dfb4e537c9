//! Errors as a person reads them: what failed, why, and what to do; and the exit statuses of `visor`.

use std::fmt::Write as _;
use std::process::ExitCode;

/// Exit status when visor itself fails, as with other tools that run a command for you.
pub(crate) const FAILED: u8 = 125;
/// Exit status when the time limit ended the machine, as timeout(1) has it.
pub(crate) const TIMED_OUT: u8 = 124;
/// Exit status when the guest crashed or hung for good.
pub(crate) const GUEST_CRASHED: u8 = 123;
/// Exit status when the user left the machine by the escape key.
pub(crate) const LEFT: u8 = 0;

/// A failure with what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What failed and why.
    pub(crate) error: anyhow::Error,
    /// What to do, one line each.
    pub(crate) hints: Vec<String>,
    /// Exit status.
    pub(crate) status: u8,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure { error: error.into(), hints: Vec::new(), status: FAILED }
    }
}

impl Failure {
    /// A failure described in words.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Failure { error: anyhow::Error::msg(what.into()), hints: Vec::new(), status: FAILED }
    }

    /// Says in what the error happened.
    pub(crate) fn context(mut self, what: impl Into<String>) -> Self {
        self.error = self.error.context(what.into());
        self
    }

    /// Adds a line that says what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Prints a failure to stderr.
pub(crate) fn print(failure: &Failure) -> ExitCode {
    eprint!("{}", render(failure));
    ExitCode::from(failure.status)
}

/// `error: what: why`, then the hints, indented. A cause that the line above already tells is not repeated.
fn render(failure: &Failure) -> String {
    let mut text = String::new();
    let mut said = failure.error.to_string();
    for cause in failure.error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            let _ = write!(said, ": {cause}");
        }
    }
    let _ = writeln!(text, "error: {said}");
    for hint in &failure.hints {
        let _ = writeln!(text, "  {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once_and_hints_follow() {
        let io = std::io::Error::other("no such thing");
        let failure = Failure::from(anyhow::Error::from(io).context("cannot open `x`")).hint("look again");
        assert_eq!(render(&failure), "error: cannot open `x`: no such thing\n  look again\n");
    }
}
