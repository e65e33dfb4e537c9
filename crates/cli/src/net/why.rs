//! `visor net why`: which rule decides about a connection.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use visor_net::Protocol;
use visor_network::GuestRequest;
use visor_network::shared::{Answer, Place, Question, ask};

use super::guest::GuestPlace;
use super::networks::{running, status};
use crate::report::Failure;

/// The answer, as it comes from another process.
#[derive(Deserialize)]
struct Explained {
    allowed: bool,
    because: String,
    command: Option<String>,
}

/// An end of the connection.
#[expect(clippy::large_enum_variant, reason = "two are made in a run")]
enum End {
    Guest(String, GuestPlace),
    Address(IpAddr),
}

/// Explains; the status is 1 for a connection that is refused.
pub(super) fn why(words: &[String], udp: bool, ping: bool) -> Result<u8, Failure> {
    let (network, source, destination) = match words {
        [network, source, destination] => (Some(network), source, destination),
        [source, destination] => (None, source, destination),
        _ => return Err(Failure::new("from where and to where?").hint("for example: visor net why one two:80")),
    };
    let protocol = match (udp, ping) {
        (true, _) => Protocol::Udp,
        (_, true) => Protocol::Icmp,
        _ => Protocol::Tcp,
    };
    let (host, port) = split(destination, ping)?;
    let explained = match network {
        Some(name) => in_network(&running(name)?, protocol, source, (host, port))?,
        None => anywhere(protocol, end(source)?, end(host)?, port)?,
    };
    println!("{}: {}", if explained.allowed { "allowed" } else { "refused" }, explained.because);
    if let Some(command) = &explained.command {
        println!("  to change that: {command}");
    }
    Ok(u8::from(!explained.allowed))
}

/// Host and port; echo requests have none.
fn split(text: &str, ping: bool) -> Result<(&str, u16), Failure> {
    if ping {
        return Ok((text.trim_end_matches(":0"), 0));
    }
    let missing = || Failure::new(format!("`{text}` has no port; write for example web:80"));
    let (host, port) = text.rsplit_once(':').ok_or_else(missing)?;
    Ok((host, port.parse().map_err(|_| missing())?))
}

fn address(text: &str) -> Option<IpAddr> {
    text.trim_matches(['[', ']']).parse().ok()
}

fn end(text: &str) -> Result<End, Failure> {
    match address(text) {
        Some(address) => Ok(End::Address(address)),
        None => Ok(End::Guest(text.into(), GuestPlace::find(text)?)),
    }
}

fn anywhere(protocol: Protocol, source: End, destination: End, port: u16) -> Result<Explained, Failure> {
    let (guest, source, destination) = match (source, destination) {
        (End::Guest(_, GuestPlace::Network(a, from)), End::Guest(_, to)) if is_in(&to, &a) => {
            let Some(source) = from.address else {
                return Err(Failure::new(format!("the network {} does not know the address of {}", a.name, from.name))
                    .hint("give the addresses themselves, and the network before them"));
            };
            (to, Some(source), None)
        }
        (End::Guest(from, _), End::Guest(to, _)) => {
            return Ok(Explained {
                allowed: false,
                because: format!(
                    "{from} and {to} are in different networks, and nothing leads from one into the other"
                ),
                command: Some(format!("visor port add {to} {port}")),
            });
        }
        (End::Address(source), End::Guest(_, to)) => (to, Some(source), None),
        (End::Guest(_, from), End::Address(to)) => (from, None, Some(to)),
        (End::Address(_), End::Address(_)) => {
            return Err(Failure::new("neither end is a guest's name")
                .hint("with addresses alone, say which network: visor net why NETWORK FROM TO:PORT"));
        }
    };
    guest.ask(&GuestRequest::Why { protocol, source, destination: (destination, port) })
}

fn is_in(guest: &GuestPlace, network: &Place) -> bool {
    matches!(guest, GuestPlace::Network(place, _) if place.name == network.name)
}

fn in_network(place: &Place, protocol: Protocol, source: &str, to: (&str, u16)) -> Result<Explained, Failure> {
    let guests = status(place).map(|s| s.guests).unwrap_or_default();
    let find = |text: &str| -> Result<IpAddr, Failure> {
        let guest = guests.iter().find(|g| g.name == text).and_then(|g| g.address);
        guest.or_else(|| address(text)).ok_or_else(|| {
            let known: Vec<_> = guests.iter().map(|g| g.name.as_str()).collect();
            Failure::new(format!("`{text}` is neither an address nor a guest of {}", place.name)).hint(format!(
                "guests of {}: {}",
                place.name,
                known.join(", ")
            ))
        })
    };
    let question = Question::Why { protocol, source: find(source)?, destination: SocketAddr::new(find(to.0)?, to.1) };
    match ask(place, &question)? {
        Answer::Value(value) => Ok(serde_json::from_value(value)?),
        Answer::Refused(why) => Err(Failure::new(why)),
        other => Err(Failure::new(format!("an answer to another question: {other:?}"))),
    }
}
