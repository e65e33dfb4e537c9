//! The fuzzing loop: generate, run on the host, run on the subject, compare.

use crate::case::{Case, Outcome, Status};
use crate::compare::{Mismatch, compare};
use crate::coverage::Coverage;
use crate::generate::Generator;
use crate::native::Native;
use crate::subject::Subject;
use std::time::{Duration, Instant};

/// How long to go on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// First index.
    pub first: u64,
    /// Most cases.
    pub cases: u64,
    /// Most time.
    pub time: Option<Duration>,
    /// Mismatches after which to stop.
    pub mismatches: usize,
    /// Flags that are overwritten before anything reads them must agree too. Translated code need not keep them; such mismatches
    /// are a fiftieth of all cases, and would fill memory.
    pub dead_flags: bool,
}

/// What a run found.
#[derive(Debug, Default)]
pub struct Report {
    /// Cases run.
    pub cases: u64,
    /// Cases on which the host timed out or attempted a system call.
    pub useless: u64,
    /// Disagreements.
    pub mismatches: Vec<Mismatch>,
    /// What ran.
    pub coverage: Coverage,
}

/// Runs cases on the host and, if given, on a subject.
///
/// # Errors
/// Where the host process or the subject fails as such.
pub fn run(
    generator: &Generator,
    native: &mut Native,
    mut subject: Option<&mut dyn Subject>,
    limits: Limits,
) -> anyhow::Result<Report> {
    let start = Instant::now();
    let mut report = Report::default();
    let mut next = limits.first;
    let end = limits.first.saturating_add(limits.cases);
    let take = |next: &mut u64| -> Vec<Case> {
        let upto = end.min(next.saturating_add(Native::BATCH as u64));
        let cases = (*next..upto).map(|i| generator.case(i)).collect();
        *next = upto;
        cases
    };
    let mut waiting = take(&mut next);
    let mut pending = native.submit(&waiting);
    while !waiting.is_empty() {
        // Generate the next batch while the child runs this one.
        let over = limits.time.is_some_and(|t| start.elapsed() > t) || report.mismatches.len() >= limits.mismatches;
        let following = if over { Vec::new() } else { take(&mut next) };
        let outcomes = native.collect(pending)?;
        pending = native.submit(&following);
        judge(&mut report, &waiting, &outcomes, &mut subject, limits.dead_flags)?;
        waiting = following;
    }
    native.collect(pending)?;
    Ok(report)
}

fn judge(
    report: &mut Report,
    cases: &[Case],
    native: &[Outcome],
    subject: &mut Option<&mut dyn Subject>,
    dead_flags: bool,
) -> anyhow::Result<()> {
    report.cases += cases.len() as u64;
    let useful = |o: &Outcome| o.status == Status::Exception;
    report.useless += native.iter().filter(|o| !useful(o)).count() as u64;
    for (case, outcome) in cases.iter().zip(native) {
        report.coverage.add(case, outcome);
    }
    let Some(subject) = subject else { return Ok(()) };
    // What did not end natively need not end elsewhere.
    let kept: Vec<(&Case, &Outcome)> = cases.iter().zip(native).filter(|(_, o)| useful(o)).collect();
    let copies: Vec<Case> = kept.iter().map(|(c, _)| (*c).clone()).collect();
    let outcomes = subject.run(&copies)?;
    for ((case, native), other) in kept.iter().zip(&outcomes) {
        report.mismatches.extend(compare(case, native, other).filter(|m| dead_flags || !m.is_of_dead_flags()));
    }
    Ok(())
}
