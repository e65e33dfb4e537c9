//! Runs random instructions on the host CPU and on the software CPU and reports where they disagree.

use anyhow::Context;
use clap::{Parser, ValueEnum};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use visor_engine::Engine;
use visor_engine_soft::{HostFeatures, SoftEngine, SoftOptions, Tier};
use visor_test_oracle::case::Mode;
use visor_test_oracle::compare::{HOST_DIFFERENCES, Mismatch, code};
use visor_test_oracle::generate::{Generator, Options};
use visor_test_oracle::native::Native;
use visor_test_oracle::run::{Limits, Report, run};
use visor_test_oracle::subject::{EngineSubject, Subject};

#[derive(Parser)]
#[command(about)]
struct Args {
    /// Seed of the run; the same seed makes the same cases
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of cases
    #[arg(long, default_value_t = 200_000)]
    cases: u64,
    /// Index of the first case: what a run found that a case alone does not show is found again behind some of those before it
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Only this mnemonic or table entry, for example ADCX or Vaddps_ymm_ymm_ymmm256
    #[arg(long)]
    filter: Option<String>,
    /// Only this mode: 32 or 64
    #[arg(long)]
    mode: Option<u32>,
    /// Run one case of a report again: SEED:INDEX
    #[arg(long)]
    repro: Option<String>,
    /// What to compare with the host
    #[arg(long, value_enum, default_value_t = With::Soft)]
    with: With,
    /// Tier of the software engine: 1 interprets, 2 translates
    #[arg(long, default_value_t = 1)]
    tier: u8,
    /// Translate as for a host without PEXT and FSGSBASE
    #[arg(long)]
    old_host: bool,
    /// With tier 2, have exceptions save all flags exactly; without it, flags that are dead where one is raised may differ
    #[arg(long)]
    exact_flags: bool,
    /// Interrupt the software CPU all the time, at no instruction in particular
    #[arg(long)]
    kicks: bool,
    /// List instruction forms that were not run, or only faulted
    #[arg(long)]
    coverage: bool,
    /// Print this many mismatches in full
    #[arg(long, default_value_t = 20)]
    show: usize,
    /// Stop after this many mismatches
    #[arg(long, default_value_t = 100_000)]
    stop_after: usize,
    /// List the known differences between hosts and exit
    #[arg(long)]
    host_differences: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum With {
    /// The software engine.
    Soft,
    /// The host itself: a test of the fuzzer.
    Native,
    /// Nothing.
    None,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.host_differences {
        for (what, how) in HOST_DIFFERENCES {
            println!("{what}: {how}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut options = Options { seed: args.seed, filter: args.filter.clone(), mode: mode(args.mode)? };
    let time = args.seconds.map(Duration::from_secs);
    let dead_flags = args.with != With::Soft || args.tier != 2 || args.exact_flags;
    let mut limits = Limits { first: args.first, cases: args.cases, time, mismatches: args.stop_after, dead_flags };
    if let Some(repro) = &args.repro {
        let (seed, index) = repro.split_once(':').context("--repro takes SEED:INDEX")?;
        options.seed = seed.parse().context("seed of --repro")?;
        limits = Limits { first: index.parse().context("index of --repro")?, cases: 1, ..limits };
    }
    let generator = Generator::new(options)?;
    let mut native = Native::new().context("the host CPU as oracle")?;
    let mut subject = subject(&args)?;
    let start = Instant::now();
    let report = match &mut subject {
        Some(s) => run(&generator, &mut native, Some(s.as_mut()), limits)?,
        None => run(&generator, &mut native, None, limits)?,
    };
    if args.repro.is_some() && report.mismatches.is_empty() {
        print!("no difference in\n{}", code(&generator.case(limits.first)));
    }
    print(&args, &generator, &report, start.elapsed());
    Ok(if report.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn mode(bits: Option<u32>) -> anyhow::Result<Option<Mode>> {
    Ok(match bits {
        None => None,
        Some(64) => Some(Mode::Long),
        Some(32) => Some(Mode::Compat),
        Some(other) => anyhow::bail!("--mode is 32 or 64, not {other}"),
    })
}

fn subject(args: &Args) -> anyhow::Result<Option<Box<dyn Subject>>> {
    Ok(match args.with {
        With::None => None,
        With::Soft => {
            let tier = if args.tier == 2 { Tier::Translator } else { Tier::Interpreter };
            // What has AVX would not agree with one that has none.
            let absent = HostFeatures { pext: args.old_host, fsgsbase: args.old_host, avx: false };
            let exact_flags = args.exact_flags;
            let options =
                SoftOptions { tier, exact_flags, eager: true, verify: true, absent, ..SoftOptions::default() };
            let engine = SoftEngine::with_options(options)?;
            let mut subject = EngineSubject::new(&engine, &engine.caps().cpuid)?;
            if args.kicks {
                subject.kick_always();
            }
            Some(Box::new(subject))
        }
        With::Native => Some(Box::new(Native::new()?)),
    })
}

fn print(args: &Args, generator: &Generator, report: &Report, took: Duration) {
    for m in report.mismatches.iter().take(args.show) {
        println!("{m}");
    }
    groups(&report.mismatches);
    let rate = report.cases as f64 / took.as_secs_f64();
    println!(
        "{} cases in {:.1} s ({rate:.0}/s), {} without a verdict, {} mismatches",
        report.cases,
        took.as_secs_f64(),
        report.useless,
        report.mismatches.len()
    );
    for mode in [Mode::Long, Mode::Compat].into_iter().filter(|_| args.repro.is_none()) {
        println!("{}", report.coverage.summary(generator.catalog(), mode));
        if args.coverage {
            for (code, form) in report.coverage.uncovered(generator.catalog(), mode) {
                println!("  not run: {code:?} {form:?}");
            }
            for (code, form) in report.coverage.never_completed(generator.catalog(), mode) {
                println!("  only faulted: {code:?} {form:?}");
            }
        }
    }
}

/// Mismatches by first instruction and by what differs, the most frequent first.
fn groups(mismatches: &[Mismatch]) {
    let mut groups: BTreeMap<(String, String), (usize, u64, u64)> = BTreeMap::new();
    for m in mismatches {
        let entry = groups.entry((m.culprit(), m.kind())).or_insert((0, m.case.seed, m.case.index));
        entry.0 += 1;
    }
    let mut sorted: Vec<_> = groups.into_iter().collect();
    sorted.sort_by_key(|(_, (n, ..))| std::cmp::Reverse(*n));
    for ((mnemonic, kind), (n, seed, index)) in sorted.iter().take(120) {
        println!("{n:6}  {mnemonic:<40} {kind:<28} --repro {seed}:{index}");
    }
}
