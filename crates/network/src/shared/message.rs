//! The first messages on a cable, as JSON: a question, or a wish to be plugged in; then the answer.

use std::net::{IpAddr, SocketAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use visor_firewall::{Explanation, Rule};
use visor_net::{MacAddr, Protocol};
use visor_switch::{Conflict, Membership, VlanId, VlanIdError};

use crate::live::GuestRequest;

/// Most bytes of a message.
pub(super) const MAX_MESSAGE: usize = 128 << 10;

/// How guests of a network are connected to the rest of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One translator for all.
    #[default]
    NatNetwork,
    /// With the host alone: addresses and names, and no way out.
    HostOnly,
    /// Not at all: just a switch.
    Internal,
    /// By a bridge of the host, as if they stood on its network. Needs privileges.
    Bridge,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::NatNetwork => "nat-network",
            Mode::HostOnly => "host-only",
            Mode::Internal => "internal",
            Mode::Bridge => "bridge",
        })
    }
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
    /// The bridge of the host, in [`Mode::Bridge`].
    #[serde(default)]
    pub bridge: Option<String>,
    /// The VLAN of translator and host, and of guests that say nothing else; `None` for 1.
    #[serde(default)]
    pub vlan: Option<u16>,
}

/// Which VLANs a guest's device sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VlanSpec {
    /// Without tags. `None`: the network's, unless there are tagged ones.
    #[serde(default)]
    pub untagged: Option<u16>,
    /// With tags.
    #[serde(default)]
    pub tagged: Vec<u16>,
}

impl VlanSpec {
    /// As a switch knows it; `home` is the network's VLAN.
    ///
    /// # Errors
    /// For a number that is none.
    pub fn membership(&self, home: VlanId) -> Result<Membership, VlanIdError> {
        let untagged = self.untagged.map(VlanId::new).transpose()?;
        if self.tagged.is_empty() {
            return Ok(Membership::Access(untagged.unwrap_or(home)));
        }
        let allowed = self.tagged.iter().map(|n| VlanId::new(*n)).collect::<Result<_, _>>()?;
        Ok(Membership::Trunk { native: untagged, allowed: Some(allowed) })
    }
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
    /// Which VLANs its device sees.
    #[serde(default)]
    pub vlans: VlanSpec,
    /// Its permanent rules are kept under its name.
    #[serde(default)]
    pub named: bool,
}

/// What a network can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Plug a guest in; frames follow.
    Plug(PlugRequest),
    /// Plug in a shell of the host's user; frames follow.
    Shell,
    /// Ask or change something about a guest.
    Guest {
        /// Its name.
        guest: String,
        /// What.
        request: GuestRequest,
    },
    /// The security groups have changed: read them again.
    Groups,
    /// How it is.
    Status,
    /// The translations.
    NatTable,
    /// Why a connection is allowed or not.
    Why {
        /// Which protocol.
        protocol: Protocol,
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
    /// The Ethernet address that it must use, if that is not its own choice.
    #[serde(default)]
    pub mac: Option<MacAddr>,
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
    /// Its VLANs, in words, if they are not the network's.
    #[serde(default)]
    pub vlans: Option<String>,
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
    /// How the host takes part, in words.
    #[serde(default)]
    pub host: Option<String>,
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

/// VLANs in words.
pub(super) fn vlans(m: &Membership) -> String {
    match m {
        Membership::Access(id) => format!("VLAN {}", id.number()),
        Membership::Trunk { native, allowed } => {
            let list: Vec<String> = allowed.iter().flatten().map(|id| id.number().to_string()).collect();
            let native = native.map(|n| format!(", {} untagged", n.number())).unwrap_or_default();
            format!("trunk {}{native}", list.join(","))
        }
    }
}

/// A conflict in words.
pub(super) fn words(c: &Conflict) -> String {
    format!("the Ethernet address {} is used by two guests (ports {} and {})", c.mac, c.first.0, c.second.0)
}
