//! What a machine is and how it does.

use serde_json::{Value, json};
use visor_control::{Refusal, Reply, Verb};
use visor_machine::MachineState;

use super::Context;

pub(super) const VERBS: &[Verb<Context>] =
    &[Verb { name: "info.state", run: state }, Verb { name: "info.machine", run: machine }];

/// `created`, `running`, `paused` or `stopped`.
fn state(c: &Context, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Value(json!({ "state": word(&c.machine.state()) })))
}

fn machine(c: &Context, _: Value) -> Result<Reply, Refusal> {
    let m = &c.machine;
    let discs: Vec<Value> = m.trays().iter().map(|t| json!(super::super::disc::describe(t))).collect();
    let nics: Vec<Value> = m.nics().iter().map(|n| json!({ "mac": n.mac().to_string() })).collect();
    Ok(Reply::Value(json!({
        "record": c.record,
        "state": word(&m.state()),
        "engine": c.engine,
        "reboots": m.reboots(),
        "screen": m.screen().map(|s| s.size()),
        "discs": discs,
        "nics": nics,
        "network": c.network.describe(),
        "boot_devices": m.boot_devices(),
        "notes": m.notes(),
    })))
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
