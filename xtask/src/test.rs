//! Everything that must pass.

use anyhow::bail;

use crate::shell::{cargo, step};
use crate::tidy;

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
    // The program itself is built optimised first: the end-to-end tests run it.
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
    step("tests", &mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]))
}

/// Runs a fuzzer with the given arguments.
pub(crate) fn fuzz(target: &str, rest: &[String]) -> anyhow::Result<()> {
    match target {
        "cpu" => {
            let mut fuzzer =
                cargo(&["run", "--release", "--quiet", "--package", "visor-test-oracle", "--bin", "cpu-fuzz", "--"]);
            step("cpu-fuzz", fuzzer.args(rest))
        }
        "kernel" => {
            let seeds = rest.first().map_or("1000", String::as_str);
            let mut test = cargo(&["test", "--release", "--package", "visor-test-guests", "--test", "soft", "random"]);
            step("random bytes as kernels", test.env("VISOR_SEEDS", seeds))
        }
        other => bail!("no fuzzer `{other}`: there are `cpu` and `kernel`"),
    }
}
