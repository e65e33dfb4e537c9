//! The stress guest for long: `testing/linux` makes and runs it, on an optimised `visor`.

use crate::shell::{cargo, root, step};

/// Arguments of `stress`: those of `linux-guest stress`, which says what they are (`cargo xtask stress --help`).
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct StressArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

/// Builds visor and runs the guest; fails if a test does, or if the guest's kernel warns of anything.
pub(crate) fn run(args: &StressArgs) -> anyhow::Result<()> {
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
    let mut guest = cargo(&["run", "--quiet", "--locked", "--package", "visor-test-linux", "--bin", "linux-guest"]);
    guest.args(["--", "stress"]).arg(root().join("target/stress-guest"));
    guest.arg("--visor").arg(root().join("target/release/visor"));
    step("stress", guest.args(&args.arguments))
}
