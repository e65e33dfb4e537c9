//! Disks that come, go and change while the machine runs.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use visor_control::{Refusal, RefusalKind, Reply, Verb, arguments, near};
use visor_machine::{DiskBus, DiskError, DiskInfo};

use super::super::spec::open_disk;
use super::Context;
use crate::report::Failure;

pub(super) const VERBS: &[Verb<Context>] = &[
    Verb { name: "disk.list", run: list },
    Verb { name: "disk.attach", run: attach },
    Verb { name: "disk.detach", run: detach },
    Verb { name: "disk.resize", run: resize },
    Verb { name: "disk.snapshot", run: snapshot },
    Verb { name: "disk.limit", run: limit },
];

/// What is known of each disk.
fn list(c: &Context, _: Value) -> Result<Reply, Refusal> {
    Ok(Reply::Value(c.machine.disks().list().iter().map(describe).collect()))
}

fn describe(d: &DiskInfo) -> Value {
    json!({
        "name": d.name,
        "file": d.file,
        "bus": match d.bus { DiskBus::Virtio => "virtio", DiskBus::Scsi => "scsi", DiskBus::Ide => "ide" },
        "at": d.at.map(|at| at.to_string()),
        "target": d.target,
        "size": d.sectors * visor_block::SECTOR,
        "read_only": d.read_only,
        "leaving": d.leaving,
        "means": d.means,
        "iops": d.limits.map(|l| l.0),
        "bps": d.limits.map(|l| l.1),
        "reads": d.stats.reads,
        "read_bytes": d.stats.read_bytes,
        "writes": d.stats.writes,
        "written_bytes": d.stats.written_bytes,
        "flushes": d.stats.flushes,
        "waited": d.stats.waited,
        "waits": d.waits,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    /// As `--disk` has it, the path absolute.
    disk: String,
    /// The name in the machine; the file's own if left out.
    name: Option<String>,
    /// `virtio` or `scsi`; what the machine's other disks are on if left out.
    bus: Option<String>,
}

fn attach(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Attach { disk, name, bus } = arguments(args)?;
    let bus = match bus.as_deref() {
        Some("virtio") => DiskBus::Virtio,
        Some("scsi") => DiskBus::Scsi,
        Some(other) => {
            return Err(Refusal::new(RefusalKind::Arguments, format!("no disk can be added on bus `{other}`")));
        }
        // Where the machine's disks are called `sda`, the next one is `sdb`.
        None if c.machine.disks().list().iter().any(|d| d.bus != DiskBus::Virtio) => DiskBus::Scsi,
        None => DiskBus::Virtio,
    };
    let mut disk = open_disk(&disk).map_err(|f| attached(c, &disk).unwrap_or_else(|| refusal(&f)))?.on(bus);
    if let Some(name) = name {
        disk.serial = name;
    }
    let queues = c.record.cpus.min(4) as u16;
    let info = c.machine.disks().attach(&disk, queues).map_err(|e| error(c, &e))?;
    Ok(Reply::Value(describe(&info)))
}

/// Why a disk that the machine has already cannot be opened again.
fn attached(c: &Context, disk: &str) -> Option<Refusal> {
    let file = std::fs::canonicalize(disk.split(',').next()?).ok();
    let found = c.machine.disks().list().into_iter().find(|d| d.file.is_some() && d.file == file)?;
    Some(Refusal::new(RefusalKind::State, format!("it has this disk already, as `{}`", found.name)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detach {
    disk: String,
    /// Seconds that the guest may take.
    timeout: f64,
    /// Pull it out then.
    force: bool,
}

fn detach(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Detach { disk, timeout, force } = arguments(args)?;
    let patience = Duration::try_from_secs_f64(timeout)
        .map_err(|_| Refusal::new(RefusalKind::Arguments, format!("{timeout} s is no time")))?;
    let name = resolve(c, &disk);
    c.machine.disks().detach(&name, patience, force).map_err(|e| error(c, &e))?;
    Ok(Reply::Value(json!({ "name": name })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resize {
    disk: String,
    size: u64,
}

fn resize(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Resize { disk, size } = arguments(args)?;
    if !size.is_multiple_of(visor_block::SECTOR) {
        return Err(Refusal::new(RefusalKind::Arguments, format!("{size} bytes are no whole sectors")));
    }
    let info = c.machine.disks().resize(&resolve(c, &disk), size / visor_block::SECTOR).map_err(|e| error(c, &e))?;
    Ok(Reply::Value(describe(&info)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    disk: String,
    snapshot: String,
    /// Since 1970.
    seconds: u32,
}

fn snapshot(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Snapshot { disk, snapshot, seconds } = arguments(args)?;
    c.machine.disks().snapshot(&resolve(c, &disk), &snapshot, seconds).map_err(|e| error(c, &e))?;
    Ok(Reply::done())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    disk: String,
    iops: Option<u64>,
    bps: Option<u64>,
}

/// Changes the limits that are given; zero is none.
fn limit(c: &Context, args: Value) -> Result<Reply, Refusal> {
    let Limit { disk, iops, bps } = arguments(args)?;
    let (disks, name) = (c.machine.disks(), resolve(c, &disk));
    let now = disks.list().into_iter().find(|d| d.name == name).and_then(|d| d.limits).unwrap_or_default();
    disks.limit(&name, iops.unwrap_or(now.0), bps.unwrap_or(now.1)).map_err(|e| error(c, &e))?;
    list(c, Value::Null)
}

/// The disk that is called so, or whose file is, or whose file is called so but for its ending.
fn resolve(c: &Context, wanted: &str) -> String {
    let list = c.machine.disks().list();
    let path = Path::new(wanted);
    let same_file = |d: &&DiskInfo| d.file.as_deref() == Some(path);
    let same_stem = |d: &&DiskInfo| Path::new(&d.name).file_stem().is_some_and(|s| s == wanted);
    let found = list.iter().find(|d| d.name == wanted).or_else(|| list.iter().find(same_file));
    let known = found.or_else(|| list.iter().find(same_stem)).map(|d| d.name.clone());
    known.unwrap_or_else(|| path.file_name().map_or(wanted.into(), |name| name.to_string_lossy().into_owned()))
}

fn error(c: &Context, e: &DiskError) -> Refusal {
    let kind = match e {
        DiskError::Missing(_) => RefusalKind::Missing,
        DiskError::Taken(_) | DiskError::Full(_) | DiskError::Held(_) => RefusalKind::State,
        DiskError::Unsupported(_) | DiskError::Image(_) => RefusalKind::Failed,
    };
    let refusal = Refusal::new(kind, chain(e));
    match e {
        DiskError::Missing(name) => {
            let names: Vec<String> = c.machine.disks().list().into_iter().map(|d| d.name).collect();
            match near(name, names.iter().map(String::as_str)) {
                Some(n) => refusal.hint(format!("did you mean `{n}`?")),
                None => refusal.hint(format!("it has {}", names.join(", "))),
            }
        }
        DiskError::Held(_) => refusal
            .hint("unmount it in the guest and try again")
            .hint("--force pulls it out; what the guest has not written yet is lost"),
        DiskError::Taken(_) => refusal.hint("--name NAME gives it another name in the machine"),
        _ => refusal,
    }
}

/// An error with its reasons in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let reasons = std::iter::successors(Some(e), |e| e.source());
    reasons.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What the command line would say.
fn refusal(f: &Failure) -> Refusal {
    let refusal = Refusal::new(RefusalKind::Failed, format!("{:#}", f.error));
    f.hints.iter().fold(refusal, |r, h| r.hint(h.clone()))
}
