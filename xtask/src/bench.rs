//! Comparisons with QEMU's software engine and with the host, both sides in one run.

use clap::Subcommand;

/// What to compare.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Boot of one kernel and initramfs to its first user-space line.
    Boot {
        /// Pairs of runs; the medians are printed.
        #[arg(short = 'n', long, default_value_t = 3)]
        pairs: usize,
    },
}

/// Runs a comparison.
pub(crate) fn run(what: What) -> anyhow::Result<()> {
    match what {
        What::Boot { pairs } => boot(pairs),
    }
}

fn boot(_pairs: usize) -> anyhow::Result<()> {
    Ok(())
}
