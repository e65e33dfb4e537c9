//! Discs and bare machines as a user has them: an image that others use, one that is a disk as well, a machine without software that
//! gets its first disc, disks that are made by their size, and what a start says of itself.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

#[path = "common/boot.rs"]
mod boot;
mod common;
#[path = "common/home.rs"]
mod home;

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use boot::BootSector;
use common::{file, run, stderr, stdout, visor};
use home::Home;
use nix::fcntl::{FcntlArg, fcntl};
use visor_image::{ImageStore, Silent, Unpacked};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(240);

fn kill(pid: u32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A disc that boots by a BIOS, prints `words` and switches off.
fn disc(name: &str, words: &str) -> PathBuf {
    let tree = file(&format!("{name}.marker"), b"").with_file_name(format!("{name}-tree"));
    std::fs::create_dir_all(&tree).unwrap();
    let loader = BootSector::new().print(words).power_off().disk("");
    std::fs::write(tree.join("loader"), &loader[..2048]).unwrap();
    let iso = tree.with_file_name(format!("{name}.iso"));
    let _ = std::fs::remove_file(&iso);
    let made =
        run(&["-q", "iso", "make", text(&tree), "-o", text(&iso), "--bios-boot", "loader", "--no-boot-info-table"]);
    assert!(made.status.success(), "{}", stderr(&made));
    iso
}

/// A disk whose system says `[waiting]` and does nothing.
fn waiting(name: &str) -> PathBuf {
    file(&format!("{name}.img"), &BootSector::new().print("[waiting]\r\n").code(&[0xeb, 0xfe]).disk(""))
}

/// Whether somebody else may lock the file, whole and in both ways that there are.
fn lockable(file: &File) -> bool {
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    file.try_lock().is_ok() && fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).is_ok()
}

/// What others see of a file.
fn seen(path: &Path) -> (u32, u32, u32, i64, i64, Vec<u8>) {
    let m = std::fs::metadata(path).unwrap();
    (m.uid(), m.gid(), m.mode(), m.mtime(), m.mtime_nsec(), std::fs::read(path).unwrap())
}

#[test]
fn a_disc_belongs_to_nobody() {
    let home = Home::new();
    let iso = disc("shared", "[from the disc]\r\n");
    let other = File::options().read(true).write(true).open(&iso).unwrap();
    std::fs::set_permissions(&iso, std::fs::Permissions::from_mode(0o444)).unwrap();
    let before = seen(&iso);
    // Somebody writes it, burns it, has it in another machine: they have locked it, and it is used all the same.
    assert!(lockable(&other), "nobody has it yet");
    let boot = ["run", "--engine", "soft", "--net", "none", "--timeout", "240s", "--iso", text(&iso)];
    let out = run(&boot);
    assert_eq!(out.status.code(), Some(0), "{}{}", stdout(&out), stderr(&out));
    assert!(stdout(&out).contains("[from the disc]"), "{}", stdout(&out));
    drop(other);
    // And a machine that has it keeps nobody from it, another machine neither.
    home.launch(&waiting("shared-1"), &["--iso", text(&iso), "--name", "one"]);
    home.wait_for(&["console", "one", "--log"], "[waiting]");
    assert_eq!(home.ok(&["cd", "ls", "one"]), "sr0: shared.iso\n");
    std::fs::set_permissions(&iso, std::fs::Permissions::from_mode(0o644)).unwrap();
    let third = File::options().read(true).write(true).open(&iso).unwrap();
    std::fs::set_permissions(&iso, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert!(lockable(&third), "the machine has locked its disc");
    assert_eq!(run(&boot).status.code(), Some(0), "a second machine reads it too");
    home.ok(&["kill", "one"]);
    assert!(seen(&iso) == before, "owner, mode, times and contents are as they were");
}

/// Images that boot from a disc and from a stick: here GRUB's rescue disc, as a disk.
#[test]
fn a_hybrid_image_boots_as_a_disk() {
    let store = ImageStore::open(&ImageStore::default_directory());
    let packages = Unpacked::get(&store, &["grub-rescue-pc"], &mut Silent).unwrap();
    let iso = packages.directory().join("usr/lib/grub-rescue/grub-rescue-cdrom.iso");
    let info: serde_json::Value = serde_json::from_slice(&run(&["iso", "info", "--json", text(&iso)]).stdout).unwrap();
    assert_eq!(info["hybrid"]["code"], true, "{info}");
    let screen = file("hybrid.txt", b"");
    let disk = format!("{},ro", text(&iso));
    let args = ["run", "--engine", "soft", "--net", "none", "--timeout", "240s", "--disk", &disk];
    let keys = ["--screen-text", text(&screen), "--keys", "wait:GNU GRUB", "--keys", "end"];
    let out = run(&[&args[..], &keys].concat());
    let said = std::fs::read_to_string(&screen).unwrap();
    assert_eq!(out.status.code(), Some(0), "{said}{}", stderr(&out));
    assert!(said.contains("GNU GRUB"), "{said}");
}

/// A machine without software: it says so, and what it needs; with a disc it starts.
#[test]
fn a_bare_machine_gets_its_first_disc() {
    let home = Home::new();
    let out = home.run(&["launch", "--empty", "bare", "--engine", "soft", "--net", "none"]);
    assert_eq!((out.status.code(), stdout(&out).as_str()), (Some(0), "bare\n"), "{}", stderr(&out));
    for words in ["the firmware found nothing to boot", "can do nothing", "visor cd insert bare FILE.iso"] {
        assert!(stderr(&out).contains(words), "no {words:?} in {}", stderr(&out));
    }
    assert!(home.ok(&["screen", "bare"]).contains("No bootable device."));
    assert_eq!(home.ls()[0]["machine"]["image"], "empty machine");
    home.ok(&["cd", "insert", "bare", text(&disc("first", "[installer]\r\n"))]);
    home.ok(&["restart", "bare"]);
    home.wait_until_gone();
    let out = run(&["run", "--empty", "--engine", "soft", "--net", "none", "--timeout", "240s"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("--iso FILE.iso --disk 20G"), "{}", stderr(&out));
    assert_eq!(run(&["run", "--empty", "--kernel", "x"]).status.code(), Some(2));
}

/// `visor` with a folder of its own for disks.
fn with_disks(home: &Home, args: &[&str]) -> Output {
    home.command(args).env("XDG_DATA_HOME", &home.0).output().unwrap()
}

#[test]
fn a_disk_is_made_by_its_size_and_stays() {
    let home = Home::new();
    let iso = disc("sized+1", "[from the disc]\r\n");
    let args = ["run", "--engine", "soft", "--net", "none", "--timeout", "240s", "--iso", text(&iso), "--disk", "64M"];
    let out = with_disks(&home, &args);
    assert_eq!(out.status.code(), Some(0), "{}{}", stdout(&out), stderr(&out));
    assert!(
        stderr(&out).contains("made the disk sized-1 (64.0 MiB, dynamic); it stays: --disk sized-1"),
        "{}",
        stderr(&out)
    );
    assert!(stdout(&with_disks(&home, &["disk", "info", "sized-1"])).contains("64.0 MiB"));
    // The next one does not take it over.
    assert_eq!(with_disks(&home, &args).status.code(), Some(0));
    let list = stdout(&with_disks(&home, &["disk", "ls"]));
    assert!(list.contains("sized-1 ") && list.contains("sized-1-2 "), "{list}");
    // A machine's disk has its name; there is one.
    let launch = ["launch", "--engine", "soft", "--net", "none", "--iso", text(&iso), "box", "--disk", "1G"];
    let out = with_disks(&home, &launch);
    assert!(out.status.success(), "{}", stderr(&out));
    home.wait_until_gone();
    let out = with_disks(&home, &launch);
    assert_eq!(out.status.code(), Some(125));
    assert!(
        stderr(&out).contains("there is a disk `box` already") && stderr(&out).contains("--disk box"),
        "{}",
        stderr(&out)
    );
    // What cannot start leaves nothing.
    let out = with_disks(&home, &["run", "--iso", "/nowhere.iso", "--disk", "2G"]);
    assert_eq!(out.status.code(), Some(125));
    let list = stdout(&with_disks(&home, &["disk", "ls"]));
    assert!(list.contains("box ") && !list.contains("nowhere"), "{list}");
}

#[test]
fn a_start_is_told_in_one_line_and_a_time_limit_tells_how_far_it_came() {
    let disk = waiting("told");
    let args = ["run", "--engine", "soft", "--net", "none", "--disk", text(&disk), "--timeout"];
    // Once it waits, nothing more comes.
    let out = File::create(file("told.out", b"")).unwrap();
    let mut child = visor(&[&args[..], &["120s"]].concat());
    let mut child = child.stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(file_of("told.out")).unwrap().contains("[waiting]") {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(50));
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT).unwrap();
    let said = stderr(&child.wait_with_output().unwrap());
    let line = said.lines().next().unwrap();
    assert!(line.starts_with("starting disk told.img > power on 0.00 > POST "), "{said}");
    assert!(line.contains(" > boot device search ") && line.contains(" > boot loader "), "{said}");
    assert_eq!(said.matches(" > ").count(), 4, "{said}");
    let out = run(&[&args[..], &["100ms", "-q"]].concat());
    assert_eq!(out.status.code(), Some(124));
    let said = stderr(&out);
    assert!(said.starts_with("error: the time limit of 0.1 s is over\n  the boot came to: "), "{said}");
}

fn file_of(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("visor-test-{}", std::process::id())).join(name)
}
