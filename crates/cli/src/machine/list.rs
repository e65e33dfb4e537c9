//! Which machines run, and what each is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use visor_control::{Client, Found, Places};

use super::{find, place_failure};
use crate::report::Failure;

/// How long a machine may take to tell its state for the list.
const PATIENCE: Duration = Duration::from_secs(2);

/// `visor ls`; with -q just the names, for scripts.
pub(super) fn list(as_json: bool, names_only: bool) -> Result<u8, Failure> {
    let running = Places::of_user().map_err(place_failure)?.running();
    if names_only && !as_json {
        running.iter().for_each(|f| println!("{}", f.place.name()));
        return Ok(0);
    }
    // Asked at once, so that one that hangs does not hold up the others.
    let states: Vec<String> = std::thread::scope(|s| {
        let asked: Vec<_> = running.iter().map(|f| s.spawn(|| state(f))).collect();
        asked.into_iter().map(|t| t.join().unwrap_or_default()).collect()
    });
    let machines = running.iter().zip(states);
    if as_json {
        let rows: Vec<Value> =
            machines.map(|(f, state)| json!({ "name": f.place.name(), "state": state, "machine": f.record })).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(0);
    }
    println!("{:<20} {:<9} {:<24} {:>5} {:>9} {:>9}  PID", "NAME", "STATE", "IMAGE", "CPUS", "MEMORY", "UP");
    for (f, state) in machines {
        let r = f.record.clone().unwrap_or_default();
        let (image, memory, up): (String, _, _) =
            (r.image.chars().take(24).collect(), size(r.memory), time(age(r.started)));
        println!("{:<20} {state:<9} {image:<24} {:>5} {memory:>9} {up:>9}  {}", f.place.name(), r.cpus, r.pid);
    }
    Ok(0)
}

/// The machine's own word for its state, or ours if it says none.
fn state(found: &Found) -> String {
    let Ok(client) = Client::connect(&found.place) else { return "starting".into() };
    match client.patient(PATIENCE).call::<Value>("info.state", &json!({})) {
        Ok(v) => v["state"].as_str().unwrap_or("unknown").to_owned(),
        Err(_) => "hangs".into(),
    }
}

/// `visor info`.
pub(super) fn info(name: &str, as_json: bool) -> Result<u8, Failure> {
    let target = find(name)?;
    let info: Value = target.call("info.machine", &json!({}))?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&info)?);
        return Ok(0);
    }
    let record = target.found().record.clone().unwrap_or_default();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), ToOwned::to_owned);
    let line = |key: &str, value: String| println!("{key:<12} {value}");
    line("name", record.name.clone());
    let asleep = if info["sleeps"] == true { ", suspended to RAM" } else { "" };
    line("state", format!("{}{asleep}", text(&info["state"])));
    line("image", record.image.clone());
    line("CPUs", format!("{}, engine {}", record.cpus, text(&info["engine"])));
    line("memory", size(record.memory));
    line("up", format!("{}, {} reboots", time(age(record.started)), info["reboots"]));
    line("process", format!("{} (visor {})", record.pid, record.visor));
    if let Some([w, h]) = info["screen"].as_array().map(Vec::as_slice) {
        line("screen", format!("{w} x {h}"));
    }
    for (i, disc) in info["discs"].as_array().into_iter().flatten().enumerate() {
        line(&format!("sr{i}"), text(disc));
    }
    for nic in info["nics"].as_array().into_iter().flatten() {
        let address = info["network"]["address"].as_str().map(|a| format!(", address {a}")).unwrap_or_default();
        line("network", format!("{}, device {}{address}", text(&info["network"]["network"]), text(&nic["mac"])));
    }
    for forward in info["network"]["forwards"].as_array().into_iter().flatten() {
        line("port", text(forward));
    }
    for trouble in info["trouble"].as_array().into_iter().flatten() {
        line("trouble", text(trouble));
    }
    for device in info["boot_devices"].as_array().into_iter().flatten() {
        line("boots from", text(device));
    }
    Ok(0)
}

fn age(started: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(started))
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b.is_multiple_of(1 << 30) => format!("{} GiB", b >> 30),
        b => format!("{} MiB", b >> 20),
    }
}

/// A time for people: its two largest units.
fn time(t: Duration) -> String {
    let s = t.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86400, s % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(
            (size(256 << 20), size(2 << 30), size(1536 << 20)),
            ("256 MiB".into(), "2 GiB".into(), "1536 MiB".into())
        );
        let times = [5, 65, 3660, 90_000].map(|s| time(Duration::from_secs(s)));
        assert_eq!(times, ["5s", "1m05s", "1h01m", "1d01h"]);
    }
}
