//! Encrypted disks as a user makes and uses them, with `cryptsetup` as the outside judge. Needs cryptsetup-bin and qemu-utils.
#![allow(missing_docs, clippy::unwrap_used, dead_code)]

mod common;
#[path = "common/disks.rs"]
mod disks;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use common::{stdout, visor};
use disks::Home;

/// A file with a key.
fn key(home: &Home, name: &str, content: &[u8]) -> String {
    home.file(name, content).to_str().unwrap().to_owned()
}

fn cryptsetup_opens(path: &str, key: &str) -> bool {
    let args = ["luksOpen", "--test-passphrase", "--key-file", key, path];
    Command::new("cryptsetup").args(args).output().unwrap().status.success()
}

#[test]
fn keys_of_a_disk_and_cryptsetup_agree() {
    let home = Home::of_disks("encrypt-keys");
    let (one, two) = (key(&home, "one", b"first key\n"), key(&home, "two", b"\0second"));
    home.ok(&["create", "s", "--size", "8M", "--encrypt", "--key-file", &one]);
    let path = home.disk("s.luks");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let path = path.to_str().unwrap();
    assert!(cryptsetup_opens(path, &one) && !cryptsetup_opens(path, &two));
    home.ok(&["key", "add", "s", "--key-file", &one, "--new-key-file", &two]);
    assert!(cryptsetup_opens(path, &two));
    let keys: serde_json::Value = serde_json::from_str(&home.ok(&["key", "ls", "s", "--json"])).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(keys["encryption"]["cipher"], "aes-xts-plain64");
    assert!(
        home.fails(&["key", "add", "s", "--key-file", "/etc/hostname", "--new-key-file", &two]).contains("no key slot")
    );
    home.ok(&["key", "rm", "s", "0"]);
    assert!(!cryptsetup_opens(path, &one) && cryptsetup_opens(path, &two));
    assert!(home.fails(&["key", "rm", "s", "1"]).contains("--last"));
    let list = home.ok(&["ls"]);
    assert!(list.lines().any(|l| l.starts_with("s ")), "{list}");
    let info: serde_json::Value = serde_json::from_str(&home.ok(&["info", "s", "--json"])).unwrap();
    assert_eq!(info["encryption"]["format"], "luks2");
    assert!(home.fails(&["create", "t", "--size", "8M", "--encrypt"]).contains("--key-file FILE"));
    assert!(!home.disk("t.luks").exists(), "nothing is left behind");
    assert!(home.fails(&["create", "./x.raw", "--size", "8M", "--encrypt", "--key-file", &one]).contains(".luks"));
}

#[test]
fn data_goes_in_and_comes_out() {
    let home = Home::of_disks("encrypt-copy");
    let key = key(&home, "k", b"a key");
    let plain: Vec<u8> = (0..5 << 20).map(|i: u32| (i / 512 * 7) as u8).collect();
    std::fs::write(home.0.join("plain.raw"), &plain).unwrap();
    home.ok(&["convert", "./plain.raw", "s", "--encrypt", "--key-file", &key]);
    let cipher = std::fs::read(home.disk("s.luks")).unwrap();
    assert!(!cipher.windows(512).any(|w| w == &plain[512..1024]));
    assert!(home.fails(&["convert", "s", "./back.raw", "--format", "raw"]).contains("nobody to ask"));
    home.ok(&["convert", "s", "./back.raw", "--format", "raw", "--source-key-file", &key]);
    assert!(std::fs::read(home.0.join("back.raw")).unwrap() == plain);
    home.ok(&["clone", "s", "s2"]);
    assert!(cryptsetup_opens(home.disk("s2.luks").to_str().unwrap(), &key));
    assert!(home.fails(&["convert", "./plain.raw", "./y.luks"]).contains("--encrypt"));
    // As qcow2, with a key in the keyring.
    home.ok(&["create", "q", "--size", "8M", "--encrypt", "--format", "qcow2", "--keyring"]);
    let keys: Vec<_> = std::fs::read_dir(home.0.join("data/visor/keys")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(std::fs::metadata(&keys[0]).unwrap().permissions().mode() & 0o777, 0o600);
    home.ok(&["convert", "q", "./q.raw", "--format", "raw"]);
    assert_eq!(std::fs::metadata(home.0.join("q.raw")).unwrap().len(), 8 << 20);
    std::fs::set_permissions(&keys[0], PermissionsExt::from_mode(0o644)).unwrap();
    assert!(home.fails(&["convert", "q", "./q2.raw"]).contains("others may read"));
}

#[test]
fn an_encrypted_disk_is_served_in_clear_and_its_key_stays_here() {
    let home = Home::of_disks("encrypt-serve");
    let secret = b"the key nobody shall see";
    let key = key(&home, "k", secret);
    home.ok(&["create", "s", "--size", "8M", "--encrypt", "--key-file", &key]);
    let socket = home.0.join("sock");
    let mut command = visor(&["disk", "serve", "s", "--socket", socket.to_str().unwrap(), "--key-file", &key]);
    command
        .env("XDG_DATA_HOME", home.0.join("data"))
        .env("VISOR_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(server.stdout.as_mut().unwrap()), &mut line).unwrap();
    let io = ["-f", "raw", "-c", "write -P 7 1M 1M", "-c", "flush", "-c", "read -P 7 1M 1M", line.trim()];
    let out = Command::new("qemu-io").args(io).output().unwrap();
    assert!(out.status.success() && !stdout(&out).contains("failed"), "{}", stdout(&out));
    // No core dump, and nothing in the arguments or the environment.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    for what in ["cmdline", "environ"] {
        let bytes = std::fs::read(format!("/proc/{}/{what}", server.id())).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret));
    }
    assert!(Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap().success());
    let out = server.wait_with_output().unwrap();
    assert!(out.status.success() && !out.stderr.windows(secret.len()).any(|w| w == secret));
    let file = std::fs::read(home.disk("s.luks")).unwrap();
    assert!(!file.windows(64).any(|w| w == [7; 64]));
}

#[test]
fn a_person_is_asked_at_the_terminal() {
    let home = Home::of_disks("encrypt-ask");
    // script(1) gives the program a terminal.
    let ask = |args: &str, typed: &[u8]| {
        let exe = visor(&[]).get_program().to_str().unwrap().to_owned();
        let mut child = Command::new("script")
            .args(["-qec", &format!("{exe} disk {args}"), "/dev/null"])
            .env("XDG_DATA_HOME", home.0.join("data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // What is typed before the question is thrown away: wait for each.
        let mut out = child.stdout.take().unwrap();
        let mut seen = String::new();
        for line in typed.split_inclusive(|b| *b == b'\n' || *b == 3) {
            while !seen.ends_with(": ") {
                let mut byte = [0];
                if std::io::Read::read(&mut out, &mut byte).unwrap() == 0 {
                    break;
                }
                seen.push(byte[0] as char);
            }
            seen.push('|');
            stdin.write_all(line).unwrap();
        }
        let _ = std::io::Read::read_to_string(&mut out, &mut seen);
        (child.wait().unwrap().success(), seen)
    };
    let (done, seen) = ask("create s --size 8M --encrypt", b"pass word\npass word\n");
    assert!(done && !seen.contains("pass word"), "{seen}");
    let key = key(&home, "k", b"pass word");
    assert!(cryptsetup_opens(home.disk("s.luks").to_str().unwrap(), &key));
    let (done, seen) = ask(&format!("convert s {}/out.raw --format raw", home.0.display()), b"wrong\npass word\n");
    assert!(done && seen.contains("that is not it"), "{seen}");
    let (done, seen) = ask("create t --size 8M --encrypt", b"one\nother\n");
    assert!(!done && seen.contains("not the same") && !home.disk("t.luks").exists(), "{seen}");
    let (done, seen) = ask("create t --size 8M --encrypt", b"\x03");
    assert!(!done && seen.contains("stopped"), "{seen}");
}
