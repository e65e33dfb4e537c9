//! Booting as a PC does, through the firmware of Debian's packages (fetched if the host does not have them), on both engines.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

#[path = "common/boot.rs"]
mod boot;
mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use boot::{BootSector, efi_disk, efi_program};
use common::{file, run, stderr, stdout, visor};

/// Engines that work here.
fn engines() -> &'static [&'static str] {
    let usable = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if usable { &["soft", "kvm"] } else { &["soft"] }
}

fn with<'a>(engine: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "--engine", engine, "--timeout", "600s"];
    args.extend(rest);
    args
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The boot sector of a disk called `name`, which prints and switches off.
fn disk(name: &str) -> PathBuf {
    let sector = BootSector::new().print(&format!("[boot sector of {name}]\r\n")).print_sector_1().power_off();
    file(&format!("{name}.img"), &sector.disk("[read by INT 13h]\r\n\0"))
}

#[test]
fn a_bios_boots_the_boot_sector_of_a_disk() {
    let disk = disk("one");
    for engine in engines() {
        let out = run(&with(engine, &["--disk", text(&disk)]));
        let said = stdout(&out);
        assert_eq!(out.status.code(), Some(0), "{engine}: {said}{}", stderr(&out));
        for words in ["SeaBIOS (version", "Booting from Hard Disk", "[boot sector of one]", "[read by INT 13h]"] {
            assert!(said.contains(words), "{engine}: no {words:?} in {said}");
        }
    }
}

#[test]
fn the_log_is_shown_on_request() {
    let disk = disk("log");
    let out = run(&with("soft", &["-v", "--bus", "virtio", "--disk", text(&disk)]));
    let log = stderr(&out);
    for words in ["firmware: Running on QEMU (i440fx)", "firmware: found virtio-blk at 00:0", "(via xsdt)"] {
        assert!(log.contains(words), "no {words:?} in {log}");
    }
    let out = run(&with("soft", &["--disk", text(&disk)]));
    assert!(!stderr(&out).contains("firmware:"), "{}", stderr(&out));
}

#[test]
fn the_timeline_tells_how_far_the_boot_came() {
    let disk = disk("timeline");
    for engine in engines() {
        let out = run(&with(engine, &["--timeline", "-", "--disk", text(&disk)]));
        let said = stdout(&out);
        let lines: Vec<&str> = said.lines().filter(|l| l.contains(" s  ")).collect();
        let expected =
            ["power on            at 0xfffffff0", "POST", "boot device search", "boot loader         at 0x7c00"];
        assert_eq!(lines.len(), expected.len(), "{engine}: {said}{}", stderr(&out));
        let mut before = 0.0;
        for (line, phase) in lines.iter().zip(expected) {
            assert!(line.ends_with(phase), "{engine}: {line:?} is not {phase:?}");
            let at: f64 = line.trim().split(' ').next().unwrap().parse().unwrap();
            assert!(at >= before, "{engine}: {said}");
            before = at;
        }
    }
    let picture = file("timeline.svg", b"");
    run(&with("soft", &["--timeline", text(&picture), "--disk", text(&disk)]));
    let svg = std::fs::read_to_string(&picture).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("boot loader") && svg.contains("0x7c00"), "{svg}");
}

#[test]
fn disks_are_tried_in_order() {
    let (a, b) = (disk("first"), disk("second"));
    let order = |disks: [&Path; 2], more: &[&str]| {
        let mut args = vec!["--disk", text(disks[0]), "--disk", text(disks[1])];
        args.extend(more);
        run(&with("soft", &args))
    };
    for (disks, boots) in [([&*a, &*b], "first"), ([&*b, &*a], "second")] {
        let out = order(disks, &[]);
        assert!(stdout(&out).contains(&format!("[boot sector of {boots}]")), "{}{}", stdout(&out), stderr(&out));
    }
    let out = order([&a, &b], &["--boot", "disk"]);
    assert!(stdout(&out).contains("[boot sector of first]"), "{}", stdout(&out));
    let out = order([&a, &b], &["--boot", "net"]);
    assert!(!stdout(&out).contains("[boot sector"), "{}", stdout(&out));
    assert_eq!(out.status.code(), Some(125), "{}", stderr(&out));
}

#[test]
fn nothing_to_boot_is_said_with_what_was_tried() {
    let blank = file("empty.img", &[0; 1 << 20]);
    for engine in engines() {
        let out = run(&with(engine, &["--disk", text(&blank)]));
        assert!(stdout(&out).contains("No bootable device."), "{engine}: {}", stdout(&out));
        assert!(stderr(&out).contains("error: the firmware found nothing to boot"), "{}", stderr(&out));
        assert!(stderr(&out).contains("tried: disk empty.img"), "{}", stderr(&out));
        assert_eq!(out.status.code(), Some(125));
    }
    let out = run(&with("soft", &["--firmware", "bios"]));
    assert!(stderr(&out).contains("no device to boot from"), "{}", stderr(&out));
}

/// A disk that was cut off boots what is left, and a read beyond its end fails as on a PC.
#[test]
fn a_disk_smaller_than_its_partition_table_says_ends_where_it_ends() {
    for bus in ["ide", "virtio", "scsi"] {
        let sector = BootSector::new()
            .print_sector_1()
            // mov word [packet + 10], 10h: the sector with number 100001h; mov ah, 42h; mov si, packet; int 13h; jnc $
            .code(&[0xc7, 0x06, 0xca, 0x7d, 0x10, 0x00, 0xb4, 0x42, 0xbe, 0xc0, 0x7d, 0xcd, 0x13, 0x73, 0xfe])
            .print("[no such sector]\r\n")
            .power_off();
        let mut bytes = sector.disk("[the rest is there]\r\n\0");
        // The second partition: Linux, from sector 2048, 1 TiB.
        bytes[0x1d2] = 0x83;
        bytes[0x1d6..0x1de].copy_from_slice(&[0, 8, 0, 0, 0xff, 0xff, 0xff, 0x7f]);
        let disk = file(&format!("cut-{bus}.img"), &bytes);
        let out = run(&with("soft", &["--bus", bus, "--disk", text(&disk)]));
        let said = stdout(&out);
        assert_eq!(out.status.code(), Some(0), "{bus}: {said}{}", stderr(&out));
        for words in ["[the rest is there]", "[no such sector]"] {
            assert!(said.contains(words), "{bus}: no {words} in {said}");
        }
    }
}

/// A boot sector without 55AAh at its end is none.
#[test]
fn a_disk_without_a_boot_signature_is_passed_by() {
    let mut bytes = BootSector::new().print("[never]\r\n").power_off().disk("\0");
    bytes[510] = 0;
    let (bad, good) = (file("unsigned.img", &bytes), disk("signed"));
    let out = run(&with("soft", &["--disk", text(&bad)]));
    assert!(!stdout(&out).contains("[never]") && stdout(&out).contains("No bootable device."), "{}", stdout(&out));
    assert!(stderr(&out).contains("tried: disk unsigned.img"), "{}", stderr(&out));
    assert!(stderr(&out).contains("a disk needs a boot sector"), "{}", stderr(&out));
    assert_eq!(out.status.code(), Some(125));
    // UEFI says so in its own words.
    let out = run(&with("soft", &["--firmware", "uefi", "--net", "none", "--disk", text(&bad)]));
    assert!(stderr(&out).contains("error: the firmware found nothing to boot"), "{}", stderr(&out));
    assert_eq!(out.status.code(), Some(125));
    let out = run(&with("soft", &["--disk", text(&good)]));
    assert!(stdout(&out).contains("[boot sector of signed]"), "{}", stdout(&out));
}

#[test]
fn every_kind_of_reset_goes_through_the_firmware_again() {
    // Port CF9h; the keyboard controller; a triple fault.
    let ways: [(&str, &[u8]); 3] = [
        ("cf9", &[0xba, 0xf9, 0x0c, 0xb0, 6, 0xee]),
        ("8042", &[0xb0, 0xfe, 0xe6, 0x64]),
        // push 0 four times; lidt [sp]; int 3
        ("triple", &[0x6a, 0, 0x6a, 0, 0x6a, 0, 0x89, 0xe5, 0x36, 0x0f, 0x01, 0x5e, 0, 0xcc]),
    ];
    for (name, reset) in ways {
        // mov al, 60h; out 70h, al; in al, 71h; cmp al, 1; je again; mov al, 1; out 71h, al
        let again = 4 + reset.len() as u8 + 2;
        let sector = BootSector::new()
            .print("[started]\r\n")
            .code(&[0xb0, 0x60, 0xe6, 0x70, 0xe4, 0x71, 0x3c, 1, 0x74, again, 0xb0, 1, 0xe6, 0x71])
            .code(reset)
            .code(&[0xeb, 0xfe])
            .print("[again]\r\n")
            .power_off();
        let disk = file(&format!("{name}.img"), &sector.disk("\0"));
        let out = run(&with("soft", &["--disk", text(&disk)]));
        let said = stdout(&out);
        assert_eq!(out.status.code(), Some(0), "{name}: {said}{}", stderr(&out));
        assert_eq!(said.matches("SeaBIOS (version").count(), 2, "{name}: {said}");
        assert_eq!(said.matches("[started]").count(), 2, "{name}: {said}");
        assert!(said.ends_with("[again]\r\n"), "{name}: {said}");
        let out = run(&with("soft", &["--no-reboot", "--disk", text(&disk)]));
        assert!(!stdout(&out).contains("[again]"), "{name}: {}", stdout(&out));
    }
}

#[test]
fn an_interrupt_presses_the_power_button_first() {
    // Enables the button, waits for it, says so and switches off.
    let sector = BootSector::new()
        // mov dx, 602h; mov ax, 100h; out dx, ax
        .code(&[0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef])
        .print("[waiting]\r\n")
        // mov dx, 600h; wait: in ax, dx; test ah, 1; jz wait
        .code(&[0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 1, 0x74, 0xfa])
        .print("[button]\r\n")
        .power_off();
    let disk = file("button.img", &sector.disk("\0"));
    let out = file("button.out", b"");
    let output = std::fs::File::create(&out).unwrap();
    let mut child = visor(&with("soft", &["--disk", text(&disk)])).stdout(output).spawn().unwrap();
    let said = || std::fs::read_to_string(&out).unwrap();
    let end = Instant::now() + Duration::from_secs(600);
    while !said().contains("[waiting]") {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "{}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert!(said().contains("[button]"), "{}", said());
    assert_eq!(status.code(), Some(130));
}

#[test]
fn uefi_boots_a_program_and_keeps_its_variables() {
    let disk = file("efi.img", &efi_disk(&efi_program("variable was kept\r\n", "variable is new\r\n")));
    let vars = std::env::temp_dir().join(format!("visor-test-{}", std::process::id())).join("vars.fd");
    let _ = std::fs::remove_file(&vars);
    // Not KVM: hosts that are guests themselves often cannot execute OVMF's first instructions, with other hypervisors either.
    let boot = |more: &[&str]| {
        let mut args = vec!["--firmware", "uefi", "--disk", text(&disk)];
        args.extend(more);
        let out = run(&with("soft", &args));
        assert_eq!(out.status.code(), Some(0), "{}{}", stdout(&out), stderr(&out));
        stdout(&out)
    };
    let keep = ["--efi-vars", text(&vars)];
    assert!(boot(&keep).contains("variable is new"));
    assert!(boot(&keep).contains("variable was kept"));
    assert!(boot(&[]).contains("variable is new"), "forgotten without a file");
    // A machine with a name keeps its own.
    let data = std::env::temp_dir().join(format!("visor-test-{}", std::process::id())).join("data");
    let named = |name: &str| {
        let args = with("soft", &["--firmware", "uefi", "--net", "none", "--disk", text(&disk), "--name", name]);
        let out = visor(&args).env("XDG_DATA_HOME", &data).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}{}", stdout(&out), stderr(&out));
        stdout(&out)
    };
    let name = |n: u32| format!("vars-{}-{n}", std::process::id());
    assert!(named(&name(1)).contains("variable is new"));
    assert!(named(&name(1)).contains("variable was kept"));
    assert!(named(&name(2)).contains("variable is new"));
    std::fs::write(&vars, [0; 1000]).unwrap();
    let out = run(&with("soft", &["--firmware", "uefi", "--efi-vars", text(&vars)]));
    assert!(stderr(&out).contains("has 1000 bytes, but UEFI variables have"), "{}", stderr(&out));
    assert_eq!(out.status.code(), Some(125));
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let kernel = file("kernel", &common::multiboot(&[0xf4]));
    let kernel = text(&kernel);
    for (args, words) in [
        (&["--kernel", kernel, "--boot", "disk"][..], "passes no firmware"),
        (&["--kernel", kernel, "--firmware", "bios"], "a BIOS boots no kernel"),
        (&["--firmware", "bios", "--efi-vars", "x"], "--efi-vars needs UEFI"),
    ] {
        let out = run(&with("soft", args));
        assert!(stderr(&out).contains(words), "{args:?}: {}", stderr(&out));
        assert_eq!(out.status.code(), Some(125), "{args:?}");
    }
}
