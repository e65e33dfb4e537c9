//! Disks of machines that run, as a user handles them: they come, grow, go, fail and fill the host. QEMU's tools are the outside judge
//! (qemu-utils). Builds the image `tiny` if it is not in the cache.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/live.rs"]
mod live;

use std::process::Command;
use std::time::Duration;

use common::{stderr, stdout};
use live::{Home, check};

#[test]
fn a_disk_comes_grows_and_goes() {
    comes_grows_and_goes(&[], "scsi", "sdb");
}

#[test]
fn a_virtio_disk_comes_grows_and_goes() {
    comes_grows_and_goes(&["--bus", "virtio"], "virtio", "vdb");
}

/// The disk that is added to a machine with its root disk on `bus` is `dev`.
fn comes_grows_and_goes(options: &[&str], bus: &str, dev: &str) {
    let mut home = Home::new();
    home.start("web", options);
    home.ok(&["disk", "create", "data", "--size", "64M"]);
    assert!(home.ok(&["disk", "attach", "web", "data"]).contains("64.0 MiB"));
    let wait = format!("n=0; while [ ! -b /dev/{dev} ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done");
    assert_eq!(home.guest("web", &format!("{wait}; cat /sys/block/{dev}/size")), "131072\n");
    home.guest("web", &format!("mkfs.ext4 -q /dev/{dev} && mount /dev/{dev} /mnt && echo kept > /mnt/file && sync"));
    let second = home.fails(&["disk", "attach", "web", "data"]);
    let user = "the machine `web` has it: visor disk detach web data.qcow2";
    assert!(second.contains("it has this disk already, as `data.qcow2`") && second.contains(user), "{second}");
    let busy = home.fails(&["disk", "check", "data", "--repair"]);
    assert!(busy.contains("in use") && busy.contains(user), "{busy}");

    assert!(home.ok(&["disk", "resize", "data", "+64M"]).contains("128 MiB now"));
    let grown = format!(
        "n=0; while [ $(cat /sys/block/{dev}/size) != 262144 ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; \
         cat /sys/block/{dev}/size; resize2fs /dev/{dev} > /dev/null 2>&1; df -m /mnt | awk 'END {{print ($2 > 100)}}'"
    );
    assert_eq!(home.guest("web", &grown), "262144\n1\n");
    home.ok(&["disk", "snapshot", "create", "data", "before"]);
    home.guest("web", "echo changed > /mnt/file && sync");
    home.ok(&["disk", "limit", "web", "data", "--iops", "100"]);
    let stats: serde_json::Value = serde_json::from_str(&home.ok(&["disk", "stats", "web", "--json"])).unwrap();
    let data = stats.as_array().unwrap().iter().find(|d| d["name"] == "data.qcow2").unwrap().clone();
    assert_eq!((data["iops"].as_u64(), data["bus"].as_str()), (Some(100), Some(bus)));
    assert!(data["writes"].as_u64() > Some(0) && data["flushes"].as_u64() > Some(0), "{data}");

    let mounted = home.fails(&["disk", "detach", "web", "data"]);
    assert!(mounted.contains("/mnt") && mounted.contains("umount"), "{mounted}");
    home.guest("web", "umount /mnt");
    assert!(home.ok(&["disk", "detach", "web", "data"]).contains("detached"));
    let gone = format!(
        "n=0; while [ -e /sys/block/{dev} ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; ls /dev/{dev} 2> /dev/null || echo gone"
    );
    assert_eq!(home.guest("web", &gone), "gone\n");
    assert!(home.fails(&["disk", "detach", "web", "data"]).contains("no disk"));
    check(&home.file("data.qcow2"));
    assert!(home.ok(&["disk", "snapshot", "ls", "data"]).contains("before"));

    // It comes back into the same slot, with what the snapshot kept.
    home.ok(&["disk", "snapshot", "revert", "data", "before"]);
    home.ok(&["disk", "attach", "web", "data,ro"]);
    let read = format!("{wait}; cat /sys/block/{dev}/ro; mount -o ro,noload /dev/{dev} /mnt && cat /mnt/file");
    assert_eq!(home.guest("web", &read), "1\nkept\n");
}

#[test]
fn scsi_disks_come_and_go_with_and_without_an_adapter() {
    let mut home = Home::new();
    home.start("web", &["--bus", "virtio"]);
    let told = home.ok(&[
        "disk", "add", "web", "--size", "64M", "--bus", "scsi", "--fs", "ext4", "--mount", "/one", "--disk", "one",
    ]);
    assert!(told.contains("/dev/sda"), "the adapter comes along: {told}");
    let told = home.ok(&["disk", "add", "web", "--size", "32M", "--disk", "two"]);
    assert!(told.contains("/dev/sdb"), "the next one is on the same bus: {told}");
    assert_eq!(
        home.guest("web", "echo x > /one/f && sync && cat /sys/block/sda/size /sys/block/sdb/size"),
        "131072\n65536\n"
    );
    assert!(home.fails(&["disk", "detach", "web", "one"]).contains("/one"));
    home.guest("web", "umount /one");
    home.ok(&["disk", "detach", "web", "one"]);
    let gone =
        "n=0; while [ -e /sys/block/sda ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; ls /sys/block | grep sd";
    assert_eq!(home.guest("web", gone), "sdb\n");
    check(&home.file("one.qcow2"));
    home.ok(&["disk", "attach", "web", "one", "--bus", "virtio"]);
    let back = "n=0; while [ ! -b /dev/vdb ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; mount /dev/vdb /one && cat /one/f";
    assert_eq!(home.guest("web", back), "x\n", "on another bus it is the same disk");
}

#[test]
fn a_disk_is_added_with_each_file_system() {
    let mut home = Home::new();
    home.start("web", &[]);
    home.guest("web", "mkdir -p /data && echo old > /data/before");
    for fs in ["ext4", "xfs", "ntfs"] {
        let told = home.ok(&["disk", "add", "web", "--size", "400M", "--fs", fs, "--mount", "/data", "--disk", fs]);
        assert!(told.contains("/dev/sdb") && told.contains(fs) && told.contains("/data"), "{told}");
        let seen = "ls /data/before 2> /dev/null; echo new > /data/file; cat /data/file; lsblk -no SIZE,MOUNTPOINTS /dev/sdb; \
                    umount /data; cat /data/before; ls /data";
        let text = home.guest("web", seen);
        let lines: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(lines, ["new", "400M", "/data", "old", "before"], "the old directory is hidden, and comes back");
        home.ok(&["disk", "detach", "web", fs]);
        // The guest's kernel lets go of a SCSI disk in its own time, and the name with it.
        home.guest("web", "n=0; while [ -e /sys/block/sdb ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done");
        check(&home.file(&format!("{fs}.qcow2")));
    }
    let fstab = home.guest("web", "grep -c /data /etc/fstab");
    assert_eq!(fstab, "3\n");
    assert!(home.fails(&["disk", "add", "web", "--size", "1M", "--mount", "data"]).contains("no mount point"));
    let bad = home.fails(&["disk", "add", "web", "--size", "1M", "--fs", "xfs", "--disk", "small"]);
    assert!(bad.contains("could not be made ready"), "too small for xfs: {bad}");
}

#[test]
fn a_full_host_stops_the_guest_until_there_is_room() {
    let mut home = Home::new();
    let disk = home.sparse("d.raw", 512 << 20);
    // The limit on the size of files stands for a full file system, which takes root to make. It holds for the guest's RAM too.
    let program = env!("CARGO_BIN_EXE_visor");
    let script = format!(
        "ulimit -S -f 614400; exec {program} run --engine soft --timeout 600s --name full --disk {disk},format=raw tiny -- sleep 600"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    let process = home.spawn(command, "full").to_string();
    let write = "dd if=/dev/urandom of=/tmp/x bs=1M count=30 2> /dev/null; \
                 dd if=/tmp/x of=/dev/sdb bs=64k oflag=direct conv=fsync seek=4640 2> /tmp/dd; echo $? > /tmp/done";
    home.guest("full", &format!("({write}) > /dev/null 2>&1 &"));
    home.until(|h| h.log("full").contains("stands still"));
    assert!(home.log("full").contains("d.raw"), "{}", home.log("full"));
    assert!(home.ok(&["info", "full", "--json"]).contains("\"paused\""));
    assert!(home.ok(&["disk", "stats", "full"]).contains("waits for room"));
    home.ok(&["resume", "full"]);
    home.until(|h| h.ok(&["info", "full", "--json"]).contains("\"paused\""));
    let raised = Command::new("prlimit").args(["--pid", &process, "--fsize=unlimited:unlimited"]).status().unwrap();
    assert!(raised.success());
    home.until(|h| h.log("full").contains("room again"));
    let same = "while [ ! -e /tmp/done ]; do sleep 0.2; done; cat /tmp/done; \
                dd if=/dev/sdb bs=1M skip=290 count=30 iflag=direct 2> /dev/null | cmp - /tmp/x && echo same; dmesg | grep -c 'I/O error'";
    assert!(home.run(&["exec", "full", "--", "sh", "-c", same]).stdout.starts_with(b"0\nsame\n0\n"), "nothing is lost");
}

#[test]
fn errors_of_the_device_reach_the_guest_and_nothing_else_is_lost() {
    let mut home = Home::new();
    let disk = home.sparse("d.raw", 16 << 20);
    home.start("bad", &["--disk", &format!("{disk},format=raw,fault=write@8192+read@16384")]);
    let script = "dd if=/dev/urandom of=/tmp/x bs=1M count=16 2> /dev/null; \
        dd if=/tmp/x of=/dev/sdb bs=4k oflag=direct 2> /tmp/e1 || grep -o 'No data available' /tmp/e1; \
        dd if=/tmp/x of=/dev/sdb bs=4k oflag=direct seek=1025 skip=1025 2> /dev/null && echo wrote; \
        dd if=/dev/sdb of=/dev/null bs=4k iflag=direct skip=2048 count=1 2> /tmp/e2 || grep -o 'No data available' /tmp/e2; \
        for at in 0 1023 1025 2047 2049 4095; do \
            dd if=/dev/sdb bs=4k iflag=direct skip=$at count=1 of=/tmp/a 2> /dev/null; \
            dd if=/tmp/x bs=4k skip=$at count=1 of=/tmp/b 2> /dev/null; cmp /tmp/a /tmp/b && echo same; done";
    // What Linux makes of a medium error (BLK_STS_MEDIUM).
    let error = "No data available\n";
    assert_eq!(home.guest("bad", script), format!("{error}wrote\n{error}{}", "same\n".repeat(6)));
    // An image that somebody cuts off under a machine.
    let whole = home.sparse("cut.raw", 16 << 20);
    home.ok(&["disk", "attach", "bad", &format!("{whole},format=raw")]);
    let wait = "n=0; while [ ! -b /dev/sdc ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done";
    home.guest("bad", wait);
    std::fs::File::options().write(true).open(&whole).unwrap().set_len(1 << 20).unwrap();
    let read = "dd if=/dev/sdc of=/dev/null bs=4k iflag=direct skip=2048 count=1 2>&1 | grep -o 'No data available'";
    assert_eq!(home.guest("bad", read), error);
}

#[test]
fn a_machine_killed_under_load_leaves_a_sound_image() {
    let mut home = Home::new();
    home.ok(&["disk", "create", "data", "--size", "256M"]);
    for round in 0..3u64 {
        let name = format!("load{round}");
        home.start(&name, &["--disk", "data"]);
        let load = "mkfs.ext4 -q -F /dev/sdb; mount /dev/sdb /mnt; echo safe > /mnt/safe; sync; touch /tmp/go; \
                    while true; do dd if=/dev/urandom of=/mnt/f bs=64k count=200 conv=fsync; rm /mnt/f; fstrim /mnt; done";
        home.guest(&name, &format!("({load}) > /dev/null 2>&1 &"));
        home.until(|h| h.run(&["exec", &name, "--", "test", "-e", "/tmp/go"]).status.success());
        std::thread::sleep(Duration::from_millis(700 + 400 * round));
        let machine = home.machines.last_mut().unwrap();
        machine.kill().unwrap();
        machine.wait().unwrap();
        // Clusters that nothing refers to any more are the only trace.
        let out = Command::new("qemu-img").arg("check").arg(home.file("data.qcow2")).output().unwrap();
        assert!(matches!(out.status.code(), Some(0 | 3)), "{}{}", stdout(&out), stderr(&out));
        home.ok(&["disk", "check", "data", "--repair"]);
        check(&home.file("data.qcow2"));
        let raw = home.folder.join("out.raw");
        home.ok(&["disk", "convert", "data", raw.to_str().unwrap(), "--format", "raw"]);
        let fsck = Command::new("e2fsck").args(["-fy"]).arg(&raw).output().expect("e2fsprogs");
        assert!(matches!(fsck.status.code(), Some(0 | 1)), "{}", stdout(&fsck));
        let safe = Command::new("debugfs").args(["-R", "cat /safe"]).arg(&raw).output().unwrap();
        assert_eq!(stdout(&safe), "safe\n", "what was synced is there");
        std::fs::remove_file(raw).unwrap();
    }
}

#[test]
fn machines_from_one_image_never_see_each_others_writes() {
    let mut home = Home::new();
    home.ok(&["disk", "create", "base", "--size", "32M"]);
    home.ok(&["disk", "clone", "base", "one", "--linked"]);
    home.ok(&["disk", "clone", "base", "two", "--linked"]);
    home.start("a", &["--disk", "one"]);
    home.start("b", &["--disk", "two"]);
    for (name, letter) in [("a", "A"), ("b", "B")] {
        let write =
            format!("yes {letter} | head -c 1048576 | dd of=/dev/sdb bs=64k oflag=direct conv=fsync 2> /dev/null");
        home.guest(name, &write);
    }
    for (name, letter) in [("a", "A"), ("b", "B")] {
        let read = "dd if=/dev/sdb bs=64k count=16 iflag=direct 2> /dev/null | tr -d '\\n' | fold -w 1 | sort -u";
        assert_eq!(home.guest(name, read), format!("{letter}\n"));
    }
    let taken = home.fails(&["disk", "attach", "b", "one"]);
    assert!(taken.contains("in use"), "{taken}");
    for name in ["a", "b"] {
        home.ok(&["kill", name]);
    }
    let base = Command::new("qemu-img").args(["map", "--output=json"]).arg(home.file("base.qcow2")).output().unwrap();
    assert!(
        !stdout(&base).contains("\"data\": true"),
        "the image that both began with holds nothing: {}",
        stdout(&base)
    );
}
