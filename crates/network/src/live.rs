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
    /// The rules that the guest was started with: a [`RuleSet`]. They are permanent while it runs, and are not stored.
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
    /// What the guest was started with; that is permanent while it runs, and not stored.
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
            GuestRequest::RuntimeToPermanent => {
                self.firewall(|g| g.firewall.runtime_to_permanent()).and_then(|()| self.keep()).map(|()| Value::Null)
            }
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
        let changed = self.firewall(|g| match add {
            true => g.firewall.add(scope, direction, rule.clone()),
            false => g.firewall.remove(scope, direction, rule),
        })?;
        if changed && scope == Scope::Permanent {
            self.keep()?;
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

    /// Stores the permanent rules.
    fn keep(&self) -> Result<(), String> {
        let Some(store) = self.store else { return Ok(()) };
        let own = self.firewall(|g| g.firewall.permanent().beyond(self.given))?;
        store.set_rules(self.guest, &own).map_err(|e| format!("the permanent rules cannot be stored: {e}"))
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
