//! What a user can get wrong, and how guests can misbehave: each gives a clear error and the right exit status.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;

use std::time::{Duration, Instant};

use common::{file, multiboot, run, stderr, stdout};

/// Runs a machine with `code` as its kernel.
fn guest(code: &[u8], name: &str, extra: &[&str]) -> std::process::Output {
    let kernel = file(name, &multiboot(code));
    let mut args = vec!["run", "--engine", "soft", "--memory", "64M", "--kernel", kernel.to_str().unwrap()];
    args.extend(extra);
    run(&args)
}

#[test]
fn a_missing_kernel_is_named() {
    let out = run(&["run", "--kernel", "/nowhere/vmlinuz"]);
    assert_eq!(out.status.code(), Some(125), "{}", stderr(&out));
    assert!(stderr(&out).contains("/nowhere/vmlinuz") && stderr(&out).contains("No such file"), "{}", stderr(&out));
}

#[test]
fn a_file_that_is_no_kernel_is_described() {
    for (name, content) in [("text", &b"#!/bin/sh\necho hello\n"[..]), ("empty", b""), ("elf", b"\x7fELF\x02\x01\x01")]
    {
        let path = file(name, content);
        let out = run(&["run", "--kernel", path.to_str().unwrap()]);
        assert_eq!(out.status.code(), Some(125), "{name}: {}", stderr(&out));
        assert!(stderr(&out).starts_with("error: ") && stderr(&out).contains(name), "{name}: {}", stderr(&out));
    }
}

#[test]
fn memory_and_cpu_counts_are_checked() {
    let kernel = file("limits", &multiboot(&[0xf4]));
    let kernel = kernel.to_str().unwrap();
    for args in [["--memory", "1K"], ["--memory", "64T"], ["--cpus", "0"], ["--cpus", "100000"], ["--cpu", "pentium9"]]
    {
        let out = run(&["run", "--kernel", kernel, args[0], args[1]]);
        assert_eq!(out.status.code(), Some(125), "{args:?}: {}", stderr(&out));
        assert!(stderr(&out).starts_with("error: "), "{args:?}: {}", stderr(&out));
    }
    let out = run(&["run", "--kernel", kernel, "--memory", "lots"]);
    assert_eq!(out.status.code(), Some(2), "a syntax error is the command line's");
}

#[test]
fn an_unknown_image_names_the_known_one() {
    let out = run(&["run", "tinny"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("tinny") && stderr(&out).contains("visor run tiny"), "{}", stderr(&out));
}

#[test]
fn a_disk_that_is_not_there_is_named() {
    let kernel = file("disk", &multiboot(&[0xf4]));
    let out = run(&["run", "--kernel", kernel.to_str().unwrap(), "--disk", "/nowhere/disk.img"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("/nowhere/disk.img"), "{}", stderr(&out));
}

#[test]
fn the_debug_exit_port_gives_the_status() {
    // mov al, 3; out 0xf4, al; jmp $
    let out = guest(&[0xb0, 3, 0xe6, 0xf4, 0xeb, 0xfe], "exit", &["--debug-exit"]);
    assert_eq!(out.status.code(), Some(7), "{}", stderr(&out));
}

#[test]
fn serial_output_of_a_kernel_is_standard_output() {
    let mut code = vec![0x66, 0xba, 0xf8, 0x03]; // mov dx, 0x3f8
    for b in b"hi\n" {
        code.extend([0xb0, *b, 0xee]); // mov al, b; out dx, al
    }
    code.extend([0xb0, 0, 0xe6, 0xf4]);
    let out = guest(&code, "serial", &["--debug-exit"]);
    assert_eq!((stdout(&out).as_str(), out.status.code()), ("hi\n", Some(1)), "{}", stderr(&out));
}

#[test]
fn a_triple_fault_ends_the_machine_when_reboots_are_off() {
    // lidt [empty table], then ud2. The table lies in the zeroes behind the code.
    let code = [0x0f, 0x01, 0x1d, 0x00, 0x02, 0x10, 0x00, 0x0f, 0x0b];
    let out = guest(&code, "triple", &["--no-reboot", "--timeout", "20s"]);
    assert_eq!(out.status.code(), Some(123), "{}", stderr(&out));
    assert!(stderr(&out).contains("triple fault"), "{}", stderr(&out));
}

#[test]
fn an_endless_reboot_is_ended_by_the_time_limit() {
    let code = [0x0f, 0x01, 0x1d, 0x00, 0x02, 0x10, 0x00, 0x0f, 0x0b];
    let start = Instant::now();
    let out = guest(&code, "reboots", &["--timeout", "2s"]);
    assert_eq!(out.status.code(), Some(124), "{}", stderr(&out));
    assert!(start.elapsed() >= Duration::from_secs(2) && start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_halted_machine_that_nothing_can_wake_is_reported() {
    let out = guest(&[0xfa, 0xf4, 0xeb, 0xfd], "hang", &["--timeout", "20s"]); // cli; hlt
    assert_eq!(out.status.code(), Some(123), "{}", stderr(&out));
    assert!(stderr(&out).contains("halted"), "{}", stderr(&out));
}

#[test]
fn an_endless_loop_obeys_the_time_limit() {
    let out = guest(&[0xeb, 0xfe], "loop", &["--timeout", "1s"]);
    assert_eq!(out.status.code(), Some(124), "{}", stderr(&out));
}
