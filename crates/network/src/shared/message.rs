//! The first messages on a cable, as JSON: a question, or a wish to be plugged in; then the answer.

use std::net::{IpAddr, SocketAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use visor_firewall::{Explanation, Rule};
use visor_net::MacAddr;
use visor_switch::Conflict;

/// Most bytes of a message.
pub(super) const MAX_MESSAGE: usize = 128 << 10;

/// How guests of a network are connected to the rest of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One translator for all.
    #[default]
    NatNetwork,
    /// Not at all: just a switch.
    Internal,
}

/// A network as its maker describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedSpec {
    /// Its connection.
    pub mode: Mode,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// Guests do not reach each other unless rules allow it.
    #[serde(default)]
    pub isolated: bool,
    /// The host's loopback is reached under the router's address.
    #[serde(default)]
    pub allow_host_loopback: bool,
}

/// A guest that wants to be plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlugRequest {
    /// Its name: that of a host in DNS, by which other guests find it.
    pub guest: String,
    /// Its device's address.
    pub mac: MacAddr,
    /// Ports to be forwarded to it while it is plugged in, as a person writes them.
    #[serde(default)]
    pub forwards: Vec<String>,
    /// Rules that open its firewall.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// What a network can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Plug a guest in; frames follow.
    Plug(PlugRequest),
    /// How it is.
    Status,
    /// The translations.
    NatTable,
    /// Why a connection is allowed or not.
    Why {
        /// `tcp`, `udp` or `icmp`.
        protocol: String,
        /// From where.
        source: IpAddr,
        /// To where.
        destination: SocketAddr,
    },
    /// End.
    Stop,
}

/// What a guest is told when it is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Most bytes of an IP packet.
    pub mtu: u16,
    /// The guest's address, which DHCP will tell it.
    pub address: Option<IpAddr>,
    /// What it can be told before it asks DHCP: `ADDRESS/PREFIX,ROUTER,RESOLVER`.
    #[serde(default)]
    pub preset: Option<String>,
    /// Where the host listens for it.
    pub forwards: Vec<String>,
    /// What the person who started it should know.
    pub warnings: Vec<String>,
}

/// A guest of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStatus {
    /// Its name.
    pub name: String,
    /// Its device's address.
    pub mac: MacAddr,
    /// Its address.
    pub address: Option<IpAddr>,
}

/// How a network is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The process.
    pub pid: u32,
    /// Who is plugged in.
    pub guests: Vec<GuestStatus>,
    /// Equal addresses, in words.
    pub conflicts: Vec<String>,
    /// Translations under way.
    pub translations: usize,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Plugged in.
    Welcome(Welcome),
    /// To [`Question::Status`].
    Status(NetworkStatus),
    /// To the others: any value.
    Value(serde_json::Value),
    /// It cannot be.
    Refused(String),
}

impl Answer {
    pub(super) fn value(value: &impl Serialize) -> Self {
        serde_json::to_value(value).map_or_else(|e| Answer::Refused(e.to_string()), Answer::Value)
    }

    pub(super) fn why(explanation: &Explanation) -> Self {
        Answer::value(explanation)
    }
}

/// A conflict in words.
pub(super) fn words(c: &Conflict) -> String {
    format!("the Ethernet address {} is used by two guests (ports {} and {})", c.mac, c.first.0, c.second.0)
}
