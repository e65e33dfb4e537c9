//! From the command line to a firmware.

use std::path::PathBuf;

use visor_image::{FirmwareFile, FirmwareStore, ImageStore};
use visor_machine::{BootClass, FileSource, FirmwareKind, FirmwareSpec, MachineSpec, NicModel, VarsSpec};

use super::args::{BootArg, FirmwareArg, RunArgs};
use crate::image::Watcher;
use crate::report::Failure;

/// The firmware to boot through, if the arguments ask for one; fetched if it is not there.
pub(super) fn plan(args: &RunArgs, quiet: bool) -> Result<Option<FirmwareSpec>, Failure> {
    let a = &args.firmware;
    let Some(kind) = a.firmware.or((args.kernel.is_none()).then_some(FirmwareArg::Bios)) else {
        let given = [!a.boot.is_empty(), a.boot_menu, a.efi_vars.is_some()].into_iter().any(|g| g);
        return if given { Err(direct()) } else { Ok(None) };
    };
    if kind == FirmwareArg::Bios && a.efi_vars.is_some() {
        return Err(Failure::new("--efi-vars needs UEFI").hint("add --firmware uefi"));
    }
    let vars = || -> Result<_, Failure> {
        let file = a.efi_vars.clone().or_else(|| kept(args.network.name()));
        Ok(VarsSpec { template: find(FirmwareFile::UefiVars, quiet)?, file })
    };
    let (kind, code, vars) = match kind {
        FirmwareArg::Bios => (FirmwareKind::Bios, find(FirmwareFile::Bios, quiet)?, None),
        FirmwareArg::Uefi => (FirmwareKind::Uefi, find(FirmwareFile::UefiCode, quiet)?, Some(vars()?)),
    };
    let boot_order = a.boot.iter().map(|b| class(*b)).collect();
    Ok(Some(FirmwareSpec { kind, code, vars, boot_order, boot_menu: a.boot_menu, serial_console: true }))
}

/// Where a machine with a name keeps its variables, beside the user's disks: an installer notes there which boot loader it has
/// installed. Without such a place they are forgotten.
fn kept(name: Option<&str>) -> Option<PathBuf> {
    // A bad name is refused later.
    let name = name.filter(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))?;
    let folder = crate::disk::directory().ok()?.with_file_name("efi-vars");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join(format!("{name}.fd")))
}

/// Gives the machine a screen if firmware or the user wants one.
pub(super) fn screen(args: &RunArgs, spec: &mut MachineSpec, quiet: bool) -> Result<(), Failure> {
    spec.display = spec.firmware.is_some() || args.screen.wanted();
    // Without firmware the ROM only serves to read text, by its font.
    let read = args.screen.reads_text() || args.screen.wanted() && args.network.name().is_some();
    if spec.firmware.is_some() || read {
        spec.video_bios = Some(find(FirmwareFile::VgaBios, quiet)?);
    }
    Ok(())
}

/// Gives network cards what firmware needs to boot from them, if they are to be booted from.
pub(super) fn network_roms(args: &RunArgs, spec: &mut MachineSpec, quiet: bool) -> Result<(), Failure> {
    let a = &args.firmware;
    if spec.firmware.is_none() || !(a.boot.contains(&BootArg::Net) || a.boot_menu) {
        return Ok(());
    }
    if a.boot == [BootArg::Net] && spec.nics.is_empty() {
        return Err(Failure::new("--boot net needs a network, and there is none").hint("leave out `--net none`"));
    }
    for nic in &mut spec.nics {
        let file = match nic.model {
            NicModel::Virtio => FirmwareFile::PxeVirtio,
            NicModel::E1000 => FirmwareFile::PxeE1000,
        };
        nic.rom = Some(find(file, quiet)?);
    }
    Ok(())
}

fn direct() -> Failure {
    Failure::new("a kernel that is entered directly passes no firmware, so there is no boot order")
        .hint("to boot it through firmware: --firmware uefi")
}

fn class(arg: BootArg) -> BootClass {
    match arg {
        BootArg::Cd => BootClass::Cd,
        BootArg::Disk => BootClass::Disk,
        BootArg::Net => BootClass::Net,
    }
}

fn find(file: FirmwareFile, quiet: bool) -> Result<FileSource, Failure> {
    let store = FirmwareStore::open(&ImageStore::default_directory());
    let found = store.find(file, &mut Watcher::new(quiet));
    found.map(FileSource::Path).map_err(|e| {
        let package = file.package();
        Failure::from(anyhow::Error::from(e).context("the firmware is missing"))
            .hint(format!("install the package {package}, or let visor fetch it: it needs apt's package sources"))
    })
}
