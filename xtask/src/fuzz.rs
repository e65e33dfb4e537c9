//! Fuzzers, for as long as one likes: instructions against the host, random kernels, and hostile input for everything else
//! (`testing/fuzz`), guided by coverage where cargo-fuzz and a nightly compiler are installed.

use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::shell::{cargo, root, step};

/// For how long a target is run if nothing is said.
const SECONDS: u64 = 60;

/// Runs a fuzzer with the given arguments.
pub(crate) fn run(target: &str, rest: &[String]) -> anyhow::Result<()> {
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
        "list" => {
            println!("cpu\nkernel");
            step("targets", &mut mutator(&[]))
        }
        _ => hostile(target, seconds(rest)?),
    }
}

fn seconds(rest: &[String]) -> anyhow::Result<u64> {
    match rest {
        [] => Ok(SECONDS),
        [flag, n] if flag == "--seconds" => n.parse().with_context(|| format!("`{n}` is no number of seconds")),
        _ => bail!("hostile input takes `--seconds N` only"),
    }
}

/// The program that runs targets without coverage.
fn mutator(args: &[&str]) -> Command {
    let mut command = cargo(&["run", "--quiet", "--package", "visor-test-fuzz", "--bin", "visor-fuzz", "--"]);
    command.args(args);
    command
}

/// Feeds one target, or all, for `seconds` each.
fn hostile(target: &str, seconds: u64) -> anyhow::Result<()> {
    let list = mutator(&[]).output().context("cannot start cargo")?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let names: Vec<&str> = list.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).collect();
    let chosen: Vec<&str> = names.iter().copied().filter(|n| target == "all" || *n == target).collect();
    if chosen.is_empty() {
        bail!("no fuzzer `{target}`: there are cpu, kernel, all, {}", names.join(", "));
    }
    let coverage = rustup(&["--version"]).output().is_ok_and(|o| o.status.success());
    if !coverage {
        eprintln!(
            "--- without coverage, by a seeded mutator: that needs `rustup toolchain install nightly` and `cargo install cargo-fuzz`"
        );
    }
    for name in chosen {
        if coverage { guided(name, seconds)? } else { seeded(name, seconds)? }
    }
    Ok(())
}

/// `cargo fuzz` on the nightly compiler.
fn rustup(args: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    // What the stable cargo that runs us tells its children is not for the other one.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command.args(["run", "nightly", "cargo", "fuzz"]).args(args).current_dir(root());
    command
}

fn guided(name: &str, seconds: u64) -> anyhow::Result<()> {
    let corpus = format!("fuzz/corpus/{name}");
    let seeds = mutator(&[name, "--seeds", &corpus]).status().context("cannot start cargo")?;
    if !seeds.success() {
        bail!("{name}: the seeds cannot be made ({seeds})");
    }
    let artifacts = format!("fuzz/artifacts/{name}/");
    std::fs::create_dir_all(root().join(&artifacts)).with_context(|| format!("cannot make {artifacts}"))?;
    let options = [
        format!("-max_total_time={seconds}"),
        format!("-artifact_prefix={artifacts}"),
        // The memory of the guests counts too; a single allocation of this size is a fault everywhere.
        "-rss_limit_mb=4096".into(),
        "-malloc_limit_mb=1024".into(),
        "-timeout=60".into(),
    ];
    // Sanitizers find faults of unsafe code, of which there is little here; without them inputs run several times as fast.
    let mut fuzz = rustup(&["run", "--fuzz-dir", "fuzz", "--sanitizer", "none", "any", &corpus, "--"]);
    fuzz.args(&options).env("VISOR_FUZZ_TARGET", name);
    step(&format!("{name}, guided by coverage"), &mut fuzz).with_context(|| {
        format!("again: cargo run -p visor-test-fuzz -- {name} --file {}...", Path::new(&artifacts).display())
    })
}

fn seeded(name: &str, seconds: u64) -> anyhow::Result<()> {
    // Other inputs each time; what breaks something is told by its number.
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_secs());
    let mut run = mutator(&[name, "--seed", &seed.to_string(), "--seconds", &seconds.to_string()]);
    step(&format!("{name}, seed {seed}"), &mut run)
}
