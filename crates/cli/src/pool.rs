//! `visor pool`: several stores as one. Its volumes are disks called `pool:POOL/VOLUME`.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;
use visor_block::BlockBackend;
use visor_disk::Alloc;
use visor_pool::{
    Event, Health, MemberState, NewVolume, Place, Pool, PoolError, PoolErrorKind, PoolInfo, Registry, VolumeInfo,
};

use crate::disk::{Work, directory, human};
use crate::progress::Unit;
use crate::report::Failure;

/// From here on a store is called nearly full, in parts of a hundred.
const WARN_AT: u8 = 85;

#[derive(Subcommand, Debug)]
pub(crate) enum PoolCommand {
    /// Make a pool of folders and exports of NBD servers.
    #[command(after_help = "Examples:
  visor pool create fast --member dir:/disk1 --member dir:/disk2                 striped: the space of both
  visor pool create safe --member dir:/disk1 --member dir:/disk2 --copies 2      mirrored: survives the loss of one
  visor pool create far --member dir:/srv --member nbds://store/v1,tls-ca=ca.pem --copies 2
  visor disk create pool:safe/data --size 10G; visor run tiny --disk pool:safe/data")]
    Create {
        /// Its name.
        name: String,
        /// A member: dir:/folder, or nbd://HOST/EXPORT, all of which is used.
        #[arg(long = "member", value_name = "PLACE", required = true)]
        members: Vec<String>,
        /// Copies of everything. Members make groups of so many, in this order.
        #[arg(long, value_name = "N", default_value_t = 1)]
        copies: usize,
    },
    /// List pools.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  visor pool ls\n  visor pool ls --json\n  visor pool list"
    )]
    Ls {
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a pool's members and volumes, and whether all copies are there.
    #[command(
        visible_aliases = ["inspect", "show"],
        after_help = "Examples:\n  visor pool info safe\n  visor pool info safe --json\n  visor pool show safe"
    )]
    Info {
        /// The pool.
        name: String,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Add members, for volumes made from now on.
    #[command(after_help = "Examples:
  visor pool add fast --member dir:/disk3
  visor pool add safe --member dir:/disk3 --member dir:/disk4        as many as there are copies
  visor -q pool add fast --member nbd://store/v2")]
    Add {
        /// The pool.
        name: String,
        /// A member.
        #[arg(long = "member", value_name = "PLACE", required = true)]
        members: Vec<String>,
    },
    /// Bring members up to date that were missing or have failed, or put a new one in the place of one that is gone.
    #[command(after_help = "Examples:
  visor pool rebuild safe
  visor pool rebuild safe --replace dir:/disk2=dir:/disk5
  visor -q pool rebuild safe")]
    Rebuild {
        /// The pool.
        name: String,
        /// The member that is gone, and where the new one is.
        #[arg(long, value_name = "OLD=NEW")]
        replace: Option<String>,
    },
    /// Remove a pool. What it is made of stays, empty.
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  visor pool rm fast\n  visor pool rm fast --volumes     and all data in it\n  visor -q pool rm fast"
    )]
    Rm {
        /// The pool.
        name: String,
        /// Also its volumes.
        #[arg(long)]
        volumes: bool,
    },
}

/// Runs a pool command.
pub(crate) fn main(command: &PoolCommand, quiet: bool) -> Result<u8, Failure> {
    let registry = registry()?;
    match command {
        PoolCommand::Create { name, members, copies } => {
            let pool = Pool::create(&registry, name, &places(members)?, *copies).map_err(failure)?;
            let info = pool.info();
            if !quiet {
                println!("{name}  {} for volumes, {}", human(info.capacity), kind(&info));
            }
        }
        PoolCommand::Ls { json } => list(&registry, *json)?,
        PoolCommand::Info { name, json } => {
            let info = Pool::open(&registry, name).map_err(failure)?.info();
            if *json {
                println!("{}", serde_json::to_string_pretty(&info_json(&info))?);
            } else {
                print_info(&info);
            }
        }
        PoolCommand::Add { name, members } => {
            let mut pool = Pool::open(&registry, name).map_err(failure)?;
            pool.add(&places(members)?).map_err(failure)?;
            if !quiet {
                println!("{name}  {} for volumes", human(pool.info().capacity));
            }
        }
        PoolCommand::Rebuild { name, replace } => rebuild(&registry, name, replace.as_deref(), quiet)?,
        PoolCommand::Rm { name, volumes } => {
            Pool::open(&registry, name).and_then(|p| p.remove(*volumes)).map_err(failure)?;
        }
    }
    Ok(0)
}

/// The pool and the volume that a disk's name means, if it means one.
pub(crate) fn volume(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("pool:")?.split_once('/')
}

/// Opens a volume as a disk; what happens to it is told on standard error.
pub(crate) fn open(pool: &str, volume: &str, read_only: bool) -> Result<Arc<dyn BlockBackend>, Failure> {
    let pool = Pool::open(&registry()?, pool).map_err(failure)?;
    let name = pool.info().name;
    let opened = pool.open_volume(volume, read_only, move |e| tell(&name, &e)).map_err(failure)?;
    let health = opened.health();
    if !health.stale.is_empty() {
        let names = health.stale.join(", ");
        eprintln!(
            "visor: the volume {volume} has lost copies: {names} is missing or out of date; see `visor pool info`"
        );
    }
    Ok(Arc::new(opened))
}

/// Makes a volume.
pub(crate) fn create(pool: &str, volume: &str, size: u64, alloc: Alloc, overcommit: bool) -> Result<(), Failure> {
    let mut pool = Pool::open(&registry()?, pool).map_err(failure)?;
    pool.create_volume(&NewVolume { name: volume.to_owned(), size, alloc, overcommit }).map_err(failure)?;
    for m in pool.info().members.iter().filter(|m| m.percent >= WARN_AT) {
        eprintln!("visor: {} is {} % full", m.place, m.percent);
    }
    Ok(())
}

/// A volume as it is, without opening it.
pub(crate) fn volume_info(pool: &str, volume: &str) -> Result<VolumeInfo, Failure> {
    let volumes = Pool::open(&registry()?, pool).map_err(failure)?.info().volumes;
    volumes.into_iter().find(|v| v.name == volume).ok_or_else(|| {
        Failure::new(format!("no volume `{pool}/{volume}`")).hint(format!("visor pool info {pool} lists them"))
    })
}

/// The names of all volumes as disks.
pub(crate) fn all_volumes() -> Result<Vec<String>, Failure> {
    let registry = registry()?;
    let pools = registry.names().into_iter().filter_map(|p| Pool::open(&registry, &p).ok().map(|opened| (p, opened)));
    Ok(pools.flat_map(|(p, opened)| opened.volumes().into_iter().map(move |v| format!("pool:{p}/{v}"))).collect())
}

/// Removes a volume.
pub(crate) fn remove(pool: &str, volume: &str) -> Result<(), Failure> {
    Pool::open(&registry()?, pool).and_then(|mut p| p.remove_volume(volume)).map_err(failure)
}

fn registry() -> Result<Registry, Failure> {
    Ok(Registry::new(directory()?.with_file_name("pools")))
}

fn places(texts: &[String]) -> Result<Vec<Place>, Failure> {
    texts.iter().map(|t| Place::parse(t).map_err(failure)).collect()
}

fn tell(pool: &str, event: &Event) {
    match event {
        Event::Degraded { volume, member, why } => {
            eprintln!(
                "visor: {pool}/{volume}: {member} has failed ({why}) and is not used any more; the other copies serve."
            );
            eprintln!("  afterwards: visor pool rebuild {pool}");
        }
        Event::Resynced { volume, bytes } => {
            eprintln!("visor: {pool}/{volume}: the last use ended in a crash; {} of copies made equal", human(*bytes));
        }
        Event::Filling { member, percent } => {
            eprintln!(
                "visor: {pool}: {member} is {percent} % full; machines that write to it stop when nothing is left"
            );
        }
    }
}

fn rebuild(registry: &Registry, name: &str, replace: Option<&str>, quiet: bool) -> Result<(), Failure> {
    let mut pool = Pool::open(registry, name).map_err(failure)?;
    if let Some(text) = replace {
        // A place may have `=` in it: the new one starts with a scheme.
        let at = ["=dir:", "=nbd"].iter().filter_map(|s| text.find(s)).min();
        let at = at.ok_or_else(|| Failure::new(format!("`{text}`")).hint("write --replace dir:/old=dir:/new"))?;
        pool.replace(&text[..at], Place::parse(&text[at + 1..]).map_err(failure)?).map_err(failure)?;
    }
    let mut work = Work::new(quiet)?;
    for volume in pool.volumes() {
        let label = name.to_owned();
        let opened = pool.open_volume(&volume, false, move |e| tell(&label, &e)).map_err(failure)?;
        if opened.health().stale.is_empty() {
            continue;
        }
        work.start(&format!("rebuilding {volume}"), Some(opened.layout().size), Unit::Bytes);
        opened.rebuild(&mut |done, _| work.at(done)).map_err(failure)?;
        work.finish();
        let left = opened.health().stale;
        if !left.is_empty() {
            return Err(Failure::new(format!("{} is still missing or out of date", left.join(", ")))
                .hint(format!("one that is gone for good: visor pool rebuild {name} --replace OLD=NEW")));
        }
    }
    if !quiet {
        println!("all copies of all volumes of {name} are there");
    }
    Ok(())
}

fn kind(info: &PoolInfo) -> String {
    let groups = info.members.len() / info.copies.max(1);
    match (groups, info.copies) {
        (1, 1) => "one member".into(),
        (g, 1) => format!("striped over {g} members"),
        (1, c) => format!("{c} copies"),
        (g, c) => format!("striped over {g} groups of {c} copies"),
    }
}

/// A word for it, and why.
fn state(health: &Result<Health, String>) -> (&'static str, String) {
    match health {
        Ok(h) if h.stale.is_empty() => ("ok", String::new()),
        Ok(h) if h.current.is_empty() => ("lost", h.stale.join(", ")),
        Ok(h) => ("degraded", format!("missing or out of date: {}", h.stale.join(", "))),
        Err(e) => ("unusable", e.clone()),
    }
}

fn list(registry: &Registry, as_json: bool) -> Result<(), Failure> {
    let mut all = Vec::new();
    for name in registry.names() {
        all.push(Pool::open(registry, &name).map_err(failure)?.info());
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&all.iter().map(info_json).collect::<Vec<_>>())?);
        return Ok(());
    }
    println!("{:<16} {:>8} {:>10} {:>10} {:>8}  STATE", "NAME", "MEMBERS", "CAPACITY", "FREE", "VOLUMES");
    for i in &all {
        let missing = i.members.iter().filter(|m| m.state != MemberState::Up).count();
        let bad = i.volumes.iter().filter(|v| state(&v.health).0 != "ok").count();
        let state = match (missing, bad) {
            (0, 0) => "ok".to_owned(),
            (m, b) => format!("{m} members missing, {b} volumes degraded"),
        };
        let (members, volumes) = (i.members.len(), i.volumes.len());
        println!("{:<16} {members:>8} {:>10} {:>10} {volumes:>8}  {state}", i.name, human(i.capacity), human(i.free));
    }
    if all.is_empty() {
        eprintln!("none yet; `visor pool create NAME --member dir:/folder` makes one");
    }
    Ok(())
}

fn print_info(i: &PoolInfo) {
    println!(
        "{}  {}, {} for volumes, {} left, {} promised",
        i.name,
        kind(i),
        human(i.capacity),
        human(i.free),
        human(i.promised)
    );
    for m in &i.members {
        match &m.state {
            MemberState::Up if m.percent >= WARN_AT => {
                println!("  {}  {} left, {} % full: NEARLY FULL", m.place, human(m.free), m.percent);
            }
            MemberState::Up => println!("  {}  {} left, {} % full", m.place, human(m.free), m.percent),
            MemberState::Missing(why) => println!("  {}  MISSING: {why}", m.place),
        }
    }
    for v in &i.volumes {
        let (word, why) = state(&v.health);
        let why = if why.is_empty() { why } else { format!(" ({why})") };
        println!("  pool:{}/{}  {}, {word}{why}", i.name, v.name, human(v.size));
    }
}

fn info_json(i: &PoolInfo) -> serde_json::Value {
    let member = |m: &visor_pool::MemberInfo| {
        let missing = match &m.state {
            MemberState::Up => None,
            MemberState::Missing(why) => Some(why.clone()),
        };
        json!({ "place": m.place, "missing": missing, "total": m.total, "free": m.free, "percent_full": m.percent })
    };
    let volume = |v: &visor_pool::VolumeInfo| {
        let (word, why) = state(&v.health);
        let stale = v.health.as_ref().map(|h| h.stale.clone()).unwrap_or_default();
        json!({ "name": v.name, "size": v.size, "state": word, "why": why, "stale": stale })
    };
    json!({
        "name": i.name, "copies": i.copies, "capacity": i.capacity, "free": i.free, "promised": i.promised,
        "members": i.members.iter().map(member).collect::<Vec<_>>(),
        "volumes": i.volumes.iter().map(volume).collect::<Vec<_>>(),
    })
}

/// An error of a pool with what to do about it.
fn failure(e: PoolError) -> Failure {
    let hint = match e.kind {
        PoolErrorKind::NotFound => "visor pool ls lists pools, visor pool info POOL their volumes",
        PoolErrorKind::Locked => "end its user first; two machines must not share a disk",
        PoolErrorKind::Missing => {
            "visor pool info POOL says which; one that is gone: visor pool rebuild POOL --replace OLD=NEW"
        }
        PoolErrorKind::Split => {
            "decide whose writes to give up: move the folder visor-pool of that member away, then visor pool rebuild POOL --replace"
        }
        PoolErrorKind::NoSpace => {
            "add members (visor pool add), take a smaller size, or promise more than there is with --overcommit"
        }
        PoolErrorKind::Bad => "members: dir:/folder or nbd://HOST/EXPORT, as many as --copies or a multiple",
        _ => "",
    };
    let cancelled = e.kind == PoolErrorKind::Cancelled;
    let failure = Failure::from(anyhow::Error::from(e));
    let failure = if hint.is_empty() { failure } else { failure.hint(hint) };
    if cancelled { Failure { status: 130, ..failure } } else { failure }
}
