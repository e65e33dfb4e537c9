//! The image `tiny` from build to use, on the software engine. Builds the image if it is not in the cache (package registry needed).
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;

use std::sync::Once;

use common::{run, run_with, stderr, stdout};

/// Makes sure that the image exists before several tests want it at once.
fn image() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let out = run(&["image", "build", "tiny"]);
        assert!(out.status.success(), "{}", stderr(&out));
    });
}

fn tiny<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    image();
    let mut args = vec!["run", "--engine", "soft", "--timeout", "300s", "tiny", "--"];
    args.extend(rest);
    args
}

#[test]
fn a_command_prints_its_output_alone() {
    let out = run(&tiny(&["uname", "-s", "-m"]));
    assert_eq!((stdout(&out).as_str(), out.status.code()), ("Linux x86_64\n", Some(0)), "{}", stderr(&out));
}

#[test]
fn exit_status_and_standard_error_are_the_commands() {
    let out = run(&tiny(&["sh", "-c", "echo out; echo err >&2; exit 7"]));
    assert_eq!((stdout(&out).as_str(), out.status.code()), ("out\n", Some(7)), "{}", stderr(&out));
    assert!(stderr(&out).contains("err\n"));
}

#[test]
fn standard_input_is_the_commands() {
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = run_with(&tiny(&["cat"]), &data);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    assert!(out.stdout == data, "{} of {} bytes came back", out.stdout.len(), data.len());
}

#[test]
fn a_command_that_does_not_exist_is_127() {
    let out = run(&tiny(&["no-such-program"]));
    assert_eq!(out.status.code(), Some(127), "{}", stderr(&out));
}

#[test]
fn the_machine_has_what_was_asked_for() {
    image();
    let script = "nproc; awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo; uname -r";
    let out = run(&["run", "--engine", "soft", "--cpus", "2", "--memory", "384M", "tiny", "--", "sh", "-c", script]);
    let text = stdout(&out);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.first(), Some(&"2"), "{text}{}", stderr(&out));
    let mib: u64 = lines[1].parse().unwrap();
    assert!((300..=384).contains(&mib), "{mib} MiB");
    assert!(lines[2].ends_with("cloud-amd64"), "{text}");
}

#[test]
fn the_tools_of_the_tutorial_work_on_a_disk() {
    let disk = common::file("disk.img", b"");
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(400 << 20).unwrap();
    let script = r#"
        set -e
        d=/dev/$(lsblk -dno NAME,SIZE | awk '$2 == "400M" {print $1}')
        mkdir -p /data; echo old > /data/before
        for fs in ext4 xfs ntfs; do
            case $fs in ext4) f=-F ;; xfs) f=-f ;; ntfs) f="-F -Q" ;; esac
            mkfs.$fs $f $d > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }
            mount $d /data; test ! -e /data/before; echo $fs > /data/file; umount /data
            mount $d /data; cat /data/file; umount /data; cat /data/before
        done
        systemctl enable --now httpd > /tmp/log 2>&1 || { cat /tmp/log; exit 1; }
        systemctl is-active httpd
        curl -sf -o /tmp/page http://127.0.0.1/ && test -s /tmp/page && echo served
    "#;
    image();
    let disk = disk.to_str().unwrap();
    let out = run(&["run", "--engine", "soft", "--timeout", "400s", "--disk", disk, "tiny", "--", "sh", "-c", script]);
    assert_eq!(stdout(&out), "ext4\nold\nxfs\nold\nntfs\nold\nactive\nserved\n", "{}", stderr(&out));
    assert_eq!(out.status.code(), Some(0));
}

/// Linux probes SCSI disks side by side and names them as that ends: our init makes it take turns, on every bus.
#[test]
fn disks_have_their_names_in_their_order() {
    image();
    let sizes = [30, 50, 20, 40];
    let disks = sizes.map(|mib| {
        let disk = common::file(&format!("order-{mib}.img"), b"");
        std::fs::File::options().write(true).open(&disk).unwrap().set_len(mib << 20).unwrap();
        disk
    });
    let script = "lsblk -bdno NAME,TYPE,SIZE | awk '$2 == \"disk\" {print $1, $3 / 1048576}' | sort";
    let disks: Vec<&str> = disks.iter().flat_map(|d| ["--disk", d.to_str().unwrap()]).collect();
    for (options, name, count) in [
        (&[][..], "sd", 4),
        (&["--bus", "scsi", "--cpus", "4"], "sd", 4),
        (&["--bus", "ide"], "sd", 3),
        (&["--bus", "virtio"], "vd", 4),
    ] {
        let base = ["run", "--engine", "soft", "--timeout", "300s"];
        let args = [&base[..], options, &disks[..2 * count], &["tiny", "--", "sh", "-c", script]].concat();
        let out = run(&args);
        let said = stdout(&out);
        let found: Vec<&str> = said.lines().skip(1).collect();
        let wanted: Vec<String> = sizes[..count].iter().zip('b'..).map(|(s, c)| format!("{name}{c} {s}")).collect();
        assert_eq!(found, wanted, "{options:?}: {said}{}", stderr(&out));
        assert!(said.starts_with(&format!("{name}a ")), "the image's own is the first: {said}");
    }
}
