//! What a machine is and how it does.

use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, Reply, Verb, arguments};
use visor_machine::{MachineState, Phase};

use super::super::timeline;
use super::Context;

pub(super) const VERBS: &[Verb<Context>] = &[
    Verb { name: "info.state", run: state },
    Verb { name: "info.machine", run: machine },
    Verb { name: "info.timeline", run: boot },
];

/// `created`, `running`, `paused` or `stopped`.
fn state(c: &Context, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Value(json!({ "state": word(&c.machine.state()) })))
}

fn machine(c: &Context, _: Value) -> Result<Reply, Refusal> {
    let m = &c.machine;
    let discs: Vec<Value> = m.trays().iter().map(|t| json!(super::super::disc::describe(t))).collect();
    let nics: Vec<Value> = m.nics().iter().map(|n| json!({ "mac": n.mac().to_string() })).collect();
    // A kernel that is entered directly is no choice of a firmware's.
    let boot_devices = if m.has_firmware() { m.boot_devices() } else { &[] };
    Ok(Reply::Value(json!({
        "record": c.record,
        "state": word(&m.state()),
        "sleeps": m.sleeps(),
        "engine": c.engine,
        "reboots": m.reboots(),
        "screen": m.screen().map(|s| s.size()),
        "discs": discs,
        "nics": nics,
        "network": c.network.describe(),
        "boot_devices": boot_devices,
        "trouble": trouble(c),
        "notes": m.notes(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Boot {
    /// Draw it, too.
    #[serde(default)]
    svg: bool,
}

/// How far the boot has come: phases, and what keeps it from going on.
fn boot(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Boot { svg } = arguments(args)?;
    let events = c.machine.timeline().events();
    let told: Vec<Value> = events
        .iter()
        .map(|e| json!({ "phase": e.phase.to_string(), "seconds": e.at.as_secs_f64(), "address": e.address }))
        .collect();
    let lines: Vec<String> = events.iter().map(timeline::line).collect();
    let mut answer = json!({
        "state": word(&c.machine.state()), "events": told, "lines": lines, "trouble": trouble(c),
    });
    if svg {
        answer["svg"] = timeline::svg(&events).into();
    }
    Ok(Reply::Value(answer))
}

/// What keeps the guest from booting, unless it has booted since, such as from a disc that was put in.
fn trouble(c: &Context) -> Option<&Vec<String>> {
    let boots = c.machine.timeline().events().last().is_some_and(|e| e.phase >= Phase::BootLoader);
    c.trouble.get().filter(|_| !boots)
}

/// A state in one word.
pub(super) fn word(state: &MachineState) -> &'static str {
    match state {
        MachineState::Created => "created",
        MachineState::Running => "running",
        MachineState::Paused => "paused",
        MachineState::Stopped(_) => "stopped",
    }
}
