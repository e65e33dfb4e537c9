//! The screen and the keyboard.

use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, RefusalKind, Reply, Verb, arguments};
use visor_machine::console::Display;
use visor_machine::{Machine, MachineState};

use super::super::keys::{Step, follow};
use super::Context;

pub(super) const VERBS: &[Verb<Context>] = &[
    Verb { name: "screen.picture", run: picture },
    Verb { name: "screen.text", run: text },
    Verb { name: "screen.keys", run: keys },
];

/// Longest time that a script may take.
const MOST: Duration = Duration::from_secs(3600);

/// What it shows as a PNG file behind the answer.
fn picture(c: &Context, _: Value) -> Result<Reply, Refusal> {
    let picture = screen(&c.machine)?.picture();
    let png = visor_machine::png(&picture).map_err(|e| Refusal::failed(&e))?;
    Ok(Reply::Payload(json!({ "width": picture.width(), "height": picture.height() }), png))
}

/// Its rows; none if what it shows is no text.
fn text(c: &Context, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Value(json!({ "rows": screen(&c.machine)?.text() })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// As of `visor run --keys`.
    steps: Vec<String>,
    /// Seconds.
    timeout: f64,
}

fn keys(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Keys { steps, timeout } = arguments(args)?;
    let bad = |what: String| Refusal::new(RefusalKind::Arguments, what);
    let steps: Vec<Step> = steps.iter().map(|s| s.parse()).collect::<Result<_, String>>().map_err(bad)?;
    let timeout = Duration::try_from_secs_f64(timeout).map_err(|_| bad(format!("{timeout} s is no time")))?.min(MOST);
    let screen = screen(&c.machine)?;
    let missing = || Refusal::new(RefusalKind::Missing, "the machine has no keyboard");
    let input = c.machine.input().ok_or_else(missing)?;
    // Two who type at once type nonsense.
    let _alone = match c.typing.try_lock() {
        Ok(alone) => alone,
        Err(TryLockError::Poisoned(alone)) => PoisonError::into_inner(alone),
        Err(TryLockError::WouldBlock) => {
            return Err(Refusal::new(RefusalKind::State, "somebody else is typing").hint("wait until that is done"));
        }
    };
    let (machine, end) = (c.machine.clone(), Instant::now() + timeout);
    let over = move || Instant::now() >= end || machine.state() != MachineState::Running;
    let machine = c.machine.clone();
    if follow(&steps, screen, input, over, move || machine.stop()) {
        return Ok(Reply::done());
    }
    Err(match c.machine.state() {
        MachineState::Running => {
            Refusal::new(RefusalKind::Failed, format!("not done after {} s", timeout.as_secs_f64()))
                .hint("the guest does not read its keyboard, or what was waited for did not come; see `visor screen`")
        }
        MachineState::Paused => Refusal::new(RefusalKind::State, "the machine is paused, so it reads no keys")
            .hint("visor resume lets it go on"),
        other => Refusal::new(RefusalKind::State, format!("the machine is {}", super::info::word(&other))),
    })
}

fn screen(machine: &Machine) -> Result<Arc<dyn Display>, Refusal> {
    let missing = || Refusal::new(RefusalKind::Missing, "the machine has no screen").hint("start it with --display");
    machine.screen().ok_or_else(missing)
}
