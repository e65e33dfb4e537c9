//! `visor disk ls` and `visor disk info`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use visor_disk::{Access, Format, ImageOptions, Opened, open_image};
use visor_qcow2::{Compression, ExtentKind, Image, Source};

use super::args::Which;
use super::names::{self, find};
use super::work::{human, image_failure, open};
use crate::report::Failure;

/// What a disk takes and holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// What the guest sees.
    pub(super) capacity: u64,
    /// What the file takes of the host's space.
    pub(super) allocated: u64,
    /// What holds data that the guest has written.
    pub(super) used: u64,
}

impl Usage {
    /// Taken without holding data.
    pub(super) fn waste(&self) -> u64 {
        self.allocated.saturating_sub(self.used)
    }
}

/// Measures a disk.
pub(super) fn usage(path: &Path, image: &Opened) -> Result<Usage, Failure> {
    if let Some((pool, volume)) = path.to_str().and_then(crate::pool::volume) {
        return usage_of_volume(pool, volume);
    }
    let allocated = std::fs::metadata(path).map_or(0, |m| m.blocks() * 512);
    let source = image.source();
    let used = match image {
        Opened::Qcow2(image) => used_by(image).map_err(image_failure(path))?,
        _ => used_of(&*source).map_err(image_failure(path))?,
    };
    // A cluster of which the guest has written a part takes less of the host than its length. Data in a file of its own is not of this one.
    let beside = matches!(image, Opened::Qcow2(i) if i.describe().data_file.is_some());
    Ok(Usage { capacity: source.size(), allocated, used: if beside { used } else { used.min(allocated) } })
}

fn usage_of_volume(pool: &str, volume: &str) -> Result<Usage, Failure> {
    let v = crate::pool::volume_info(pool, volume)?;
    Ok(Usage { capacity: v.size, allocated: v.allocated, used: v.used })
}

fn used_by(image: &Image) -> visor_qcow2::Result<u64> {
    let (mut at, mut used) = (0, 0);
    while at < image.size() {
        let e = image.extent(at, image.size() - at)?;
        used += match e.kind {
            ExtentKind::Data { .. } => e.len,
            ExtentKind::Compressed { len, .. } => len.min(e.len),
            ExtentKind::Zero | ExtentKind::Hole => 0,
        };
        at += e.len;
    }
    Ok(used)
}

/// Bytes that are not surely zero.
fn used_of(source: &dyn Source) -> visor_qcow2::Result<u64> {
    let (mut at, mut used) = (0, 0);
    while at < source.size() {
        let (zero, len) = source.is_zero(at, source.size() - at)?;
        used += if zero { 0 } else { len };
        at += len.max(1);
    }
    Ok(used)
}

/// Name, place, and what it is or why nobody knows.
type Row = (String, PathBuf, Result<(Format, Usage), String>);

pub(super) fn list(disks: &[String], as_json: bool) -> Result<u8, Failure> {
    let disks: Vec<(String, PathBuf)> = match disks {
        [] => {
            let volumes = crate::pool::all_volumes()?.into_iter().map(|v| (v.clone(), PathBuf::from(v)));
            names::all()?.into_iter().chain(volumes).collect()
        }
        some => some.iter().map(|d| Ok((d.clone(), find(d)?))).collect::<Result<_, Failure>>()?,
    };
    let rows: Vec<Row> = disks.into_iter().map(|(name, path)| (name, path.clone(), look(&path))).collect();
    if as_json {
        let list: Vec<Value> = rows.iter().map(|(name, path, row)| row_json(name, path, row)).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(0);
    }
    println!("{:<20} {:<7} {:>10} {:>10} {:>10} {:>10}", "NAME", "FORMAT", "CAPACITY", "ALLOCATED", "USED", "WASTE");
    for (name, _, row) in &rows {
        match row {
            Ok((format, u)) => println!(
                "{name:<20} {:<7} {:>10} {:>10} {:>10} {:>10}",
                format.name(),
                human(u.capacity),
                human(u.allocated),
                human(u.used),
                human(u.waste())
            ),
            Err(e) => println!("{name:<20} {e}"),
        }
    }
    if rows.is_empty() {
        eprintln!("none yet; `visor disk create NAME --size 10G` makes one");
    }
    Ok(0)
}

/// A disk in use may be looked at, too: what is shown is what its file holds at the moment.
fn look(path: &Path) -> Result<(Format, Usage), String> {
    if let Some((pool, volume)) = path.to_str().and_then(crate::pool::volume) {
        let usage = usage_of_volume(pool, volume).map_err(|f| f.error.to_string())?;
        return Ok((Format::Raw, usage));
    }
    let options = ImageOptions {
        lock: false,
        policy: names::policy(),
        remote: super::web::opener(),
        ..ImageOptions::new(Access::ReadOnly)
    };
    let image = open_image(path, &options).map_err(|e| e.to_string())?;
    let usage = usage(path, &image).map_err(|f| f.error.to_string())?;
    Ok((image.format(), usage))
}

fn row_json(name: &str, path: &Path, row: &Result<(Format, Usage), String>) -> Value {
    match row {
        Ok((format, u)) => json!({
            "name": name, "path": path, "format": format.name(),
            "capacity": u.capacity, "allocated": u.allocated, "used": u.used, "waste": u.waste(),
        }),
        Err(e) => json!({ "name": name, "path": path, "error": e }),
    }
}

pub(super) fn info(which: &Which) -> Result<u8, Failure> {
    let path = find(&which.disk)?;
    let image = open(&path, Access::ReadOnly, which.format)?;
    let u = usage(&path, &image)?;
    let mut facts: Vec<(&str, Value)> = vec![
        ("path", json!(path)),
        ("format", json!(image.format().name())),
        ("capacity", json!(u.capacity)),
        ("allocated", json!(u.allocated)),
        ("used", json!(u.used)),
        ("waste", json!(u.waste())),
    ];
    if let Opened::Qcow2(image) = &image {
        facts.extend(qcow2_facts(image, &path)?);
    }
    if super::keys::is_encrypted(&path) {
        let (_, luks) = super::encrypt::header(&path, Access::ReadOnly)?;
        facts.push(("encryption", super::encrypt::facts(&luks)));
    }
    if which.json {
        let map: serde_json::Map<String, Value> = facts.into_iter().map(|(k, v)| (k.replace(' ', "_"), v)).collect();
        println!("{}", serde_json::to_string_pretty(&map)?);
        return Ok(0);
    }
    for (key, value) in &facts {
        let text = match value {
            Value::String(s) => s.clone(),
            Value::Number(n) if ["capacity", "allocated", "used", "waste", "cluster size"].contains(key) => {
                format!("{} ({n} bytes)", human(n.as_u64().unwrap_or(0)))
            }
            Value::Bool(b) => if *b { "yes" } else { "no" }.into(),
            Value::Array(a) => a.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        println!("{key:<18} {text}");
    }
    Ok(0)
}

fn qcow2_facts(image: &Image, path: &Path) -> Result<Vec<(&'static str, Value)>, Failure> {
    let i = image.describe();
    let mut facts = vec![
        ("version", json!(i.version)),
        ("cluster size", json!(i.cluster_size)),
        ("refcount bits", json!(i.refcount_bits)),
        ("subclusters", json!(i.extended_l2)),
        ("compression", json!(if i.compression == Compression::Zstd { "zstd" } else { "zlib" })),
        ("closed properly", json!(!i.dirty)),
        ("damaged", json!(i.corrupt)),
    ];
    facts.extend(i.backing_file.map(|b| ("backing file", json!(b))));
    facts.extend(i.backing_format.map(|b| ("backing format", json!(b))));
    facts.extend(i.data_file.map(|b| ("data file", json!(b))));
    let snapshots: Vec<String> = image.snapshots().into_iter().map(|s| s.name).collect();
    if !snapshots.is_empty() {
        facts.push(("snapshots", json!(snapshots)));
    }
    let bitmaps = image.bitmaps().map_err(image_failure(path))?;
    if !bitmaps.is_empty() {
        facts.push(("bitmaps", json!(bitmaps)));
    }
    Ok(facts)
}
