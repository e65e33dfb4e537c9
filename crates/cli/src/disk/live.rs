//! Disks of machines that run: `attach`, `detach`, `limit`, `stats`, and what other commands do with a disk that is in use. Machines
//! are asked by their names.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use visor_control::Places;

use super::names;
use super::work::human;
use crate::machine::{Target, exec, find as find_machine};
use crate::report::Failure;
use crate::values::{parse_size, parse_time};

#[derive(Subcommand, Debug)]
pub(crate) enum LiveCommand {
    /// Put a disk into a machine that runs, where it appears at once as sdb, sdc, ... (vdb where its disks are virtio block devices).
    #[command(after_help = "Examples:
  visor disk attach web data
  visor disk attach web ./work.qcow2,ro --bus scsi
  visor disk attach web data,iops=500,bps=20M --name scratch")]
    Attach {
        /// The machine.
        machine: String,
        /// The disk, as `visor run --disk` has it: a name or a path, with `,ro`, `,format=FORMAT`, `,iops=N`, `,bps=SIZE`.
        disk: String,
        /// Its name in the machine, which is also the serial number that the guest sees; the file's own if left out.
        #[arg(long)]
        name: Option<String>,
        /// How it is connected; as the machine's other disks if left out.
        #[arg(long, value_enum)]
        bus: Option<PlugBus>,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a disk out of a machine that runs. The guest is asked to let go of it first.
    #[command(after_help = "Examples:
  visor disk detach web data
  visor disk detach web data --timeout 1m
  visor disk detach web data --force         like pulling out the cable")]
    Detach {
        /// The machine.
        machine: String,
        /// The disk: its name in the machine, or of `visor disk ls`.
        disk: String,
        /// How long the guest may take.
        #[arg(long, value_name = "TIME", value_parser = parse_time, default_value = "10s")]
        timeout: Duration,
        /// Pull it out if the guest does not let go in time.
        #[arg(long)]
        force: bool,
    },
    /// Change the limits of a disk that is in use.
    #[command(after_help = "Examples:
  visor disk limit web data --iops 500
  visor disk limit web data --bps 20M
  visor disk limit web data --iops 0 --bps 0     no limits")]
    Limit {
        /// The machine.
        machine: String,
        /// The disk.
        disk: String,
        /// Requests per second; 0 for any number.
        #[arg(long, value_name = "N", required_unless_present = "bps")]
        iops: Option<u64>,
        /// Bytes per second; 0 for any number.
        #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
        bps: Option<u64>,
    },
    /// Show the disks of a machine that runs, and what they have done.
    #[command(
        after_help = "Examples:\n  visor disk stats web\n  visor disk stats web --json\n  watch visor disk stats web"
    )]
    Stats {
        /// The machine.
        machine: String,
        /// Print as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How disks that are added are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlugBus {
    /// A virtio block device of its own: vdb, vdc, ...
    Virtio,
    /// On the SCSI adapter, which the machine gets if it has none: sda, sdb, ...
    Scsi,
}

/// As sizes, but a bare number is bytes.
fn parse_rate(text: &str) -> Result<u64, String> {
    text.parse().or_else(|_| parse_size(text))
}

pub(super) fn main(command: &LiveCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        LiveCommand::Attach { machine, disk, name, bus, json } => {
            let answer = attach(&find_machine(machine)?, disk, name.as_deref(), *bus)?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&answer)?);
            } else if !quiet {
                println!(
                    "{}: {} attached ({} at {})",
                    machine,
                    text(&answer, "name"),
                    size(&answer),
                    text(&answer, "at")
                );
            }
        }
        LiveCommand::Detach { machine, disk, timeout, force } => {
            let target = find_machine(machine)?;
            if !force {
                refuse_mounted(&target, disk)?;
            }
            let args = json!({ "disk": reference(disk), "timeout": timeout.as_secs_f64(), "force": force });
            let patience = timeout.saturating_add(Duration::from_secs(60));
            let answer = target.connect().and_then(|c| c.patient(patience).call::<Value>("disk.detach", &args));
            let answer = answer.map_err(|e| target.failure(e))?;
            if !quiet {
                println!("{machine}: {} detached", text(&answer, "name"));
            }
        }
        LiveCommand::Limit { machine, disk, iops, bps } => {
            let args = json!({ "disk": reference(disk), "iops": iops, "bps": bps });
            find_machine(machine)?.call::<Value>("disk.limit", &args)?;
        }
        LiveCommand::Stats { machine, json } => {
            let list: Vec<Value> = find_machine(machine)?.call("disk.list", &json!({}))?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&list)?);
            } else {
                print_stats(&list);
            }
        }
    }
    Ok(0)
}

/// Asks `target` to attach `disk`, which is written as on the command line of `visor run`.
pub(super) fn attach(target: &Target, disk: &str, name: Option<&str>, bus: Option<PlugBus>) -> Result<Value, Failure> {
    let bus = bus.map(|b| match b {
        PlugBus::Virtio => "virtio",
        PlugBus::Scsi => "scsi",
    });
    let wish = absolute(disk)?;
    let answer = target.call("disk.attach", &json!({ "disk": wish, "name": name, "bus": bus }));
    answer.map_err(|e| name_user(e, Path::new(wish.split(',').next().unwrap_or_default())))
}

/// Tells which machine has the disk that was refused, if one of the user's has it.
pub(super) fn name_user(e: Failure, path: &Path) -> Failure {
    let Some((target, disk, _)) = user_of(path) else { return e };
    let machine = target.name();
    e.hint(format!("the machine `{machine}` has it: visor disk detach {machine} {disk}, or visor stop {machine}"))
}

/// Options of a disk that name a file.
const FILES: [&str; 5] = ["key-file", "auth-file", "tls-ca", "tls-cert", "tls-key"];

/// The same wish with absolute paths instead of names and relative paths: the machine may have another folder.
fn absolute(disk: &str) -> Result<String, Failure> {
    let (name, options) = crate::run::split_disk(disk)?;
    let whole = |path: &Path| {
        let path = std::path::absolute(path).map_err(|e| super::work::host_failure("cannot find", path, e))?;
        path.to_str().map(str::to_owned).ok_or_else(|| Failure::new("the path of the disk is no text"))
    };
    let far =
        visor_disk::NbdAddress::is_one(name) || visor_disk::is_remote(name) || crate::pool::volume(name).is_some();
    let mut wish = if far { name.to_owned() } else { whole(&names::find(name)?)? };
    for option in options.split(',').skip(1) {
        wish += ",";
        match option.split_once('=').filter(|(key, _)| FILES.contains(key)) {
            Some((key, file)) => wish += &format!("{key}={}", whole(Path::new(file))?),
            None => wish += option,
        }
    }
    Ok(wish)
}

/// Linux lets go of a disk whose file systems are mounted, and loses what it has not written: refused if there is an agent who can
/// tell. Run with the PCI address and the SCSI target, if it has one; prints the mount points.
const MOUNTS: &str = r#"
for b in /sys/bus/pci/devices/0000:$1/virtio*/block/* /sys/bus/pci/devices/0000:$1/virtio*/host*/target*:*:${2:-none}/*/block/*; do
    [ -e "$b/dev" ] || continue
    while read -r dev dir rest; do
        case $dev in "/dev/${b##*/}"*) echo "$dir" ;; esac
    done < /proc/mounts
done
"#;

fn refuse_mounted(target: &Target, disk: &str) -> Result<(), Failure> {
    let list: Vec<Value> = target.call("disk.list", &json!({}))?;
    let (file, stem) = (reference(disk), Path::new(disk).file_stem());
    let same = |d: &&Value| {
        let name = Path::new(text(d, "name"));
        text(d, "name") == disk || text(d, "file") == file || name.file_stem().is_some() && name.file_stem() == stem
    };
    let Some(found) = list.iter().find(same) else { return Ok(()) };
    let Some(at) = found["at"].as_str() else { return Ok(()) };
    let place = found["target"].as_u64().map(|t| t.to_string()).unwrap_or_default();
    let argv = ["sh", "-c", MOUNTS, "sh", at, &place].map(str::to_owned);
    // Without an agent nobody can be asked.
    let Ok(done) = exec::capture(target, &argv) else { return Ok(()) };
    let mounts = String::from_utf8_lossy(&done.out);
    let mounts: Vec<&str> = mounts.lines().collect();
    if mounts.is_empty() {
        return Ok(());
    }
    let name = target.name();
    Err(Failure::new(format!("`{disk}` is mounted in the guest at {}", mounts.join(", ")))
        .hint(format!("visor exec {name} -- umount {}", mounts.join(" ")))
        .hint("--force takes it out all the same; what the guest has not written yet is lost"))
}

/// How a machine knows a disk that the user calls so: by the file, if it is one of the store.
fn reference(disk: &str) -> String {
    let file = names::find(disk).ok().and_then(|p| std::fs::canonicalize(p).ok());
    file.and_then(|p| p.to_str().map(str::to_owned)).unwrap_or_else(|| disk.to_owned())
}

/// The machine that uses the image `path`, and the disk's name and size in it.
pub(super) fn user_of(path: &Path) -> Option<(Target, String, u64)> {
    let wanted = std::fs::canonicalize(path).ok()?;
    let places = Places::of_user().ok()?;
    places.running().into_iter().find_map(|found| {
        let target = find_machine(found.place.name()).ok()?;
        let list: Vec<Value> = target.call("disk.list", &json!({})).ok()?;
        let disk = list.iter().find(|d| d["file"].as_str().map(Path::new) == Some(&wanted))?;
        Some((target, disk["name"].as_str()?.to_owned(), disk["size"].as_u64()?))
    })
}

/// Gives a disk that is in use another size; what it has then.
pub(super) fn resize(target: &Target, disk: &str, bytes: u64) -> Result<u64, Failure> {
    let answer: Value = target.call("disk.resize", &json!({ "disk": disk, "size": bytes }))?;
    Ok(answer["size"].as_u64().unwrap_or(bytes))
}

/// Keeps the state of a disk that is in use.
pub(super) fn snapshot(target: &Target, disk: &str, snapshot: &str) -> Result<(), Failure> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
    let args = json!({ "disk": disk, "snapshot": snapshot, "seconds": seconds });
    target.call::<Value>("disk.snapshot", &args).map(drop)
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or("-")
}

fn size(v: &Value) -> String {
    human(v["size"].as_u64().unwrap_or_default())
}

fn print_stats(list: &[Value]) {
    println!(
        "{:<24} {:<7} {:>9} {:>9} {:>10} {:>9} {:>10} {:>7}  MEANS",
        "NAME", "BUS", "SIZE", "READS", "READ", "WRITES", "WRITTEN", "FLUSHES"
    );
    for d in list {
        let n = |key: &str| d[key].as_u64().unwrap_or_default();
        println!(
            "{:<24} {:<7} {:>9} {:>9} {:>10} {:>9} {:>10} {:>7}  {}",
            text(d, "name"),
            text(d, "bus"),
            size(d),
            n("reads"),
            human(n("read_bytes")),
            n("writes"),
            human(n("written_bytes")),
            n("flushes"),
            text(d, "means")
        );
        if let Some(why) = d["waits"].as_str() {
            println!("  waits for room on the host: {why}");
        }
    }
}
