//! The command lines.

use std::time::Duration;

use clap::Subcommand;

use crate::args::parse_time;

#[derive(Subcommand, Debug)]
pub(crate) enum MachineCommand {
    /// List the machines that run and have a name.
    #[command(visible_aliases = ["list", "ps"], after_help = "Examples:\n  visor ls\n  visor ls --json\n  visor -q ls")]
    Ls {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell what a machine is and how it does.
    #[command(visible_aliases = ["inspect", "show"], after_help = "Examples:\n  visor info web\n  visor info web --json")]
    Info {
        /// The machine's name.
        name: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask machines to switch themselves off: by their agent or their power button, and by the plug when they have not done so in
    /// time.
    #[command(after_help = "Examples:\n  visor stop web\n  visor stop web --timeout 2m\n  visor stop web db --force")]
    Stop {
        /// The machines' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// How long a guest may take before the plug is pulled.
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_time)]
        timeout: Duration,
        /// Pull the plug at once.
        #[arg(short, long)]
        force: bool,
    },
    /// Pull the plug of machines, whatever they do.
    #[command(visible_alias = "poweroff", after_help = "Example:\n  visor kill web")]
    Kill {
        /// The machines' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Stop the CPUs of machines, and their time with them.
    #[command(after_help = "Example:\n  visor pause web && visor resume web")]
    Pause {
        /// The machines' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Let paused machines go on.
    #[command(visible_alias = "unpause")]
    Resume {
        /// The machines' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Press the reset button of machines: they boot anew at once.
    #[command(visible_alias = "reset")]
    Restart {
        /// The machines' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
