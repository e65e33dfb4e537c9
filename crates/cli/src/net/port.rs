//! `visor port`: ports of the host that lead to a running guest.

use clap::Subcommand;
use visor_net::Protocol;
use visor_network::{ForwardSpec, ForwardStatus, GuestRequest};

use super::guest::GuestPlace;
use super::networks::places;
use crate::report::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum PortCommand {
    /// Lead ports of the host to a running guest. The host listens on 127.0.0.1 unless an address is given; without a port of the
    /// host, or with 0, on a free one, which is printed.
    #[command(after_help = "Examples:\n  visor port add web 8080:80\n  visor port add web :80\n  \
                            visor port add web 0.0.0.0:5353:53/udp\n  visor port add web 8080:80 --permanent")]
    Add {
        /// The guest.
        name: String,
        /// Which ports.
        #[arg(required = true, value_name = "[[BIND:]HOST:]GUEST[/udp]")]
        ports: Vec<ForwardSpec>,
        /// Whenever a guest of that name runs, not only now.
        #[arg(long)]
        permanent: bool,
    },
    /// No longer lead ports of the host to a guest. Connections that exist go on.
    #[command(
        after_help = "Examples:\n  visor port rm web 80\n  visor port rm web 53/udp\n  visor port rm web 8080:80"
    )]
    Rm {
        /// The guest.
        name: String,
        /// Ports of the guest; what stands before a colon is passed over.
        #[arg(required = true, value_name = "GUEST[/udp]")]
        ports: Vec<ForwardSpec>,
        /// Not when the guest is started again either.
        #[arg(long)]
        permanent: bool,
    },
    /// List the ports of the host that lead to a guest.
    #[command(visible_alias = "list", after_help = "Examples:\n  visor port ls web\n  visor port ls web --json")]
    Ls {
        /// The guest.
        name: String,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn main(command: &PortCommand) -> Result<u8, Failure> {
    match command {
        PortCommand::Add { name, ports, permanent } => add(name, ports, *permanent)?,
        PortCommand::Rm { name, ports, permanent } => remove(name, ports, *permanent)?,
        PortCommand::Ls { name, json } => list(name, *json)?,
    }
    Ok(0)
}

fn add(name: &str, ports: &[ForwardSpec], permanent: bool) -> Result<(), Failure> {
    let guest = match GuestPlace::find(name) {
        Ok(guest) => guest,
        Err(_) if permanent => {
            change_kept(name, |kept| ports.iter().for_each(|spec| keep(kept, *spec)))?;
            eprintln!("visor: no guest called `{name}` runs; its ports are forwarded when one starts");
            return Ok(());
        }
        Err(failure) => return Err(failure.hint("with --permanent ports can be given to a guest that does not run")),
    };
    for spec in ports {
        let made: ForwardStatus =
            guest.ask(&GuestRequest::AddPort(spec.to_string())).map_err(|e| hints(e, name, spec))?;
        if permanent {
            // The port that was picked stays, so that addresses which were told stay true.
            let kept = ForwardSpec { protocol: made.protocol, bind: made.bind, port: made.guest.port() };
            change_kept(name, |all| keep(all, kept))?;
        }
        println!("{made}");
    }
    Ok(())
}

fn remove(name: &str, ports: &[ForwardSpec], permanent: bool) -> Result<(), Failure> {
    let is = |a: &ForwardSpec, b: &ForwardSpec| (a.protocol, a.port) == (b.protocol, b.port);
    let before = places().store().ports(name);
    if permanent {
        change_kept(name, |kept| kept.retain(|k| !ports.iter().any(|p| is(p, k))))?;
    }
    // What is permanent may be no longer in force, or the guest does not run.
    let gone = |spec: &ForwardSpec| permanent && before.iter().any(|k| is(spec, k));
    let guest = match GuestPlace::find(name) {
        Err(_) if ports.iter().all(gone) => return Ok(()),
        found => found?,
    };
    for spec in ports {
        let request = GuestRequest::RemovePort { protocol: spec.protocol, port: spec.port };
        match guest.request(&request) {
            Err(_) if gone(spec) => {}
            done => _ = done.map_err(|e| e.hint(format!("visor port ls {name} lists them")))?,
        }
        if !permanent && before.iter().any(|k| is(spec, k)) {
            eprintln!(
                "visor: it is forwarded again when {name} starts; for good: visor port rm {name} {} --permanent",
                spec.port
            );
        }
    }
    Ok(())
}

/// Changes what is forwarded whenever a guest runs.
fn change_kept(name: &str, change: impl FnOnce(&mut Vec<ForwardSpec>)) -> Result<(), Failure> {
    let store = places().store();
    let mut kept = store.ports(name);
    change(&mut kept);
    store.set_ports(name, &kept).map_err(|e| Failure::from(e).context("the permanent ports cannot be stored"))
}

fn keep(kept: &mut Vec<ForwardSpec>, spec: ForwardSpec) {
    if !kept.contains(&spec) {
        kept.push(spec);
    }
}

fn hints(failure: Failure, name: &str, spec: &ForwardSpec) -> Failure {
    let udp = if spec.protocol == Protocol::Udp { "/udp" } else { "" };
    let text = failure.error.to_string();
    let taken = text.contains("is taken") || text.contains("does not let");
    if !taken {
        return failure;
    }
    let (port, own) = (spec.bind.port(), spec.port);
    let next = if port < 1024 { u32::from(port) + 8000 } else { u32::from(port) + 1 };
    let other = failure.hint(format!("another port:       visor port add {name} {next}:{own}{udp}"));
    other.hint(format!("or let visor pick:  visor port add {name} :{own}{udp}"))
}

fn list(name: &str, json: bool) -> Result<(), Failure> {
    let kept = places().store().ports(name);
    let all: Vec<ForwardStatus> = match GuestPlace::find(name) {
        Err(_) if !kept.is_empty() => Vec::new(),
        found => found?.ask(&GuestRequest::Ports)?,
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    let is_kept = |f: &ForwardStatus| kept.iter().any(|k| (k.protocol, k.bind) == (f.protocol, f.bind));
    let line = |protocol: &str, host: &str, guest: &str, when: &str| {
        println!("{}", format!("{protocol:<9} {host:<22} {guest:<22} {when}").trim_end());
    };
    line("PROTOCOL", "HOST", "GUEST", "FORWARDED");
    for f in &all {
        let when = if is_kept(f) { "permanently" } else { "now" };
        line(&f.protocol.to_string(), &f.bind.to_string(), &f.guest.to_string(), when);
    }
    let there = |k: &&ForwardSpec| !all.iter().any(|f| (k.protocol, k.bind) == (f.protocol, f.bind));
    for k in kept.iter().filter(there) {
        line(&k.protocol.to_string(), &k.bind.to_string(), &k.port.to_string(), "when it starts");
    }
    Ok(())
}
