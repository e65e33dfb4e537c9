//! Who may reach a guest, decided outside of it.
//!
//! The words and their meaning are those of firewalld: a *service* is a name for ports; rules are added to the *runtime* set, which
//! is in force, or to the *permanent* one, which a *reload* puts in its place. *Security groups* are sets of rules that guests are
//! attached to, and that rules can name as sources. Without a rule, everything may go out, and nothing may come in but answers and
//! what was forwarded.
//!
//! [`Policy`] holds the guests of one network with their firewalls and groups. It answers an address translator's question
//! ([`visor_net::FlowPolicy`]); before a switch's port stands a [`PortFilter`], which tracks connections. [`Policy::why`] says for a
//! person which rule decides about a connection, and which command changes that.
//!
//! All of it is state without threads; time is a parameter.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod conntrack;
mod packet;
mod policy;
mod port_filter;
mod reject;
mod rule;
mod ruleset;
mod services;
#[cfg(test)]
mod tests;
mod why;

pub use conntrack::{Conntrack, ConntrackCounters, MAX_CONNECTIONS, Tracked};
pub use policy::{Address, Group, Guest, HOME, Policy, PolicyError, Reach, check_group_name};
pub use port_filter::PortFilter;
pub use rule::{Action, Rule, RuleError, Source, What};
pub use ruleset::{Firewall, Reload, RuleSet, Scope};
pub use services::{SERVICES, Service, service, service_of};
pub use why::Explanation;
