//! What can be asked of, and changed about, one guest's network while it runs: as data, so that it travels to whichever process
//! holds the network.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use visor_firewall::{Guest, Policy, Rule, RuleSet, Scope};
use visor_net::{Direction, Protocol};

use crate::store::Store;

/// A question or a change about a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestRequest {
    /// Forward a port, as a person writes it. Gives a [`crate::ForwardStatus`].
    AddPort(String),
    /// End the forwarding to a port of the guest. Connections that exist go on.
    RemovePort {
        /// TCP or UDP.
        protocol: Protocol,
        /// The guest's port.
        port: u16,
    },
    /// The forwarded ports: [`crate::ForwardStatus`]es.
    Ports,
    /// Add a rule, or remove it. Gives whether that was a change.
    ChangeRule {
        /// In force now, or from the next reload on.
        scope: Scope,
        /// In or out.
        direction: Direction,
        /// The rule.
        rule: Rule,
        /// Add, or remove.
        add: bool,
    },
    /// The rules: a [`visor_firewall::Firewall`].
    Firewall,
    /// The rules that the guest was started with: a [`RuleSet`]. They are permanent while it runs, and are not stored by that.
    Given,
    /// Put the permanent rules in force, or only tell what that would do. Gives a [`visor_firewall::Reload`].
    Reload {
        /// Only tell.
        preview: bool,
    },
    /// Make permanent what is in force.
    RuntimeToPermanent,
    /// The guest's translations: [`crate::Translation`]s.
    NatTable,
    /// Why a connection is allowed or not: a [`visor_firewall::Explanation`].
    Why {
        /// Which protocol.
        protocol: Protocol,
        /// From where; `None` for the guest itself.
        source: Option<IpAddr>,
        /// To where; without an address the guest itself.
        destination: (Option<IpAddr>, u16),
    },
    /// Begin to write what passes to a file, whose path is absolute.
    StartCapture(PathBuf),
    /// End that. Gives the number of packets.
    StopCapture,
    /// The security groups have changed: read them again.
    Groups,
}

/// A guest's firewall, where it is kept.
pub(crate) struct Rules<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) guest: &'a str,
    /// What the guest was started with; that is permanent while it runs, and not stored unless somebody asks for it.
    pub(crate) given: &'a RuleSet,
    /// `None` for guests that are thrown away.
    pub(crate) store: Option<&'a Store>,
}

impl Rules<'_> {
    /// Answers those requests that are about the firewall; `ended` is called when a rule has gone. `None` for other requests.
    pub(crate) fn request(&self, request: &GuestRequest, ended: impl FnOnce()) -> Option<Result<Value, String>> {
        Some(match request {
            GuestRequest::ChangeRule { scope, direction, rule, add } => {
                self.change(*scope, *direction, rule, *add, ended).map(Value::from)
            }
            GuestRequest::Firewall => self.firewall(|g| json!(g.firewall)),
            GuestRequest::Given => Ok(json!(self.given)),
            GuestRequest::Reload { preview: true } => self.firewall(|g| json!(g.firewall.preview())),
            GuestRequest::Reload { preview: false } => self.firewall(|g| json!(g.firewall.reload())),
            GuestRequest::RuntimeToPermanent => self.runtime_to_permanent().map(|()| Value::Null),
            _ => return None,
        })
    }

    fn change(
        &self,
        scope: Scope,
        direction: Direction,
        rule: &Rule,
        add: bool,
        ended: impl FnOnce(),
    ) -> Result<bool, String> {
        let mut changed = self.firewall(|g| match add {
            true => g.firewall.add(scope, direction, rule.clone()),
            false => g.firewall.remove(scope, direction, rule),
        })?;
        // A rule that the guest was started with may be stored besides, and so outlive a start without it.
        if scope == Scope::Permanent {
            changed |= self.store(|stored| match add {
                true => stored.add(direction, rule.clone()),
                false => stored.remove(direction, rule),
            })?;
        }
        // A rule that refuses ends connections when it comes, one that allows when it goes.
        if changed && scope == Scope::Runtime {
            ended();
        }
        Ok(changed)
    }

    fn firewall<R>(&self, act: impl FnOnce(&mut Guest) -> R) -> Result<R, String> {
        self.policy.guest(self.guest, act).map_err(|e| e.to_string())
    }

    /// What is in force becomes permanent. Stored is what was stored before, or what the guest was not started with.
    fn runtime_to_permanent(&self) -> Result<(), String> {
        let now = self.firewall(|g| {
            g.firewall.runtime_to_permanent();
            g.firewall.permanent().clone()
        })?;
        self.store(|stored| {
            let only_given = self.given.beyond(stored);
            let keep = now.beyond(&only_given);
            let changed = keep != *stored;
            *stored = keep;
            changed
        })?;
        Ok(())
    }

    /// Changes what is stored; `act` says whether it did.
    fn store(&self, act: impl FnOnce(&mut RuleSet) -> bool) -> Result<bool, String> {
        let Some(store) = self.store else { return Ok(false) };
        let mut stored = store.rules(self.guest);
        let changed = act(&mut stored);
        if changed {
            store.set_rules(self.guest, &stored).map_err(|e| format!("the permanent rules cannot be stored: {e}"))?;
        }
        Ok(changed)
    }
}

/// The rules that a guest called `guest` begins with: those it is given, and those that are stored.
pub(crate) fn initial(store: Option<&Store>, guest: &str, given: &RuleSet) -> RuleSet {
    let mut all = given.clone();
    if let Some(store) = store {
        all.merge(&store.rules(guest));
    }
    all
}
