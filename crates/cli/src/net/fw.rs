//! `visor fw`: the firewall before a guest, with firewalld's words. A change is in force at once and until the next reload; with
//! --permanent it is in force after the next reload or start.

use clap::Subcommand;
use visor_firewall::{Firewall, Reload, RuleSet, SERVICES, Scope};
use visor_net::Direction;
use visor_network::GuestRequest;

use super::guest::GuestPlace;
use super::networks::places;
use super::rules::{RuleArgs, warn_of_groups};
use crate::report::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum FwCommand {
    /// Add rules to the firewall before a guest: in force now, until the next reload.
    #[command(
        after_help = "Examples:\n  visor fw add web --service http\n  visor fw add web --service http --permanent\n  \
                            visor fw add db --port 5432 --source @web"
    )]
    Add(ChangeArgs),
    /// Remove rules. Connections that only they allowed end.
    #[command(after_help = "Examples:\n  visor fw rm web --service http\n  visor fw rm web --service http --permanent")]
    Rm(ChangeArgs),
    /// List the rules before a guest.
    #[command(visible_alias = "list", after_help = "Examples:\n  visor fw ls web\n  visor fw ls web --json")]
    Ls {
        /// The guest.
        name: String,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put the permanent rules in force. Rules that are not permanent go; each is named.
    #[command(after_help = "Examples:\n  visor fw reload web\n  visor fw reload web --dry-run")]
    Reload {
        /// The guest.
        name: String,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Make permanent what is in force.
    #[command(after_help = "Example:\n  visor fw runtime-to-permanent web")]
    RuntimeToPermanent {
        /// The guest.
        name: String,
    },
    /// List the services that rules know by name.
    #[command(after_help = "Example:\n  visor fw services")]
    Services,
}

#[derive(clap::Args, Debug)]
pub(crate) struct ChangeArgs {
    /// The guest.
    name: String,
    /// Change what a reload puts in force, not what is in force now.
    #[arg(long)]
    permanent: bool,
    #[command(flatten)]
    rules: RuleArgs,
}

pub(super) fn main(command: &FwCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        FwCommand::Add(args) => change(args, true, quiet)?,
        FwCommand::Rm(args) => change(args, false, quiet)?,
        FwCommand::Ls { name, json } => list(name, *json)?,
        FwCommand::Reload { name, dry_run } => reload(name, *dry_run, quiet)?,
        FwCommand::RuntimeToPermanent { name } => {
            GuestPlace::find(name)?.request(&GuestRequest::RuntimeToPermanent)?;
        }
        FwCommand::Services => {
            for s in SERVICES {
                let ports =
                    s.ports.iter().map(|(p, a, b)| if a == b { format!("{a}/{p}") } else { format!("{a}-{b}/{p}") });
                println!("{:<20} {}", s.name, ports.collect::<Vec<_>>().join(" "));
            }
        }
    }
    Ok(0)
}

fn change(args: &ChangeArgs, add: bool, quiet: bool) -> Result<(), Failure> {
    let (rules, direction) = (args.rules.rules()?, args.rules.direction());
    if add {
        warn_of_groups(&rules);
    }
    let guest = match GuestPlace::find(&args.name) {
        Ok(guest) => guest,
        // The permanent rules of a guest that does not run are in force when it starts.
        Err(_) if args.permanent => return offline(&args.name, &rules, direction, add),
        Err(failure) => {
            return Err(failure.hint("with --permanent rules can be changed for a guest that does not run"));
        }
    };
    let scope = if args.permanent { Scope::Permanent } else { Scope::Runtime };
    for rule in rules {
        let request = GuestRequest::ChangeRule { scope, direction, rule: rule.clone(), add };
        if !guest.ask::<bool>(&request)? {
            let so = if add { "there already" } else { "not there" };
            eprintln!("visor: warning: the rule `{rule}` is {so}");
        } else if args.permanent && !add && direction == Direction::Inbound && given(&guest).inbound.contains(&rule) {
            eprintln!("visor: warning: {} was started with the rule `{rule}`: it is back at its next start", args.name);
            eprintln!("  for good: start it without that --fw-allow, or in a network made with --isolated");
        }
    }
    if args.permanent && !quiet {
        eprintln!("visor: in force after `visor fw reload {}`", args.name);
    }
    Ok(())
}

/// What the guest was started with; a process of an earlier visor does not know.
fn given(guest: &GuestPlace) -> RuleSet {
    guest.ask(&GuestRequest::Given).unwrap_or_default()
}

fn offline(name: &str, rules: &[visor_firewall::Rule], way: Direction, add: bool) -> Result<(), Failure> {
    let store = places().store();
    let mut set: RuleSet = store.rules(name);
    for rule in rules {
        let changed = if add { set.add(way, rule.clone()) } else { set.remove(way, rule) };
        if !changed {
            let so = if add { "there already" } else { "not there" };
            eprintln!("visor: warning: the rule `{rule}` is {so}");
        }
    }
    store.set_rules(name, &set).map_err(|e| Failure::from(e).context("the permanent rules cannot be stored"))?;
    eprintln!("visor: no guest called `{name}` runs; the rules are in force when one starts");
    Ok(())
}

fn list(name: &str, json: bool) -> Result<(), Failure> {
    let firewall: Firewall = match GuestPlace::find(name) {
        Ok(guest) => guest.ask(&GuestRequest::Firewall)?,
        Err(failure) => {
            let stored = places().store().rules(name);
            if stored == RuleSet::default() {
                return Err(failure);
            }
            eprintln!("visor: `{name}` does not run; these rules are in force when it starts");
            Firewall::new(stored)
        }
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&firewall)?);
        return Ok(());
    }
    println!("{:<10} {:<10} RULE", "DIRECTION", "IN FORCE");
    let (now, then) = (firewall.runtime(), firewall.permanent());
    for (word, now, then) in [("in", &now.inbound, &then.inbound), ("out", &now.outbound, &then.outbound)] {
        for rule in now {
            let until = if then.contains(rule) { "permanent" } else { "runtime" };
            println!("{word:<10} {until:<10} {rule}");
        }
        then.iter().filter(|r| !now.contains(r)).for_each(|r| println!("{word:<10} {:<10} {r}", "reload"));
    }
    Ok(())
}

fn reload(name: &str, dry_run: bool, quiet: bool) -> Result<(), Failure> {
    let guest = GuestPlace::find(name)?;
    let change: Reload = guest.ask(&GuestRequest::Reload { preview: true })?;
    let (drops, adds) = if dry_run { ("would drop", "would add") } else { ("drops", "adds") };
    for rule in &change.dropped {
        eprintln!("visor: warning: the reload {drops} `{rule}`, which is not permanent");
        eprintln!("  to keep it: visor fw add {name} '{rule}' --permanent");
    }
    if change == Reload::default() && !quiet {
        eprintln!("visor: nothing changes: what is in force is what is permanent");
    }
    if !quiet {
        change.added.iter().for_each(|rule| eprintln!("visor: the reload {adds} `{rule}`"));
    }
    if !dry_run {
        guest.request(&GuestRequest::Reload { preview: false })?;
    }
    Ok(())
}
