//! `visor cd`: discs in the drives of a machine.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::find;
use crate::report::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum CdCommand {
    /// Put a disc image into a drive; a disc that is in there is taken out first.
    #[command(after_help = "Examples:\n  visor cd insert web debian.iso\n  visor cd insert web drivers.iso --drive 1")]
    Insert {
        /// The machine's name.
        name: String,
        /// The disc image (ISO). It is only read.
        file: PathBuf,
        /// The drive: 0 (or `sr0`), 1, ...; without it the first that is empty, or else the first.
        #[arg(long, value_name = "N", value_parser = parse_drive)]
        drive: Option<usize>,
        /// Take out a disc that the guest has locked.
        #[arg(short, long)]
        force: bool,
    },
    /// Take the disc out of a drive.
    #[command(after_help = "Examples:\n  visor cd eject web\n  visor cd eject web --drive sr1 --force")]
    Eject {
        /// The machine's name.
        name: String,
        /// The drive; without it the first with a disc.
        #[arg(long, value_name = "N", value_parser = parse_drive)]
        drive: Option<usize>,
        /// Even if the guest has locked it.
        #[arg(short, long)]
        force: bool,
    },
    /// List the drives and what is in them.
    Ls {
        /// The machine's name.
        name: String,
    },
}

/// Runs a command for discs.
pub(super) fn main(command: &CdCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        CdCommand::Insert { name, file, drive, force } => {
            let target = find(name)?;
            if !quiet && let Err(odd) = crate::run::look_at_disc(file) {
                eprintln!("note: {}", odd.error);
            }
            let path = std::path::absolute(file)?;
            let done: Value = target.call("disc.insert", &json!({ "path": path, "drive": drive, "force": force }))?;
            println!("sr{}: {}", done["drive"], done["disc"].as_str().unwrap_or_default());
        }
        CdCommand::Eject { name, drive, force } => {
            let done: Value = find(name)?.call("disc.eject", &json!({ "drive": drive, "force": force }))?;
            println!("sr{}: open", done["drive"]);
        }
        CdCommand::Ls { name } => {
            let info: Value = find(name)?.call("info.machine", &json!({}))?;
            for (i, disc) in info["discs"].as_array().into_iter().flatten().enumerate() {
                println!("sr{i}: {}", disc.as_str().unwrap_or_default());
            }
        }
    }
    Ok(0)
}

/// `1` or `sr1`.
fn parse_drive(text: &str) -> Result<usize, String> {
    text.strip_prefix("sr").unwrap_or(text).parse().map_err(|_| "write the drive's number: 0 or sr0".to_owned())
}
