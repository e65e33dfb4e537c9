//! Makes guests, and runs the stress guest: `linux-guest bench DIR`, `linux-guest disk DIR`, `linux-guest debian DIR`,
//! `linux-guest stress DIR --visor PROGRAM ...`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Parser;
use visor_test_linux::debian::Debian;
use visor_test_linux::stress::{Contents, Guest, Job, run, sets};

/// Linux guests for tests and measurements.
#[derive(Parser)]
enum Args {
    /// Make the guest of the benchmark.
    Bench {
        /// Where its files go.
        directory: PathBuf,
    },
    /// Make the guest of the network's benchmark.
    Net {
        /// Where its files go.
        directory: PathBuf,
    },
    /// Make the guest of the disk benchmark.
    Disk {
        /// Where its files go.
        directory: PathBuf,
    },
    /// Make Debian with systemd as an initial ramfs: vmlinuz, initrd, append.
    Debian {
        /// Where its files go.
        directory: PathBuf,
    },
    /// Make the stress guest and run it.
    Stress(StressArgs),
}

#[derive(clap::Args)]
struct StressArgs {
    /// Where its files go.
    directory: PathBuf,
    /// The `visor` to run it in.
    #[arg(long)]
    visor: PathBuf,
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

fn main() -> anyhow::Result<()> {
    match Args::parse() {
        Args::Bench { directory } => visor_test_linux::bench::make(&directory),
        Args::Net { directory } => visor_test_linux::net::make(&directory),
        Args::Disk { directory } => visor_test_linux::bench::make_disk(&directory),
        Args::Debian { directory } => debian(&directory),
        Args::Stress(args) => stress(&args),
    }
}

fn debian(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let debian = Debian::new()?;
    std::fs::copy(debian.kernel(), directory.join("vmlinuz"))?;
    std::fs::write(directory.join("append"), Debian::APPEND)?;
    debian.write_initrd(&directory.join("initrd"))
}

fn stress(args: &StressArgs) -> anyhow::Result<()> {
    let guest = Guest::make(&args.directory, Contents { gcc: !args.short })?;
    let groups: Vec<&str> = args.tests.iter().map(String::as_str).collect();
    let mut tests = sets::tests_64(&groups);
    if !args.short {
        tests.extend(sets::LONG_64.iter().filter(|t| groups.is_empty() || groups.iter().any(|g| t.starts_with(g))));
    }
    let compilers = if args.short { vec!["tcc"] } else { vec!["tcc", "gcc"] };
    let job = Job {
        tests,
        tests_32: sets::tests_32(&groups),
        compilers: if groups.is_empty() || groups.contains(&"compile") { compilers } else { Vec::new() },
        scale: args.scale,
        seed: args.seed,
        minutes: args.minutes,
        cpus: args.cpus,
        visor: args.more.clone(),
        // The rounds that the end of the time finds under way, on a slow machine.
        timeout: u64::from(args.minutes.unwrap_or(60)) * 60 + 3600,
        show: true,
    };
    let report = run(&args.visor, &guest, &job)?;
    println!("{report}");
    if !report.is_good() {
        bail!("{} faults", report.faults.len());
    }
    Ok(())
}
