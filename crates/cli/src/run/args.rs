//! The command line of `visor run`, which `visor launch` shares.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::{NetworkArgs, ScreenArgs};
use crate::values::{parse_size, parse_time};

#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    /// The image to boot: `tiny`.
    #[arg(required_unless_present_any = ["kernel", "disk", "iso", "firmware", "empty"], conflicts_with_all = ["kernel", "firmware", "empty"])]
    pub(crate) image: Option<String>,
    /// A command to run in the guest instead of an interactive shell. Without one and without a terminal, the shell `sh` reads
    /// its commands from standard input.
    #[arg(last = true, conflicts_with = "kernel")]
    pub(crate) argv: Vec<String>,
    /// Boot this kernel: a bzImage, or an ELF file with a PVH entry or a Multiboot 1 header.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk for --kernel.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Kernel command line; with an image, added to the image's own.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) append: Option<String>,
    /// Memory: a number with K, M or G (MiB without a suffix).
    #[arg(short, long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,
    /// CPU model that the guest sees.
    #[arg(long, value_name = "MODEL", default_value = "x86-64-v3")]
    pub(crate) cpu: String,
    /// Stop the machine after this time and exit with status 124 (90, 90s, 5m, 1h).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) firmware: FirmwareArgs,
    /// Which engine runs the CPUs.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    pub(crate) engine: EngineArg,
    /// Attach a disk: a size such as 20G for a new dynamic one, which stays; a name of `visor disk ls`, or a raw or qcow2 image. Disks are sda, sdb, ... in this order,
    /// after an image's own sda (--bus virtio: vda, vdb, ...). Without an image or a kernel the machine boots from it. `,ro` attaches it read-only. The format is what the file's first bytes say, unless `,format=raw` or `,format=qcow2` names it; a disk
    /// taken as raw that way may not be made to look like another format by its guest. Or a disk of the network:
    /// `nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`; through TLS `nbds://...` with `,tls-ca=FILE` (else the host's authorities) and, as
    /// the server's allowed client, `,tls-cert=FILE,tls-key=FILE`; the guest sees none of it; or a volume of a pool: `pool:POOL/VOLUME`; or a file of a web server, read by ranges and
    /// kept in a cache: `https://HOST/FILE,ro`, with `,cache=SIZE`, `,auth-file=FILE`, `,tls-ca=FILE`. `,iops=N` and `,bps=SIZE` limit requests and bytes per
    /// second. An encrypted disk (*.luks, or `,format=luks`) opens with `,key-file=FILE`, else with the key in the user's keyring, else a
    /// person is asked.
    /// `,fault=PLAN` makes requests fail, to see what the guest does: `read:10` every tenth read, `write@2048` writes to sector 2048, `flush:1`
    /// each flush; several with `+`.
    #[arg(long, value_name = "DISK|SIZE[,ro][,format=FORMAT][,iops=N][,bps=SIZE][,key-file=FILE][,fault=PLAN]")]
    pub(crate) disk: Vec<String>,
    /// How disks are connected; by default SCSI with an image or a kernel that is entered directly, IDE through firmware.
    #[arg(long, value_enum, value_name = "BUS")]
    pub(crate) bus: Option<BusArg>,
    /// Put this disc image (ISO) into a CD-ROM drive (sr0, sr1, ...). It is only read and may be in use elsewhere.
    #[arg(long, value_name = "FILE")]
    pub(crate) iso: Vec<PathBuf>,
    /// Add an empty CD-ROM drive, for discs that come later (`visor cd insert`).
    #[arg(long)]
    pub(crate) cd: bool,
    /// A machine without software, as it leaves the factory: firmware and an empty CD-ROM drive. Its firmware finds nothing to run
    /// until a disc comes.
    #[arg(long, conflicts_with = "kernel")]
    pub(crate) empty: bool,
    /// Run in the background: `visor console`, `stop` and the other commands for machines reach it by its name, of which visor
    /// chooses one without --name.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Give the guest an exit port at 0xf4: a byte V written there ends the machine with exit status (V << 1) | 1.
    #[arg(long)]
    pub(crate) debug_exit: bool,
    /// Give the machine an IOMMU (Intel VT-d) that translates DMA and remaps interrupts once the guest enables it.
    #[arg(long)]
    pub(crate) iommu: bool,
    /// Add the small teaching device (PCI 1234:11e8) that test kernels know from QEMU.
    #[arg(long)]
    pub(crate) edu: bool,
    /// End when the guest reboots or crashes, instead of starting it again.
    #[arg(long)]
    pub(crate) no_reboot: bool,
    #[command(flatten)]
    pub(crate) screen: ScreenArgs,
    /// Print on standard error what the machine did when it ends: instructions, exits, time.
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    pub(crate) stats: Option<StatsFormat>,
    #[command(flatten)]
    pub(crate) network: NetworkArgs,
    #[command(flatten)]
    pub(crate) tuning: TuningArgs,
}

/// Options of the software engine.
#[derive(clap::Args, Debug, Default)]
#[command(next_help_heading = "Software engine")]
pub(crate) struct TuningArgs {
    /// How the software engine executes guest code: 1 interprets, 2 translates.
    #[arg(long, value_name = "N")]
    pub(crate) tier: Option<u8>,
    /// Size of the cache of translated code that each virtual CPU has (64M).
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) code_cache: Option<u64>,
    /// Name translated blocks for Linux `perf` in /tmp/perf-PID.map.
    #[arg(long)]
    pub(crate) perf_map: bool,
    /// Check the translator: `lockstep` executes each block a second time by the interpreter and compares; `translate-range=A..B`
    /// translates only blocks number A to B - 1 and interprets the others; `exact-flags` has exceptions save all status flags
    /// exactly, which costs speed.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = parse_debug)]
    pub(crate) debug: Vec<DebugArg>,
}

/// One word of `--debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DebugArg {
    /// Compare with the interpreter.
    Lockstep,
    /// Translate only these blocks.
    TranslateRange(Range<u64>),
    /// Keep flags that are overwritten before anything reads them.
    ExactFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatsFormat {
    /// A table for people.
    Table,
    /// One line of JSON.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    /// The fastest that works on this host.
    Auto,
    /// Visor's own CPU engine.
    Soft,
    /// The host's KVM.
    Kvm,
}

/// Booting as a PC does.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct FirmwareArgs {
    /// Boot through this firmware instead of entering a kernel directly; `bios` if nothing but disks is given. With --kernel,
    /// `uefi` boots that kernel.
    #[arg(long, value_enum)]
    pub(crate) firmware: Option<FirmwareArg>,
    /// What to boot from, the first choice first (cd, disk, net); nothing else is tried.
    #[arg(long, value_name = "DEVICES", value_enum, value_delimiter = ',', conflicts_with = "image")]
    pub(crate) boot: Vec<BootArg>,
    /// Let the firmware show its boot menu.
    #[arg(long, conflicts_with = "image")]
    pub(crate) boot_menu: bool,
    /// Keep UEFI's variables in this file, made if it is missing. Without it a machine with a name keeps them beside the user's disks,
    /// and others forget them.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub(crate) efi_vars: Option<PathBuf>,
    /// Write the boot's timeline to this file as an SVG picture, or with `-` print it when the machine ends.
    #[arg(long, value_name = "FILE.svg|-")]
    pub(crate) timeline: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirmwareArg {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootArg {
    /// CD-ROM drives.
    Cd,
    /// Disks.
    Disk,
    /// Network cards.
    Net,
}

/// How disks are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BusArg {
    /// Virtio block devices: vda, vdb, ...
    Virtio,
    /// Drives on a SCSI adapter (virtio), with those of --iso: sda, sdb, ..., sr0. Fast; most systems know it.
    Scsi,
    /// Drives on the IDE controller, as every system knows them: sda, sdb, ... Up to four with CD-ROM drives.
    Ide,
}

/// `lockstep`, `exact-flags` or `translate-range=A..B`.
fn parse_debug(text: &str) -> Result<DebugArg, String> {
    match text {
        "lockstep" => return Ok(DebugArg::Lockstep),
        "exact-flags" => return Ok(DebugArg::ExactFlags),
        _ => {}
    }
    let range = text.strip_prefix("translate-range=").and_then(|r| r.split_once(".."));
    let Some((from, to)) = range else {
        return Err("write `lockstep`, `exact-flags` or `translate-range=A..B`".to_owned());
    };
    // An open end is all the rest.
    let number = |text: &str, open: u64| if text.is_empty() { Ok(open) } else { text.parse() };
    match (number(from, 0), number(to, u64::MAX)) {
        (Ok(from), Ok(to)) => Ok(DebugArg::TranslateRange(from..to)),
        _ => Err("the ends of the range are numbers of blocks".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    #[test]
    fn options_of_the_engine() {
        let tuning = |line: &str| match Args::try_parse_from(line.split(' ')).unwrap().command {
            Command::Run(args) => (args.tuning, args.stats),
            _ => panic!("{line}"),
        };
        let (t, stats) =
            tuning("visor run tiny --tier 2 --code-cache 8M --debug lockstep,translate-range=5..9 --stats -- x");
        assert_eq!((t.tier, t.code_cache, t.perf_map), (Some(2), Some(8 << 20), false));
        assert_eq!(t.debug, [DebugArg::Lockstep, DebugArg::TranslateRange(5..9)]);
        assert_eq!(stats, Some(StatsFormat::Table));
        assert_eq!(tuning("visor run tiny --stats=json").1, Some(StatsFormat::Json));
        assert_eq!(parse_debug("exact-flags"), Ok(DebugArg::ExactFlags));
        assert_eq!(parse_debug("translate-range=7.."), Ok(DebugArg::TranslateRange(7..u64::MAX)));
        assert!(parse_debug("translate-range=7").is_err() && parse_debug("translate-range=a..b").is_err());
        assert!(parse_debug("lock").is_err());
    }
}
