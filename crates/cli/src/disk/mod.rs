//! `visor disk`: virtual disks as files.
//!
//! - `args`: the commands as data; `names`: from a name to a file;
//! - `create`, `inspect` (ls, info), `map`, `change` (check, compact, resize, rm), `copy` (convert, clone), `snapshot`, `serve`, `bench`;
//! - `live`, `add`: disks of machines that run;
//! - `encrypt`: encrypted disks; `keys`: where their keys come from; `web`: files of web servers.

mod add;
mod args;
mod bench;
mod change;
mod copy;
mod create;
mod encrypt;
mod extents;
mod inspect;
mod keys;
mod live;
mod map;
mod names;
mod serve;
mod snapshot;
mod web;
mod work;

use std::path::Path;

use visor_block::{BlockError, BlockErrorKind};
use visor_machine::MachineError;

pub(crate) use args::DiskCommand;
pub(crate) use create::dynamic;
pub(crate) use encrypt::outer;
pub(crate) use keys::{is_encrypted, open as unlock};
pub(crate) use names::{directory, exists, find, policy};
pub(crate) use serve::connect;
pub(crate) use web::{WebArgs, disk as web_disk, opener};
pub(crate) use work::{Work, human};

use crate::report::Failure;

/// Runs a disk command.
pub(crate) fn main(command: &DiskCommand, quiet: bool) -> Result<u8, Failure> {
    match command {
        DiskCommand::Create(args) => create::create(args, quiet),
        DiskCommand::Ls { disks, json } => inspect::list(disks, *json),
        DiskCommand::Info(which) => inspect::info(which),
        DiskCommand::Map { which, svg } => map::map(which, *svg),
        DiskCommand::Check { which, repair } => change::check(which, *repair, quiet),
        DiskCommand::Compact { which, rewrite } => change::compact(which, *rewrite, quiet),
        DiskCommand::Convert(args) => copy::convert(args, quiet),
        DiskCommand::Resize { which, size } => change::resize(which, size, quiet),
        DiskCommand::Clone { disk, new, linked, json } => copy::clone(disk, new, *linked, *json, quiet),
        DiskCommand::Key { command } => encrypt::key(command, quiet),
        DiskCommand::Snapshot { command } => snapshot::main(command, quiet),
        DiskCommand::Bench { size, directory, json } => bench::bench(*size, directory.as_deref(), *json, quiet),
        DiskCommand::Serve(args) => serve::serve(args, quiet),
        DiskCommand::Add(args) => add::add(args, quiet),
        DiskCommand::Live(command) => live::main(command, quiet),
        DiskCommand::Rm { disks } => change::remove(disks, quiet),
    }
}

/// A block error with what to do about it.
pub(crate) fn failure(e: BlockError) -> Failure {
    let hint = match e.kind {
        BlockErrorKind::Locked => "end its user first, or read it with `ro`; two machines must not share a disk",
        BlockErrorKind::Corrupt => "visor disk check --repair DISK mends what can be mended; copy the file first",
        BlockErrorKind::NoSpace => "make room, or free space that disks do not need: visor disk compact DISK",
        BlockErrorKind::Unsupported if e.what.contains("outside the folders") => {
            "if you trust the image, allow the folder: VISOR_BACKING_PATH=/folder (several with `:`)"
        }
        _ => "",
    };
    let failure = Failure::from(anyhow::Error::from(e));
    if hint.is_empty() { failure } else { failure.hint(hint) }
}

/// The same for the disk at `path`, of which a machine may be told.
fn failure_of(path: &Path) -> impl Fn(BlockError) -> Failure {
    move |e| match e.kind {
        BlockErrorKind::Locked => live::name_user(failure(e), path),
        _ => failure(e),
    }
}

/// The same for a disk of a machine.
pub(crate) fn machine_failure(e: MachineError) -> Failure {
    let locked = format!("{:?}", std::error::Error::source(&e)).contains("Locked");
    let failure = Failure::from(anyhow::Error::from(e));
    if locked {
        failure.hint("end its user first, or attach it with `,ro`; two machines must not share a disk")
    } else {
        failure
    }
}
