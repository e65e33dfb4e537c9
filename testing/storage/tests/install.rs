//! An installation that nobody attends: from a blank disk and a disc to a system that boots from its disk.
#![allow(clippy::unwrap_used, reason = "a test")]

use visor_disk::{Access, Alloc, RawDisk};
use visor_image::{FirmwareFile, FirmwareStore, ImageStore, Silent};
use visor_machine::{Cd, Disk, DiskBus, FileSource, FirmwareKind, FirmwareSpec, MachineSpec, StopReason, VarsSpec};
use visor_test_storage::{Installer, Session};

fn firmware(kind: FirmwareKind) -> FirmwareSpec {
    let store = FirmwareStore::open(&ImageStore::default_directory());
    let find = |file| FileSource::Path(store.find(file, &mut Silent).unwrap());
    let (code, vars) = match kind {
        FirmwareKind::Bios => (find(FirmwareFile::Bios), None),
        FirmwareKind::Uefi => {
            let vars = VarsSpec { template: find(FirmwareFile::UefiVars), file: None };
            (find(FirmwareFile::UefiCode), Some(vars))
        }
    };
    FirmwareSpec { kind, code, vars, boot_order: Vec::new(), boot_menu: false, serial_console: true }
}

fn install(kind: FirmwareKind, name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (iso, disk) = (dir.path().join("install.iso"), dir.path().join("disk.img"));
    Installer::new().unwrap().write(&iso, dir.path()).unwrap();
    RawDisk::create(&disk, 512 << 20, Alloc::Dynamic).unwrap();
    let spec = |cds| MachineSpec {
        disks: vec![Disk::open_raw(&disk, Access::ReadWrite).unwrap().on(DiskBus::Ide)],
        cds,
        ..MachineSpec::with_firmware(firmware(kind))
    };
    // The disk is blank, so the firmware goes on to the disc; after the installation it finds the disk.
    let mut session = Session::start(spec(vec![Cd::open(&iso).unwrap()])).unwrap();
    assert_eq!(session.expect("installing").unwrap(), format!("by {name} on 1048576 sectors"));
    session.expect("installed").unwrap();
    boots(&mut session, kind, name);
    let tray = session.machine().trays()[0].state();
    assert!(tray.open, "the installer has ejected its disc");
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
    // A machine that has never seen the disc.
    let mut session = Session::start(spec(Vec::new())).unwrap();
    boots(&mut session, kind, name);
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}

fn boots(session: &mut Session, kind: FirmwareKind, name: &str) {
    let system = session.expect("system").unwrap();
    let root = if kind == FirmwareKind::Bios { "/dev/sda1" } else { "/dev/sda2" };
    assert!(system.starts_with("Debian ") && system.ends_with(&format!(" on {root} ext4 as installed")), "{system}");
    let shell = session.expect("shell").unwrap();
    assert!(shell.starts_with("bash ") && shell.contains("coreutils"), "{shell}");
    assert_eq!(session.expect("firmware").unwrap(), name);
    assert_eq!(session.expect("wrote").unwrap(), "kept");
}

#[test]
fn by_bios() {
    install(FirmwareKind::Bios, "BIOS");
}

#[test]
fn by_uefi() {
    install(FirmwareKind::Uefi, "UEFI");
}
