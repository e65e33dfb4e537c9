//! Rules of a firewall as options: `--service http`, `--port 8080/tcp`, `--source 10.0.0.0/8`, `--ping`, `--reject`, `--outbound`.

use visor_firewall::{Action, Rule, Source, What};
use visor_net::Direction;

use crate::report::Failure;

/// Options that say one rule or more.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Rules")]
pub(crate) struct RuleArgs {
    /// A service by its name (`visor fw services` lists them).
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Ports: `8080`, `8080/tcp`, `5000-5010/udp`.
    #[arg(long, value_name = "PORT[-PORT][/PROTOCOL]")]
    port: Vec<String>,
    /// Echo requests.
    #[arg(long)]
    ping: bool,
    /// Only from this address, network or `@group`; alone: everything from there. Of outbound rules: to there.
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Refuse it, and say so to whoever asks.
    #[arg(long, conflicts_with = "drop")]
    reject: bool,
    /// Refuse it without a word.
    #[arg(long)]
    drop: bool,
    /// About what the guest opens, not about who may reach it.
    #[arg(long)]
    outbound: bool,
    /// Rules as they are listed: `http`, `service ssh from @admins`, `drop ping`.
    #[arg(value_name = "RULE")]
    rules: Vec<String>,
}

impl RuleArgs {
    /// The rules.
    pub(super) fn rules(&self) -> Result<Vec<Rule>, Failure> {
        let mut whats = Vec::new();
        for service in &self.service {
            whats.push(What::service(service).map_err(|e| Failure::from(e).hint("visor fw services lists them"))?);
        }
        for port in &self.port {
            whats.push(What::port(port)?);
        }
        whats.extend(self.ping.then_some(What::Ping));
        let from = self.source.as_deref().map_or(Ok(Source::Anyone), Source::parse)?;
        let words = self.rules.iter().map(|r| crate::run::parse_rule(r).map_err(Failure::new));
        let mut rules = words.collect::<Result<Vec<Rule>, Failure>>()?;
        if whats.is_empty() && (from != Source::Anyone || (rules.is_empty() && (self.reject || self.drop))) {
            whats.push(What::Everything);
        }
        let action = match (self.reject, self.drop) {
            (true, _) => Action::Reject,
            (_, true) => Action::Drop,
            _ => Action::Accept,
        };
        rules.extend(whats.into_iter().map(|what| Rule { action, what, from: from.clone() }));
        if rules.is_empty() {
            return Err(Failure::new("no rule is given")
                .hint("for example --service http, --port 8080/tcp, --ping, --source @web"));
        }
        Ok(rules)
    }

    /// Which way.
    pub(super) fn direction(&self) -> Direction {
        if self.outbound { Direction::Outbound } else { Direction::Inbound }
    }
}

/// Says when a rule names a group that there is none of.
pub(super) fn warn_of_groups(rules: &[Rule]) {
    let known = super::networks::places().store().groups().unwrap_or_default();
    for rule in rules {
        if let Source::Group(group) = &rule.from
            && !known.contains_key(group)
        {
            eprintln!(
                "visor: warning: no security group is called `{group}`: the rule means nobody (visor sg create {group})"
            );
        }
    }
}
