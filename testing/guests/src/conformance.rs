//! The conformance suite: every program on one engine.

use std::time::Duration;

use visor_engine::Engine;

use crate::features;
use crate::harness::{Options, run};
use crate::image::{self, Program};

/// A program that one engine is excused from, and why.
#[derive(Clone, Copy, Debug)]
pub struct Excuse {
    /// The program's name, or a prefix of names that ends in `/`.
    pub program: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// How a suite went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Programs that did all they should.
    pub passed: Vec<&'static str>,
    /// Programs that were not run, and why.
    pub skipped: Vec<(&'static str, String)>,
    /// Programs that differed, with the account of it.
    pub failed: Vec<(&'static str, String)>,
}

impl Report {
    /// The whole account.
    pub fn text(&self) -> String {
        let mut text =
            format!("{} passed, {} skipped, {} failed\n", self.passed.len(), self.skipped.len(), self.failed.len());
        for (name, why) in &self.skipped {
            text += &format!("skipped {name}: {why}\n");
        }
        for (name, what) in &self.failed {
            text += &format!("FAILED {name}\n{what}");
        }
        text
    }
}

/// Runs every program whose name contains `filter` on `engine`, except those that are excused.
pub fn engine(engine: &dyn Engine, excuses: &[Excuse], filter: &str) -> Report {
    let mut report = Report::default();
    for program in image::programs().iter().filter(|p| p.name.contains(filter) && !p.name.starts_with("drive/")) {
        let name = program.name;
        match skip(engine, program, excuses) {
            Some(why) => report.skipped.push((name, why)),
            None => match one(engine, program) {
                Ok(()) => report.passed.push(name),
                Err(what) => report.failed.push((name, what)),
            },
        }
    }
    report
}

/// Runs one program.
///
/// # Errors
/// The account of what differed.
pub fn one(engine: &dyn Engine, program: &Program) -> Result<(), String> {
    // CPUs that hand over to each other thousands of times wait for the host each time, if it is busy.
    let (vcpus, seconds) = if program.name.starts_with("smp/") { (2, 300) } else { (1, 20) };
    // A host that is itself a slowly emulated machine asks for more.
    let seconds = std::env::var("VISOR_GUEST_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(seconds);
    let options = Options { vcpus, limit: Duration::from_secs(seconds) };
    let outcome = run(engine, program, options).map_err(|e| format!("  the engine failed: {e:?}\n"))?;
    match outcome.differences() {
        same if same.is_empty() => Ok(()),
        differences => Err(differences),
    }
}

fn skip(engine: &dyn Engine, program: &Program, excuses: &[Excuse]) -> Option<String> {
    let lacks = program.needs.iter().find(|f| !features::has(&engine.caps().cpuid, f));
    if let Some(feature) = lacks {
        return Some(format!("the engine announces no {feature}"));
    }
    let excused =
        |e: &&Excuse| e.program == program.name || e.program.ends_with('/') && program.name.starts_with(e.program);
    excuses.iter().find(excused).map(|e| e.reason.to_owned())
}
