//! What long operations share: opening, progress, and the end by ctrl-C.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use visor_block::BlockError;
use visor_disk::{Access, DiskSource, Format, ImageOptions, NbdAddress, Opened, TlsFiles, is_remote, open_image};
use visor_qcow2::{Error, ErrorKind, Image};

use super::{WebArgs, failure, failure_of, names};
use crate::progress::{Phases, Unit};
use crate::report::Failure;
use crate::terminal::{catch_signals, take_signals};

/// Shows how far an operation is, and tells it to stop when the user presses ctrl-C.
pub(crate) struct Work {
    phases: Phases,
    stopped: bool,
}

impl Work {
    /// An operation over bytes.
    pub(crate) fn new(quiet: bool) -> Result<Self, Failure> {
        // Progress is asked for often enough that nothing needs to be woken.
        let event = EventFd::new().map_err(anyhow::Error::from)?;
        catch_signals(event.as_fd().try_clone_to_owned().map_err(anyhow::Error::from)?)?;
        Ok(Work { phases: Phases::new(quiet), stopped: false })
    }

    pub(crate) fn start(&mut self, name: &str, total: Option<u64>, unit: Unit) {
        self.phases.start(name, total, unit);
    }

    /// To be called by the operation: false if it shall stop.
    pub(crate) fn at(&mut self, done: u64) -> bool {
        self.phases.at(done);
        self.stopped |= take_signals().iter().any(|s| *s != Signal::SIGWINCH);
        !self.stopped
    }

    pub(crate) fn finish(&mut self) {
        self.phases.finish();
    }
}

/// Opens an image for work on itself.
pub(super) fn open(path: &Path, access: Access, format: Option<Format>) -> Result<Opened, Failure> {
    if let Some(text) = path.to_str().filter(|t| NbdAddress::is_one(t)) {
        let disk = super::connect(text, access == Access::ReadOnly, &TlsFiles::default())?;
        return Ok(Opened::Foreign(Format::Raw, Arc::new(DiskSource(disk))));
    }
    if let Some((pool, volume)) = path.to_str().and_then(crate::pool::volume) {
        let disk = crate::pool::open(pool, volume, access == Access::ReadOnly)?;
        return Ok(Opened::Foreign(Format::Raw, Arc::new(DiskSource(disk))));
    }
    if let Some(url) = path.to_str().filter(|t| is_remote(t)) {
        return Ok(Opened::Foreign(Format::Raw, super::web::source(url, format, &WebArgs::default())?.0));
    }
    let options =
        ImageOptions { format, policy: names::policy(), remote: super::web::opener(), ..ImageOptions::new(access) };
    open_image(path, &options).map_err(failure_of(path))
}

/// Opens a qcow2 image; others cannot do `what`.
pub(super) fn open_qcow2(
    path: &Path,
    access: Access,
    format: Option<Format>,
    what: &str,
) -> Result<Arc<Image>, Failure> {
    match open(path, access, format)? {
        Opened::Qcow2(image) => Ok(image),
        other => {
            let name = path.display();
            let failure = match path.to_str().and_then(crate::pool::volume) {
                Some(_) => Failure::new(format!("{name} is a volume of a pool, which {what}")),
                None => Failure::new(format!("a disk of format {} {what}", other.format())),
            };
            Err(failure.hint(format!("as qcow2 it would: visor disk convert {name} NEW --format qcow2")))
        }
    }
}

/// An error of an image with its path.
pub(super) fn image_failure(path: &Path) -> impl Fn(Error) -> Failure {
    move |e| {
        if e.kind == ErrorKind::Cancelled {
            return stopped();
        }
        let hint = match e.kind {
            ErrorKind::NoSpace => Some("make room, or free space that disks do not need: visor disk compact DISK"),
            ErrorKind::Corrupt => Some("visor disk check --repair DISK mends what can be mended; copy the file first"),
            ErrorKind::NotFound => Some("visor disk snapshot ls DISK lists them"),
            _ => None,
        };
        let failure = Failure::from(anyhow::Error::from(e).context(path.display().to_string()));
        hint.into_iter().fold(failure, Failure::hint)
    }
}

/// The user wanted no more of it.
pub(super) fn stopped() -> Failure {
    Failure { status: 130, ..Failure::new("stopped; nothing was left behind") }
}

/// An error of the host's with its path.
pub(super) fn host_failure(doing: &str, path: &Path, e: std::io::Error) -> Failure {
    Failure::from(anyhow::Error::from(e).context(format!("{doing} {}", path.display())))
}

/// A block error as a failure.
pub(super) fn block_failure(e: BlockError) -> Failure {
    failure(e)
}

/// Bytes as a person reads them: three figures and a binary unit.
pub(crate) fn human(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    match (unit, value) {
        (0, _) => format!("{bytes} B"),
        (_, v) if v < 10.0 => format!("{v:.2} {}", units[unit]),
        (_, v) if v < 100.0 => format!("{v:.1} {}", units[unit]),
        (_, v) => format!("{v:.0} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1536), "1.50 KiB");
        assert_eq!(human(50 << 30), "50.0 GiB");
        assert_eq!(human(1023 << 20), "1023 MiB");
    }
}
