//! The command lines.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::values::parse_time;

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
    /// Attach to the serial console of a machine. What it said last comes first.
    #[command(
        visible_alias = "attach",
        after_help = "Examples:\n  visor console web\n  visor console web --log\n  echo reboot | visor console web\n\n\
                      Leave with ctrl-] or ctrl-a x (or ctrl-a q); the machine goes on."
    )]
    Console {
        /// The machine's name.
        name: String,
        /// Print what it has said so far and end.
        #[arg(long)]
        log: bool,
    },
    /// Run a command in a machine that has an agent (`tiny`): its output, its exit status.
    #[command(
        after_help = "Examples:\n  visor exec web -- uname -a\n  visor exec web -- systemctl enable --now httpd\n  \
                      tar c src | visor exec web -- tar x -C /tmp"
    )]
    Exec {
        /// The machine's name.
        name: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        argv: Vec<String>,
        /// Set a variable of its environment.
        #[arg(short, long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// Its working directory.
        #[arg(short = 'w', long, value_name = "DIRECTORY")]
        cwd: Option<String>,
    },
    /// A shell in a machine that has an agent (`tiny`).
    #[command(visible_alias = "sh")]
    Shell {
        /// The machine's name.
        name: String,
    },
    /// Write what the screen of a machine shows to a PNG file.
    #[command(
        after_help = "Examples:\n  visor screenshot web\n  visor screenshot web now.png\n  visor screenshot web - | display"
    )]
    Screenshot {
        /// The machine's name.
        name: String,
        /// The file, or `-` for standard output; NAME.png without it.
        file: Option<PathBuf>,
    },
    /// Print the text on the screen of a machine.
    #[command(after_help = "Examples:\n  visor screen web\n  visor screen web --json")]
    Screen {
        /// The machine's name.
        name: String,
        /// Print the rows as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Type on the keyboard of a machine.
    #[command(after_help = "Examples:\n  visor type web 'root\\n'\n  visor type web --key ctrl-alt-del\n  \
                      visor type web --keys wait:login: --keys 'type:root\\n'")]
    Type(super::screen::TypeArgs),
    /// Tell how the boot of a machine went, or how far it has come: phases, times, addresses.
    #[command(
        after_help = "Examples:\n  visor timeline web\n  visor timeline web --svg boot.svg\n  visor timeline web --json"
    )]
    Timeline {
        /// The machine's name.
        name: String,
        /// Draw it into this file.
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change the discs in the CD-ROM drives of a machine.
    Cd {
        #[command(subcommand)]
        command: super::disc::CdCommand,
    },
    /// Press the reset button of machines: they boot anew at once.
    #[command(visible_alias = "reset")]
    Restart {
        /// The machines' names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}
