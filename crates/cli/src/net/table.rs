//! `visor net nat-table`: the translations under way.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use visor_network::shared::{Answer, Place, Question, ask};
use visor_network::{GuestRequest, Translation};

use super::guest::{GuestPlace, in_networks, machines, networks};
use super::networks::places;
use crate::report::Failure;

const EACH: Duration = Duration::from_secs(1);

/// Shows the table of a guest, of a network, or of all.
pub(super) fn show(name: Option<&str>, watch: bool, json: bool) -> Result<u8, Failure> {
    let clear = watch && std::io::stdout().is_terminal();
    loop {
        let all = collect(name)?;
        let mut out = std::io::stdout().lock();
        if json {
            let rows = all.iter().map(|(of, t)| serde_json::json!({ "of": of, "translation": t }));
            writeln!(out, "{}", serde_json::to_string_pretty(&rows.collect::<Vec<_>>())?)?;
            return Ok(0);
        }
        if clear {
            write!(out, "\x1b[H\x1b[2J")?;
        }
        write!(out, "{}", render(&all))?;
        out.flush()?;
        if !watch {
            return Ok(0);
        }
        drop(out);
        std::thread::sleep(EACH);
    }
}

fn collect(name: Option<&str>) -> Result<Vec<(String, Translation)>, Failure> {
    let named = |of: &str, rows: Vec<Translation>| rows.into_iter().map(|t| (of.to_owned(), t)).collect::<Vec<_>>();
    if let Some(name) = name {
        let network = places().named(name).filter(Place::exists);
        return Ok(match network {
            Some(place) => named(name, of_network(&place)?),
            None => named(name, GuestPlace::find(name)?.ask(&GuestRequest::NatTable)?),
        });
    }
    let mut all = Vec::new();
    for (place, _) in networks() {
        all.extend(named(&place.name, of_network(&place)?));
    }
    // Those of shared networks have been listed; machines without a network have no table.
    for machine in machines().into_iter().filter(|m| in_networks(m.name()).is_none()) {
        let name = machine.name().to_owned();
        let rows = GuestPlace::Machine(machine).ask(&GuestRequest::NatTable).unwrap_or_default();
        all.extend(named(&name, rows));
    }
    Ok(all)
}

fn of_network(place: &Place) -> Result<Vec<Translation>, Failure> {
    match ask(place, &Question::NatTable)? {
        Answer::Value(value) => Ok(serde_json::from_value(value)?),
        Answer::Refused(why) => Err(Failure::new(why)),
        other => Err(Failure::new(format!("an answer to another question: {other:?}"))),
    }
}

fn render(all: &[(String, Translation)]) -> String {
    let head = ["OF", "PROTOCOL", "GUEST", "AS", "REMOTE", "OPENED", "STATE", "AGE", "IDLE", "SENT", "RECEIVED"];
    let row = |(of, t): &(String, Translation)| {
        let host = t.host.map_or_else(|| "-".into(), |h| h.to_string());
        let opened = if t.inbound { "in" } else { "out" };
        [
            of.clone(),
            t.protocol.to_string(),
            t.guest.to_string(),
            host,
            t.remote.to_string(),
            opened.into(),
            t.state.to_string(),
            time(t.age),
            time(t.idle),
            bytes(t.sent),
            bytes(t.received),
        ]
    };
    let rows: Vec<[String; 11]> = std::iter::once(head.map(String::from)).chain(all.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |r: &[String; 11]| {
        let cells: Vec<String> = r.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn time(d: Duration) -> String {
    match d.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s => format!("{}h", s / 3600),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..10_240 => format!("{n} B"),
        10_240..10_485_760 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let t = Translation {
            protocol: visor_net::Protocol::Tcp,
            guest: "10.0.2.15:40000".parse().unwrap(),
            host: None,
            remote: "192.0.2.1:80".parse().unwrap(),
            inbound: false,
            state: "open".into(),
            age: Duration::from_secs(130),
            idle: Duration::from_secs(3),
            sent: 100,
            received: 20 << 20,
        };
        let text = render(&[("web".into(), t)]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("OF   PROTOCOL  GUEST            AS  REMOTE"));
        assert_eq!(
            lines[1],
            "web  tcp       10.0.2.15:40000  -   192.0.2.1:80  out     open   2m   3s    100 B  20 MiB"
        );
    }
}
