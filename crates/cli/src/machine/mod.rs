//! Commands for machines that run, by their names. Each asks the machine's process through its control socket.
//!
//! - `list`: `ls`, `info`; `power`: `stop`, `kill`, `pause`, `resume`, `restart`;
//! - `exec`: `exec`, `shell`; `console`, `screen`, `disc`, `timeline`: what they are called after; `launch`: starting in the background;
//! - `args`: their command lines.
//!
//! Other commands find a machine by [`find`] and ask it by [`Target::call`]; how a verb is added stands on the page of `visor_control`.

mod args;
mod console;
mod disc;
pub(crate) mod exec;
mod launch;
mod list;
mod power;
mod screen;
mod timeline;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use visor_control::{CallError, ClaimError, Client, Found, PlaceError, Places, near};

pub(crate) use self::args::MachineCommand;
pub(crate) use self::launch::{LaunchArgs, run};
use crate::report::Failure;

/// Runs a command for machines.
pub(crate) fn main(command: &MachineCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        MachineCommand::Ls { json } => list::list(*json, quiet),
        MachineCommand::Info { name, json } => list::info(name, *json),
        MachineCommand::Stop { names, timeout, force } => power::stop(names, *timeout, *force, quiet),
        MachineCommand::Kill { names } => power::kill(names),
        MachineCommand::Pause { names } => power::simple(names, "power.pause"),
        MachineCommand::Resume { names } => power::simple(names, "power.resume"),
        MachineCommand::Restart { names } => power::simple(names, "power.reset"),
        MachineCommand::Console { name, log } => console::console(name, *log, quiet),
        MachineCommand::Exec { name, argv, env, cwd } => exec::exec(name, argv, env, cwd.as_deref(), false),
        MachineCommand::Shell { name } => exec::exec(name, &["sh".into(), "-l".into()], &[], None, !quiet),
        MachineCommand::Screenshot { name, file } => screen::screenshot(name, file.as_deref()),
        MachineCommand::Screen { name, json } => screen::screen(name, *json),
        MachineCommand::Type(args) => screen::type_keys(args),
        MachineCommand::Timeline { name, svg, json } => timeline::timeline(name, svg.as_deref(), *json),
        MachineCommand::Cd { command } => disc::main(command, quiet),
    }
}

/// A machine that runs.
pub(crate) struct Target(Found);

/// The machine called `name`.
///
/// # Errors
/// With the names that are near, if it does not run.
pub(crate) fn find(name: &str) -> Result<Target, Failure> {
    let places = Places::of_user().map_err(place_failure)?;
    let place = places.named(name).map_err(place_failure)?;
    if let Some(found) = place.find() {
        return Ok(Target(found));
    }
    let last_words = std::fs::read_to_string(place.log()).unwrap_or_default();
    let last_words = last_words.lines().find(|l| l.starts_with("error: ")).map(ToOwned::to_owned);
    let running = places.running();
    let names: Vec<&str> = running.iter().map(|f| f.place.name()).collect();
    let mut failure = Failure::new(format!("no machine called `{name}` runs"));
    failure.hints.extend(last_words.map(|w| format!("what it said when it ended: {w}")));
    Err(match near(name, names.iter().copied()) {
        Some(n) => failure.hint(format!("did you mean `{n}`? `visor ls` lists what runs")),
        None if names.is_empty() => {
            failure.hint(format!("none runs; to start one by that name: visor run --name {name} tiny"))
        }
        None => failure.hint(format!("there are {}", names.join(", "))),
    })
}

impl Target {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.0.place.name()
    }

    /// What the file system tells of it.
    pub(crate) fn found(&self) -> &Found {
        &self.0
    }

    /// Asks it for `verb`.
    ///
    /// # Errors
    /// Why it did not do it, with what to do.
    pub(crate) fn call<T: DeserializeOwned>(&self, verb: &str, args: &impl Serialize) -> Result<T, Failure> {
        let answer = self.connect().and_then(|mut c| c.call(verb, args));
        answer.map_err(|e| self.failure(e))
    }

    /// A connection to it. Right after its start a machine has a name, but no socket yet.
    pub(crate) fn connect(&self) -> Result<Client, CallError> {
        for _ in 0..20 {
            match Client::connect(&self.0.place) {
                Err(CallError::Unreachable(_)) if self.0.place.find().is_some() => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
        Client::connect(&self.0.place)
    }

    /// An error of the connection as one that a person reads.
    pub(crate) fn failure(&self, error: CallError) -> Failure {
        let name = self.name();
        match error {
            CallError::Refused(refusal) => {
                let failure = Failure::new(format!("{name}: {}", refusal.message));
                refusal.hints.into_iter().fold(failure, Failure::hint)
            }
            CallError::Unreachable(_) if self.0.place.find().is_none() => {
                Failure::new(format!("the machine `{name}` has just ended"))
            }
            CallError::Unreachable(e) => Failure::from(anyhow::Error::from(e))
                .context(format!("the machine `{name}` does not take requests (yet)"))
                .hint("it may still be starting: try again in a moment")
                .hint(format!("to end it however it is: visor kill {name}")),
            CallError::Gone => Failure::new(format!("the machine `{name}` ended before it answered")),
            error @ CallError::Protocol(_) => Failure::from(anyhow::Error::from(error))
                .context(format!("`{name}`"))
                .hint("machines that an older or newer visor started are best spoken to with that"),
            error => Failure::from(anyhow::Error::from(error))
                .context(format!("`{name}`"))
                .hint(format!("to end it however it is: visor kill {name}")),
        }
    }
}

/// A name that cannot be used, or a directory.
pub(crate) fn place_failure(error: PlaceError) -> Failure {
    let hint = match &error {
        PlaceError::Name(_) => "use up to 63 small letters, digits and dashes, no dash first",
        PlaceError::NotOurs { .. } => "remove it, or set XDG_RUNTIME_DIR to a directory that is yours",
        PlaceError::Io { .. } => "set XDG_RUNTIME_DIR to a directory in which you can write",
    };
    Failure::from(anyhow::Error::from(error)).hint(hint)
}

/// A name that cannot be had.
pub(crate) fn claim_failure(error: ClaimError) -> Failure {
    let taken = match &error {
        ClaimError::Taken { name, .. } => Some(name.clone()),
        ClaimError::Io { .. } => None,
    };
    let failure = Failure::from(anyhow::Error::from(error));
    match taken {
        Some(name) => failure.hint(format!("stop it (visor stop {name}), or take another name")),
        None => failure.hint("set XDG_RUNTIME_DIR to a directory in which you can write"),
    }
}

/// The file that describes a machine cannot be written.
pub(crate) fn unwritable(name: &str, error: std::io::Error) -> Failure {
    Failure::from(anyhow::Error::from(error)).context(format!("the machine `{name}` cannot be registered"))
}
