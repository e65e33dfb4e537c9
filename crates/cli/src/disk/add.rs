//! `visor disk add`: a new disk in a machine that runs, with a file system, mounted.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};
use visor_disk::Format;

use super::args::{AllocArg, How};
use super::work::human;
use super::{create, live, names};
use crate::machine::{Target, exec, find as find_machine};
use crate::report::Failure;
use crate::values::parse_size;

/// Arguments of `disk add`.
#[derive(clap::Args, Debug)]
pub(crate) struct AddArgs {
    /// The machine.
    pub(super) machine: String,
    /// Capacity: a number with K, M, G or T.
    #[arg(long, value_parser = parse_size)]
    pub(super) size: u64,
    /// Take all space now, or as it is written.
    #[arg(long, value_enum, default_value_t = AllocArg::Dynamic)]
    pub(super) alloc: AllocArg,
    /// Name of the disk; the machine's with a number if left out.
    #[arg(long, value_name = "NAME")]
    pub(super) disk: Option<String>,
    /// How it is connected; as the machine's other disks if left out.
    #[arg(long, value_enum)]
    pub(super) bus: Option<live::PlugBus>,
    /// Make this file system on it. The guest needs the tools for it, and visor's agent.
    #[arg(long, value_enum)]
    pub(super) fs: Option<FsArg>,
    /// Mount it there, now and after restarts of the guest (by a line in its /etc/fstab). ext4 if no file system is named.
    #[arg(long, value_name = "DIRECTORY")]
    pub(super) mount: Option<String>,
    /// Print as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FsArg {
    /// The usual one of Debian and its kin.
    Ext4,
    /// The usual one of Red Hat and its kin.
    Xfs,
    /// That of Windows.
    Ntfs,
}

impl FsArg {
    fn name(self) -> &'static str {
        match self {
            FsArg::Ext4 => "ext4",
            FsArg::Xfs => "xfs",
            FsArg::Ntfs => "ntfs",
        }
    }
}

/// Run in the guest with the disk's PCI address, file system, mount point and SCSI target: waits for the disk, makes the file system, mounts it,
/// and prints the device's name. Nothing is made on a disk that holds something.
const SCRIPT: &str = r#"
set -e
at=$1 fs=$2 dir=$3 target=${4:-none} dev=
n=0
while [ -z "$dev" ] && [ $n -lt 100 ]; do
    for b in /sys/bus/pci/devices/0000:$at/virtio*/block/* /sys/bus/pci/devices/0000:$at/virtio*/host*/target*:*:$target/*/block/*; do
        if [ -e "$b/dev" ] && [ -b "/dev/${b##*/}" ]; then dev=${b##*/}; fi
    done
    [ -n "$dev" ] || sleep 0.2
    n=$((n + 1))
done
[ -n "$dev" ] || { echo "the disk does not appear; the guest may lack a driver for virtio disks or for PCI hot plug" >&2; exit 1; }
if [ -n "$fs" ]; then
    command -v mkfs.$fs > /dev/null || { echo "the guest has no mkfs.$fs" >&2; exit 1; }
    case $fs in
        ext4) mkfs.ext4 -q -F "/dev/$dev" ;;
        xfs) mkfs.xfs -q -f "/dev/$dev" ;;
        ntfs) mkfs.ntfs -q -Q -F "/dev/$dev" > /dev/null ;;
    esac >&2
fi
if [ -n "$dir" ]; then
    mkdir -p "$dir"
    mount -t "$fs" "/dev/$dev" "$dir" >&2
    id=$(blkid -s UUID -o value "/dev/$dev" 2> /dev/null || true)
    if [ -n "$id" ] && { [ ! -e /etc/fstab ] || ! grep -q "^UUID=$id " /etc/fstab; }; then
        echo "UUID=$id $dir $fs defaults,nofail 0 2" >> /etc/fstab || echo "/etc/fstab cannot be written" >&2
    fi
fi
echo "$dev"
"#;

pub(super) fn add(args: &AddArgs, quiet: bool) -> Result<u8, Failure> {
    let dir = args.mount.as_deref().unwrap_or_default();
    if args.mount.is_some() && (!dir.starts_with('/') || dir.chars().any(char::is_whitespace)) {
        return Err(Failure::new(format!("`{dir}` is no mount point")).hint("write for example --mount /data"));
    }
    let target = find_machine(&args.machine)?;
    let (name, path) = make(args)?;
    // A disk that does not get into the machine is not left behind.
    let attached = text(&path).and_then(|p| live::attach(&target, p, None, args.bus)).inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })?;
    let fs = args.fs.or(args.mount.is_some().then_some(FsArg::Ext4));
    let device = prepare(&target, &attached, fs, dir).map_err(|f| {
        f.context(format!("the disk `{name}` is in the machine, but could not be made ready"))
            .hint(format!("to do it by hand: visor shell {}", args.machine))
            .hint(format!("to take it out: visor disk detach {} {name} && visor disk rm {name}", args.machine))
    });
    let device = match (device, fs) {
        (Ok(device), _) => Some(device),
        // Only the name is missing.
        (Err(_), None) => None,
        (Err(e), Some(_)) => return Err(e),
    };
    if args.json {
        let value = json!({
            "machine": args.machine, "disk": name, "file": path, "size": args.size, "at": attached["at"], "device": device,
            "fs": fs.map(FsArg::name), "mount": args.mount,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else if !quiet {
        let device = device.map_or_else(|| "a new disk".to_owned(), |d| format!("/dev/{d}"));
        let fs = fs.map_or(String::new(), |f| format!(", {}", f.name()));
        let dir = args.mount.as_ref().map_or(String::new(), |d| format!(", mounted at {d}"));
        println!("{}: {device} is `{name}` ({}{fs}{dir})", args.machine, human(args.size));
    }
    Ok(0)
}

/// Makes the disk's file.
fn make(args: &AddArgs) -> Result<(String, PathBuf), Failure> {
    let how = How { alloc: args.alloc, format: None, cluster_size: None, extended_l2: false };
    let format = create::format(args.disk.as_deref().unwrap_or_default(), &how, false);
    let name = match &args.disk {
        Some(name) => name.clone(),
        None => {
            let free = |n: &u32| names::place(&format!("{}-{n}", args.machine), format).is_ok_and(|p| !p.exists());
            let n = (1..10_000).find(free).ok_or_else(|| Failure::new("no free name").hint("--disk NAME"))?;
            format!("{}-{n}", args.machine)
        }
    };
    let path = names::place(&name, format)?;
    match format {
        Format::Raw => create::raw(&path, args.size, args.alloc)?,
        _ => create::qcow2(&path, visor_qcow2::CreateOptions { size: args.size, ..create::options(&how) }, true)?,
    }
    let path = std::path::absolute(&path).map_err(anyhow::Error::from)?;
    Ok((name, path))
}

fn text(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::new("the path of the disk is no text"))
}

/// Has the guest make the file system; the device's name.
fn prepare(target: &Target, attached: &Value, fs: Option<FsArg>, dir: &str) -> Result<String, Failure> {
    let at = attached["at"].as_str().unwrap_or_default();
    let fs = fs.map_or("", FsArg::name);
    let place = attached["target"].as_u64().map(|t| t.to_string()).unwrap_or_default();
    let argv = ["sh", "-c", SCRIPT, "sh", at, fs, dir, &place].map(str::to_owned);
    let done = exec::capture(target, &argv)?;
    if done.status != 0 {
        let why = String::from_utf8_lossy(&done.err);
        return Err(Failure::new(format!("in the guest: {}", why.trim())));
    }
    Ok(String::from_utf8_lossy(&done.out).trim().to_owned())
}
