//! Which rule decides about a connection, in words for a person, and the command that changes it.

use visor_net::{Direction, FlowKey, Protocol};

use crate::policy::{Address, Decision, State};
use crate::services::service_of;
use crate::{Action, Policy, Reach, Rule, What};

/// The answer to "why".
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// Whether the connection may be opened.
    pub allowed: bool,
    /// What decides, in a sentence.
    pub because: String,
    /// The deciding rule, if there is one.
    pub rule: Option<String>,
    /// The command that changes it, if there is one.
    pub command: Option<String>,
}

impl Policy {
    /// Explains what becomes of a connection: both the sender's side and the receiver's have a say, if they are guests here.
    pub fn why(&self, flow: &FlowKey) -> Explanation {
        let s = self.lock();
        // A guest alone answers for any address, so both are looked at by their addresses.
        let vlan = s.vlan_of(flow);
        let exact = |ip| s.owner(Address { vlan, ip });
        let (from, to) = (exact(flow.source.ip()), exact(flow.destination.ip()));
        if let Some(name) = &from {
            let decision = s.decide(name, vlan, flow, Direction::Outbound);
            if decision.action() != Action::Accept || to.is_none() {
                return s.explain(name, flow, &decision, Direction::Outbound);
            }
        }
        match to {
            Some(name) => {
                let decision = s.decide(&name, vlan, flow, Direction::Inbound);
                s.explain(&name, flow, &decision, Direction::Inbound)
            }
            None => Explanation {
                allowed: false,
                because: format!("no guest has the address {}", flow.destination.ip()),
                rule: None,
                command: Some("visor net ls".into()),
            },
        }
    }
}

impl State {
    fn explain(&self, name: &str, flow: &FlowKey, decision: &Decision, direction: Direction) -> Explanation {
        let allowed = decision.action() == Action::Accept;
        let verb = if allowed { "allows" } else { "refuses" };
        let what = thing(flow);
        let peer = if direction == Direction::Inbound { flow.source } else { flow.destination }.ip();
        let (because, rule, command) = match decision {
            Decision::Own(rule) => {
                let because = format!("the rule `{rule}` of {name} {verb} it");
                let change = format!("visor fw rm {name} {}", options(rule, direction));
                (because, Some(rule.to_string()), Some(change))
            }
            Decision::Group(group, rule) => {
                let because =
                    format!("the rule `{rule}` of the security group {group}, to which {name} is attached, {verb} it");
                let change = format!("visor sg revoke {group} {}", options(rule, direction));
                (because, Some(rule.to_string()), Some(change))
            }
            Decision::Forward => {
                let because = format!("{what} of {name} is forwarded, and what is forwarded is allowed");
                let port = flow.destination.port();
                (because, None, Some(format!("visor port rm {name} {port}/{}", flow.protocol)))
            }
            Decision::Outbound => ("no rule forbids it, and what is not forbidden may go out".into(), None, None),
            Decision::Missing if self.reach == Reach::Forwarded && flow.protocol != Protocol::Icmp => {
                let port = flow.destination.port();
                let because = format!("no port of the host leads to {what} of {name}, and no rule allows it");
                (because, None, Some(format!("visor port add {name} {port}/{}", flow.protocol)))
            }
            Decision::Missing => {
                let because = format!("no rule of {name} or of its security groups allows {what} from {peer}");
                let rule = Rule::allow(opening(flow));
                (because, None, Some(format!("visor fw add {name} {}", options(&rule, direction))))
            }
            Decision::Stranger => (format!("no guest has the address {peer}"), None, None),
        };
        Explanation { allowed, because, rule, command }
    }
}

/// What a flow asks for, in words.
fn thing(flow: &FlowKey) -> String {
    match flow.protocol {
        Protocol::Icmp => "ping".into(),
        p => format!("port {}/{p}", flow.destination.port()),
    }
}

/// The smallest thing that a rule can allow so that `flow` passes.
fn opening(flow: &FlowKey) -> What {
    let port = flow.destination.port();
    match service_of(flow.protocol, port) {
        _ if flow.protocol == Protocol::Icmp => What::Ping,
        Some(s) => What::Service(s.name.into()),
        None => What::Port { protocol: flow.protocol, first: port, last: port },
    }
}

/// A rule as options of the command line.
fn options(rule: &Rule, direction: Direction) -> String {
    let mut words = Vec::new();
    match rule.action {
        Action::Accept => {}
        Action::Reject => words.push("--reject".to_owned()),
        Action::Drop => words.push("--drop".to_owned()),
    }
    match &rule.what {
        What::Everything => {}
        What::Ping => words.push("--ping".into()),
        What::Service(name) => words.push(format!("--service {name}")),
        What::Port { first, last, protocol } if first == last => words.push(format!("--port {first}/{protocol}")),
        What::Port { first, last, protocol } => words.push(format!("--port {first}-{last}/{protocol}")),
    }
    if rule.from != crate::Source::Anyone {
        words.push(format!("--source {}", rule.from));
    }
    if direction == Direction::Outbound {
        words.push("--outbound".into());
    }
    words.join(" ")
}
