//! The firewall of one guest: what is in force, and what a reload brings back.

use visor_net::Direction;

use crate::Rule;

/// Most rules of a set in one direction.
const MAX_RULES: usize = 1024;

/// Rules in both directions, without duplicates, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleSet {
    /// About who may reach the guest.
    pub inbound: Vec<Rule>,
    /// About whom the guest may reach.
    pub outbound: Vec<Rule>,
}

/// Which set a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// What is in force now, until the next reload.
    Runtime,
    /// What a reload puts in force; nothing changes until then.
    Permanent,
}

/// What a reload does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reload {
    /// Rules in force that go, since they are not permanent.
    pub dropped: Vec<Rule>,
    /// Rules that come into force.
    pub added: Vec<Rule>,
}

/// The firewall of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Firewall {
    runtime: RuleSet,
    permanent: RuleSet,
}

impl RuleSet {
    fn list(&mut self, direction: Direction) -> &mut Vec<Rule> {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }

    /// Adds a rule; false if it is there already or the set is full.
    pub fn add(&mut self, direction: Direction, rule: Rule) -> bool {
        let list = self.list(direction);
        let new = !list.contains(&rule) && list.len() < MAX_RULES;
        if new {
            list.push(rule);
        }
        new
    }

    /// Removes a rule; false if it is not there.
    pub fn remove(&mut self, direction: Direction, rule: &Rule) -> bool {
        let list = self.list(direction);
        let before = list.len();
        list.retain(|r| r != rule);
        list.len() < before
    }

    /// `self` without what `other` has, in both directions.
    pub fn beyond(&self, other: &RuleSet) -> RuleSet {
        let beyond = |a: &[Rule], b: &[Rule]| a.iter().filter(|r| !b.contains(r)).cloned().collect();
        RuleSet { inbound: beyond(&self.inbound, &other.inbound), outbound: beyond(&self.outbound, &other.outbound) }
    }

    /// Whether a rule has the group `name` as its source.
    pub fn names_group(&self, name: &str) -> bool {
        self.inbound.iter().chain(&self.outbound).any(|r| matches!(&r.from, crate::Source::Group(g) if g == name))
    }

    /// Adds what `other` has.
    pub fn merge(&mut self, other: &RuleSet) {
        other.inbound.iter().for_each(|r| _ = self.add(Direction::Inbound, r.clone()));
        other.outbound.iter().for_each(|r| _ = self.add(Direction::Outbound, r.clone()));
    }

    /// What `self` has that `other` has not.
    fn without(&self, other: &RuleSet) -> Vec<Rule> {
        let missing = self.beyond(other);
        [missing.inbound, missing.outbound].concat()
    }
}

impl Firewall {
    /// A firewall as it comes up: what is permanent is in force.
    pub fn new(permanent: RuleSet) -> Self {
        Firewall { runtime: permanent.clone(), permanent }
    }

    /// What is in force.
    pub fn runtime(&self) -> &RuleSet {
        &self.runtime
    }

    /// What is to be stored.
    pub fn permanent(&self) -> &RuleSet {
        &self.permanent
    }

    /// Adds a rule to one of the sets; false if it is there already. As with firewalld, a permanent rule is in force after the
    /// next reload only, and a runtime rule until then.
    pub fn add(&mut self, scope: Scope, direction: Direction, rule: Rule) -> bool {
        self.set(scope).add(direction, rule)
    }

    /// Removes a rule from one of the sets; false if it is not there.
    pub fn remove(&mut self, scope: Scope, direction: Direction, rule: &Rule) -> bool {
        self.set(scope).remove(direction, rule)
    }

    /// What [`Firewall::reload`] would do: worth a warning if rules will be dropped.
    pub fn preview(&self) -> Reload {
        Reload { dropped: self.runtime.without(&self.permanent), added: self.permanent.without(&self.runtime) }
    }

    /// Puts the permanent set in force. Connections that are open stay open.
    pub fn reload(&mut self) -> Reload {
        let done = self.preview();
        self.runtime = self.permanent.clone();
        done
    }

    /// Makes permanent what is in force.
    pub fn runtime_to_permanent(&mut self) {
        self.permanent = self.runtime.clone();
    }

    fn set(&mut self, scope: Scope) -> &mut RuleSet {
        match scope {
            Scope::Runtime => &mut self.runtime,
            Scope::Permanent => &mut self.permanent,
        }
    }
}
