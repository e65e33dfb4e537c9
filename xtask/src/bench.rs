//! Comparisons with QEMU's software engine, both sides alternately in one run, medians of several pairs.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;

use crate::shell::{cargo, root, step};

/// What to compare.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Boot of one kernel and initramfs from exec to its first user-space line.
    Boot {
        /// Pairs of runs; the medians are printed.
        #[arg(short = 'n', long, default_value_t = 3)]
        pairs: usize,
        /// The kernel (default: that of the image `tiny`).
        #[arg(long, requires = "initrd")]
        kernel: Option<String>,
        /// The initramfs, whose init prints a line with `READY`.
        #[arg(long, requires = "kernel")]
        initrd: Option<String>,
    },
}

/// Runs a comparison.
pub(crate) fn run(what: What) -> anyhow::Result<()> {
    match what {
        What::Boot { pairs, kernel, initrd } => boot(pairs, kernel.zip(initrd)),
    }
}

const APPEND: &str = "console=ttyS0 quiet";
const LIMIT: Duration = Duration::from_secs(180);

/// One side of a comparison: seconds of wall clock and of host CPU for each run.
#[derive(Default)]
struct Side {
    wall: Vec<f64>,
    cpu: Vec<f64>,
}

fn boot(pairs: usize, files: Option<(String, String)>) -> anyhow::Result<()> {
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "visor"]))?;
    let visor = root().join("target/release/visor");
    let (kernel, initrd) = match files {
        Some(files) => files,
        None => tiny(&visor)?,
    };
    if Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
        bail!("qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)");
    }
    let mut qemu_command = Command::new("qemu-system-x86_64");
    qemu_command.args(["-M", "pc", "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-user-config"]);
    qemu_command.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu_command.args(["-kernel", &kernel, "-initrd", &initrd, "-append", APPEND]);
    let mut visor_command = Command::new(&visor);
    visor_command.args(["-q", "run", "--engine", "soft", "--memory", "512M", "--no-reboot"]);
    visor_command.args(["--kernel", &kernel, "--initrd", &initrd, "--append", APPEND]);
    let (mut ours, mut theirs) = (Side::default(), Side::default());
    for pair in 1..=pairs.max(1) {
        theirs.add(&mut qemu_command)?;
        ours.add(&mut visor_command)?;
        eprintln!("pair {pair}: qemu {:.2} s, visor {:.2} s", last(&theirs.wall), last(&ours.wall));
    }
    println!("{:<24}{:>10}{:>10}{:>14}", "boot to user space", "qemu tcg", "visor", "visor/qemu");
    for (row, a, b) in [("wall, s", &theirs.wall, &ours.wall), ("host CPU, s", &theirs.cpu, &ours.cpu)] {
        let (a, b) = (median(a), median(b));
        println!("{row:<24}{a:>10.2}{b:>10.2}{:>14.2}", b / a);
    }
    Ok(())
}

/// Kernel and initramfs of the image `tiny`, made if it is not there.
fn tiny(visor: &std::path::Path) -> anyhow::Result<(String, String)> {
    step("image", Command::new(visor).args(["image", "build", "tiny"]))?;
    let list = Command::new(visor).args(["image", "ls", "--json"]).output()?;
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).context("visor image ls --json")?;
    let image = list.as_array().and_then(|l| l.iter().find(|i| i["name"] == "tiny")).context("no image `tiny`")?;
    let path = |key: &str| image[key].as_str().map(str::to_owned).with_context(|| format!("image without {key}"));
    Ok((path("kernel")?, path("initrd")?))
}

impl Side {
    /// Runs `command` until its output shows READY, then ends it.
    fn add(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut out = child.stdout.take().context("no output")?;
        let mut text = Vec::new();
        let mut chunk = [0u8; 4096];
        let mut wall = None;
        while wall.is_none() && start.elapsed() < LIMIT {
            let n = out.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            text.extend_from_slice(&chunk[..n]);
            if text.windows(5).any(|w| w == b"READY") {
                wall = Some(start.elapsed().as_secs_f64());
            }
        }
        let cpu = cpu_seconds(child.id());
        child.kill()?;
        child.wait()?;
        let Some(wall) = wall else {
            bail!("no READY from {:?}:\n{}", command.get_program(), String::from_utf8_lossy(&text));
        };
        self.wall.push(wall);
        self.cpu.push(cpu.unwrap_or(f64::NAN));
        Ok(())
    }
}

/// User and system time that the process has used so far (proc(5), fields 14 and 15 of `stat`, in ticks of 1/100 s).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn last(values: &[f64]) -> f64 {
    values.last().copied().unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
