//! `visor-fuzz`: runs a target without coverage, by a seeded mutator.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use peak_alloc::PeakAlloc;
use visor_test_fuzz::run::{self, Plan};
use visor_test_fuzz::{GROUPS, Target, target};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Feeds a device, format, protocol or parser with hostile input.
#[derive(Parser)]
struct Args {
    /// Which; without it, all are listed.
    target: Option<String>,
    /// Which inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of the first one.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many; as many as the tests if neither this nor a time is given.
    #[arg(long)]
    inputs: Option<u64>,
    /// For how long.
    #[arg(long)]
    seconds: Option<u64>,
    /// Run this file instead.
    #[arg(long, conflicts_with_all = ["inputs", "seconds"])]
    file: Vec<PathBuf>,
    /// Write the seeds into this directory instead.
    #[arg(long)]
    seeds: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = work(&Args::parse());
    visor_test_fuzz::scratch::clean();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(args: &Args) -> anyhow::Result<()> {
    let Some(name) = &args.target else {
        for (group, targets) in GROUPS {
            println!("{group}:");
            targets.iter().for_each(|t| println!("  {:16} {}", t.name, t.about));
        }
        return Ok(());
    };
    let target = target(name).with_context(|| format!("no target `{name}`; without a name, all are listed"))?;
    if let Some(folder) = &args.seeds {
        return write_seeds(target, folder);
    }
    for file in &args.file {
        let data = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let (peak, cpu) = run::one(target, &data, &HEAP).with_context(|| file.display().to_string())?;
        println!("{}: fine, {peak} bytes of heap, {cpu:?} of CPU", file.display());
    }
    if !args.file.is_empty() {
        return Ok(());
    }
    let time = args.seconds.map(Duration::from_secs);
    let inputs = args.inputs.unwrap_or(if time.is_some() { u64::MAX } else { target.inputs });
    let plan = Plan { seed: args.seed, first: args.first, inputs, time };
    let done = run::run(target, &plan, &HEAP)?;
    println!(
        "{name}: {} inputs, at most {} KiB of heap and {:?} of CPU for one",
        done.inputs,
        done.peak >> 10,
        done.cpu
    );
    Ok(())
}

fn write_seeds(target: &Target, folder: &PathBuf) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (n, seed) in (target.seeds)().iter().enumerate() {
        let path = folder.join(format!("seed-{n}"));
        std::fs::write(&path, seed).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
