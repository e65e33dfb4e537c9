//! The guests of a network, their firewalls, and the security groups they are attached to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use visor_net::{Direction, FlowKey, FlowPolicy, Protocol, Verdict};

use crate::{Action, Firewall, Rule, RuleSet};

/// Most addresses of a family that are known of a guest: systems make themselves a new one of IPv6 each day.
const MAX_LEARNT: usize = 16;

/// How guests of the network are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Only through forwarded ports.
    #[default]
    Forwarded,
    /// By their addresses.
    Direct,
}

/// The VLAN of networks that have just one.
pub const HOME: u16 = 1;

/// An address in a VLAN: the same one may belong to another guest in another VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The VLAN's number.
    pub vlan: u16,
    /// The address.
    pub ip: IpAddr,
}

/// A guest.
#[derive(Clone, Debug, Default)]
pub struct Guest {
    /// Its addresses.
    pub addresses: BTreeSet<Address>,
    /// Its firewall.
    pub firewall: Firewall,
    /// Ports that lead to it from the host; what was forwarded is allowed.
    pub forwards: BTreeSet<(Protocol, u16)>,
}

/// A security group: what its members may be reached for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// Its rules.
    pub rules: RuleSet,
    /// Names of the guests attached to it.
    pub members: BTreeSet<String>,
}

/// Why a change was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such guest.
    #[error("no guest is called `{0}`")]
    Guest(String),
    /// No such group.
    #[error("no security group is called `{0}`")]
    Group(String),
    /// There is one already.
    #[error("there is a security group called `{0}` already")]
    GroupExists(String),
    /// Rules or guests refer to it.
    #[error("the security group `{group}` is used by {by}")]
    GroupUsed {
        /// The group.
        group: String,
        /// By whom.
        by: String,
    },
    /// Not a name.
    #[error("`{0}` is no name for a security group: use letters, digits and dashes")]
    GroupName(String),
}

/// Checks the name of a group.
///
/// # Errors
/// [`PolicyError::GroupName`].
pub fn check_group_name(name: &str) -> Result<(), PolicyError> {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if (1..=64).contains(&name.len()) && letters { Ok(()) } else { Err(PolicyError::GroupName(name.into())) }
}

/// The policy of one network; clones are the same one.
#[derive(Clone, Default)]
pub struct Policy(Arc<Mutex<State>>);

#[derive(Default)]
pub(crate) struct State {
    /// Moves when connections that are open are to be judged again.
    pub(crate) revision: u64,
    pub(crate) reach: Reach,
    /// The VLAN in which a translator asks.
    pub(crate) home: u16,
    /// What belongs to the network itself.
    pub(crate) reserved: BTreeSet<Address>,
    pub(crate) guests: BTreeMap<String, Guest>,
    pub(crate) groups: BTreeMap<String, Group>,
}

/// What decided about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A rule of the guest's own firewall.
    Own(Rule),
    /// A rule of a group.
    Group(String, Rule),
    /// The port is forwarded.
    Forward,
    /// Outbound, and no rule forbids it.
    Outbound,
    /// Inbound, and no rule allows it.
    Missing,
    /// Nobody has the address.
    Stranger,
}

impl Decision {
    pub(crate) fn action(&self) -> Action {
        match self {
            Decision::Own(rule) | Decision::Group(_, rule) => rule.action,
            Decision::Forward | Decision::Outbound => Action::Accept,
            Decision::Missing => Action::Reject,
            Decision::Stranger => Action::Drop,
        }
    }
}

impl Policy {
    /// A network without guests, whose translator is in the VLAN [`HOME`].
    pub fn new(reach: Reach) -> Self {
        let policy = Policy::default();
        policy.lock().reach = reach;
        policy.in_vlan(HOME)
    }

    /// Says which VLAN the translator is in.
    #[must_use]
    pub fn in_vlan(self, home: u16) -> Self {
        self.lock().home = home;
        self
    }

    /// Keeps an address for the network itself: that of a router, a resolver, the host. No guest can make it its own.
    pub fn reserve(&self, vlan: u16, ip: IpAddr) {
        self.lock().reserved.insert(Address { vlan, ip });
    }

    /// Adds or replaces a guest.
    pub fn set_guest(&self, name: &str, guest: Guest) {
        self.lock().guests.insert(name.into(), guest);
    }

    /// Removes a guest, from its groups too.
    pub fn remove_guest(&self, name: &str) {
        let mut s = self.lock();
        s.guests.remove(name);
        s.groups.values_mut().for_each(|g| _ = g.members.remove(name));
    }

    /// Replaces all groups; members that are no guests here are guests of other networks, or come later.
    pub fn set_groups(&self, groups: BTreeMap<String, Group>) {
        self.lock().groups = groups;
    }

    /// Has the filters at the guests' ports judge open connections again, as when a rule has gone.
    pub fn judge_again(&self) {
        self.lock().revision += 1;
    }

    /// Calls `f` with a guest, to look at or change it.
    ///
    /// # Errors
    /// [`PolicyError::Guest`].
    pub fn guest<R>(&self, name: &str, f: impl FnOnce(&mut Guest) -> R) -> Result<R, PolicyError> {
        self.lock().guests.get_mut(name).map(f).ok_or_else(|| PolicyError::Guest(name.into()))
    }

    /// All groups.
    pub fn groups(&self) -> BTreeMap<String, Group> {
        self.lock().groups.clone()
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`PolicyError::GroupExists`], [`PolicyError::GroupName`].
    pub fn create_group(&self, name: &str) -> Result<(), PolicyError> {
        check_group_name(name)?;
        let mut s = self.lock();
        if s.groups.contains_key(name) {
            return Err(PolicyError::GroupExists(name.into()));
        }
        s.groups.insert(name.into(), Group::default());
        Ok(())
    }

    /// Removes a group.
    ///
    /// # Errors
    /// [`PolicyError::Group`]; [`PolicyError::GroupUsed`] while guests are attached to it or rules name it.
    pub fn remove_group(&self, name: &str) -> Result<(), PolicyError> {
        let mut s = self.lock();
        let group = s.groups.get(name).ok_or_else(|| PolicyError::Group(name.into()))?;
        let names = |set: &RuleSet| set.names_group(name);
        let by = group.members.iter().next().cloned().or_else(|| {
            let guest = s.guests.iter().find(|(_, g)| names(g.firewall.runtime()) || names(g.firewall.permanent()));
            let group =
                || s.groups.iter().find(|(n, g)| n.as_str() != name && names(&g.rules)).map(|(n, _)| format!("@{n}"));
            guest.map(|(n, _)| n.clone()).or_else(group)
        });
        if let Some(by) = by {
            return Err(PolicyError::GroupUsed { group: name.into(), by });
        }
        s.groups.remove(name);
        Ok(())
    }

    /// Calls `f` with a group's rules, to look at or change them. They are in force at once.
    ///
    /// # Errors
    /// [`PolicyError::Group`].
    pub fn group<R>(&self, name: &str, f: impl FnOnce(&mut RuleSet) -> R) -> Result<R, PolicyError> {
        let mut s = self.lock();
        s.groups.get_mut(name).map(|g| f(&mut g.rules)).ok_or_else(|| PolicyError::Group(name.into()))
    }

    /// Attaches a guest to a group, or detaches it; false if that is so already.
    ///
    /// # Errors
    /// [`PolicyError::Group`], [`PolicyError::Guest`].
    pub fn set_member(&self, group: &str, guest: &str, member: bool) -> Result<bool, PolicyError> {
        let mut s = self.lock();
        if !s.guests.contains_key(guest) {
            return Err(PolicyError::Guest(guest.into()));
        }
        let g = s.groups.get_mut(group).ok_or_else(|| PolicyError::Group(group.into()))?;
        Ok(if member { g.members.insert(guest.into()) } else { g.members.remove(guest) })
    }

    /// Notes an address that a guest has given itself in a VLAN, as a filter at its port has seen it; false if another guest of that
    /// VLAN has it, or the network itself. Bounded: a guest that invents addresses loses the first ones of them again.
    pub fn learn(&self, name: &str, vlan: u16, ip: IpAddr) -> bool {
        let (mut s, address) = (self.lock(), Address { vlan, ip });
        if ip.is_unspecified() {
            return true;
        }
        if s.reserved.contains(&address) {
            return false;
        }
        if let Some((owner, _)) = s.guests.iter().find(|(_, g)| g.addresses.contains(&address)) {
            return owner == name;
        }
        if let Some(g) = s.guests.get_mut(name) {
            let same_kind = |a: &&Address| a.ip.is_ipv6() == ip.is_ipv6();
            if g.addresses.iter().filter(same_kind).count() >= MAX_LEARNT {
                let first = g.addresses.iter().find(same_kind).copied();
                first.map(|a| g.addresses.remove(&a));
            }
            g.addresses.insert(address);
        }
        true
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Guests are found by their addresses.
impl FlowPolicy for Policy {
    fn decide(&self, flow: &FlowKey, direction: Direction) -> Verdict {
        let s = self.lock();
        let own = if direction == Direction::Outbound { flow.source } else { flow.destination };
        let decision = match s.name_of(Address { vlan: s.home, ip: own.ip() }) {
            Some(name) => s.decide(&name, s.home, flow, direction),
            None => Decision::Stranger,
        };
        s.verdict(&decision)
    }
}

impl State {
    /// The guest with an address. A guest that has its network for itself has any address.
    pub(crate) fn name_of(&self, address: Address) -> Option<String> {
        let alone = self.reach == Reach::Forwarded && self.guests.len() == 1;
        let only = || self.guests.keys().next().filter(|_| alone).cloned();
        self.owner(address).or_else(only)
    }

    /// The guest that is known to have an address.
    pub(crate) fn owner(&self, address: Address) -> Option<String> {
        self.guests.iter().find(|(_, g)| g.addresses.contains(&address)).map(|(n, _)| n.clone())
    }

    /// The VLAN in which a flow can be: that in which most of its ends are known, the translator's of equals.
    pub(crate) fn vlan_of(&self, flow: &FlowKey) -> u16 {
        let known = |vlan: u16| {
            let has = |ip| self.guests.values().any(|g| g.addresses.contains(&Address { vlan, ip }));
            [flow.source.ip(), flow.destination.ip()].into_iter().filter(|ip| has(*ip)).count()
        };
        let all: BTreeSet<u16> = self.guests.values().flat_map(|g| &g.addresses).map(|a| a.vlan).collect();
        all.into_iter().max_by_key(|vlan| (known(*vlan), *vlan == self.home)).unwrap_or(self.home)
    }

    /// What becomes of a flow of a guest that is within `vlan`.
    pub(crate) fn decide(&self, name: &str, vlan: u16, flow: &FlowKey, direction: Direction) -> Decision {
        let Some(guest) = self.guests.get(name) else { return Decision::Stranger };
        let inbound = direction == Direction::Inbound;
        let peer = if inbound { flow.source } else { flow.destination }.ip();
        let in_group = |group: &str, a: IpAddr| {
            let members = self.groups.get(group).into_iter().flat_map(|g| &g.members);
            members.filter_map(|m| self.guests.get(m)).any(|g| g.addresses.contains(&Address { vlan, ip: a }))
        };
        fn side(set: &RuleSet, inbound: bool) -> &[Rule] {
            if inbound { &set.inbound } else { &set.outbound }
        }
        let own_rules = side(guest.firewall.runtime(), inbound);
        let find = |refuse: bool| {
            let fits = |r: &&Rule| (r.action != Action::Accept) == refuse && r.matches(flow, peer, in_group);
            let own = own_rules.iter().find(fits).map(|r| Decision::Own(r.clone()));
            own.or_else(|| {
                let mut attached = self.groups.iter().filter(|(_, g)| g.members.contains(name));
                let (n, r) = attached.find_map(|(n, g)| side(&g.rules, inbound).iter().find(fits).map(|r| (n, r)))?;
                Some(Decision::Group(n.clone(), r.clone()))
            })
        };
        let default = || match inbound {
            true if guest.forwards.contains(&(flow.protocol, flow.destination.port())) => Decision::Forward,
            true => Decision::Missing,
            false => Decision::Outbound,
        };
        find(true).or_else(|| find(false)).unwrap_or_else(default)
    }

    pub(crate) fn verdict(&self, decision: &Decision) -> Verdict {
        let reason = || match decision {
            Decision::Own(rule) => format!("rule `{rule}`").into(),
            Decision::Group(group, rule) => format!("rule `{rule}` of the security group {group}").into(),
            Decision::Stranger => "no guest has this address".into(),
            _ => "no rule allows it".into(),
        };
        match decision.action() {
            Action::Accept => Verdict::Allow,
            Action::Reject => Verdict::Reject(reason()),
            Action::Drop => Verdict::Drop(reason()),
        }
    }
}
