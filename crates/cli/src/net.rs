//! `visor net`: networks that several guests share. Each is a process of its own, started when it is needed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use serde_json::json;
use visor_network::shared::{self, Answer, Mode, NetworkStatus, Place, Places, Question, SharedSpec, ask};

use crate::report::Failure;

/// How long a network may take to come up or to end.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Subcommand, Debug)]
pub(crate) enum NetCommand {
    /// Make a network: one switch for many guests, and one translator that gives each an address by its MAC.
    #[command(after_help = "Examples:\n  visor net create lab\n  visor net create lab --subnet 10.0.7.0/24\n  \
                            visor run tiny --net lab --name one")]
    Create {
        /// Its name: letters, digits and dashes.
        name: String,
        /// Its connection to the world.
        #[arg(long, value_enum, default_value_t = ModeArg::NatNetwork)]
        mode: ModeArg,
        /// Its addresses; without it a free 10.0.N.0/24.
        #[arg(long, value_name = "NETWORK")]
        subnet: Option<Ipv4Net>,
        /// Guests do not reach each other unless rules allow it.
        #[arg(long)]
        isolated: bool,
        /// Guests reach the host's own services under the router's address.
        #[arg(long)]
        allow_host_loopback: bool,
    },
    /// List networks and who is plugged in.
    #[command(visible_alias = "list")]
    Ls {
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a network.
    Rm {
        /// Its name.
        name: String,
        /// Even if guests are plugged in; their cables are pulled.
        #[arg(short, long)]
        force: bool,
    },
    /// Show the translations of a network as JSON.
    NatTable {
        /// Its name.
        name: String,
    },
    /// Say which rule decides about a connection, and the command that changes it.
    #[command(after_help = "Example:\n  visor net why lab 10.0.3.4 10.0.3.5:80")]
    Why {
        /// The network.
        name: String,
        /// From where: an address, or the name of a guest.
        source: String,
        /// To where: address or name of a guest, and port.
        destination: String,
        /// UDP rather than TCP.
        #[arg(long)]
        udp: bool,
    },
    /// Be the process of a network.
    #[command(hide = true)]
    Serve {
        /// Its name.
        name: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// One translator for all guests.
    NatNetwork,
    /// No connection at all: just a switch.
    Internal,
}

/// Runs a network command.
pub(crate) fn main(command: &NetCommand) -> Result<u8, Failure> {
    match command {
        NetCommand::Create { name, mode, subnet, isolated, allow_host_loopback } => {
            let mode = if *mode == ModeArg::Internal { Mode::Internal } else { Mode::NatNetwork };
            let subnet = subnet.map_or_else(free_subnet, Ok)?.trunc();
            create(name, &SharedSpec { mode, subnet, isolated: *isolated, allow_host_loopback: *allow_host_loopback })
        }
        NetCommand::Ls { json } => list(*json),
        NetCommand::Rm { name, force } => remove(name, *force),
        NetCommand::NatTable { name } => {
            print(&question(&running(name)?, &Question::NatTable)?)?;
            Ok(0)
        }
        NetCommand::Why { name, source, destination, udp } => why(name, source, destination, *udp),
        NetCommand::Serve { name } => serve(name),
    }
}

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
fn places() -> Places {
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

fn create(name: &str, spec: &SharedSpec) -> Result<u8, Failure> {
    let place = named(name)?;
    if let Some(other) = places().all().iter().find(|p| p.spec().is_ok_and(|s| overlaps(s.subnet, spec.subnet))) {
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
        return Err(failure);
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

fn status(place: &Place) -> Option<NetworkStatus> {
    match ask(place, &Question::Status) {
        Ok(Answer::Status(s)) => Some(s),
        _ => None,
    }
}

fn list(as_json: bool) -> Result<u8, Failure> {
    let all: Vec<_> = places().all().into_iter().filter_map(|p| Some((p.spec().ok()?, status(&p), p))).collect();
    if as_json {
        let rows = all.iter().map(|(spec, status, p)| json!({ "name": p.name, "spec": spec, "status": status }));
        println!("{}", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?);
        return Ok(0);
    }
    println!("{:<16} {:<12} {:<18} {:<8} GUESTS", "NAME", "MODE", "SUBNET", "STATE");
    for (spec, status, place) in &all {
        let mode = if spec.mode == Mode::Internal { "internal" } else { "nat-network" };
        let state = if status.is_some() { "running" } else { "stopped" };
        let guests = status.iter().flat_map(|s| &s.guests);
        let guest = |g: &shared::GuestStatus| g.address.map_or_else(|| g.name.clone(), |a| format!("{} ({a})", g.name));
        let guests: Vec<String> = guests.map(guest).collect();
        println!("{:<16} {mode:<12} {:<18} {state:<8} {}", place.name, spec.subnet.to_string(), guests.join(", "));
        status.iter().flat_map(|s| &s.conflicts).for_each(|c| println!("  warning: {c}"));
    }
    Ok(0)
}

fn remove(name: &str, force: bool) -> Result<u8, Failure> {
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

fn why(name: &str, source: &str, destination: &str, udp: bool) -> Result<u8, Failure> {
    let place = running(name)?;
    let guests = status(&place).map(|s| s.guests).unwrap_or_default();
    let address = |text: &str| -> Result<IpAddr, Failure> {
        let guest = guests.iter().find(|g| g.name == text).and_then(|g| g.address);
        guest.map_or_else(|| text.trim_matches(['[', ']']).parse().ok(), Some).ok_or_else(|| {
            let known: Vec<_> = guests.iter().map(|g| g.name.as_str()).collect();
            let failure = Failure::new(format!("`{text}` is neither an address nor a guest of {name}"));
            failure.hint(format!("guests of {name}: {}", known.join(", ")))
        })
    };
    let (host, port) = destination.rsplit_once(':').unwrap_or((destination, ""));
    let port =
        port.parse().map_err(|_| Failure::new(format!("`{destination}` has no port; write for example web:80")))?;
    let protocol = if udp { "udp" } else { "tcp" }.to_owned();
    let question_ =
        Question::Why { protocol, source: address(source)?, destination: SocketAddr::new(address(host)?, port) };
    let answer = question(&place, &question_)?;
    let text = |key: &str| answer.get(key).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let allowed = answer.get("allowed").and_then(serde_json::Value::as_bool).unwrap_or(false);
    println!("{}: {}", if allowed { "allowed" } else { "refused" }, text("because"));
    if !text("command").is_empty() {
        println!("  to change that: {}", text("command"));
    }
    Ok(u8::from(!allowed))
}

fn serve(name: &str) -> Result<u8, Failure> {
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

fn print(value: &serde_json::Value) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn context(error: io::Error, what: &str) -> Failure {
    Failure::from(anyhow::Error::from(error).context(what.to_owned()))
}
