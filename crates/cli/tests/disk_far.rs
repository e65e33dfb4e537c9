//! Guests at work on disks that are more than a file: encrypted ones, volumes of pools that lose a member or fill up, files of web servers.
//! Needs qemu-utils, and user namespaces for a small file system. Builds the image `tiny` if it is not in the cache.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/live.rs"]
mod live;
#[path = "common/web.rs"]
mod web;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{stderr, stdout};
use live::Home;

/// Waits in the guest until the disk is there.
const WAIT: &str = "n=0; while [ ! -b /dev/sdb ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; ";

/// Writes noise through a file system and keeps its sum where nothing of the disk is needed for it.
const FILL: &str = "mkfs.ext4 -q -F /dev/sdb && mount /dev/sdb /mnt && dd if=/dev/urandom of=/mnt/noise bs=64k count=100 conv=fsync 2> /dev/null && \
                    md5sum < /mnt/noise > /tmp/sum && cp /tmp/sum /mnt/sum && sync";

/// Reads it again from the disk itself.
const SAME: &str = "echo 3 > /proc/sys/vm/drop_caches; md5sum < /mnt/noise | cmp - /mnt/sum && echo same";

#[test]
fn a_guest_works_on_an_encrypted_disk_that_grows_and_is_kept() {
    let mut home = Home::new();
    let key = home.folder.join("key");
    std::fs::write(&key, "not to be guessed").unwrap();
    let key = key.to_str().unwrap();
    for (disk, format) in [("plain", "raw"), ("kept", "qcow2")] {
        home.ok(&["disk", "create", disk, "--size", "64M", "--format", format, "--encrypt", "--key-file", key]);
    }
    home.start("web", &[]);
    home.ok(&["disk", "attach", "web", &format!("plain,key-file={key}")]);
    home.guest("web", &format!("{WAIT}{FILL}"));
    assert_eq!(home.guest("web", SAME), "same\n");
    let stats = home.ok(&["disk", "stats", "web"]);
    assert!(stats.contains("encrypted, "), "{stats}");
    // The guest sees what the user says, with or without a machine.
    assert!(home.ok(&["disk", "resize", "plain", "+32M"]).contains("96.0 MiB now"));
    let grown = "n=0; while [ $(cat /sys/block/sdb/size) != 196608 ] && [ $n -lt 300 ]; do sleep 0.1; n=$((n+1)); done; \
                 resize2fs /dev/sdb > /dev/null 2>&1; cat /sys/block/sdb/size; df -m /mnt | awk 'END {print ($2 > 70)}'";
    assert_eq!(home.guest("web", grown), "196608\n1\n");
    assert!(home.fails(&["disk", "snapshot", "create", "plain", "s"]).contains("no snapshots"));
    assert_eq!(home.guest("web", &format!("{SAME}; umount /mnt")), "same\n");
    home.ok(&["disk", "detach", "web", "plain"]);
    assert!(home.ok(&["disk", "resize", "plain", "128M"]).contains("128 MiB now"));

    home.ok(&["disk", "attach", "web", &format!("kept,key-file={key}")]);
    home.guest(
        "web",
        &format!("{WAIT}mkfs.ext4 -q -F /dev/sdb && mount /dev/sdb /mnt && echo before > /mnt/file && sync"),
    );
    home.ok(&["disk", "snapshot", "create", "kept", "one"]);
    home.guest("web", "echo after > /mnt/file && sync && umount /mnt");
    home.ok(&["disk", "detach", "web", "kept"]);
    home.ok(&["disk", "snapshot", "revert", "kept", "one"]);
    home.ok(&["disk", "attach", "web", &format!("kept,key-file={key}")]);
    assert_eq!(home.guest("web", &format!("{WAIT}mount /dev/sdb /mnt && cat /mnt/file")), "before\n");
    let files = ["plain.luks", "kept.luks.qcow2"].map(|f| std::fs::read(home.file(f)).unwrap());
    for bytes in files {
        assert!(!bytes.windows(6).any(|w| w == b"before"), "nothing of it can be read on the host");
    }
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `visor disk serve` of a file, at a socket; its address.
fn serve(home: &Home, disk: &str) -> (Server, String) {
    let socket = home.folder.join("nbd");
    let args = ["disk", "serve", disk, "--socket", socket.to_str().unwrap()];
    let mut child = home.set(common::visor(&args)).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Server(child), line.trim().to_owned())
}

#[test]
fn a_member_is_lost_under_a_guest_and_rebuilt() {
    let mut home = Home::new();
    std::fs::create_dir(home.folder.join("a")).unwrap();
    let store = home.sparse("store.raw", 256 << 20);
    let (server, address) = serve(&home, &store);
    let folder = format!("dir:{}", home.folder.join("a").display());
    home.ok(&["pool", "create", "p", "--member", &folder, "--member", &address, "--copies", "2"]);
    home.ok(&["disk", "create", "pool:p/v", "--size", "64M"]);
    home.start("web", &[]);
    home.ok(&["disk", "attach", "web", "pool:p/v"]);
    home.guest("web", &format!("{WAIT}{FILL}"));
    let size = home.fails(&["disk", "resize", "pool:p/v", "+1M"]);
    assert!(size.contains("in use") || size.contains("volume of a pool"), "{size}");
    drop(server);
    std::fs::remove_file(home.folder.join("nbd")).unwrap();
    let more = "dd if=/dev/urandom of=/mnt/more bs=64k count=50 conv=fsync 2> /dev/null; md5sum < /mnt/more > /mnt/more.sum; sync; echo wrote";
    assert_eq!(home.guest("web", more), "wrote\n", "the guest waits, and goes on");
    assert!(
        home.log("web").contains("has failed") && home.log("web").contains("pool rebuild p"),
        "{}",
        home.log("web")
    );
    assert_eq!(home.guest("web", &format!("{SAME}; dmesg | grep -c 'I/O error' || true")), "same\n0\n");
    assert_eq!(home.guest("web", "umount /mnt && echo done"), "done\n");
    home.ok(&["disk", "detach", "web", "v"]);
    // The member is back, and out of date.
    let (server, _) = serve(&home, &store);
    let info = home.ok(&["pool", "info", "p"]);
    assert!(info.contains("degraded"), "{info}");
    let out = home.run(&["pool", "rebuild", "p"]);
    assert!(out.status.success() && stdout(&out).contains("all copies"), "{}{}", stdout(&out), stderr(&out));
    assert!(stderr(&out).contains("rebuilding v"), "progress is told: {}", stderr(&out));
    assert!(home.ok(&["pool", "info", "p"]).contains("pool:p/v  64.0 MiB, ok"));
    // The other one is lost, and the one that was rebuilt has everything.
    std::fs::remove_dir_all(home.folder.join("a")).unwrap();
    home.ok(&["disk", "attach", "web", "pool:p/v"]);
    let read =
        format!("{WAIT}mount /dev/sdb /mnt; {SAME}; md5sum < /mnt/more | cmp - /mnt/more.sum && echo too; umount /mnt");
    assert_eq!(home.guest("web", &read), "same\ntoo\n");
    home.ok(&["disk", "detach", "web", "v"]);
    for (args, why) in [
        (&["disk", "resize", "pool:p/v", "128M"][..], "volume of a pool"),
        (&["disk", "snapshot", "create", "pool:p/v", "s"], "volume of a pool"),
        (&["disk", "compact", "pool:p/v"], "volume of a pool"),
        (&["disk", "check", "pool:p/v"], "volume of a pool"),
    ] {
        let text = home.fails(args);
        assert!(text.contains(why), "{args:?}: {text}");
    }
    drop(server);
}

#[test]
fn a_pool_warns_before_it_is_full_and_stops_the_guest_when_it_is() {
    let mut home = Home::new();
    let program = env!("CARGO_BIN_EXE_visor");
    let folder = home.folder.join("small");
    std::fs::create_dir(&folder).unwrap();
    let at = folder.to_str().unwrap();
    // In a user namespace of its own, in which an ordinary user may mount.
    let script = format!(
        "set -e; mount -t tmpfs -o size=48m small {at}; {program} pool create p --member dir:{at}; \
         {program} disk create pool:p/v --size 96M --overcommit; \
         exec {program} run --engine soft --timeout 600s --name full --disk pool:p/v tiny -- sleep 600"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let process = home.spawn(command, "full").to_string();
    let some = "dd if=/dev/urandom of=/tmp/x bs=1M count=60 2> /dev/null; dd if=/tmp/x of=/dev/sdb bs=1M count=43 oflag=direct 2> /dev/null; echo ok";
    assert_eq!(home.guest("full", &format!("{WAIT}{some}")), "ok\n");
    // Something is written from time to time until somebody has looked.
    home.until(|h| {
        h.guest("full", "dd if=/tmp/x of=/dev/sdb bs=4k count=1 oflag=direct conv=notrunc 2> /dev/null");
        h.log("full").contains("% full")
    });
    assert!(!home.log("full").contains("stands still"), "the warning comes first: {}", home.log("full"));
    let rest = "dd if=/tmp/x of=/dev/sdb bs=1M oflag=direct conv=fsync 2> /tmp/dd; echo $? > /tmp/done";
    home.guest("full", &format!("({rest}) > /dev/null 2>&1 &"));
    home.until(|h| h.log("full").contains("stands still"));
    assert!(home.ok(&["info", "full", "--json"]).contains("\"paused\""));
    assert!(home.ok(&["disk", "stats", "full"]).contains("waits for room"));
    let grow =
        ["--target", &process, "--user", "--mount", "--preserve-credentials", "mount", "-o", "remount,size=128m", at];
    let grown = Command::new("nsenter").args(grow).output().unwrap();
    assert!(grown.status.success(), "{}", stderr(&grown));
    home.until(|h| h.log("full").contains("room again"));
    let same = "while [ ! -e /tmp/done ]; do sleep 0.2; done; cat /tmp/done; \
                dd if=/dev/sdb bs=1M count=60 iflag=direct 2> /dev/null | cmp - /tmp/x && echo same; dmesg | grep -c 'I/O error'";
    assert!(home.run(&["exec", "full", "--", "sh", "-c", same]).stdout.starts_with(b"0\nsame\n0\n"), "nothing is lost");
}

#[test]
fn a_guest_works_on_a_disk_over_a_file_of_a_web_server() {
    let mut home = Home::new();
    // The file holds a file system with something in it.
    let raw = home.sparse("base.raw", 32 << 20);
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4", &raw]).output().expect("e2fsprogs");
    assert!(made.status.success(), "{}", stderr(&made));
    let file = home.folder.join("given");
    std::fs::write(&file, "from afar\n".repeat(5000)).unwrap();
    let write = format!("write {} given", file.display());
    assert!(Command::new("debugfs").args(["-w", "-R", &write, &raw]).output().unwrap().status.success());
    let content = Arc::new(Mutex::new(std::fs::read(&raw).unwrap()));
    let url = format!("http://127.0.0.1:{}/base.raw", web::web(content.clone(), true));
    home.ok(&["disk", "create", "over", "--backing", &url, "--size", "64M"]);
    home.start("web", &[]);
    home.ok(&["disk", "attach", "web", "over"]);
    home.guest("web", WAIT);
    home.ok(&["disk", "attach", "web", &format!("{url},ro,format=raw")]);
    home.guest("web", &WAIT.replace("sdb", "sdc"));
    let script = "mount /dev/sdb /mnt && md5sum < /mnt/given > /tmp/a && echo mine > /mnt/own && umount /mnt && \
                  mount -o ro,noload /dev/sdc /mnt && md5sum < /mnt/given | cmp - /tmp/a && ls /mnt/own 2> /dev/null || echo untouched; umount /mnt";
    assert_eq!(home.guest("web", &format!("{WAIT}{script}")), "untouched\n");
    // What the server has the guest cannot reach, nor learn where it is.
    assert_eq!(
        home.guest(
            "web",
            "grep -c 127.0.0.1 /proc/cmdline /sys/block/sdb/device/* 2> /dev/null | grep -v ':0' || echo none"
        ),
        "none\n"
    );
    assert!(home.ok(&["disk", "resize", "over", "+16M"]).contains("80.0 MiB now"));
    home.ok(&["disk", "snapshot", "create", "over", "s"]);
    let text = home.fails(&["disk", "resize", &url, "+1M"]);
    assert!(text.contains("belongs to a server"), "{text}");
    home.ok(&["kill", "web"]);
    home.ok(&["disk", "convert", "over", "./all.raw", "--format", "raw"]);
    let own = Command::new("debugfs")
        .args(["-R", "cat /own", home.folder.join("all.raw").to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(stdout(&own), "mine\n");
    assert!(std::fs::read(&raw).unwrap() == *content.lock().unwrap(), "the server's file is as it was");
}

/// The guest reads through TLS what nobody may see on the way, and writes to its own disk; a server that cannot show who it is gives nothing.
#[test]
fn a_guest_works_on_a_disk_over_a_file_of_a_server_with_tls() {
    let mut home = Home::new();
    let data: Vec<u8> = (0..24u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 21) as u8).collect();
    let port = web::web_tls(&home.folder, Arc::new(Mutex::new(data.clone())));
    let url = format!("https://localhost:{port}/base.raw");
    let text = home.fails(&["disk", "create", "no", "--backing", &url]);
    assert!(text.contains("certificate"), "an authority that nobody knows: {text}");
    let ca = home.folder.join("ca.pem");
    let ca = ca.to_str().unwrap();
    let wrong =
        home.fails(&["disk", "create", "no", "--backing", &url.replace("localhost", "127.0.0.1"), "--backing-ca", ca]);
    assert!(wrong.contains("certificate"), "a certificate of somebody else: {wrong}");
    home.ok(&["disk", "create", "over", "--backing", &url, "--backing-ca", ca]);
    home.start("web", &[]);
    home.ok(&["disk", "attach", "web", "over"]);
    std::fs::write(home.folder.join("data"), &data).unwrap();
    let sum = Command::new("md5sum").arg(home.folder.join("data")).output().unwrap();
    let sum = stdout(&sum).split(' ').next().unwrap().to_owned();
    let read = "md5sum < /dev/sdb | cut -d' ' -f1";
    assert_eq!(home.guest("web", &format!("{WAIT}{read}")), format!("{sum}\n"));
    let write = "echo mine | dd of=/dev/sdb bs=512 seek=9 conv=sync,notrunc,fsync 2> /dev/null; echo 3 > /proc/sys/vm/drop_caches; \
                 dd if=/dev/sdb bs=512 skip=9 count=1 2> /dev/null | head -c 5; grep -rl localhost /sys/block/sdb/device/ 2> /dev/null || echo none";
    assert_eq!(home.guest("web", write), "mine\nnone\n");
    home.ok(&["kill", "web"]);
    home.ok(&["disk", "convert", "over", "./all.raw", "--format", "raw"]);
    let all = std::fs::read(home.folder.join("all.raw")).unwrap();
    assert!(all[9 * 512..].starts_with(b"mine\n") && all[10 * 512..] == data[10 * 512..]);
}

#[test]
fn an_address_of_iscsi_says_what_to_do() {
    let home = Home::new();
    for args in
        [&["run", "--disk", "iscsi://store/iqn.2026-01.org.example:d/1"][..], &["disk", "info", "iscsi://store/x/1"]]
    {
        let text = home.fails(args);
        assert!(text.contains("iscsiadm") && text.contains("/dev/disk/by-path"), "{text}");
    }
}
