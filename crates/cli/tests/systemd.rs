//! The power button of a machine as Debian's own userland takes it: systemd-logind hears it and systemd ends the system, which
//! switches the machine off (ACPI's S5). It is pressed by `visor stop` and by the first ctrl-C.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use common::{stderr, visor};
use visor_test_linux::debian::Debian;

/// Many times what anything here takes.
const PATIENCE: Duration = Duration::from_secs(900);

/// The system, made once.
struct System {
    directory: PathBuf,
    debian: Debian,
}

static SYSTEM: LazyLock<System> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("visor-systemd-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    let debian = Debian::new().unwrap();
    debian.write_initrd(&directory.join("initrd")).unwrap();
    System { directory, debian }
});

/// A machine with Debian in the foreground; it ends with the test.
struct Machine {
    child: Child,
    output: PathBuf,
}

impl Machine {
    /// Starts it and waits until somebody could log in, and logind looks at the button.
    fn start(name: &str, more: &[&str]) -> Machine {
        let path = |p: &Path| p.to_str().unwrap().to_owned();
        let (kernel, initrd) = (path(SYSTEM.debian.kernel()), path(&SYSTEM.directory.join("initrd")));
        let output = SYSTEM.directory.join(name);
        let args =
            ["-q", "run", "--engine", "soft", "--net", "none", "--memory", "1G", "--name", name, "--timeout", "900s"];
        let boot = ["--kernel", &kernel, "--initrd", &initrd, "--append", Debian::APPEND];
        let child = here(&[&args[..], &boot, more].concat())
            .stdin(Stdio::null())
            .stdout(File::create(&output).unwrap())
            .spawn()
            .unwrap();
        let mut machine = Machine { child, output };
        machine.wait_for("Watching system buttons on /dev/input/event");
        machine.wait_for("debian login:");
        machine
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap()).into_owned()
    }

    fn wait_for(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.said().contains(words) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "no {words:?}, {ended:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for the end, which must be the guest's own doing; visor exits with `code`.
    fn goes_down(mut self, code: i32) {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < end, "it goes on:\n{}", self.said()),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let said = self.said();
        let mut from = 0;
        for words in ["Power key pressed", "systemd-shutdown", "Preparing to enter system sleep state S5", "Power down"]
        {
            from += said[from..].find(words).unwrap_or_else(|| panic!("no {words:?} at its place:\n{said}"));
        }
        assert_eq!(status.code(), Some(code), "{said}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// visor, with its named machines in the test's own directory.
fn here(args: &[&str]) -> Command {
    let mut command = visor(args);
    command.env("XDG_RUNTIME_DIR", &SYSTEM.directory);
    command
}

#[test]
fn stop_ends_debian_by_its_power_button() {
    let machine = Machine::start("stopped", &[]);
    let out = here(&["stop", "stopped", "--timeout", "600s"]).output().unwrap();
    assert_eq!((out.status.code(), stderr(&out).as_str()), (Some(0), ""));
    machine.goes_down(0);
}

#[test]
fn an_interrupt_presses_debians_power_button() {
    // A guest that can write to a disk is asked before it ends.
    let disk = SYSTEM.directory.join("disk.img");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let machine = Machine::start("interrupted", &["--disk", disk.to_str().unwrap()]);
    let pid = nix::unistd::Pid::from_raw(machine.child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    machine.goes_down(130);
}
