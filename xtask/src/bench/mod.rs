//! Comparisons with QEMU's software engine, both sides alternately in one run, medians of several pairs.
//!
//! - `boot`: one kernel from exec to its first line; `guest`: the rows of the guest benchmark;
//! - `firmware`: from exec to the boot loader's first byte, through SeaBIOS and OVMF; `idle_screen`: what a VNC client costs that looks
//!   at a screen that stands still;
//! - `disk`: disk images against QEMU's tools; `disk_guest`: requests of a guest against QEMU's;
//! - `net`: the address translator and others; `vm_net`: whole machines with their networks;
//! - `side`: the commands of both sides, and a run of one; `table`: what is printed.

mod boot;
mod disk;
mod disk_guest;
mod firmware;
mod guest;
mod idle_screen;
mod net;
mod side;
mod table;
mod vm_net;

use std::path::PathBuf;

use clap::Subcommand;

use crate::shell::root;

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
    /// The address translator alone against passt and QEMU's user network: work for each second of CPU, and memory of flows; then
    /// whole machines against QEMU with its user network. What is not installed is left out.
    Net {
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// Rounds; the medians are printed.
        #[arg(short = 'n', long, default_value_t = 3)]
        rounds: usize,
        /// Only translators whose names contain this: core, smoltcp, stream, passt, qemu.
        #[arg(long, default_value = "")]
        only: String,
        /// Only whole machines; or only the translator.
        #[arg(long, value_enum)]
        part: Option<net::Part>,
        /// Another visor than the release build, such as one of `--profile quick`.
        #[arg(long, value_name = "PROGRAM")]
        visor: Option<String>,
    },
    /// Start to the boot loader's first byte through SeaBIOS and through OVMF, with the same firmware on both sides. Fails if visor
    /// is the slower one.
    Firmware {
        /// Pairs of runs; the medians are printed.
        #[arg(short = 'n', long, default_value_t = 3)]
        pairs: usize,
        /// Another visor than the release build.
        #[arg(long, value_name = "PROGRAM")]
        visor: Option<String>,
    },
    /// The rows of the guest benchmark: natively, in QEMU and in visor. Fails if a row of visor's is missing or slower than
    /// the fastest QEMU.
    Guest(GuestArgs),
    /// What a screen costs the host: redraws to a VNC client, and standing still. Fails if it is more than promised.
    Screen {
        /// Redraws of each kind.
        #[arg(short = 'n', long, default_value_t = 15)]
        rounds: u32,
    },
    /// Disk images: creating, converting, compacting and random requests against qemu-img; requests of a guest against QEMU's.
    Disk(DiskArgs),
}

/// Arguments of `bench disk`.
#[derive(clap::Args)]
pub(crate) struct DiskArgs {
    /// Pairs of runs; the medians are printed. Three are too few for copies.
    #[arg(short = 'n', long, default_value_t = 7)]
    pairs: usize,
    /// Where the images are made (default: target).
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Size of the disk that is copied, in MiB.
    #[arg(long, default_value_t = 768)]
    mib: u64,
    /// Size of the static disk, as fallocate(1) has it.
    #[arg(long, default_value = "8G")]
    static_size: String,
    /// Measure this program instead of building one; the requests without a guest are a program of their own.
    #[arg(long)]
    visor: Option<PathBuf>,
    /// Only these parts, by comma: create, copy, requests, guest.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Build with this profile.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Arguments of `bench guest`.
#[derive(clap::Args)]
pub(crate) struct GuestArgs {
    /// Rounds of runs; the medians are printed.
    #[arg(short = 'n', long, default_value_t = 3)]
    pairs: usize,
    /// Only these rows, by comma: boot, the benchmark's, and twice for the one on two vCPUs.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Virtual CPUs of the guests (row twice: always 2).
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// A QEMU to compare with, instead of the one in PATH; may be given several times. The command may hold {kernel},
    /// {initrd}, {append} and {cpus}; a path alone gets the usual arguments.
    #[arg(long = "qemu", value_name = "CMD")]
    qemus: Vec<String>,
    /// Further arguments of `visor run`, such as `--tier 1`.
    #[arg(long, value_name = "ARGS", default_value = "", allow_hyphen_values = true)]
    visor: String,
    /// Write the medians and all runs as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds that one run may take.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

/// Runs a comparison.
pub(crate) fn run(what: What) -> anyhow::Result<()> {
    match what {
        What::Boot { pairs, kernel, initrd } => boot::run(pairs, kernel.zip(initrd)),
        What::Firmware { pairs, visor } => firmware::run(pairs, visor),
        What::Screen { rounds } => screen(rounds),
        What::Guest(args) => guest::run(&args),
        What::Net { seconds, rounds, only, part, visor } => {
            if part != Some(net::Part::Machines) {
                net::run(seconds, rounds, &only)?;
            }
            if part != Some(net::Part::Translator) {
                vm_net::run(rounds, visor.as_deref())?;
            }
            Ok(())
        }
        What::Disk(args) => disk::run(&args),
    }
}

/// The example of the display's crate that measures, in a release build.
fn screen(rounds: u32) -> anyhow::Result<()> {
    let rounds = rounds.to_string();
    let args = ["run", "--release", "--quiet", "-p", "visor-display", "--example", "screen_cost", "--", &rounds];
    let status = std::process::Command::new(env!("CARGO")).args(args).current_dir(root()).status()?;
    anyhow::ensure!(status.success(), "the screen costs more than promised");
    Ok(())
}
