//! Ctrl-C in the middle of work on an image: wherever it comes, the image is sound and shows what it showed, and nothing else is left
//! behind. Needs qemu-utils.
//!
//! The program is let run and stopped in turns, tens of microseconds at a time, until it has made as many calls of the kernel as wanted;
//! then the signal is sent.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/disks.rs"]
mod disks;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use disks::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Reads and writes after which the signal comes, as far as the program makes so many.
const PLACES: [u64; 19] = [0, 16, 18, 20, 22, 24, 28, 32, 36, 40, 48, 60, 75, 90, 150, 300, 600, 1500, 4000];
const PATIENCE: Duration = Duration::from_secs(300);

/// Reads and writes that the process has asked for.
fn calls(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let number = |l: &str| l.split_once(": ").and_then(|(_, n)| n.parse::<u64>().ok()).unwrap_or(0);
    io.lines().filter(|l| l.starts_with("syscr") || l.starts_with("syscw")).map(number).sum()
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z', 'X']))
}

/// Sends SIGINT when the program has made `place` calls; how it ended, and whether that came before.
fn interrupt(child: &mut Child, place: u64) -> (ExitStatus, bool) {
    let (pid, end) = (child.id(), Instant::now() + PATIENCE);
    let send = |signal| kill(Pid::from_raw(pid as i32), signal);
    loop {
        send(Signal::SIGSTOP).unwrap();
        while !is_stopped(pid) {
            std::thread::yield_now();
        }
        if let Some(status) = child.try_wait().unwrap() {
            return (status, true);
        }
        if calls(pid) >= place {
            break;
        }
        assert!(Instant::now() < end, "it hangs");
        send(Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_micros(40));
    }
    send(Signal::SIGINT).unwrap();
    send(Signal::SIGCONT).unwrap();
    (child.wait().unwrap(), false)
}

#[track_caller]
fn qemu_img(args: &[&str], what: &str) {
    let out = Command::new("qemu-img").args(args).output().expect("these tests need qemu-utils");
    assert!(out.status.success(), "{what}: qemu-img {args:?}: {}{}", common::stdout(&out), common::stderr(&out));
}

/// Runs `visor disk` with `args` on copies of the disk `d`, which `prepare` has changed, and interrupts it at every place. Returns how
/// often it stopped.
fn everywhere(home: &Home, args: &[&str], makes: Option<&str>, prepare: impl Fn(&Path)) -> usize {
    let (disk, original, raw) = (home.disk("d.qcow2"), home.0.join("original.qcow2"), home.0.join("shows.raw"));
    std::fs::copy(&disk, &original).unwrap();
    let repairs = args.contains(&"--repair");
    let mut stops = 0;
    for place in PLACES {
        std::fs::copy(&original, &disk).unwrap();
        prepare(&disk);
        let before = std::fs::read(&disk).unwrap();
        let mut child = home.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (status, over) = interrupt(&mut child, place);
        let what = format!("{args:?}, interrupted at {place}: {status}");
        // Before it has begun, the signal ends it as any program.
        let early = status.signal() == Some(Signal::SIGINT as i32);
        assert!(early || matches!(status.code(), Some(0 | 130)), "{what}");
        assert!(!early || std::fs::read(&disk).unwrap() == before, "{what}: it had begun");
        stops += usize::from(status.code() == Some(130));
        let mut files = vec!["d.qcow2".to_owned()];
        files.extend(makes.filter(|_| status.success()).map(str::to_owned));
        files.sort();
        assert_eq!(home.disks(), files, "{what}: debris");
        let path = disk.to_str().unwrap();
        if repairs && !status.success() {
            home.ok(&["check", "d", "--repair"]);
        }
        qemu_img(&["check", "-f", "qcow2", path], &what);
        qemu_img(&["compare", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), path], &what);
        if let Some(made) = makes.filter(|_| status.success()) {
            let made = home.disk(made);
            let format = if made.extension().is_some_and(|e| e == "raw") { "raw" } else { "qcow2" };
            qemu_img(&["compare", "-f", "raw", "-F", format, raw.to_str().unwrap(), made.to_str().unwrap()], &what);
            std::fs::remove_file(made).unwrap();
        }
        if over {
            break;
        }
    }
    std::fs::copy(&original, &disk).unwrap();
    stops
}

/// A home with the disk `d`: 48 MiB, most of it data, in clusters of `cluster`; what it shows is in `shows.raw`.
fn home(name: &str, cluster: &str) -> Home {
    let home = Home::of_disks(name);
    let raw = home.0.join("shows.raw");
    let mut x = 1u64;
    let mut word = || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 16).to_le_bytes()
    };
    let mut data: Vec<u8> = (0..6 << 20).flat_map(|_| word()).collect();
    // Zeroes that take space, and some that do not.
    data[20 << 20..24 << 20].fill(0);
    std::fs::write(&raw, &data).unwrap();
    home.ok(&["create", "d", "--size", "64M", "--cluster-size", cluster]);
    let disk = home.disk("d.qcow2");
    let io = Command::new("qemu-img")
        .args(["convert", "-n", "-S", "0", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), disk.to_str().unwrap()])
        .status();
    assert!(io.unwrap().success());
    home
}

#[test]
fn converting() {
    let home = home("stop-convert", "64K");
    assert!(everywhere(&home, &["convert", "d", "copy"], Some("copy.qcow2"), |_| ()) > 0);
    assert!(everywhere(&home, &["convert", "d", "copy", "--format", "raw"], Some("copy.raw"), |_| ()) > 0);
}

#[test]
fn compacting() {
    let home = home("stop-compact", "4K");
    assert!(everywhere(&home, &["compact", "d"], None, |_| ()) > 0);
    assert!(everywhere(&home, &["compact", "d", "--rewrite"], None, |_| ()) > 0);
}

#[test]
fn repairing() {
    use std::os::unix::fs::FileExt;
    let home = home("stop-check", "4K");
    // The refcounts of many clusters are lost: the block of the second cluster's table.
    let spoil = |path: &Path| {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, 48).unwrap();
        let table = u64::from_be_bytes(entry);
        for n in 1..4 {
            file.read_exact_at(&mut entry, table + 8 * n).unwrap();
            file.write_all_at(&[0; 3000], u64::from_be_bytes(entry) + 500).unwrap();
        }
    };
    assert!(everywhere(&home, &["check", "d", "--repair"], None, spoil) > 0);
}

#[test]
fn snapshots_and_sizes() {
    let home = home("stop-change", "4K");
    everywhere(&home, &["snapshot", "create", "d", "s"], None, |_| ());
    everywhere(&home, &["resize", "d", "+400G"], None, |_| ());
    everywhere(&home, &["resize", "d", "52M"], None, |_| ());
    home.ok(&["snapshot", "create", "d", "old"]);
    everywhere(&home, &["snapshot", "revert", "d", "old"], None, |_| ());
    everywhere(&home, &["snapshot", "rm", "d", "old"], None, |_| ());
}
