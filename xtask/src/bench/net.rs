//! The address translator against others, in network namespaces of its own.

use std::process::Command;

use crate::shell::{cargo, root, step};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The translator alone.
    Translator,
    /// Whole machines.
    Machines,
}

/// Builds and runs `natbench`, an example of the crate `host-net`, which says what is measured.
pub(super) fn run(seconds: f64, rounds: usize, only: &str) -> anyhow::Result<()> {
    let args = ["build", "--release", "--locked", "--package", "visor-host-net", "--example", "natbench"];
    step("build", &mut cargo(&args))?;
    let mut bench = Command::new("unshare");
    bench.arg("-Urn").arg(root().join("target/release/examples/natbench"));
    bench.args(["compare", &seconds.to_string(), &rounds.to_string(), only]);
    step("bench net", &mut bench)
}
