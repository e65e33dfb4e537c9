//! Switches and buttons of machines.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as send};
use serde_json::{Value, json};
use visor_control::{CallError, Place};

use super::{Target, find};
use crate::report::Failure;

/// How long a machine may take to end once it has been told to.
const END: Duration = Duration::from_secs(10);
/// How long a machine may take to answer before its process is ended instead.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two looks whether a machine is still there.
const LOOK: Duration = Duration::from_millis(20);

/// Asks for a verb without arguments.
pub(super) fn simple(names: &[String], verb: &str) -> Result<u8, Failure> {
    each(names, |target| target.call::<Value>(verb, &json!({})).map(drop))
}

/// Has guests switch themselves off.
pub(super) fn stop(names: &[String], timeout: Duration, force: bool, quiet: bool) -> Result<u8, Failure> {
    if force {
        return kill(names);
    }
    each(names, |target| {
        let asked = target.connect().and_then(|mut c| {
            let c: Value = c.call("power.stop", &json!({ "timeout": timeout.as_secs_f64() }))?;
            Ok(c)
        });
        match asked {
            // It ended by itself.
            Ok(_) | Err(CallError::Gone) => {}
            Err(CallError::Unreachable(_)) if target.found().place.find().is_none() => {}
            Err(e) => return Err(target.failure(e)),
        }
        if gone(&target.found().place, timeout.saturating_add(END)) {
            return Ok(());
        }
        if !quiet {
            eprintln!("visor: {} does not end by itself; its process is ended", target.name());
        }
        end(target)
    })
}

/// Pulls plugs.
pub(super) fn kill(names: &[String]) -> Result<u8, Failure> {
    each(names, end)
}

/// Ends a machine: by its socket, or by its process if that does not answer.
fn end(target: &Target) -> Result<(), Failure> {
    let place = &target.found().place;
    let asked = target.connect().and_then(|c| c.patient(ANSWER).call::<Value>("power.kill", &json!({})));
    match asked {
        Ok(_) | Err(CallError::Gone) if gone(place, END) => return Ok(()),
        Err(e) => tracing::info!(error = %e, "the machine does not take the request; its process is ended"),
        Ok(_) => {}
    }
    // The lock is held, so the process that wrote the record is there and it is that machine.
    let Some(found) = place.find() else { return Ok(()) };
    let pid = found.record.and_then(|r| i32::try_from(r.pid).ok()).filter(|p| *p > 1);
    let Some(pid) = pid else {
        return Err(Failure::new(format!(
            "the machine `{}` does not answer, and its process is not known",
            place.name()
        ))
        .hint(format!("whoever holds the lock in {} is it: see fuser(1)", place.directory().display())));
    };
    send(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL)
        .map_err(|e| Failure::from(anyhow::Error::from(e)).context(format!("the process {pid} cannot be ended")))?;
    match gone(place, END) {
        true => Ok(()),
        false => Err(Failure::new(format!("the process {pid} of `{}` does not end", place.name()))),
    }
}

/// Waits until nobody owns the name any more.
fn gone(place: &Place, patience: Duration) -> bool {
    let begin = Instant::now();
    loop {
        if place.find().is_none() {
            return true;
        }
        if begin.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Does `f` for each, and tells of those that failed at the end; what went well is told by its name.
fn each(names: &[String], f: impl Fn(&Target) -> Result<(), Failure>) -> Result<u8, Failure> {
    let mut failed: Option<Failure> = None;
    for name in names {
        match find(name).and_then(|t| f(&t)) {
            Ok(()) => println!("{name}"),
            Err(failure) => {
                if let Some(before) = failed.replace(failure) {
                    let _ = crate::report::print(&before);
                }
            }
        }
    }
    failed.map_or(Ok(0), Err)
}
