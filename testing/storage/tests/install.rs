//! An installation that nobody attends: from a blank disk and a disc to a system that boots from its disk.
#![allow(clippy::unwrap_used, reason = "a test")]

use visor_disk::{Access, Alloc, RawDisk};
use visor_machine::{Cd, CdBus, Disk, DiskBus, FirmwareKind, Machine, MachineSpec, Phase, StopReason};
use visor_test_storage::{Installer, Session, firmware};

fn install(kind: FirmwareKind, bus: (DiskBus, CdBus), name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (iso, disk) = (dir.path().join("install.iso"), dir.path().join("disk.img"));
    Installer::new().unwrap().write(&iso, dir.path()).unwrap();
    RawDisk::create(&disk, 512 << 20, Alloc::Dynamic).unwrap();
    let spec = |cds| MachineSpec {
        disks: vec![Disk::open_raw(&disk, Access::ReadWrite).unwrap().on(bus.0)],
        cds,
        timeline: true,
        ..MachineSpec::with_firmware(firmware(kind).unwrap())
    };
    // The disk is blank, so the firmware goes on to the disc; after the installation it finds the disk.
    let mut session = Session::start(spec(vec![Cd { bus: bus.1, ..Cd::open(&iso).unwrap() }])).unwrap();
    assert_eq!(session.expect("installing").unwrap(), format!("by {name} on 1048576 sectors"));
    session.expect("installed").unwrap();
    boots(&mut session, kind, name);
    let tray = session.machine().trays()[0].state();
    assert!(tray.open, "the installer has ejected its disc");
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
    // A machine that has never seen the disc.
    let mut session = Session::start(spec(Vec::new())).unwrap();
    boots(&mut session, kind, name);
    phases(session.machine(), kind);
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}

/// Every phase of the boot is on its timeline, in order, with the addresses that are known.
fn phases(machine: &Machine, kind: FirmwareKind) {
    let events = machine.timeline().events();
    let phases: Vec<_> = events.iter().map(|e| e.phase).collect();
    use Phase::{BootLoader, DeviceSearch, Init, Kernel, Post, PowerOn};
    assert_eq!(phases, [PowerOn, Post, DeviceSearch, BootLoader, Kernel, Init], "{events:?}");
    assert!(events.windows(2).all(|w| w[0].at <= w[1].at), "{events:?}");
    assert_eq!(events[0].address, Some(0xffff_fff0));
    assert_eq!(events[3].address, (kind == FirmwareKind::Bios).then_some(0x7c00));
    let kernel = events[4].address.unwrap();
    assert!(kernel >= 0xffff_ffff_8000_0000, "{kernel:#x} is in the kernel's image");
    assert!(events[5].address.is_some_and(|a| a < 1 << 47), "{events:?}");
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
    install(FirmwareKind::Bios, (DiskBus::Ide, CdBus::Ide), "BIOS");
}

#[test]
fn by_uefi_on_scsi() {
    install(FirmwareKind::Uefi, (DiskBus::Scsi, CdBus::Scsi), "UEFI");
}
