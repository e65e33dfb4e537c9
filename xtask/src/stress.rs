//! The stress guest for long: `testing/linux` makes and runs it, on an optimised `visor`.

use crate::shell::{cargo, root, step};

/// Arguments of `stress`.
#[derive(clap::Args)]
pub(crate) struct StressArgs {
    /// Everything at the same time, again and again, for so many minutes; without it each test once.
    #[arg(long)]
    minutes: Option<u32>,
    /// Virtual CPUs.
    #[arg(long, default_value_t = 4)]
    cpus: u32,
    /// Only tests whose names begin so, by comma; `compile` is the compilers.
    #[arg(long, value_delimiter = ',')]
    tests: Vec<String>,
    /// Tests do what they do so many times as often.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// What random numbers are made of.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out the big compiler and what patches every function of the kernel.
    #[arg(long)]
    short: bool,
    /// Further arguments of `visor run`, such as `--tier 1`.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Builds visor and runs the guest; fails if a test does, or if the guest's kernel warns of anything.
pub(crate) fn run(args: &StressArgs) -> anyhow::Result<()> {
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
    let mut guest = cargo(&["run", "--quiet", "--locked", "--package", "visor-test-linux", "--bin", "linux-guest"]);
    guest.args(["--", "stress"]).arg(root().join("target/stress-guest"));
    guest.arg("--visor").arg(root().join("target/release/visor"));
    guest.args(["--cpus", &args.cpus.to_string(), "--scale", &args.scale.to_string()]);
    guest.args(["--seed", &args.seed.to_string()]);
    if let Some(minutes) = args.minutes {
        guest.args(["--minutes", &minutes.to_string()]);
    }
    if !args.tests.is_empty() {
        guest.args(["--tests", &args.tests.join(",")]);
    }
    if args.short {
        guest.arg("--short");
    }
    guest.arg("--").args(&args.more);
    step("stress", &mut guest)
}
