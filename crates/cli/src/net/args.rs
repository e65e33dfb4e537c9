//! The command lines of `visor net`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use visor_network::shared::Mode;

use crate::values::parse_time;

#[derive(Subcommand, Debug)]
pub(crate) enum NetCommand {
    /// Make a network: one switch for many guests, and what connects it to the world.
    #[command(after_help = "Examples:\n  visor net create lab\n  visor net create closed --mode host-only\n  \
                            visor net create lan --mode bridge --bridge br0\n  visor run tiny --net lab --name one")]
    Create(CreateArgs),
    /// List networks and who is plugged in.
    #[command(visible_alias = "list", after_help = "Examples:\n  visor net ls\n  visor net ls --json")]
    Ls {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a network.
    #[command(after_help = "Examples:\n  visor net rm lab\n  visor net rm --force lab")]
    Rm {
        /// Its name.
        name: String,
        /// Even if guests are plugged in; their cables are pulled.
        #[arg(short, long)]
        force: bool,
    },
    /// Show the translations under way: which guest talks to whom, and as whom the world sees it.
    #[command(
        after_help = "Examples:\n  visor net nat-table\n  visor net nat-table web -w\n  visor net nat-table lab --json"
    )]
    NatTable {
        /// A guest or a network; without it all.
        name: Option<String>,
        /// Show it again each second until it is interrupted.
        #[arg(short, long)]
        watch: bool,
        /// Print it as JSON.
        #[arg(long, conflicts_with = "watch")]
        json: bool,
    },
    /// Say which rule decides about a connection, and the command that changes it.
    #[command(after_help = "Examples:\n  visor net why one two:80\n  visor net why 198.51.100.1 web:22\n  \
                            visor net why web 192.0.2.1:443")]
    Why {
        /// From where and to where: guests' names or addresses, the second with a port. A network may stand before them.
        #[arg(required = true, num_args = 2..=3, value_names = ["FROM", "TO:PORT"])]
        words: Vec<String>,
        /// UDP rather than TCP.
        #[arg(long)]
        udp: bool,
        /// Echo requests rather than TCP; a port is not needed.
        #[arg(long, conflicts_with = "udp")]
        ping: bool,
    },
    /// Write the packets of a running guest to a file (pcap) until it is interrupted.
    #[command(
        after_help = "Examples:\n  visor net capture web -o web.pcap\n  visor net capture web -o - | tcpdump -nr -"
    )]
    Capture {
        /// The guest.
        name: String,
        /// The file; `-` for standard output.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Stop after this time (90, 90s, 5m).
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        time: Option<Duration>,
    },
    /// A shell of the host inside a network: its programs reach the guests by their addresses and names, without root.
    #[command(after_help = "Examples:\n  visor net shell lab\n  visor net shell lab -- curl http://web/")]
    Shell {
        /// The network.
        name: String,
        /// A command instead of a shell.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Be the process of a network.
    #[command(hide = true)]
    Serve {
        /// Its name.
        name: String,
    },
}

/// A network to be made.
#[derive(clap::Args, Debug)]
pub(crate) struct CreateArgs {
    /// Its name: letters, digits and dashes.
    pub(super) name: String,
    /// Its connection to the world.
    #[arg(long, value_enum, default_value_t = ModeArg::NatNetwork)]
    pub(super) mode: ModeArg,
    /// Its addresses; without it a free 10.0.N.0/24.
    #[arg(long, value_name = "NETWORK")]
    pub(super) subnet: Option<Ipv4Net>,
    /// The bridge of the host that a network of mode bridge is on.
    #[arg(long, value_name = "INTERFACE", required_if_eq("mode", "bridge"))]
    pub(super) bridge: Option<String>,
    /// The VLAN of guests that say nothing else, of the translator and of the host (default: 1).
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub(super) vlan: Option<u16>,
    /// Guests do not reach each other unless rules allow it.
    #[arg(long)]
    pub(super) isolated: bool,
    /// Guests reach the host's own services under the router's address.
    #[arg(long)]
    pub(super) allow_host_loopback: bool,
}

/// See [`Mode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// One translator for all guests: they reach what the host reaches, and each other.
    NatNetwork,
    /// The guests and the host, and no way out.
    HostOnly,
    /// No connection at all: just a switch.
    Internal,
    /// The guests stand on the host's own network, by one of its bridges. Needs privileges.
    Bridge,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::NatNetwork => Mode::NatNetwork,
            ModeArg::HostOnly => Mode::HostOnly,
            ModeArg::Internal => Mode::Internal,
            ModeArg::Bridge => Mode::Bridge,
        }
    }
}
