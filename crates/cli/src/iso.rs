//! `visor iso`: what is in an image, and making one.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;
use visor_iso::{BootCatalog, Entry, EntryKind, Hybrid, Iso, IsoError, IsoErrorKind, MakeOptions, Names, make};

use crate::report::Failure;

/// What to do with an image.
#[derive(Subcommand, Debug)]
pub(crate) enum IsoCommand {
    /// List the files of an image.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  visor iso ls debian.iso\n  visor iso ls -l debian.iso boot/grub\n  visor iso ls -R debian.iso"
    )]
    Ls {
        /// The image.
        iso: PathBuf,
        /// A directory or file in it.
        #[arg(default_value = "/")]
        path: String,
        /// Show mode, size and date.
        #[arg(short, long)]
        long: bool,
        /// Show everything below, with its path.
        #[arg(short = 'R', long)]
        recursive: bool,
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what an image is: its volume, how it boots, whether it is whole.
    #[command(after_help = "Examples:\n  visor iso info debian.iso\n  visor iso info --json debian.iso")]
    Info {
        /// The image.
        iso: PathBuf,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print a file of an image.
    #[command(
        after_help = "Examples:\n  visor iso cat debian.iso README.txt\n  visor iso cat debian.iso install.amd/vmlinuz > vmlinuz"
    )]
    Cat {
        /// The image.
        iso: PathBuf,
        /// The file in it.
        path: String,
    },
    /// Make an image of a directory, with long names for Linux and Windows.
    #[command(
        after_help = "Examples:\n  visor iso make files/ -o files.iso --label FILES\n  visor iso make tree/ -o boot.iso --bios-boot isolinux/isolinux.bin --efi-boot boot/efi.img"
    )]
    Make {
        /// The directory.
        directory: PathBuf,
        /// The image to write; it must not exist.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Label of the volume, up to 32 characters.
        #[arg(long, default_value = "CDROM")]
        label: String,
        /// The file in the directory that BIOS boots (ISOLINUX, GRUB's eltorito image, ...).
        #[arg(long, value_name = "FILE")]
        bios_boot: Option<PathBuf>,
        /// The file in the directory that UEFI boots: an image of a FAT file system with EFI/BOOT/BOOTX64.EFI.
        #[arg(long, value_name = "FILE")]
        efi_boot: Option<PathBuf>,
        /// Leave bytes 8 to 63 of the BIOS boot file alone, where most loaders want a table of the image's layout.
        #[arg(long, requires = "bios_boot")]
        no_boot_info_table: bool,
    },
}

/// Runs an ISO command.
pub(crate) fn main(command: &IsoCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        IsoCommand::Ls { iso, path, long, recursive, json } => {
            let shown = List { long: *long, recursive: *recursive, json: *json };
            ls(iso, path, &shown).map_err(|e| failed(iso, e))?;
        }
        IsoCommand::Info { iso, json } => info(iso, *json).map_err(|e| failed(iso, e))?,
        IsoCommand::Cat { iso, path } => cat(iso, path).map_err(|e| failed(iso, e))?,
        IsoCommand::Make { directory, output, label, bios_boot, efi_boot, no_boot_info_table } => {
            let options = MakeOptions {
                label: label.clone(),
                bios_boot: bios_boot.clone(),
                efi_boot: efi_boot.clone(),
                boot_info_table: !no_boot_info_table,
            };
            let made = make(directory, output, &options).map_err(|e| not_made(output, e))?;
            if !quiet {
                let (files, directories) = (made.files, made.directories);
                println!("{}: {files} files, {directories} directories, {}", output.display(), bytes(made.bytes));
            }
        }
    }
    Ok(0)
}

fn open(path: &Path) -> Result<Iso<io::BufReader<File>>, IsoError> {
    let file = File::open(path).map_err(|e| IsoError {
        kind: IsoErrorKind::Io,
        what: "it cannot be opened".into(),
        source: Some(e),
    })?;
    Iso::open(io::BufReader::new(file))
}

fn failed(iso: &Path, error: IsoError) -> Failure {
    let (kind, shown) = (error.kind, iso.display().to_string());
    let gone = broken_pipe(&error);
    let failure = Failure::from(anyhow::Error::from(error).context(shown.clone()));
    if gone {
        // The reader of our output has seen enough.
        return Failure { status: 0, ..failure };
    }
    match kind {
        IsoErrorKind::Truncated | IsoErrorKind::Corrupt => {
            failure.hint("get the image again, and compare it with its checksum")
        }
        IsoErrorKind::NotFound => failure.hint(format!("to see what there is: visor iso ls -R {shown}")),
        IsoErrorKind::NotIso => {
            failure.hint("it may be compressed, or a disk image: attach that with visor run --disk")
        }
        _ => failure,
    }
}

fn not_made(output: &Path, error: IsoError) -> Failure {
    let exists = error.source.as_ref().is_some_and(|e| e.kind() == io::ErrorKind::AlreadyExists);
    let failure = Failure::from(anyhow::Error::from(error).context("no image was made"));
    if exists {
        failure.hint(format!("remove it first, or choose another name than {}", output.display()))
    } else {
        failure
    }
}

fn broken_pipe(error: &IsoError) -> bool {
    error.source.as_ref().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

struct List {
    long: bool,
    recursive: bool,
    json: bool,
}

fn ls(path: &Path, at: &str, list: &List) -> Result<(), IsoError> {
    let mut iso = open(path)?;
    let entry = iso.find(at, true)?;
    let mut found: Vec<(String, Entry)> = Vec::new();
    if !entry.is_directory() {
        found.push((at.to_owned(), entry));
    } else if list.recursive {
        iso.walk(&entry, &mut |path, entry| {
            found.push((path.to_owned(), entry.clone()));
            Ok(())
        })?;
    } else {
        found.extend(iso.list(&entry)?.into_iter().map(|e| (e.name.clone(), e)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out = io::stdout().lock();
    let text: String = if list.json {
        let all: Vec<_> = found.iter().map(|(path, e)| as_json(path, e)).collect();
        format!("{:#}\n", json!(all))
    } else {
        found.iter().map(|(path, e)| line(path, e, list.long)).collect()
    };
    out.write_all(text.as_bytes()).map_err(|e| IsoError {
        kind: IsoErrorKind::Io,
        what: "cannot print".into(),
        source: Some(e),
    })
}

fn line(path: &str, entry: &Entry, long: bool) -> String {
    let path: String = path.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if !long {
        return format!("{path}{}\n", if entry.is_directory() { "/" } else { "" });
    }
    let date = entry.modified.map_or_else(String::new, |m| m.to_string());
    let target = match &entry.kind {
        EntryKind::Link(target) => format!(" -> {}", target.escape_debug()),
        _ => String::new(),
    };
    format!("{} {:>12} {date:16} {path}{target}\n", mode(entry), entry.size)
}

/// As ls(1) shows it; what the image does not say reads as for everybody.
fn mode(entry: &Entry) -> String {
    let (kind, default) = match entry.kind {
        EntryKind::File => ('-', 0o444),
        EntryKind::Directory => ('d', 0o555),
        EntryKind::Link(_) => ('l', 0o777),
        EntryKind::Special => ('?', 0o444),
    };
    let bits = entry.mode.unwrap_or(default);
    let rwx = (0..9).rev().zip("rwxrwxrwx".chars());
    std::iter::once(kind).chain(rwx.map(|(n, c)| if bits >> n & 1 != 0 { c } else { '-' })).collect()
}

fn as_json(path: &str, entry: &Entry) -> serde_json::Value {
    let (kind, target) = match &entry.kind {
        EntryKind::File => ("file", None),
        EntryKind::Directory => ("directory", None),
        EntryKind::Link(target) => ("link", Some(target)),
        EntryKind::Special => ("special", None),
    };
    let mode = entry.mode.map(|m| format!("{:o}", m & 0o7777));
    json!({ "path": path, "kind": kind, "size": entry.size, "mode": mode, "target": target,
            "modified": entry.modified.map(|m| m.to_string()) })
}

fn cat(path: &Path, at: &str) -> Result<(), IsoError> {
    let mut iso = open(path)?;
    let entry = iso.find(at, true)?;
    iso.copy(&entry, &mut io::stdout().lock())
}

fn info(path: &Path, json: bool) -> Result<(), IsoError> {
    let mut iso = open(path)?;
    // A damaged catalogue is worth telling, not a reason to tell nothing.
    let boot = iso.boot().map_err(|e| e.what);
    let hybrid = iso.hybrid()?;
    let text = if json { format!("{:#}\n", info_json(&iso, &boot, &hybrid)) } else { info_text(&iso, &boot, &hybrid) };
    io::stdout().lock().write_all(text.as_bytes()).map_err(|e| IsoError {
        kind: IsoErrorKind::Io,
        what: "cannot print".into(),
        source: Some(e),
    })
}

type Boot = Result<Option<BootCatalog>, String>;

fn names<R: io::Read + io::Seek>(iso: &Iso<R>) -> String {
    let v = iso.volume();
    let shown = match iso.names() {
        Names::RockRidge => "Rock Ridge",
        Names::Joliet => "Joliet",
        Names::Plain => "ISO 9660",
    };
    let also = if v.rock_ridge && v.joliet { ", Joliet" } else { "" };
    format!("{shown}{also}")
}

fn info_text<R: io::Read + io::Seek>(iso: &Iso<R>, boot: &Boot, hybrid: &Hybrid) -> String {
    let v = iso.volume();
    let mut rows = vec![("label", v.label.clone()), ("size", bytes(iso.size())), ("names", names(iso))];
    let optional = [
        ("made", v.created.clone().unwrap_or_default()),
        ("made by", v.application.clone()),
        ("publisher", v.publisher.clone()),
    ];
    rows.extend(optional.into_iter().filter(|(_, text)| !text.is_empty()));
    match boot {
        Err(why) => rows.push(("boots", format!("no: {why}"))),
        Ok(None) => rows.push(("boots", "not from a CD drive: it has no boot record".into())),
        Ok(Some(catalog)) => rows.extend(catalog.entries.iter().map(|e| {
            let unused = if e.bootable { "" } else { ", marked as not bootable" };
            ("boots", format!("{}, {}, {} sectors from block {}{unused}", e.platform, e.emulation, e.sectors, e.block))
        })),
    }
    rows.push(("as a disk", disk_text(hybrid)));
    if iso.missing() > 0 {
        rows.push(("TRUNCATED", format!("{} are missing at the end: get the image again", bytes(iso.missing()))));
    }
    rows.into_iter().map(|(name, text)| format!("{name:<10} {text}\n")).collect()
}

fn disk_text(hybrid: &Hybrid) -> String {
    if !hybrid.mbr && !hybrid.gpt {
        return "does not boot".into();
    }
    let tables = match (hybrid.mbr, hybrid.gpt) {
        (true, true) => "MBR and GPT",
        (false, _) => "GPT",
        _ => "MBR",
    };
    let partitions: Vec<String> = hybrid.partitions.iter().map(|p| format!("{:#04x}", p.kind)).collect();
    let code = if hybrid.code { "with boot code" } else { "without boot code" };
    format!(
        "{tables} {code}, partitions of type {}",
        if partitions.is_empty() { "(none)".into() } else { partitions.join(", ") }
    )
}

fn info_json<R: io::Read + io::Seek>(iso: &Iso<R>, boot: &Boot, hybrid: &Hybrid) -> serde_json::Value {
    let v = iso.volume();
    let entries = |c: &BootCatalog| -> Vec<_> {
        let one = |e: &visor_iso::BootEntry| {
            json!({ "platform": e.platform.to_string(), "bootable": e.bootable, "emulation": e.emulation.to_string(),
                    "sectors": e.sectors, "block": e.block })
        };
        c.entries.iter().map(one).collect()
    };
    let partitions: Vec<_> = hybrid
        .partitions
        .iter()
        .map(|p| json!({ "type": p.kind, "active": p.active, "start": p.start, "sectors": p.sectors }))
        .collect();
    json!({
        "label": v.label, "system": v.system, "publisher": v.publisher, "application": v.application, "created": v.created,
        "bytes": iso.size(), "missing": iso.missing(), "names": names(iso),
        "boot": boot.as_ref().ok().and_then(|b| b.as_ref()).map(entries), "boot_error": boot.as_ref().err(),
        "hybrid": { "mbr": hybrid.mbr, "code": hybrid.code, "gpt": hybrid.gpt, "partitions": partitions },
    })
}

/// A size for people, and exactly.
fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} bytes"),
        1024..1_048_576 => format!("{:.1} KiB ({n} bytes)", n as f64 / 1024.0),
        _ => format!("{:.1} MiB ({n} bytes)", n as f64 / 1_048_576.0),
    }
}
