//! `visor disk` as a user runs it, with QEMU's tools as the outside judge. Needs qemu-utils.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
#[path = "common/disks.rs"]
mod disks;

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{stderr, stdout};
use disks::Home;

fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

#[track_caller]
fn qemu(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect("these tests need qemu-utils");
    assert!(out.status.success(), "{program} {args:?}: {}", stderr(&out));
    stdout(&out)
}

#[test]
fn static_takes_its_space_at_once_and_dynamic_when_it_is_used() {
    let home = Home::of_disks("alloc");
    home.ok(&["create", "fixed", "--size", "64M", "--alloc", "static"]);
    home.ok(&["create", "grows", "--size", "50G"]);
    let (fixed, grows) = (home.disk("fixed.raw"), home.disk("grows.qcow2"));
    assert!(blocks(&fixed) >= 64 << 20);
    assert!(blocks(&grows) < 1 << 20);
    assert_eq!(std::fs::metadata(&grows).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&fixed).unwrap().permissions().mode() & 0o777, 0o600);
    qemu("qemu-io", &["-f", "qcow2", "-c", "write -P 3 10G 32M", grows.to_str().unwrap()]);
    let taken = blocks(&grows);
    assert!((32 << 20..34 << 20).contains(&taken), "{taken}");
    let list = home.json(&["ls", "--json"]);
    let row = list.as_array().unwrap().iter().find(|r| r["name"] == "grows").unwrap().clone();
    assert_eq!((row["capacity"].as_u64(), row["used"].as_u64()), (Some(50 << 30), Some(32 << 20)));
    assert!(row["waste"].as_u64().unwrap() < 2 << 20);
    let text = home.ok(&["ls"]);
    assert!(text.contains("CAPACITY") && text.contains("50.0 GiB") && text.contains("fixed"), "{text}");
    home.ok(&["create", "full", "--size", "16M", "--alloc", "static", "--format", "qcow2"]);
    assert!(blocks(&home.disk("full.qcow2")) >= 16 << 20);
    qemu("qemu-img", &["check", home.disk("full.qcow2").to_str().unwrap()]);
}

#[test]
fn names_are_checked_and_nothing_is_overwritten() {
    let home = Home::of_disks("names");
    home.ok(&["create", "data", "--size", "1M"]);
    assert!(home.fails(&["create", "data", "--size", "1M"]).contains("already"));
    assert!(home.fails(&["create", "a b", "--size", "1M"]).contains("no name"));
    assert!(home.fails(&["create", "./data/visor/disks/data.qcow2", "--size", "1M"]).contains("exists"));
    let text = home.fails(&["info", "dat"]);
    assert!(text.contains("did you mean `data`"), "{text}");
    assert!(home.fails(&["info", "/nowhere/x"]).contains("No such file"));
    assert!(home.fails(&["create", "x", "--size", "1M", "--format", "vmdk"]).contains("read here, not made"));
    assert!(home.ok(&["create", "./by-name.raw", "--size", "1M"]).contains("raw"));
    assert!(home.ok(&["create", "./by-name.qcow2", "--size", "1M", "--alloc", "static"]).contains("qcow2"));
    let lie = home.fails(&["create", "./lie.qcow2", "--size", "1M", "--format", "raw"]);
    assert!(lie.contains("the name of a disk of format qcow2"), "{lie}");
    std::fs::write(home.0.join("blank.qcow2"), [0; 4096]).unwrap();
    assert!(home.fails(&["info", "./blank.qcow2"]).contains("does not begin as such an image"));
    home.ok(&["rm", "data"]);
    assert_eq!(home.disks(), Vec::<String>::new());
}

#[test]
fn conversions_are_identical_for_qemu() {
    let home = Home::of_disks("convert");
    let raw = home.0.join("in.raw");
    std::fs::File::create(&raw).unwrap().set_len(40 << 20).unwrap();
    let name = raw.to_str().unwrap();
    qemu(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 1 0 3M", "-c", "write -P 2 20M 100k", "-c", "write -P 0 5M 4M", name],
    );
    let targets: &[(&[&str], &str)] = &[
        (&["--format", "qcow2"], "a.qcow2"),
        (&["--compress"], "b.qcow2"),
        (&["--compress", "--compression", "zlib", "--cluster-size", "4K"], "c.qcow2"),
        (&["--extended-l2"], "d.qcow2"),
        (&["--alloc", "static"], "e.raw"),
        (&["--format", "raw"], "f.raw"),
    ];
    for (options, target) in targets {
        let path = home.0.join(target);
        home.ok(&[&["convert", name, path.to_str().unwrap(), "--source-format", "raw"], *options].concat());
        let format = if target.ends_with("raw") { "raw" } else { "qcow2" };
        qemu("qemu-img", &["compare", "-f", "raw", "-F", format, name, path.to_str().unwrap()]);
        if format == "qcow2" {
            qemu("qemu-img", &["check", path.to_str().unwrap()]);
            assert!(blocks(&path) < 5 << 20, "{target}: zeroes take no space");
        }
    }
    assert!(blocks(&home.0.join("e.raw")) >= 40 << 20);
    assert!(blocks(&home.0.join("b.qcow2")) < 1 << 20);
    let vmdk = home.0.join("x.vmdk");
    qemu("qemu-img", &["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", name, vmdk.to_str().unwrap()]);
    home.ok(&["convert", vmdk.to_str().unwrap(), "imported"]);
    qemu("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", name, home.disk("imported.qcow2").to_str().unwrap()]);
}

#[test]
fn snapshots_clones_and_sizes() {
    let home = Home::of_disks("snap");
    home.ok(&["create", "d", "--size", "64M"]);
    let file = home.disk("d.qcow2");
    let path = file.to_str().unwrap();
    qemu("qemu-io", &["-c", "write -P 1 0 1M", path]);
    home.ok(&["snapshot", "create", "d", "before"]);
    qemu("qemu-io", &["-c", "write -P 2 0 1M", path]);
    assert!(home.fails(&["snapshot", "create", "d", "before"]).contains("already"));
    assert!(home.ok(&["snapshot", "ls", "d"]).contains("before"));
    home.ok(&["clone", "d", "copy"]);
    home.ok(&["clone", "d", "linked", "--linked"]);
    home.ok(&["snapshot", "revert", "d", "before"]);
    qemu("qemu-io", &["-r", "-c", "read -P 1 0 1M", path]);
    qemu("qemu-io", &["-r", "-c", "read -P 2 0 1M", home.disk("copy.qcow2").to_str().unwrap()]);
    assert_eq!(home.json(&["info", "linked", "--json"])["backing_file"], "d.qcow2");
    home.ok(&["snapshot", "rm", "d", "before"]);
    assert!(home.fails(&["snapshot", "rm", "d", "before"]).contains("no snapshot"));
    home.ok(&["check", "d"]);
    home.ok(&["resize", "d", "+64M"]);
    assert!(qemu("qemu-img", &["info", path]).contains("128 MiB"));
    assert!(home.fails(&["resize", "d", "512K"]).contains("holds data"));
    home.ok(&["resize", "d", "2M"]);
    qemu("qemu-img", &["check", path]);
}

#[test]
fn compact_gives_back_zeroes_and_free_space() {
    let home = Home::of_disks("compact");
    home.ok(&["create", "d", "--size", "64M"]);
    let file = home.disk("d.qcow2");
    let path = file.to_str().unwrap();
    qemu("qemu-io", &["-c", "write -P 7 0 8M", "-c", "write -P 0 8M 8M", path]);
    let before = blocks(&file);
    home.ok(&["compact", "d"]);
    assert!(blocks(&file) + (7 << 20) < before, "{} of {before}", blocks(&file));
    qemu("qemu-img", &["check", path]);
    qemu("qemu-io", &["-c", "read -P 7 0 8M", "-c", "read -P 0 8M 8M", path]);
    home.ok(&["compact", "d", "--rewrite"]);
    qemu("qemu-io", &["-c", "read -P 7 0 8M", "-c", "read -P 0 8M 8M", path]);
    assert_eq!(home.disks(), ["d.qcow2"]);
}

#[test]
fn damage_is_found_and_repaired() {
    use std::os::unix::fs::FileExt;
    let home = Home::of_disks("check");
    home.ok(&["create", "d", "--size", "64M"]);
    let file = home.disk("d.qcow2");
    qemu("qemu-io", &["-c", "write -P 7 0 1M", file.to_str().unwrap()]);
    // The refcounts of the data are set to zero.
    let f = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    f.write_all_at(&[0; 16], (2 << 16) + 12).unwrap();
    drop(f);
    let out = home.run(&["check", "d"]);
    assert_eq!(out.status.code(), Some(2), "{}", stdout(&out));
    assert!(stdout(&out).contains("refcount 0"), "{}", stdout(&out));
    home.ok(&["check", "d", "--repair"]);
    home.ok(&["check", "d"]);
    qemu("qemu-img", &["check", file.to_str().unwrap()]);
    qemu("qemu-io", &["-c", "read -P 7 0 1M", file.to_str().unwrap()]);
}

#[test]
fn a_map_shows_what_lies_where() {
    let home = Home::of_disks("map");
    home.ok(&["create", "d", "--size", "64M"]);
    let file = home.disk("d.qcow2");
    qemu("qemu-io", &["-c", "write -P 7 32M 1M", file.to_str().unwrap()]);
    let map = home.json(&["map", "d", "--json"]);
    let kinds: Vec<_> = map["extents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["kind"].as_str().unwrap(), e["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(kinds, [("hole", 32 << 20), ("data", 1 << 20), ("hole", 31 << 20)]);
    let svg = home.ok(&["map", "d", "--svg"]);
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains(">data at 32.0 MiB</title>"));
    assert!(home.ok(&["map", "d"]).contains("1 fragments"));
}

#[test]
fn a_disk_in_use_is_refused_by_name() {
    let home = Home::of_disks("lock");
    home.ok(&["create", "d", "--size", "1M"]);
    let file = home.disk("d.qcow2");
    let mut holder = Command::new("qemu-io").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(holder.stdin.as_mut().unwrap(), b"length\n").unwrap();
    holder.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    for args in [&["rm", "d"][..], &["resize", "d", "2M"], &["check", "d"], &["snapshot", "create", "d", "s"]] {
        let text = home.fails(args);
        assert!(text.contains(&format!("in use by process {} (qemu-io)", holder.id())), "{args:?}: {text}");
    }
    assert!(home.ok(&["ls"]).contains("1.00 MiB"), "looking is allowed");
    holder.kill().unwrap();
    holder.wait().unwrap();
    home.ok(&["rm", "d"]);
}

#[test]
fn an_interrupted_copy_leaves_nothing_behind() {
    let home = Home::of_disks("stop");
    let raw = home.0.join("in.raw");
    let mut x = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as u8
    })
    .take(8 << 20)
    .collect();
    let mut f = std::fs::File::create(&raw).unwrap();
    for _ in 0..24 {
        std::io::Write::write_all(&mut f, &noise).unwrap();
    }
    home.ok(&["create", "other", "--size", "1M"]);
    let mut command = home.command(&["convert", raw.to_str().unwrap(), "copy", "--compress", "--compression", "zlib"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let started = Instant::now();
    let status = child.wait().unwrap();
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(status.code(), Some(130));
    assert_eq!(home.disks(), ["other.qcow2"], "no debris");
}

#[test]
fn the_comparison_is_measured_here() {
    let home = Home::of_disks("bench");
    let value = home.json(&["bench", "--size", "64M", "--json"]);
    assert!(value["static"]["allocated_at_start"].as_u64().unwrap() >= 64 << 20);
    assert!(value["dynamic"]["allocated_at_start"].as_u64().unwrap() < 1 << 20);
    for side in ["static", "dynamic"] {
        assert!(value[side]["first_write_median_seconds"].as_f64().unwrap() > 0.0);
        assert!(value[side]["create_seconds"].as_f64().unwrap() > 0.0);
    }
    let text = home.ok(&["bench", "--size", "64M"]);
    for row in ["time to create", "space taken at first", "first write", "fragments", "waste"] {
        assert!(text.contains(row), "{text}");
    }
    assert_eq!(home.disks(), Vec::<String>::new());
}

#[test]
fn a_disk_is_served_and_copied_over_the_network() {
    let home = Home::of_disks("serve");
    home.ok(&["create", "d", "--size", "8M"]);
    qemu("qemu-io", &["-c", "write -P 7 1M 1M", home.disk("d.qcow2").to_str().unwrap()]);
    let socket = home.0.join("s");
    let mut server =
        home.command(&["serve", "d", "--socket", socket.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line.trim(), format!("nbd+unix:///d?socket={}", socket.display()));
    qemu("qemu-io", &["-f", "raw", "-c", "read -P 7 1M 1M", "-c", "write -P 8 3M 64k", "-c", "flush", line.trim()]);
    home.ok(&["convert", line.trim(), "./copy.raw", "--format", "raw"]);
    let text = home.fails(&["rm", "d"]);
    assert!(text.contains(&format!("process {} (visor)", server.id())), "{text}");
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap().success());
    assert!(server.wait().unwrap().success());
    assert!(!socket.exists());
    qemu("qemu-img", &["check", home.disk("d.qcow2").to_str().unwrap()]);
    let copy = std::fs::read(home.0.join("copy.raw")).unwrap();
    assert!(copy[1 << 20..2 << 20].iter().all(|b| *b == 7) && copy[3 << 20] == 8 && copy.len() == 8 << 20);
}
