//! What can be told of a disc before anything boots: that it is cut off, or that no firmware will boot it.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use visor_iso::{Iso, IsoErrorKind, Platform};
use visor_machine::{FirmwareKind, MachineSpec, Tray};

use crate::report::Failure;

/// Looks at the discs of a machine. One that is to be booted and cannot be is a failure; elsewhere odd discs are only told of.
pub(super) fn check(discs: &[std::path::PathBuf], spec: &MachineSpec, quiet: bool) -> Result<(), Failure> {
    let firmware = spec.firmware.as_ref().filter(|_| spec.kernel.is_none()).map(|f| f.kind);
    // With a disk there may be something else to boot.
    let must_boot = firmware.filter(|_| spec.disks.is_empty() && discs.len() == 1);
    for path in discs {
        let Err(failure) = look(path, must_boot) else { continue };
        if must_boot.is_some() {
            return Err(failure);
        }
        if !quiet {
            eprintln!("note: {}", failure.error);
        }
    }
    Ok(())
}

/// Tells what is odd about a disc that is to be put into a drive.
pub(crate) fn look_at_disc(path: &Path) -> Result<(), Failure> {
    look(path, None)
}

/// What is in a drive, in words.
pub(super) fn describe(tray: &Tray) -> String {
    let state = tray.state();
    let locked = if state.locked { ", locked by the guest" } else { "" };
    match (state.disc, state.open) {
        (Some(disc), _) => format!("{disc}{locked}"),
        (None, true) => format!("open{locked}"),
        (None, false) => format!("empty{locked}"),
    }
}

fn look(path: &Path, must_boot: Option<FirmwareKind>) -> Result<(), Failure> {
    let shown = path.display();
    let again = "get the image again, and compare it with its checksum";
    let file = File::open(path).map_err(|e| Failure::new(format!("cannot read {shown}: {e}")))?;
    let mut iso = Iso::open(BufReader::new(file)).map_err(|e| match e.kind {
        IsoErrorKind::NotIso => Failure::new(format!("{shown} cannot be booted: {e}"))
            .hint("it may be compressed, or a disk image: attach that with --disk"),
        _ => Failure::new(format!("{shown}: {e}")).hint(again),
    })?;
    if iso.missing() > 0 {
        let what = format!("{shown} is truncated: {} bytes are missing at its end", iso.missing());
        return Err(Failure::new(what).hint(again));
    }
    let Some(kind) = must_boot else { return Ok(()) };
    let boot = iso.boot().map_err(|e| Failure::new(format!("{shown} cannot be booted: {e}")).hint(again))?;
    let Some(catalog) = boot else {
        return Err(Failure::new(format!("{shown} cannot be booted: it has no boot record"))
            .hint("attach it beside something that boots: a --disk, a --kernel or an image")
            .hint(format!("to see what is on it: visor iso ls {shown}")));
    };
    let boots = |p: Platform| catalog.entries.iter().any(|e| e.bootable && e.platform == p);
    match kind {
        FirmwareKind::Bios if !boots(Platform::Bios) && boots(Platform::Uefi) => {
            Err(Failure::new(format!("{shown} boots by UEFI only")).hint("add --firmware uefi"))
        }
        FirmwareKind::Uefi if !boots(Platform::Uefi) && boots(Platform::Bios) => {
            Err(Failure::new(format!("{shown} boots by BIOS only")).hint("leave out --firmware uefi"))
        }
        _ if !boots(Platform::Bios) && !boots(Platform::Uefi) => {
            Err(Failure::new(format!("{shown} has boot entries for neither BIOS nor UEFI"))
                .hint(format!("to see them: visor iso info {shown}")))
        }
        _ => Ok(()),
    }
}
