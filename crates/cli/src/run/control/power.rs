//! Switches and buttons.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, RefusalKind, Reply, Verb, arguments};
use visor_machine::MachineState;

use super::Context;
use super::info::word;

pub(super) const VERBS: &[Verb<Context>] = &[
    Verb { name: "power.stop", run: stop },
    Verb { name: "power.kill", run: kill },
    Verb { name: "power.pause", run: pause },
    Verb { name: "power.resume", run: resume },
    Verb { name: "power.reset", run: reset },
    Verb { name: "power.button", run: button },
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// Seconds that the guest may take.
    timeout: f64,
}

/// Asks the guest to switch itself off, and pulls the plug when it has not done so in time. The answer comes before that.
fn stop(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Stop { timeout } = arguments(args)?;
    let timeout = Duration::try_from_secs_f64(timeout)
        .map_err(|_| Refusal::new(RefusalKind::Arguments, format!("{timeout} s is no time")))?;
    c.wishes.end(timeout);
    Ok(Reply::done())
}

/// Pulls the plug.
fn kill(c: &Context, _: Value) -> Result<Reply, Refusal> {
    c.machine.stop();
    Ok(Reply::done())
}

fn pause(c: &Context, _: Value) -> Result<Reply, Refusal> {
    match c.machine.pause() {
        true => state(c),
        false => Err(not_now(c, "paused")),
    }
}

fn resume(c: &Context, _: Value) -> Result<Reply, Refusal> {
    if matches!(c.machine.state(), MachineState::Stopped(_)) {
        return Err(not_now(c, "resumed"));
    }
    c.machine.resume();
    state(c)
}

fn reset(c: &Context, _: Value) -> Result<Reply, Refusal> {
    c.machine.reset();
    // A reset happens to CPUs that run.
    c.machine.resume();
    state(c)
}

/// Presses the power button; whether the guest listens to it.
fn button(c: &Context, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Value(json!({ "heard": c.machine.power_button() })))
}

fn state(c: &Context) -> Result<Reply, Refusal> {
    Ok(Reply::Value(json!({ "state": word(&c.machine.state()) })))
}

fn not_now(c: &Context, done: &str) -> Refusal {
    let what = format!("a machine that is {} cannot be {done}", word(&c.machine.state()));
    Refusal::new(RefusalKind::State, what)
}
