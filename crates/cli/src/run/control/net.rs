//! What is asked of, and changed about, the machine's network.

use serde::Deserialize;
use serde_json::Value;
use visor_control::{Refusal, RefusalKind, Reply, Verb, arguments};
use visor_network::GuestRequest;

use super::Context;

pub(super) const VERBS: &[Verb<Context>] = &[Verb { name: "net.guest", run: guest }];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Guest {
    request: GuestRequest,
}

fn guest(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Guest { request } = arguments(args)?;
    let refused = |why: String| Refusal::new(RefusalKind::Failed, why);
    c.network.request(&request).map(Reply::Value).map_err(refused)
}
