//! Makes a guest: `linux-guest bench DIR`.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Parser;

/// Makes a Linux guest for measurements.
#[derive(Parser)]
enum Args {
    /// The guest of the benchmark.
    Bench {
        /// Where its files go.
        directory: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Bench { directory } => visor_test_linux::bench::make(&directory),
    }
}
