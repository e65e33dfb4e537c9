//! Discs in CD-ROM drives.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, RefusalKind, Reply, Verb, arguments};
use visor_machine::{Cd, EjectOutcome, Tray};

use super::Context;

pub(super) const VERBS: &[Verb<Context>] =
    &[Verb { name: "disc.insert", run: insert }, Verb { name: "disc.eject", run: eject }];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Insert {
    path: PathBuf,
    /// The drive's number; without it the first that is empty, or the first.
    drive: Option<usize>,
    /// Overcome the guest's lock on the disc that is in it.
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Eject {
    /// The drive's number; without it the first with a disc, or the first.
    drive: Option<usize>,
    #[serde(default)]
    force: bool,
}

/// Puts a disc in; one that is in there is taken out first.
fn insert(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Insert { path, drive, force } = arguments(args)?;
    let (number, tray) = choose(c.machine.trays(), drive, |t| t.state().disc.is_none())?;
    let cd = Cd::open(&path).map_err(|e| Refusal::failed(&e))?;
    let Some((disc, name)) = cd.disc else { return Err(Refusal::new(RefusalKind::Failed, "there is no disc")) };
    if tray.state().disc.is_some() && tray.eject(force) == EjectOutcome::Requested {
        return Err(locked(number));
    }
    tray.insert(disc, &name).map_err(|e| Refusal::failed(&e))?;
    Ok(Reply::Value(json!({ "drive": number, "disc": name })))
}

fn eject(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Eject { drive, force } = arguments(args)?;
    let (number, tray) = choose(c.machine.trays(), drive, |t| t.state().disc.is_some())?;
    let disc = tray.state().disc;
    match tray.eject(force) {
        EjectOutcome::Ejected => Ok(Reply::Value(json!({ "drive": number, "disc": disc }))),
        EjectOutcome::Requested => Err(locked(number)),
    }
}

/// The drive that is meant: that with the number, or the first for which `fits`, or the first.
fn choose(trays: &[Tray], number: Option<usize>, fits: impl Fn(&Tray) -> bool) -> Result<(usize, &Tray), Refusal> {
    let number = number.or_else(|| trays.iter().position(fits)).unwrap_or(0);
    trays.get(number).map(|t| (number, t)).ok_or_else(|| match trays.len() {
        0 => Refusal::new(RefusalKind::Missing, "the machine has no CD-ROM drive")
            .hint("drives are there from the start: --iso FILE, or --cd for an empty one"),
        n => Refusal::new(RefusalKind::Missing, format!("there is no drive sr{number}; the last is sr{}", n - 1)),
    })
}

fn locked(number: usize) -> Refusal {
    Refusal::new(
        RefusalKind::State,
        format!("the guest has locked the disc in sr{number}; it has been asked to eject it"),
    )
    .hint("unmount it in the guest and try again, or overcome the lock with --force")
}
