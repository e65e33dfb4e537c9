//! Machines with names, in the background and in the foreground, through the program as a user runs it.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

#[path = "common/boot.rs"]
mod boot;
mod common;
#[path = "common/home.rs"]
mod home;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use boot::BootSector;
use common::{file, stderr, stdout};
use home::Home;
use serde_json::Value;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(240);

fn kill(pid: u32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A system that listens to its power button, and switches off when it is pressed.
fn obedient(name: &str) -> PathBuf {
    let sector = BootSector::new()
        // mov dx, 602h; mov ax, 100h; out dx, ax
        .code(&[0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef])
        .print("[waiting]\r\n")
        // mov dx, 600h; wait: in ax, dx; test ah, 1; jz wait
        .code(&[0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 1, 0x74, 0xfa])
        .print("[button]\r\n")
        .power_off();
    file(&format!("{name}.img"), &sector.disk("\0"))
}

/// One that listens to it and does nothing.
fn stubborn(name: &str) -> PathBuf {
    let sector = BootSector::new()
        .code(&[0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef])
        .print("[waiting]\r\n")
        // jmp $
        .code(&[0xeb, 0xfe]);
    file(&format!("{name}.img"), &sector.disk("\0"))
}

/// One that shows what is typed, up to Enter.
fn typewriter(name: &str) -> PathBuf {
    // k: mov ah, 0; int 16h; cmp al, 13; je out; mov ah, 0eh; mov bx, 7; int 10h; jmp k; out:
    let echo = [0xb4, 0, 0xcd, 0x16, 0x3c, 13, 0x74, 9, 0xb4, 0x0e, 0xbb, 7, 0, 0xcd, 0x10, 0xeb, 0xef];
    file(&format!("{name}.img"), &BootSector::new().print("name? ").code(&echo).power_off().disk(""))
}

/// One that sends back what comes on its serial port, up to a q.
fn echo(name: &str) -> PathBuf {
    let sector = BootSector::new().print("[echo]\r\n").code(&[
        // SeaBIOS takes what comes meanwhile for its keyboard, until then: cli; mov dx, 3f8h; mov al, '>'; out dx, al
        0xfa, 0xba, 0xf8, 0x03, 0xb0, b'>', 0xee,
        // mov dx, 3fdh; w: in al, dx; test al, 1; jz w; mov dl, f8h; in al, dx; out dx, al; cmp al, 'q'; je end; mov dl, fdh;
        // jmp w; end:
        0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xb2, 0xf8, 0xec, 0xee, 0x3c, 0x71, 0x74, 0x04, 0xb2, 0xfd,
        0xeb, 0xef,
    ]);
    file(&format!("{name}.img"), &sector.power_off().disk(""))
}

#[test]
fn a_machine_is_found_by_its_name_and_stopped_by_its_button() {
    let home = Home::new();
    assert_eq!(home.ls(), Vec::<Value>::new());
    let disk = obedient("m1-1");
    home.launch(&disk, &["--name", "web"]);
    home.wait_for(&["console", "web", "--log"], "[waiting]");
    let ls = home.ls();
    let machine = &ls[0];
    assert_eq!((ls.len(), &machine["name"], &machine["state"]), (1, &"web".into(), &"running".into()));
    let pid = machine["machine"]["pid"].to_string();
    let table = home.ok(&["ls"]);
    assert!(table.lines().nth(1).unwrap().starts_with("web ") && table.contains(&pid), "{table}");

    let refused = home.fails(&["launch", "--disk", text(&stubborn("m1-2")), "--name", "web"]);
    assert!(
        refused.contains(&format!("a machine called `web` runs already (process {pid}, disk m1-1.img)")),
        "{refused}"
    );
    let refused = home.fails(&["run", "--disk", text(&stubborn("m1-3")), "--name", "web"]);
    assert!(refused.contains("visor stop web"), "{refused}");
    let wrong = home.fails(&["stop", "wbe"]);
    assert!(wrong.contains("no machine called `wbe` runs") && wrong.contains("did you mean `web`?"), "{wrong}");
    assert!(home.fails(&["info", "No Name"]).contains("is no name for a machine"));

    assert!(home.ok(&["info", "web"]).contains("boots from   disk m1-1.img"));
    assert_eq!(home.ok(&["pause", "web"]), "web\n");
    assert_eq!(home.ls()[0]["state"], "paused");
    assert!(home.fails(&["type", "web", "x"]).contains("is paused"));
    home.ok(&["resume", "web"]);
    assert_eq!(home.ls()[0]["state"], "running");
    assert_eq!(home.ok(&["-q", "ls"]), "web\n");
    // A machine that stands still is let go on for its last steps.
    home.ok(&["pause", "web"]);
    assert_eq!(home.ok(&["stop", "web", "--timeout", "4m"]), "web\n");
    assert!(home.ls().is_empty());
    assert!(!home.place("web").exists());
}

#[test]
fn the_boot_of_a_machine_can_be_followed() {
    let home = Home::new();
    home.launch(&stubborn("m2-1"), &["--name", "one"]);
    let said = home.ok(&["timeline", "one"]);
    for words in ["power on            at 0xfffffff0", "POST", "boot loader         at 0x7c00"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    let events: Vec<Value> = serde_json::from_str(&home.ok(&["timeline", "one", "--json"])).unwrap();
    assert_eq!(events[0]["phase"], "power on");
    let svg = file("followed.svg", b"");
    home.ok(&["timeline", "one", "--svg", text(&svg)]);
    assert!(std::fs::read_to_string(svg).unwrap().contains("0x7c00"));
    home.ok(&["restart", "one"]);
    home.wait_for(&["timeline", "one"], "reset");
    // It does not listen to its button.
    assert_eq!(home.ok(&["-q", "stop", "one", "--timeout", "1s"]), "one\n");
    assert!(home.ls().is_empty());
}

#[test]
fn the_screen_and_the_keyboard_are_used_live() {
    let home = Home::new();
    home.launch(&typewriter("m3-1"), &["--name", "screen"]);
    home.wait_for(&["screen", "screen"], "name?");
    home.ok(&["type", "screen", "Hello, {World}"]);
    home.wait_for(&["screen", "screen"], "name? Hello, {World}");
    home.ok(&["type", "screen", "--keys", "wait:World", "--keys", "press:shift-a", "--keys", "type:bc"]);
    home.wait_for(&["screen", "screen"], "World}Abc");
    let shot = file("live.png", b"");
    assert!(home.ok(&["screenshot", "screen", text(&shot)]).contains("720 x 400"));
    let png = std::fs::read(&shot).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    assert_eq!(home.run(&["screenshot", "screen", "-"]).stdout[..8], png[..8]);
    assert!(home.fails(&["type", "screen", "é"]).contains("no key of a US keyboard"));
    assert!(home.fails(&["type", "screen", "--key", "hyper-x"]).contains("no key is called"));
    let late = home.fails(&["type", "screen", "--keys", "wait:never", "--timeout", "500ms"]);
    assert!(late.contains("not done after 0.5 s"), "{late}");
    home.ok(&["type", "screen", "--key", "enter"]);
    home.wait_until_gone();
}

#[test]
fn the_console_is_attached_from_elsewhere() {
    let home = Home::new();
    home.launch(&echo("m4-1"), &["--name", "serial"]);
    home.wait_for(&["console", "serial", "--log"], ">");
    let mut console = home
        .command(&["console", "serial"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = console.stdin.take().unwrap();
    typed.write_all(b"some words").unwrap();
    home.wait_for(&["console", "serial", "--log"], "some words");
    // A second one types along, and leaves without an effect.
    let mut other = home.command(&["console", "serial"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    other.stdin.as_mut().unwrap().write_all(b" and more").unwrap();
    home.wait_for(&["console", "serial", "--log"], "some words and more");
    kill(other.id());
    other.wait().unwrap();
    typed.write_all(b"!q").unwrap();
    drop(typed);
    let out = console.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    let said = stdout(&out);
    assert!(said.contains("SeaBIOS (version") && said.ends_with("some words and more!q"), "{said}");
    assert!(stderr(&out).contains("serial has ended"), "{}", stderr(&out));
    home.wait_until_gone();
}

#[test]
fn discs_are_changed_while_the_machine_runs() {
    let home = Home::new();
    home.launch(&stubborn("m5-2"), &["--cd", "--name", "cd"]);
    assert_eq!(home.ok(&["cd", "ls", "cd"]), "sr0: empty\n");
    let (a, b) = (file("a.iso", &[1; 1 << 16]), file("b.iso", &[2; 1 << 16]));
    assert_eq!(home.ok(&["cd", "insert", "cd", text(&a)]), "sr0: a.iso\n");
    // By a path that only means something in the directory of who says it.
    let mut relative = home.command(&["cd", "insert", "cd", "b.iso", "--drive", "sr0"]);
    let out = relative.current_dir(b.parent().unwrap()).output().unwrap();
    assert_eq!(stdout(&out), "sr0: b.iso\n", "{}", stderr(&out));
    assert_eq!(home.ok(&["cd", "ls", "cd"]), "sr0: b.iso\n");
    assert_eq!(home.ok(&["cd", "eject", "cd"]), "sr0: open\n");
    assert_eq!(home.ok(&["cd", "ls", "cd"]), "sr0: open\n");
    assert!(home.fails(&["cd", "insert", "cd", "/nowhere.iso"]).contains("No such file"));
    assert!(home.fails(&["cd", "insert", "cd", text(&a), "--drive", "3"]).contains("the last is sr0"));
    assert_eq!(home.ok(&["cd", "ls", "cd"]), "sr0: open\n");
    home.launch(&obedient("m5-1"), &["--name", "none"]);
    assert!(home.fails(&["cd", "eject", "none"]).contains("no CD-ROM drive"));
    home.ok(&["kill", "cd", "none"]);
    assert!(home.ls().is_empty());
}

#[test]
fn a_machine_that_was_killed_does_not_keep_its_name() {
    let home = Home::new();
    for _ in 0..2 {
        home.launch(&stubborn("m6-1"), &["--name", "web"]);
        let pid = home.ls()[0]["machine"]["pid"].as_u64().unwrap() as u32;
        assert!(home.place("web").join("control.sock").exists());
        kill(pid);
    }
    home.wait_until_gone();
    assert!(home.fails(&["stop", "web"]).contains("no machine called `web` runs"));
    assert!(!home.place("web").exists(), "what it left is removed");
}

#[test]
fn nothing_to_boot_is_told_at_the_launch_and_the_machine_waits() {
    let home = Home::new();
    let blank = file("blank.img", &[0; 1 << 20]);
    let out = home.run(&["launch", "--engine", "soft", "--net", "none", "--disk", text(&blank), "--name", "blank"]);
    assert_eq!((out.status.code(), stdout(&out).as_str()), (Some(0), "blank\n"), "{}", stderr(&out));
    for words in ["the firmware found nothing to boot", "tried: disk blank.img"] {
        assert!(stderr(&out).contains(words), "no {words:?} in {}", stderr(&out));
    }
    assert_eq!(home.ls()[0]["state"], "running");
    // Its firmware does not listen to the button, so the plug is pulled at once.
    let begin = Instant::now();
    home.ok(&["stop", "blank", "--timeout", "10m"]);
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn a_launch_that_fails_says_why() {
    let home = Home::new();
    assert!(home.fails(&["launch", "--disk", "/nowhere.img", "--name", "a"]).contains("/nowhere.img"));
    assert!(home.fails(&["launch", "--disk", text(&stubborn("m8-2")), "--name", "A b"]).contains("small letters"));
    // What only the process in the background finds out.
    let disk = obedient("m8-1");
    let said = home.fails(&["launch", "--engine", "soft", "--cpus", "9999", "--disk", text(&disk), "--name", "a"]);
    assert!(said.contains("error: 9999 CPUs"), "{said}");
    assert!(home.fails(&["info", "a"]).contains("what it said when it ended: error:"));
    assert!(home.ls().is_empty());
}

/// A machine's place whose socket answers `answer` to anything, once for each of `times`.
fn liar(home: &Home, name: &str, answer: Option<Vec<u8>>) -> File {
    let place = home.place(name);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&place).unwrap();
    let lock = File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();
    // Without a process, so that nothing is killed.
    let record = format!(r#"{{"name":"{name}","pid":0,"started":0,"visor":"9","image":"x","memory":0,"cpus":1}}"#);
    std::fs::write(place.join("machine.json"), record).unwrap();
    if let Some(answer) = answer {
        let listener = UnixListener::bind(place.join("control.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1000]);
                let _ = stream.write_all(&answer);
            }
        });
    }
    lock
}

#[test]
fn machines_that_do_not_answer_or_lie_are_reported() {
    let home = Home::new();
    let _refused = liar(&home, "refused", None);
    let _gone = liar(&home, "gone", Some(Vec::new()));
    let _garbage = liar(&home, "garbage", Some(b"hello\n".to_vec()));
    let _long = liar(&home, "long", Some(vec![b'x'; (8 << 20) + 100]));
    let _half = liar(&home, "half", Some(b"{\"v\":1,\"ok\":{\"width\":1},\"payload\":100}\nabc".to_vec()));
    for (name, words) in [
        ("refused", "the machine `refused` does not take requests (yet)"),
        ("gone", "the machine `gone` ended before it answered"),
        ("garbage", "the machine's answer is not understood"),
        ("long", "a line of more than"),
    ] {
        let said = home.fails(&["pause", name]);
        assert!(said.contains(words), "{name}: {said}");
    }
    assert!(home.fails(&["screenshot", "half"]).contains("ended before it answered"));
    let said = home.fails(&["kill", "refused"]);
    assert!(said.contains("does not answer, and its process is not known"), "{said}");
    let ls = home.ls();
    let state = |name: &str| ls.iter().find(|m| m["name"] == name).map(|m| m["state"].as_str().unwrap().to_owned());
    assert_eq!((state("refused"), state("garbage")), (Some("starting".into()), Some("hangs".into())));
}

#[test]
fn a_second_interrupt_ends_a_machine_that_does_not_heed_its_button() {
    let home = Home::new();
    let out = file("second.out", b"");
    let mut child = home
        .command(&["run", "--engine", "soft", "--net", "none", "--timeout", "300s", "--disk", text(&stubborn("m10-1"))])
        .stdout(File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&out).unwrap().contains("[waiting]") {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupt = || {
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    };
    interrupt();
    std::thread::sleep(Duration::from_secs(2));
    // Still waiting for the guest.
    interrupt();
    let begin = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(begin.elapsed() < Duration::from_secs(40), "it waited for the guest");
}

/// Makes sure that the image exists before a test wants it in the background.
fn tiny(home: &Home, name: &str, more: &[&str]) {
    assert!(common::run(&["image", "build", "tiny"]).status.success());
    let mut args = vec!["launch", "tiny", name, "--engine", "soft", "--net", "none"];
    args.extend(more);
    let out = home.run(&args);
    assert_eq!(out.status.code(), Some(0), "{}", stderr(&out));
    assert!(stderr(&out).contains(" > ready "), "{}", stderr(&out));
}

#[test]
fn commands_run_in_a_machine_that_runs() {
    let home = Home::new();
    tiny(&home, "box", &[]);
    assert_eq!(home.ok(&["exec", "box", "uname", "-sm"]), "Linux x86_64\n");
    let out =
        home.run(&["exec", "box", "-e", "A=b", "-w", "/tmp", "--", "sh", "-c", "pwd; echo $A; echo err >&2; exit 7"]);
    assert_eq!((stdout(&out).as_str(), stderr(&out).as_str(), out.status.code()), ("/tmp\nb\n", "err\n", Some(7)));
    let out = home.run(&["exec", "box", "no-such-program"]);
    assert_eq!(out.status.code(), Some(127), "{}", stderr(&out));
    // Both ways at once, far more than any buffer holds.
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut cat = home.command(&["exec", "box", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (cat.stdin.take().unwrap(), data.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let out = cat.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(out.stdout == data, "{} of {} bytes came back", out.stdout.len(), data.len());
    // Two at once; what is left behind by one that is killed ends as well.
    let mut sleeper =
        home.command(&["exec", "box", "sh", "-c", "echo $$ > /run/sleeper; exec sleep 1000"]).spawn().unwrap();
    home.wait_for(&["exec", "box", "cat", "/run/sleeper"], "\n");
    kill(sleeper.id());
    sleeper.wait().unwrap();
    let gone = "kill -0 $(cat /run/sleeper) 2>/dev/null || echo gone";
    home.wait_for(&["exec", "box", "sh", "-c", gone], "gone");
    // Who waits for a command when the machine ends is told.
    let waiter = home.command(&["exec", "box", "sleep", "1000"]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(home.ok(&["stop", "box", "--timeout", "4m"]), "box\n");
    let out = waiter.wait_with_output().unwrap();
    assert!(matches!(out.status.code(), Some(125 | 143 | 129 | 137)), "{:?} {}", out.status.code(), stderr(&out));
    home.wait_until_gone();
}

#[test]
fn a_guest_of_ours_is_shut_down_in_order() {
    let home = Home::new();
    let disk = file("orderly.img", b"");
    File::options().write(true).open(&disk).unwrap().set_len(64 << 20).unwrap();
    tiny(&home, "box", &["--disk", text(&disk)]);
    home.ok(&[
        "exec",
        "box",
        "--",
        "sh",
        "-c",
        "mkfs.ext4 -q -F /dev/sdb && mount /dev/sdb /mnt && echo kept > /mnt/file",
    ]);
    // Not even a guest that has suspended to RAM is just switched off.
    home.ok(&["exec", "box", "--", "sh", "-c", "(sleep 1; echo mem > /sys/power/state) > /dev/null 2>&1 &"]);
    home.wait_for(&["info", "box"], "suspended to RAM");
    home.ok(&["stop", "box", "--timeout", "4m"]);
    let script = "mount -o ro /dev/sdb /mnt && cat /mnt/file";
    let out = home.run(&[
        "run",
        "tiny",
        "--engine",
        "soft",
        "--net",
        "none",
        "--disk",
        text(&disk),
        "--",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(stdout(&out), "kept\n", "{}", stderr(&out));
    // What a command in the background writes is kept, within bounds.
    home.ok(&[
        "launch",
        "tiny",
        "job",
        "--engine",
        "soft",
        "--net",
        "none",
        "--",
        "sh",
        "-c",
        "echo out; sleep 1; echo err >&2; sleep 1000",
    ]);
    home.wait_for(&["console", "job", "--log"], "out\nerr\n");
    home.ok(&["kill", "job"]);
    // Without an agent there is nothing to run commands.
    home.launch(&stubborn("m13"), &["--name", "none"]);
    assert!(home.fails(&["exec", "none", "true"]).contains("no agent in this guest"));
}
