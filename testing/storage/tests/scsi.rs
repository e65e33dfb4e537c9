//! Debian's kernel with the SCSI adapter: disks in their order, a disc, disks that come and go; and ACPI's power button, seen by a
//! kernel that UEFI has booted.
#![allow(clippy::unwrap_used, reason = "a test")]

use visor_disk::Access;
use visor_machine::{Cd, CdBus, Disk, DiskBus, FirmwareKind, StopReason};
use visor_test_storage::{Linux, Session, firmware, pattern, sha256};

const KERNEL: &str = "linux-image-cloud-amd64";
const MIB: usize = 1 << 20;

#[test]
fn disks_come_and_go_and_keep_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let contents = [3, 5, 2].map(|n| pattern(n * MIB, n as u64));
    let disks = [0, 1, 2].map(|n| file(&format!("disk{n}"), &contents[n]));
    let disc = pattern(MIB, 9);
    let cd = file("disc.iso", &disc);
    // The kernel names disks in the order in which their probes happen to end: which is which, sizes tell.
    let script = "
        disk() { basename $(dirname $(grep -lx $1 /sys/block/sd?/size)); }
        a=$(disk 6144); b=$(disk 10240)
        say names $(ls -d /sys/block/s*)
        say model $(cat /sys/block/$a/device/model)
        for d in $a $b sr0; do say sum $(sha256sum < /dev/$d); done
        seq 1 200000 > /tmp/f
        dd if=/tmp/f of=/dev/$a bs=64k seek=1 conv=notrunc,fsync 2> /dev/null
        echo 3 > /proc/sys/vm/drop_caches
        say wrote $(sha256sum < /dev/$a)
        say unmaps $(( $(cat /sys/block/$b/queue/discard_max_bytes) > 0 )) $(cat /sys/block/$b/queue/write_cache)
        say waiting
        while [ ! -e /sys/block/sdc ]; do sleep 0.1; done
        say plugged $(sha256sum < /dev/sdc)
        while [ -e /sys/block/sdc ]; do sleep 0.1; done
        say unplugged";
    let linux = Linux::new(KERNEL, &["virtio_pci", "virtio_scsi", "sd_mod", "sr_mod"]).unwrap();
    let mut spec = linux.spec(script).unwrap();
    let open = |n: usize| Disk::open_raw(&disks[n], Access::ReadWrite).unwrap().on(DiskBus::Scsi);
    spec.disks = vec![open(0), open(1)];
    spec.cds = vec![Cd { bus: CdBus::Scsi, ..Cd::open(&cd).unwrap() }];
    spec.cpus = 2;
    let mut session = Session::start(spec).unwrap();
    assert_eq!(session.expect("names").unwrap(), "/sys/block/sda /sys/block/sdb /sys/block/sr0");
    assert_eq!(session.expect("model").unwrap(), "VISOR DISK");
    for bytes in [&contents[0], &contents[1], &disc] {
        assert_eq!(session.expect("sum").unwrap(), format!("{} -", sha256(bytes)));
    }
    let text: Vec<u8> = (1..=200_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let mut wanted = contents[0].clone();
    wanted[64 << 10..(64 << 10) + text.len()].copy_from_slice(&text);
    assert_eq!(session.expect("wrote").unwrap(), format!("{} -", sha256(&wanted)));
    assert!(std::fs::read(&disks[0]).unwrap() == wanted);
    assert_eq!(session.expect("unmaps").unwrap(), "1 write back");
    session.expect("waiting").unwrap();
    let disks = session.machine().disks();
    let added = disks.attach(&open(2), 2).unwrap();
    assert_eq!(session.expect("plugged").unwrap(), format!("{} -", sha256(&contents[2])));
    let gone = |name: &str| session.machine().disks().detach(name, std::time::Duration::ZERO, false);
    gone(&added.name).unwrap();
    assert!(matches!(gone(&added.name), Err(visor_machine::DiskError::Missing(_))));
    session.expect("unplugged").unwrap();
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}

/// UEFI boots a kernel that it is given directly; the kernel hears the power button, and switches off by the tables UEFI left it.
#[test]
fn a_kernel_booted_by_uefi_hears_the_power_button() {
    let script = "
        event=$(grep -l 'Power Button' /sys/class/input/event*/device/name | head -1 | cut -d/ -f5)
        say firmware $([ -d /sys/firmware/efi ] && echo UEFI || echo BIOS) $event
        dd if=/dev/input/$event bs=24 count=1 of=/tmp/key 2> /dev/null &
        sleep 0.2; say ready; wait
        say pressed $(od -An -tu2 -j18 -N2 /tmp/key)";
    let linux = Linux::new(KERNEL, &["button", "evdev"]).unwrap();
    let mut spec = linux.spec(script).unwrap();
    spec.firmware = Some(firmware(FirmwareKind::Uefi).unwrap());
    let mut session = Session::start(spec).unwrap();
    let told = session.expect("firmware").unwrap();
    assert!(told.starts_with("UEFI event"), "{told}");
    session.expect("ready").unwrap();
    assert!(session.machine().power_button());
    // KEY_POWER.
    assert_eq!(session.expect("pressed").unwrap(), "116");
    assert_eq!(session.end().unwrap(), StopReason::PowerOff);
}
