//! The command line as data: syntax only, meaning is given where a command runs.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use crate::iso::IsoCommand;
use crate::run::ScreenArgs;

/// Creates, boots and manages virtual machines anywhere, without KVM, root or kernel modules.
#[derive(Parser, Debug)]
#[command(name = "visor", version, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Show boot messages and diagnostics (more with -vv).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// No progress, no banners; errors only.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Boot a throw-away virtual machine; with a command, run that in it and exit with its status.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Start a machine in the background, with a name.
    #[command(after_help = LAUNCH_EXAMPLES)]
    Launch(Box<crate::machine::LaunchArgs>),
    /// Measure what this host can do and say what visor will use, and why.
    #[command(after_help = "Examples:\n  visor doctor\n  visor doctor --json\n  visor -q doctor && echo ready")]
    Doctor(DoctorArgs),
    /// Networks that several guests share.
    Net {
        #[command(subcommand)]
        command: crate::net::NetCommand,
    },
    /// Make and list guest images.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Look into disc images (ISO 9660), and make them.
    Iso {
        #[command(subcommand)]
        command: IsoCommand,
    },
    /// Several stores as one: volumes striped or mirrored over folders and servers.
    Pool {
        #[command(subcommand)]
        command: crate::pool::PoolCommand,
    },
    /// Create, inspect, check, convert and snapshot virtual disks.
    Disk {
        #[command(subcommand)]
        command: crate::disk::DiskCommand,
    },
    /// Ports of the host that lead to running guests.
    Port {
        #[command(subcommand)]
        command: crate::net::PortCommand,
    },
    /// The firewall before a guest, in firewalld's words.
    #[command(visible_alias = "firewall")]
    Fw {
        #[command(subcommand)]
        command: crate::net::FwCommand,
    },
    /// Security groups: rules for whoever is attached to them, with groups as sources.
    #[command(visible_alias = "security-group")]
    Sg {
        #[command(subcommand)]
        command: crate::net::SgCommand,
    },
    #[command(flatten)]
    Machine(crate::machine::MachineCommand),
}

const LAUNCH_EXAMPLES: &str = "Examples:
  visor launch                                     a small Linux machine, with a name of visor's choice
  visor launch tiny web -p 8080:80                 the same, called web, with a port of the host
  visor launch --iso debian.iso --disk d.img --name deb
  visor console web                                its console; visor stop web ends it";

const RUN_EXAMPLES: &str = "Examples:
  visor run tiny                                   a shell in a small Linux machine
  visor run tiny -- uname -a                       one command; its output, its exit status
  tar c src | visor run tiny -- tar x -C /tmp      standard input is the command's
  visor run --disk sys.img                         boot a disk as a PC does, through its BIOS
  visor run tiny -p 8080:80                        port 8080 of the host leads to port 80 of the guest
  visor run --kernel vmlinuz --initrd initrd.cpio --append 'console=ttyS0' --memory 512M";

#[derive(clap::Args, Debug)]
pub(crate) struct RunArgs {
    /// The image to boot: `tiny`.
    #[arg(required_unless_present_any = ["kernel", "disk", "iso", "firmware"], conflicts_with_all = ["kernel", "firmware"])]
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
    /// Attach a disk: a name of `visor disk ls`, or a raw or qcow2 image (vda, vdb, ... after an image's own vda, or sda, sdb, ...:
    /// see --bus). Without an image or a kernel the machine boots from it. `,ro` attaches it read-only. The format is what the file's first bytes say, unless `,format=raw` or `,format=qcow2` names it; a disk
    /// taken as raw that way may not be made to look like another format by its guest. Or a disk of the network:
    /// `nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`; through TLS `nbds://...` with `,tls-ca=FILE` (else the host's authorities) and, as
    /// the server's allowed client, `,tls-cert=FILE,tls-key=FILE`; the guest sees none of it; or a volume of a pool: `pool:POOL/VOLUME`; or a file of a web server, read by ranges and
    /// kept in a cache: `https://HOST/FILE,ro`, with `,cache=SIZE`, `,auth-file=FILE`, `,tls-ca=FILE`. `,iops=N` and `,bps=SIZE` limit requests and bytes per
    /// second. An encrypted disk (*.luks, or `,format=luks`) opens with `,key-file=FILE`, else with the key in the user's keyring, else a
    /// person is asked.
    /// `,fault=PLAN` makes requests fail, to see what the guest does: `read:10` every tenth read, `write@2048` writes to sector 2048, `flush:1`
    /// each flush; several with `+`.
    #[arg(long, value_name = "DISK[,ro][,format=FORMAT][,iops=N][,bps=SIZE][,key-file=FILE][,fault=PLAN]")]
    pub(crate) disk: Vec<String>,
    /// How disks of --disk are connected; by default virtio with an image or a kernel that is entered directly, IDE through
    /// firmware. An image without --disk has its own on SCSI, sda, so that disks that are added while it runs are sdb, sdc, ...
    #[arg(long, value_enum, value_name = "BUS")]
    pub(crate) bus: Option<BusArg>,
    /// Put this disc image (ISO) into a CD-ROM drive (sr0, sr1, ...). It is only read and may be in use elsewhere.
    #[arg(long, value_name = "FILE")]
    pub(crate) iso: Vec<PathBuf>,
    /// Add an empty CD-ROM drive, for discs that come later (`visor cd insert`).
    #[arg(long)]
    pub(crate) cd: bool,
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
    pub(crate) network: crate::run::NetworkArgs,
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
    /// Size of the cache of translated code.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) code_cache: Option<u64>,
    /// Name translated blocks for Linux `perf` in /tmp/perf-PID.map.
    #[arg(long)]
    pub(crate) perf_map: bool,
    /// Check the translator: `lockstep` executes each block a second time by the interpreter and compares; `translate-range=A..B`
    /// translates only blocks number A to B - 1 and interprets the others.
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
    /// Keep UEFI's variables in this file, made if it is missing; without it they are forgotten.
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

#[derive(clap::Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    /// Build an image from Debian packages (fetched by name, verified, cached).
    #[command(
        after_help = "Examples:\n  visor image build tiny\n  visor image build tiny --refresh\n  visor -q image build tiny"
    )]
    Build {
        /// Which image: `tiny`.
        name: String,
        /// Look for newer packages even if a built image is there.
        #[arg(long)]
        refresh: bool,
    },
    /// List the images on this machine.
    #[command(visible_alias = "list", after_help = "Examples:\n  visor image ls\n  visor image ls --json")]
    Ls {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// A size: digits with an optional K, M, G, T (binary), MiB without one.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" => 1 << 10,
        "" | "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        other => return Err(format!("unknown unit `{other}`; write for example 512M or 2G")),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number; write for example 512M or 2G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too large".to_owned())
}

/// `lockstep` or `translate-range=A..B`.
fn parse_debug(text: &str) -> Result<DebugArg, String> {
    if text == "lockstep" {
        return Ok(DebugArg::Lockstep);
    }
    let range = text.strip_prefix("translate-range=").and_then(|r| r.split_once(".."));
    let Some((from, to)) = range else {
        return Err("write `lockstep` or `translate-range=A..B`".to_owned());
    };
    // An open end is all the rest.
    let number = |text: &str, open: u64| if text.is_empty() { Ok(open) } else { text.parse() };
    match (number(from, 0), number(to, u64::MAX)) {
        (Ok(from), Ok(to)) => Ok(DebugArg::TranslateRange(from..to)),
        _ => Err("the ends of the range are numbers of blocks".to_owned()),
    }
}

/// A time: digits with an optional s, m, h (seconds without one).
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit `{other}`; write for example 90s or 5m")),
    };
    let number: f64 = digits.parse().map_err(|_| "not a number; write for example 90s or 5m".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| "too large or negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2048"), Ok(2048 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert!(parse_size("").is_err() && parse_size("5x").is_err() && parse_size("99999999999999G").is_err());
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("1.5m"), Ok(Duration::from_secs(90)));
        assert!(parse_time("-1s").is_err() && parse_time("1d").is_err());
    }

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
        assert_eq!(parse_debug("translate-range=7.."), Ok(DebugArg::TranslateRange(7..u64::MAX)));
        assert!(parse_debug("translate-range=7").is_err() && parse_debug("translate-range=a..b").is_err());
        assert!(parse_debug("lock").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        let parse = |line: &str| Args::try_parse_from(line.split(' '));
        assert!(parse("visor run tiny -- sh -c true").is_ok());
        assert!(parse("visor run --kernel x --append console=ttyS0").is_ok());
        assert!(parse("visor run --disk x").is_ok(), "through firmware");
        assert!(parse("visor run --firmware uefi --boot cd,disk --efi-vars x").is_ok());
        assert!(parse("visor run").is_err(), "an image or a kernel is needed");
        assert!(parse("visor run tiny --kernel x").is_err(), "one of them");
    }
}
