//! One rule, as data and as text: `service http`, `port 8080/tcp from 10.0.0.0/8`, `drop ping`, `source @web`.

use std::net::IpAddr;

use ipnet::IpNet;
use visor_net::{FlowKey, Protocol};

use crate::services::{SERVICES, service};

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Everything.
    Everything,
    /// A service of [`SERVICES`].
    Service(String),
    /// TCP or UDP ports.
    Port {
        /// Which protocol.
        protocol: Protocol,
        /// First port, at least 1.
        first: u16,
        /// Last port.
        last: u16,
    },
    /// Echo requests.
    Ping,
}

/// Whom a rule is about: who opens the connection, and of outbound rules to whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Anyone.
    Anyone,
    /// Addresses.
    Network(IpNet),
    /// The guests of a security group.
    Group(String),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Refuse without a word.
    Drop,
    /// Refuse and say so.
    Reject,
    /// Allow.
    Accept,
}

/// A rule. Refusing rules go before allowing ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// About what.
    pub what: What,
    /// About whom.
    pub from: Source,
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// No such service.
    #[error("no service is called `{name}`{}", close(.name))]
    Service {
        /// The name.
        name: String,
    },
    /// Not a port.
    #[error("`{0}` is no port; write for example 8080/tcp or 5000-5010/udp")]
    Port(String),
    /// Not an address or network.
    #[error("`{0}` is no address, network or @group; write for example 192.0.2.7, 10.0.0.0/8 or @web")]
    Source(String),
    /// Anything else.
    #[error(
        "`{0}` is no rule; write for example `service http`, `port 8080/tcp from 10.0.0.0/8`, `source @web`, `ping`"
    )]
    Syntax(String),
}

/// Names that are meant perhaps.
fn close(name: &str) -> String {
    let head = name.get(..3).unwrap_or(name);
    let like: Vec<_> = SERVICES.iter().filter(|s| s.name.starts_with(head)).map(|s| s.name).collect();
    if like.is_empty() { String::new() } else { format!("; there are {}", like.join(", ")) }
}

impl What {
    /// The service called `name`.
    ///
    /// # Errors
    /// [`RuleError::Service`].
    pub fn service(name: &str) -> Result<Self, RuleError> {
        match service(name) {
            Some(s) => Ok(What::Service(s.name.into())),
            None => Err(RuleError::Service { name: name.into() }),
        }
    }

    /// Ports such as `8080/tcp`, `5000-5010/udp`; TCP without a protocol.
    ///
    /// # Errors
    /// [`RuleError::Port`].
    pub fn port(text: &str) -> Result<Self, RuleError> {
        let error = || RuleError::Port(text.into());
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(error()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let number = |t: &str| t.parse::<u16>().ok().filter(|n| *n > 0).ok_or_else(error);
        let (first, last) = (number(first)?, number(last)?);
        if first > last { Err(error()) } else { Ok(What::Port { protocol, first, last }) }
    }

    /// Whether it is about a connection to `port`.
    pub fn covers(&self, protocol: Protocol, port: u16) -> bool {
        match self {
            What::Everything => true,
            What::Ping => protocol == Protocol::Icmp,
            What::Port { protocol: p, first, last } => *p == protocol && (*first..=*last).contains(&port),
            What::Service(name) => service(name).is_some_and(|s| {
                s.ports.iter().any(|(p, first, last)| *p == protocol && (*first..=*last).contains(&port))
            }),
        }
    }
}

impl Source {
    /// An address, a network or `@group`.
    ///
    /// # Errors
    /// [`RuleError::Source`].
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        if let Some(group) = text.strip_prefix('@').filter(|g| !g.is_empty()) {
            return Ok(Source::Group(group.into()));
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|n| Source::Network(n.trunc())).map_err(|_| RuleError::Source(text.into()))
    }
}

impl Rule {
    /// A rule that allows `what` for anyone.
    pub fn allow(what: What) -> Self {
        Rule { action: Action::Accept, what, from: Source::Anyone }
    }

    /// Whether the rule is about `flow`, whose other end (seen from the guest) is `peer`. `in_group` says whether an address
    /// belongs to a group.
    pub fn matches(&self, flow: &FlowKey, peer: IpAddr, in_group: impl Fn(&str, IpAddr) -> bool) -> bool {
        let peer = match &self.from {
            Source::Anyone => true,
            Source::Network(n) => n.contains(&peer),
            Source::Group(g) => in_group(g, peer),
        };
        peer && self.what.covers(flow.protocol, flow.destination.port())
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            What::Everything => f.write_str("everything"),
            What::Service(name) => write!(f, "service {name}"),
            What::Port { protocol, first, last } if first == last => write!(f, "port {first}/{protocol}"),
            What::Port { protocol, first, last } => write!(f, "port {first}-{last}/{protocol}"),
            What::Ping => f.write_str("ping"),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Anyone => f.write_str("anyone"),
            Source::Network(n) if n.prefix_len() == n.max_prefix_len() => write!(f, "{}", n.addr()),
            Source::Network(n) => write!(f, "{n}"),
            Source::Group(g) => write!(f, "@{g}"),
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.action {
            Action::Accept => {}
            Action::Reject => f.write_str("reject ")?,
            Action::Drop => f.write_str("drop ")?,
        }
        match (&self.what, &self.from) {
            (What::Everything, Source::Anyone) => f.write_str("everything"),
            (What::Everything, from) => write!(f, "source {from}"),
            (what, Source::Anyone) => write!(f, "{what}"),
            (what, from) => write!(f, "{what} from {from}"),
        }
    }
}

impl std::str::FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (action, words) = match words.as_slice() {
            ["accept", rest @ ..] => (Action::Accept, rest),
            ["reject", rest @ ..] => (Action::Reject, rest),
            ["drop", rest @ ..] => (Action::Drop, rest),
            rest => (Action::Accept, rest),
        };
        let (words, from) = match words {
            [before @ .., "from", source] => (before, Source::parse(source)?),
            all => (all, Source::Anyone),
        };
        let (what, from) = match words {
            ["service", name] => (What::service(name)?, from),
            ["port", ports] => (What::port(ports)?, from),
            ["ping"] => (What::Ping, from),
            ["everything"] => (What::Everything, from),
            ["source", source] if from == Source::Anyone => (What::Everything, Source::parse(source)?),
            _ => return Err(RuleError::Syntax(text.into())),
        };
        Ok(Rule { action, what, from })
    }
}

/// As text.
impl serde::Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From text.
impl<'de> serde::Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
