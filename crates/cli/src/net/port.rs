//! `visor port`: ports of the host that lead to a running guest.

use clap::Subcommand;
use visor_net::Protocol;
use visor_network::{ForwardSpec, ForwardStatus, GuestRequest};

use super::guest::GuestPlace;
use crate::report::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum PortCommand {
    /// Lead ports of the host to a running guest. The host listens on 127.0.0.1 unless an address is given; without a port of the
    /// host, or with 0, on a free one, which is printed.
    #[command(after_help = "Examples:\n  visor port add web 8080:80\n  visor port add web :80\n  \
                            visor port add web 0.0.0.0:5353:53/udp")]
    Add {
        /// The guest.
        name: String,
        /// Which ports.
        #[arg(required = true, value_name = "[[BIND:]HOST:]GUEST[/udp]")]
        ports: Vec<ForwardSpec>,
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
        PortCommand::Add { name, ports } => {
            let guest = GuestPlace::find(name)?;
            for spec in ports {
                let made: ForwardStatus =
                    guest.ask(&GuestRequest::AddPort(spec.to_string())).map_err(|e| hints(e, name, spec))?;
                println!("{made}");
            }
        }
        PortCommand::Rm { name, ports } => {
            let guest = GuestPlace::find(name)?;
            for spec in ports {
                let request = GuestRequest::RemovePort { protocol: spec.protocol, port: spec.port };
                guest.request(&request).map_err(|e| e.hint(format!("visor port ls {name} lists them")))?;
            }
        }
        PortCommand::Ls { name, json } => list(name, *json)?,
    }
    Ok(0)
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
    let all: Vec<ForwardStatus> = GuestPlace::find(name)?.ask(&GuestRequest::Ports)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!("{:<9} {:<22} GUEST", "PROTOCOL", "HOST");
    all.iter().for_each(|f| println!("{:<9} {:<22} {}", f.protocol.to_string(), f.bind.to_string(), f.guest));
    Ok(())
}
