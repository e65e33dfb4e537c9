//! The image on a machine: what a first tour of a guest does, driven through the agent.
//!
//! QEMU is only the bench, and the reason why this needs a feature: `cargo test -p visor-image --features qemu`.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::path::Path;

use common::Bench;
use visor_guest::host::HostEvent;
use visor_guest::protocol::{ErrorKind, ExecSpec, ExitStatus};
use visor_image::{Image, ImageBuilder, ImageStore, Silent};

fn image() -> Image {
    ImageBuilder::new(ImageStore::open(&ImageStore::default_directory())).build(&mut Silent).unwrap()
}

/// A copy of the root disk, made larger.
fn root_copy(image: &Image, dir: &Path) -> std::path::PathBuf {
    let copy = dir.join("root.img");
    fs::copy(image.root_disk(), &copy).unwrap();
    File::options().write(true).open(&copy).unwrap().set_len(2 << 30).unwrap();
    copy
}

fn blank_disk(dir: &Path, name: &str, size: u64) -> std::path::PathBuf {
    let path = dir.join(name);
    File::create(&path).unwrap().set_len(size).unwrap();
    path
}

#[test]
fn disks_file_systems_services() {
    let (image, dir) = (image(), tempfile::tempdir().unwrap());
    let root = root_copy(&image, dir.path());
    let second = blank_disk(dir.path(), "second.img", 600 << 20);
    let mut guest = Bench::boot(&image, dir.path(), Some(&root), &[&second], "");

    let list = guest.ok("lsblk");
    assert!(list.contains("vda") && list.contains("sda") && list.contains("600M"), "{list}");
    let size: u64 = guest.ok("df -k / | awk 'NR==2{print $2}'").trim().parse().unwrap();
    assert!(size > 1_800_000, "the root file system has grown with its disk: {size} KiB");

    assert!(guest.ok("ls -l --full-time /etc/hostname").contains("2024-01-01 00:00:00"), "files have the image's time");

    guest.ok("mkdir -p /data && touch /data/hidden");
    for (make, kind) in [("mkfs.ext4 -q -F", "ext4"), ("mkfs.xfs -q -f", "xfs"), ("mkfs.ntfs -Q -F", "ntfs")] {
        guest.ok(&format!("{make} /dev/sda"));
        guest.ok("mount /dev/sda /data");
        assert!(guest.ok("ls /data").lines().all(|l| l != "hidden"), "{kind}");
        guest.ok("echo content >/data/file && sync");
        guest.ok("umount /data && mount /dev/sda /data");
        assert_eq!(guest.ok("cat /data/file"), "content\n", "{kind}");
        guest.ok("umount /data");
        assert_eq!(guest.ok("blkid -o value -s TYPE /dev/sda").trim(), kind);
        assert_eq!(guest.ok("ls /data"), "hidden\n");
    }
    guest.ok("mkfs -t ext4 -q -F /dev/sda");

    let refused = guest.sh("systemctl status httpd");
    assert_eq!(refused.status, ExitStatus::Code(3), "{}{}", refused.out, refused.err);
    guest.ok("systemctl enable --now httpd");
    assert!(guest.ok("curl -s http://127.0.0.1").contains("It works"));
    assert!(guest.ok("systemctl status httpd").contains("active (running)"));
    assert_eq!(guest.ok("systemctl is-enabled httpd"), "enabled\n");
    assert_eq!(guest.sh("systemctl status nothing").status, ExitStatus::Code(4));
    assert_eq!(guest.sh("systemctl start nothing").status, ExitStatus::Code(5));
    guest.power_off();

    // What was enabled runs after a restart.
    let mut guest = Bench::boot(&image, dir.path(), Some(&root), &[], "");
    assert_eq!(guest.ok("systemctl is-active httpd"), "active\n");
    assert!(guest.ok("curl -s http://localhost").contains("It works"));
    guest.ok("systemctl disable --now httpd");
    assert_eq!(guest.sh("curl -s http://127.0.0.1").status, ExitStatus::Code(7));
    guest.power_off();
    let console = fs::read_to_string(dir.path().join("console")).unwrap();
    assert_eq!(console.matches("READY ").count(), 1, "{console}");
    assert!(!console.contains("visor-init:"), "{console}");
}

#[test]
fn commands_pipes_and_terminals() {
    let (image, dir) = (image(), tempfile::tempdir().unwrap());
    let mut guest = Bench::boot(&image, dir.path(), None, &[], "visor.hostname=otter");
    assert_eq!(guest.sh("exit 7").status, ExitStatus::Code(7));
    assert_eq!(guest.ok("hostname; pwd; id -u"), "otter\n/root\n0\n");
    assert_eq!(guest.ok("cat /proc/1/comm").trim(), "init");

    let data: Vec<u8> = (0..4_000_000u32).map(|i| b'a' + (i % 23) as u8).collect();
    let id = guest.session.exec(&ExecSpec::new(["cat"])).unwrap();
    assert!(guest.finish(id, &data).out.as_bytes() == data);

    let mut spec = ExecSpec::new(["sh", "-c", "tty; stty size"]);
    spec.tty = Some((100, 40));
    let id = guest.session.exec(&spec).unwrap();
    assert_eq!(guest.finish(id, b"").out, "/dev/pts/0\r\n40 100\r\n");

    guest.session.resize_console(132, 43);
    assert_eq!(guest.ok("stty size -F /dev/ttyS0"), "43 132\n");
    guest.session.set_clock(1_900_000_000, 0);
    assert!(guest.ok("date +%s").starts_with("19000000"));

    guest.session.exec(&ExecSpec::new(["/no/such"])).unwrap();
    match guest.event() {
        HostEvent::Refused { failure, .. } => assert_eq!(failure.kind, ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
    // Orphans are reaped by PID 1.
    guest.ok("for i in 1 2 3; do (sleep 0.1 &) ; done; sleep 1; ! grep -l ') Z ' /proc/[0-9]*/stat");
    guest.ok("poweroff");
    guest.wait_for_end();
}

#[test]
fn a_read_only_disk_gets_a_layer_in_memory() {
    let (image, dir) = (image(), tempfile::tempdir().unwrap());
    let root = root_copy(&image, dir.path());
    let before = fs::read(&root).unwrap();
    let mut guest = Bench::boot(&image, dir.path(), Some(&root), &[], "ro");
    assert!(guest.ok("mount").contains("overlay on / "));
    guest.ok("echo x >/etc/new && rm /usr/bin/curl && ! which curl");
    guest.ok("mkfs.ext4 -V 2>&1 | grep -q mke2fs");
    guest.power_off();
    assert!(fs::read(&root).unwrap() == before, "nothing was written to the disk");
}
