//! The model test of disk images for long: random operations on images of random kinds and on a plain array, judged by QEMU's tools.

use crate::shell::{cargo, step};

/// Arguments of `model-disk`.
#[derive(clap::Args)]
pub(crate) struct ModelDiskArgs {
    /// Operations in all; an image takes 20,000 of them.
    #[arg(long, default_value_t = 2_000_000)]
    steps: u64,
    /// Seed of the first image; the n-th after it has this plus n, which alone decides what happens to it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs it; one line per image says what it is, so that a failure can be repeated with its seed.
pub(crate) fn run(args: &ModelDiskArgs) -> anyhow::Result<()> {
    let mut test = cargo(&["test", "--locked", "--package", "visor-qcow2", "--test", "model", "images_of_any_kind"]);
    test.args(["--", "--nocapture"]);
    test.env("VISOR_STEPS", args.steps.to_string()).env("VISOR_SEED", args.seed.to_string());
    step("model of disk images", &mut test)
}
