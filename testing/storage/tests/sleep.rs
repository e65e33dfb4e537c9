//! Suspend to RAM through the firmware: the guest sleeps, its clock wakes the machine, the firmware finds the way back.
#![allow(clippy::unwrap_used, reason = "a test")]

use visor_image::{FirmwareFile, FirmwareStore, ImageStore, Silent, Unpacked};
use visor_machine::{Cd, FileSource, FirmwareKind, FirmwareSpec, MachineSpec, StopReason, VarsSpec};
use visor_test_storage::{Linux, Session};

const KERNEL: &str = "linux-image-cloud-amd64";
/// The sum before and after tells that memory was kept, the interrupts' count that devices work again.
const SCRIPT: &str = "
    say firmware $([ -d /sys/firmware/efi ] && echo UEFI || echo BIOS) $(cat /sys/power/state)
    seq 1 100000 > /tmp/f; sum=$(sha256sum < /tmp/f)
    for n in 1 2; do
        echo 0 > /sys/class/rtc/rtc0/wakealarm; echo +2 > /sys/class/rtc/rtc0/wakealarm
        say sleeps $n; echo mem > /sys/power/state || say CANNOT SLEEP
        say woke $n $(cat /sys/power/suspend_stats/success) $(cat /proc/uptime | cut -d. -f1)
    done
    [ \"$sum\" = \"$(sha256sum < /tmp/f)\" ] && say kept; sleep 0.1; say slept";

fn find(file: FirmwareFile) -> FileSource {
    let store = FirmwareStore::open(&ImageStore::default_directory());
    FileSource::Path(store.find(file, &mut Silent).unwrap())
}

fn sleeps_and_wakes(spec: MachineSpec, firmware: &str) {
    let mut session = Session::start(spec).unwrap();
    let told = session.expect("firmware").unwrap();
    assert!(told.starts_with(firmware) && told.contains("mem"), "{told}");
    for n in ["1", "2"] {
        session.expect("sleeps").unwrap();
        let woke = session.expect("woke").unwrap();
        assert!(woke.starts_with(&format!("{n} {n} ")), "{woke}");
    }
    session.expect("kept").unwrap();
    session.expect("slept").unwrap();
    assert_eq!(session.machine().reboots(), 0, "a wake-up is no reset");
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}

#[test]
fn by_uefi() {
    let mut spec = Linux::new(KERNEL, &[]).unwrap().spec(SCRIPT).unwrap();
    spec.firmware = Some(FirmwareSpec {
        kind: FirmwareKind::Uefi,
        code: find(FirmwareFile::UefiCode),
        vars: Some(VarsSpec { template: find(FirmwareFile::UefiVars), file: None }),
        boot_order: Vec::new(),
        boot_menu: false,
        serial_console: true,
    });
    sleeps_and_wakes(spec, "UEFI");
}

/// From a disc, because a BIOS takes no kernel.
#[test]
fn by_bios() {
    let direct = Linux::new(KERNEL, &[]).unwrap().spec(SCRIPT).unwrap();
    let store = ImageStore::open(&ImageStore::default_directory());
    let loaders = Unpacked::get(&store, &["isolinux", "syslinux-common"], &mut Silent).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (tree, iso) = (dir.path().join("tree"), dir.path().join("x.iso"));
    std::fs::create_dir_all(tree.join("isolinux")).unwrap();
    for (from, to) in [
        ("ISOLINUX/isolinux.bin", "isolinux/isolinux.bin"),
        ("syslinux/modules/bios/ldlinux.c32", "isolinux/ldlinux.c32"),
    ] {
        std::fs::copy(loaders.directory().join("usr/lib").join(from), tree.join(to)).unwrap();
    }
    let (Some(FileSource::Path(kernel)), Some(FileSource::Bytes(initrd))) = (direct.kernel, direct.initrd) else {
        panic!("a kernel in a file, an archive in memory")
    };
    std::fs::copy(kernel, tree.join("vmlinuz")).unwrap();
    std::fs::write(tree.join("initrd"), &*initrd).unwrap();
    let config = format!("default l\nlabel l\nkernel /vmlinuz\nappend initrd=/initrd {}\n", direct.cmdline);
    std::fs::write(tree.join("isolinux/isolinux.cfg"), config).unwrap();
    let options = visor_iso::MakeOptions {
        label: "SLEEP".into(),
        bios_boot: Some("isolinux/isolinux.bin".into()),
        boot_info_table: true,
        ..visor_iso::MakeOptions::default()
    };
    visor_iso::make(&tree, &iso, &options).unwrap();
    let mut spec = MachineSpec::with_firmware(FirmwareSpec {
        kind: FirmwareKind::Bios,
        code: find(FirmwareFile::Bios),
        vars: None,
        boot_order: Vec::new(),
        boot_menu: false,
        serial_console: false,
    });
    spec.memory = direct.memory;
    spec.cds = vec![Cd::open(&iso).unwrap()];
    sleeps_and_wakes(spec, "BIOS");
}
