//! Networks that several guests share. Each is a process of its own, started when it is needed.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use serde_json::json;
use visor_network::shared::{self, Answer, Mode, NetworkStatus, Place, Places, Question, SharedSpec, ask};

use super::args::CreateArgs;
use crate::report::Failure;

/// How long a network may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The network called `name`, whose process runs when this returns.
pub(crate) fn running(name: &str) -> Result<Place, Failure> {
    let place = find(name)?;
    if ask(&place, &Question::Status).is_ok() {
        return Ok(place);
    }
    let log = std::fs::File::create(place.log()).map_err(|e| context(e, "cannot write the network's log"))?;
    let program = std::env::current_exe().map_err(|e| context(e, "cannot find visor's own program"))?;
    let mut child = Command::new(program)
        .args(["net", "serve", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| context(e, "cannot start the network's process"))?;
    let end = Instant::now() + PATIENCE;
    while ask(&place, &Question::Status).is_err() {
        let over = child.try_wait().ok().flatten().is_some() && ask(&place, &Question::Status).is_err();
        if over || Instant::now() > end {
            let said = std::fs::read_to_string(place.log()).unwrap_or_default();
            let failure = Failure::new(format!("the network {name} does not come up"));
            return Err(said.lines().fold(failure, |f, line| f.hint(line)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(place)
}

/// The directories of this user's networks.
pub(crate) fn places() -> Places {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let user = nix::unistd::geteuid();
    let aside = || std::env::temp_dir().join(format!("visor-{user}"));
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|h| h.join(".local/share")));
    let run = absolute("XDG_RUNTIME_DIR").map(|r| r.join("visor"));
    Places::new(&data.map_or_else(aside, |d| d.join("visor")), &run.unwrap_or_else(aside))
}

fn named(name: &str) -> Result<Place, Failure> {
    places().named(name).ok_or_else(|| {
        Failure::new(format!("`{name}` is no name for a network"))
            .hint("use up to 32 letters, digits and dashes; not `nat`, not `none`")
    })
}

fn find(name: &str) -> Result<Place, Failure> {
    let place = named(name)?;
    if place.exists() {
        return Ok(place);
    }
    let all: Vec<String> = places().all().into_iter().map(|p| p.name).collect();
    let there = if all.is_empty() { String::new() } else { format!("; there are {}", all.join(", ")) };
    Err(Failure::new(format!("no network is called `{name}`{there}"))
        .hint(format!("to make it: visor net create {name}")))
}

/// Makes a network and starts it.
pub(super) fn create(args: &CreateArgs, quiet: bool) -> Result<u8, Failure> {
    let name = args.name.as_str();
    let spec = &SharedSpec {
        mode: args.mode.into(),
        subnet: args.subnet.map_or_else(free_subnet, Ok)?.trunc(),
        isolated: args.isolated,
        allow_host_loopback: args.allow_host_loopback,
        bridge: args.bridge.clone(),
        vlan: args.vlan,
    };
    let place = named(name)?;
    let addressed = |s: &SharedSpec| matches!(s.mode, Mode::NatNetwork | Mode::HostOnly);
    let clashes = |s: SharedSpec| addressed(&s) && addressed(spec) && overlaps(s.subnet, spec.subnet);
    if let Some(other) = places().all().iter().find(|p| p.spec().is_ok_and(clashes)) {
        return Err(Failure::new(format!("the network {} has addresses of {} already", other.name, spec.subnet))
            .hint("give others with --subnet, or leave it out"));
    }
    place.create(spec).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(format!("there is a network called {name} already")).hint("visor net ls lists them")
        }
        _ => context(e, "the network cannot be made"),
    })?;
    if let Err(failure) = running(name) {
        let _ = place.remove();
        let privileges = "a network of mode bridge needs CAP_NET_ADMIN for its tap device, and a bridge of that name";
        return Err(if spec.mode == Mode::Bridge { failure.hint(privileges) } else { failure });
    }
    if let Some(host) = status(&place).and_then(|s| s.host).filter(|_| !quiet) {
        eprintln!("visor: {host}");
    }
    println!("{name}");
    Ok(0)
}

/// The first 10.0.N.0/24 from N = 3 that no network has.
fn free_subnet() -> Result<Ipv4Net, Failure> {
    let taken: Vec<Ipv4Net> = places().all().iter().filter_map(|p| p.spec().ok()).map(|s| s.subnet).collect();
    let mut all = (3..=255).filter_map(|n| Ipv4Net::new(Ipv4Addr::new(10, 0, n, 0), 24).ok());
    all.find(|s| !taken.iter().any(|t| overlaps(*t, *s)))
        .ok_or_else(|| Failure::new("no network 10.0.N.0/24 is free").hint("give one with --subnet"))
}

fn overlaps(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

pub(super) fn status(place: &Place) -> Option<NetworkStatus> {
    match ask(place, &Question::Status) {
        Ok(Answer::Status(s)) => Some(s),
        _ => None,
    }
}

pub(super) fn list(as_json: bool) -> Result<u8, Failure> {
    let all: Vec<_> = places().all().into_iter().filter_map(|p| Some((p.spec().ok()?, status(&p), p))).collect();
    if as_json {
        let rows = all.iter().map(|(spec, status, p)| json!({ "name": p.name, "spec": spec, "status": status }));
        println!("{}", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?);
        return Ok(0);
    }
    println!("{:<16} {:<12} {:<18} {:<8} GUESTS", "NAME", "MODE", "SUBNET", "STATE");
    for (spec, status, place) in &all {
        let mode = spec.mode.to_string();
        let addressed = matches!(spec.mode, Mode::NatNetwork | Mode::HostOnly);
        let subnet = if addressed { spec.subnet.to_string() } else { "-".into() };
        let state = if status.is_some() { "running" } else { "stopped" };
        let guests = status.iter().flat_map(|s| &s.guests);
        let guest = |g: &shared::GuestStatus| {
            let more: Vec<String> = g.address.map(|a| a.to_string()).into_iter().chain(g.vlans.clone()).collect();
            if more.is_empty() { g.name.clone() } else { format!("{} ({})", g.name, more.join(", ")) }
        };
        let guests: Vec<String> = guests.map(guest).collect();
        println!("{:<16} {mode:<12} {subnet:<18} {state:<8} {}", place.name, guests.join(", "));
        status.iter().flat_map(|s| &s.host).for_each(|h| println!("  {h}"));
        status.iter().flat_map(|s| &s.conflicts).for_each(|c| println!("  warning: {c}"));
    }
    Ok(0)
}

pub(super) fn remove(name: &str, force: bool) -> Result<u8, Failure> {
    let place = find(name)?;
    if let Some(status) = status(&place) {
        let guests: Vec<String> = status.guests.into_iter().map(|g| g.name).collect();
        if !guests.is_empty() && !force {
            return Err(Failure::new(format!("guests are plugged into {name}: {}", guests.join(", ")))
                .hint(format!("visor net rm --force {name} pulls their cables")));
        }
        question(&place, &Question::Stop)?;
        let end = Instant::now() + PATIENCE;
        while place.socket.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    place.remove().map_err(|e| context(e, "the network's files cannot be removed"))?;
    Ok(0)
}

pub(super) fn serve(name: &str) -> Result<u8, Failure> {
    let place = find(name)?;
    // The terminal of whoever needed the network first must not take it along.
    let _ = nix::unistd::setsid();
    shared::serve(&place).map_err(|e| context(e, "the network has failed"))?;
    Ok(0)
}

/// Asks for a value.
fn question(place: &Place, question: &Question) -> Result<serde_json::Value, Failure> {
    match ask(place, question).map_err(|e| context(e, "the network does not answer"))? {
        Answer::Value(value) => Ok(value),
        Answer::Refused(why) => Err(Failure::new(why)),
        other => Err(Failure::new(format!("an answer to another question: {other:?}"))),
    }
}

fn context(error: io::Error, what: &str) -> Failure {
    Failure::from(anyhow::Error::from(error).context(what.to_owned()))
}
