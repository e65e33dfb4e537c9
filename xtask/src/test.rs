//! Everything that must pass.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::shell::{cargo, step};
use crate::{judges, tidy};

/// Runs the checks, then the tests.
pub(crate) fn run(lint_only: bool) -> anyhow::Result<()> {
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    eprintln!("--- tidy");
    tidy::run(false)?;
    step("clippy", &mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    let mut docs = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    step("docs", docs.env("RUSTDOCFLAGS", "-D warnings"))?;
    if cargo(&["deny", "--version"]).output().is_ok_and(|o| o.status.success()) {
        step("deny", &mut cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    } else {
        eprintln!("--- deny: left out, `cargo deny` is not installed (cargo install cargo-deny)");
    }
    if lint_only {
        return Ok(());
    }
    let path = judges::search_path()?;
    // The program itself is built optimised first: the end-to-end tests run it.
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
    tests(&path)
}

/// Runs all tests and closes with their number, which cargo itself tells only binary by binary.
fn tests(path: &OsStr) -> anyhow::Result<()> {
    eprintln!("--- tests");
    let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    let mut child = command.env("PATH", path).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        println!("{line}");
        let (p, f) = counts(&line).unwrap_or((0, 0));
        passed += p;
        failed += f;
    }
    let status = child.wait()?;
    println!("{passed} passed, {failed} failed");
    if !status.success() || passed == 0 {
        bail!("the tests failed ({status})");
    }
    Ok(())
}

/// Passed and failed of a line such as `test result: ok. 3 passed; 0 failed; ...`.
fn counts(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut numbers = rest.split("; ").map(|part| part.split(' ').next().and_then(|n| n.parse().ok()));
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::counts;

    #[test]
    fn results_are_counted() {
        let line = "test result: FAILED. 41 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 3.63s";
        assert_eq!(counts(line), Some((41, 2)));
        assert_eq!(counts("test a ... ok"), None);
    }
}
