//! `visor sg`: security groups, sets of rules for whoever is attached to them, which rules can name as their source. They are the
//! user's own, and in force in all networks at once.

use std::collections::BTreeMap;

use clap::Subcommand;
use visor_firewall::{Group, check_group_name};
use visor_network::GuestRequest;
use visor_network::shared::{Question, ask};

use super::guest::{GuestPlace, machines, networks};
use super::networks::places;
use super::rules::{RuleArgs, warn_of_groups};
use crate::report::Failure;

type Groups = BTreeMap<String, Group>;

#[derive(Subcommand, Debug)]
pub(crate) enum SgCommand {
    /// Make a security group.
    #[command(after_help = "Example:\n  visor sg create web")]
    Create {
        /// Its name.
        group: String,
    },
    /// Remove a security group.
    #[command(after_help = "Example:\n  visor sg rm web")]
    Rm {
        /// Its name.
        group: String,
    },
    /// Add rules to a group: what its members may be reached for.
    #[command(after_help = "Examples:\n  visor sg allow web http https\n  visor sg allow db --port 5432 --source @web")]
    Allow {
        /// The group.
        group: String,
        #[command(flatten)]
        rules: RuleArgs,
    },
    /// Remove rules of a group.
    #[command(after_help = "Example:\n  visor sg revoke web http")]
    Revoke {
        /// The group.
        group: String,
        #[command(flatten)]
        rules: RuleArgs,
    },
    /// Attach guests to a group, whether they run or not.
    #[command(after_help = "Example:\n  visor sg attach web one two")]
    Attach {
        /// The group.
        group: String,
        /// Names of guests.
        #[arg(required = true)]
        guests: Vec<String>,
    },
    /// Detach guests from a group.
    #[command(after_help = "Example:\n  visor sg detach web one")]
    Detach {
        /// The group.
        group: String,
        /// Names of guests.
        #[arg(required = true)]
        guests: Vec<String>,
    },
    /// List groups, their rules and their members.
    #[command(visible_alias = "list", after_help = "Examples:\n  visor sg ls\n  visor sg ls --json")]
    Ls {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn main(command: &SgCommand) -> Result<u8, Failure> {
    match command {
        SgCommand::Create { group } => {
            check_group_name(group)?;
            change(|all| match all.contains_key(group) {
                true => Err(Failure::new(format!("there is a security group called `{group}` already"))),
                false => {
                    all.insert(group.clone(), Group::default());
                    Ok(())
                }
            })?;
            println!("{group}");
        }
        SgCommand::Rm { group } => change(|all| remove(all, group))?,
        SgCommand::Allow { group, rules } => edit(group, rules, true)?,
        SgCommand::Revoke { group, rules } => edit(group, rules, false)?,
        SgCommand::Attach { group, guests } => attach(group, guests)?,
        SgCommand::Detach { group, guests } => change(|all| {
            let members = &mut of(all, group)?.members;
            match guests.iter().find(|g| !members.remove(*g)) {
                Some(g) => Err(Failure::new(format!("{g} is not attached to {group}"))),
                None => Ok(()),
            }
        })?,
        SgCommand::Ls { json } => list(*json)?,
    }
    Ok(0)
}

fn of<'a>(all: &'a mut Groups, group: &str) -> Result<&'a mut Group, Failure> {
    let names: Vec<String> = all.keys().cloned().collect();
    all.get_mut(group).ok_or_else(|| {
        let failure = Failure::new(format!("no security group is called `{group}`"));
        match visor_control::near(group, names.iter().map(String::as_str)) {
            Some(n) => failure.hint(format!("did you mean `{n}`?")),
            None => failure.hint(format!("to make it: visor sg create {group}")),
        }
    })
}

fn remove(all: &mut Groups, group: &str) -> Result<(), Failure> {
    let members = &of(all, group)?.members;
    if let Some(guest) = members.first() {
        return Err(Failure::new(format!("{guest} is attached to the security group {group}"))
            .hint(format!("visor sg detach {group} {guest}")));
    }
    if let Some((by, _)) = all.iter().find(|(name, g)| name.as_str() != group && g.rules.names_group(group)) {
        return Err(Failure::new(format!("a rule of the security group {by} names {group}")).hint("visor sg ls"));
    }
    all.remove(group);
    Ok(())
}

fn edit(group: &str, rules: &RuleArgs, add: bool) -> Result<(), Failure> {
    let (wanted, way) = (rules.rules()?, rules.direction());
    if add {
        warn_of_groups(&wanted);
    }
    change(|all| {
        let set = &mut of(all, group)?.rules;
        for rule in &wanted {
            let changed = if add { set.add(way, rule.clone()) } else { set.remove(way, rule) };
            if !changed {
                let so = if add { "there already" } else { "not there" };
                eprintln!("visor: warning: the rule `{rule}` is {so}");
            }
        }
        Ok(())
    })
}

fn attach(group: &str, guests: &[String]) -> Result<(), Failure> {
    change(|all| {
        of(all, group)?.members.extend(guests.iter().cloned());
        Ok(())
    })?;
    for guest in guests.iter().filter(|g| GuestPlace::find(g).is_err()) {
        eprintln!("visor: warning: no guest called `{guest}` runs; it is attached when one starts");
    }
    Ok(())
}

/// Changes the groups, and tells all who judge by them.
fn change<R>(act: impl FnOnce(&mut Groups) -> Result<R, Failure>) -> Result<R, Failure> {
    let done = places().store().change_groups(act)?;
    for (place, _) in networks() {
        if let Err(e) = ask(&place, &Question::Groups) {
            eprintln!("visor: warning: the network {} has not been told: {e}", place.name);
        }
    }
    // Those without a network have nothing to judge.
    for machine in machines() {
        let _ = GuestPlace::Machine(machine).request(&GuestRequest::Groups);
    }
    Ok(done)
}

fn list(json: bool) -> Result<(), Failure> {
    let all = places().store().groups().map_err(|e| Failure::from(e).context("the security groups cannot be read"))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{:<16} {:<24} RULES", "GROUP", "MEMBERS");
    for (name, group) in &all {
        let members: Vec<&str> = group.members.iter().map(String::as_str).collect();
        let inbound = group.rules.inbound.iter().map(ToString::to_string);
        let outbound = group.rules.outbound.iter().map(|r| format!("out: {r}"));
        let rules: Vec<String> = inbound.chain(outbound).collect();
        println!("{name:<16} {:<24} {}", members.join(", "), rules.join("; "));
    }
    Ok(())
}
