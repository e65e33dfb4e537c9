//! Verbs by domain: a table of tables, and a function for each verb.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::message::{Refusal, RefusalKind};
use crate::place::near;
use crate::server::{Handler, Reply};

/// A verb: its name, `domain.verb`, and what it does with a context `C`.
pub struct Verb<C: 'static> {
    /// Its name.
    pub name: &'static str,
    /// What it does. It runs in the thread of its client and may take its time, but not for ever.
    pub run: fn(&C, Value) -> Result<Reply, Refusal>,
}

/// The verbs of all domains with the context that they work on.
pub struct Verbs<C: 'static> {
    context: C,
    domains: &'static [&'static [Verb<C>]],
}

impl<C> Verbs<C> {
    /// The verbs of `domains` on `context`.
    pub fn new(context: C, domains: &'static [&'static [Verb<C>]]) -> Self {
        Verbs { context, domains }
    }

    fn all(&self) -> impl Iterator<Item = &'static Verb<C>> {
        self.domains.iter().flat_map(|d| d.iter())
    }
}

impl<C: Send + Sync> Handler for Verbs<C> {
    fn handle(&self, verb: &str, args: Value) -> Result<Reply, Refusal> {
        if verb == "verbs" {
            let names: Vec<&str> = self.all().map(|v| v.name).collect();
            return Ok(Reply::Value(json!(names)));
        }
        if let Some(v) = self.all().find(|v| v.name == verb) {
            return (v.run)(&self.context, args);
        }
        let shown: String = verb.chars().take(80).collect();
        let what = format!("this machine knows no verb `{shown}` (it runs visor {})", env!("CARGO_PKG_VERSION"));
        let refusal = Refusal::new(RefusalKind::UnknownVerb, what);
        Err(match near(verb, self.all().map(|v| v.name)) {
            Some(name) => refusal.hint(format!("did you mean `{name}`?")),
            None => refusal.hint("the verb `verbs` lists them; a machine keeps the version that it was started with"),
        })
    }
}

/// The arguments of a verb as a struct; none at all are an empty object.
///
/// # Errors
/// [`RefusalKind::Arguments`] with what does not fit.
pub fn arguments<T: DeserializeOwned>(args: Value) -> Result<T, Refusal> {
    let args = if args.is_null() { json!({}) } else { args };
    serde_json::from_value(args).map_err(|e| Refusal::new(RefusalKind::Arguments, format!("bad arguments: {e}")))
}
