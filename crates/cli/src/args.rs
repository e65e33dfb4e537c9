//! The table of commands. What each takes stands where it runs.

use clap::{Parser, Subcommand};

use crate::doctor::DoctorArgs;
use crate::image::ImageCommand;
use crate::iso::IsoCommand;
use crate::run::RunArgs;

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
  visor launch --iso debian.iso deb --disk 20G     install a system on a new disk, called deb as well
  visor launch --empty bare                        a machine without software; visor cd insert bare debian.iso
  visor console web                                its console; visor stop web ends it";

const RUN_EXAMPLES: &str = "Examples:
  visor run tiny                                   a shell in a small Linux machine
  visor run tiny -- uname -a                       one command; its output, its exit status
  tar c src | visor run tiny -- tar x -C /tmp      standard input is the command's
  visor run --disk sys.img                         boot a disk as a PC does, through its BIOS
  visor run --iso debian.iso --disk 20G --vnc 127.0.0.1:5900      install a system on a new disk; later --disk debian boots it
  visor run tiny -p 8080:80                        port 8080 of the host leads to port 80 of the guest
  visor run --kernel vmlinuz --initrd initrd.cpio --append 'console=ttyS0' --memory 512M";

#[cfg(test)]
mod tests {
    use super::*;

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
