//! Supervision of real processes, below a root in a temporary directory.

use std::fs;
use std::path::PathBuf;

use std::time::Duration;

use super::*;
use crate::sys::Reaped;

/// A manager with unit files; removes its directory at the end.
struct Rig {
    root: PathBuf,
    manager: Manager,
}

impl Rig {
    fn new(name: &str, units: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("visor-manager-{name}-{}", std::process::id()));
        let directory = root.join("usr/lib/systemd/system");
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in units {
            fs::write(directory.join(name), text).unwrap();
        }
        let manager = Manager::new(&root, &root);
        Self { root, manager }
    }

    /// Lets time pass until `done`, reaping this manager's children only: other tests have theirs.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Manager) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done(&mut self.manager) {
            assert!(Instant::now() < end, "never: {what}");
            for pid in self.manager.pids() {
                if let Reaped::Child(pid, status) = sys::reap(Some(pid)) {
                    assert!(self.manager.child_ended(pid, status));
                }
            }
            self.manager.tick(Instant::now());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn answer(&mut self, waiter: Waiter) -> Answer {
        let mut got = None;
        self.until("an answer", |m| {
            got = got.take().or_else(|| m.take_answers().into_iter().find(|(w, _)| *w == waiter).map(|(_, a)| a));
            got.is_some()
        });
        got.unwrap()
    }

    fn state(&mut self, name: &str) -> String {
        let text = self.manager.show(name);
        let line = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().to_owned();
        format!("{}/{}", line("ActiveState="), line("SubState="))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for pid in self.manager.pids() {
            let _ = sys::kill_group(pid, libc::SIGKILL);
            while sys::reap(Some(pid)) == Reaped::Running {}
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

const SLEEPER: &str = "[Unit]\nDescription=Sleeps\n[Service]\nExecStart=sleep 1000\n";

#[test]
fn a_service_starts_and_stops() {
    let mut rig = Rig::new("simple", &[("a.service", SLEEPER)]);
    assert_eq!(rig.state("a"), "inactive/dead");
    rig.manager.start("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    assert_eq!(rig.state("a"), "active/running");
    rig.manager.start("a", Some(2));
    assert_eq!(rig.answer(2), Ok(()), "starting what runs is no error");
    assert_eq!(rig.manager.pids().len(), 1);
    rig.manager.stop("a", Some(3));
    assert_eq!(rig.answer(3), Ok(()));
    assert_eq!(rig.state("a"), "inactive/dead");
    assert!(rig.manager.pids().is_empty());
}

#[test]
fn a_restart_is_a_new_process() {
    let mut rig = Rig::new("restart", &[("a.service", SLEEPER)]);
    rig.manager.restart("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    let before = rig.manager.pids();
    rig.manager.restart("a", Some(2));
    assert_eq!(rig.answer(2), Ok(()));
    assert_ne!(rig.manager.pids(), before);
    assert_eq!(rig.state("a"), "active/running");
}

#[test]
fn oneshot_waits_and_remembers() {
    let once = "[Service]\nType=oneshot\nExecStart=sh -c 'echo one'\nExecStart=sh -c 'echo two'\nRemainAfterExit=yes\n";
    let bad = "[Service]\nType=oneshot\nExecStart=false\nExecStart=sh -c 'echo never'\n";
    let forgiven = "[Service]\nType=oneshot\nExecStart=-false\n";
    let mut rig = Rig::new("oneshot", &[("a.service", once), ("b.service", bad), ("c.service", forgiven)]);
    rig.manager.start("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    assert_eq!(rig.state("a"), "active/exited");
    assert_eq!(fs::read_to_string(log_path(&rig.root, "a.service")).unwrap(), "one\ntwo\n");
    rig.manager.start("b", Some(2));
    assert!(rig.answer(2).unwrap_err().contains("b.service failed"));
    assert_eq!(rig.state("b"), "failed/failed");
    rig.manager.start("c", Some(3));
    assert_eq!(rig.answer(3), Ok(()));
    assert_eq!(rig.state("c"), "inactive/dead");
}

#[test]
fn who_cannot_live_is_given_up() {
    let unit = "[Service]\nExecStart=false\nRestart=always\nRestartSec=1ms\n";
    let mut rig = Rig::new("burst", &[("a.service", unit)]);
    rig.manager.start("a", None);
    rig.until("the end of restarts", |m| m.show("a").contains("ActiveState=failed"));
    assert!(rig.manager.pids().is_empty() && rig.manager.next_deadline().is_none());
    // A person may try again.
    rig.manager.start("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
}

#[test]
fn restart_on_failure_only_after_failure() {
    let unit = |command: &str| format!("[Service]\nExecStart=sh -c '{command}'\nRestart=on-failure\nRestartSec=1h\n");
    let (good, bad) = (unit("exit 0"), unit("exit 3"));
    let mut rig = Rig::new("failure", &[("good.service", &good), ("bad.service", &bad)]);
    rig.manager.start("good", None);
    rig.manager.start("bad", None);
    rig.until("both ended", |m| m.pids().is_empty());
    assert_eq!(rig.state("good"), "inactive/dead");
    assert_eq!(rig.state("bad"), "activating/auto-restart");
    assert!(rig.manager.show("bad").contains("ExecMainStatus=3/FAILURE"));
    rig.manager.stop("bad", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    assert_eq!(rig.state("bad"), "inactive/dead");
}

#[test]
fn who_ignores_the_signal_is_killed() {
    let unit =
        "[Service]\nExecStart=sh -c 'trap \"\" TERM; echo up; while :; do sleep 0.05; done'\nTimeoutStopSec=200ms\n";
    let mut rig = Rig::new("stubborn", &[("a.service", unit)]);
    rig.manager.start("a", None);
    let log = log_path(&rig.root, "a.service");
    rig.until("the trap is set", |_| fs::read_to_string(&log).is_ok_and(|t| t == "up\n"));
    rig.manager.stop("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    assert_eq!(rig.state("a"), "failed/failed");
}

#[test]
fn stop_commands_run_before_the_signal() {
    let root = std::env::temp_dir();
    let unit = "[Service]\nExecStart=sh -c 'trap \"echo signal; exit 0\" TERM; echo up; while :; do sleep 0.02; done'\n\
                ExecStop=sh -c 'echo stopping'\n";
    let mut rig = Rig::new("stop", &[("a.service", unit)]);
    assert!(rig.root.starts_with(root));
    rig.manager.start("a", None);
    let log = log_path(&rig.root, "a.service");
    rig.until("it is up", |_| fs::read_to_string(&log).is_ok_and(|t| t == "up\n"));
    rig.manager.stop("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    let text = fs::read_to_string(&log).unwrap();
    // Some shells also report the `sleep` that the same signal ended.
    let lines: Vec<&str> = text.lines().filter(|l| *l != "Terminated").collect();
    assert_eq!(lines, ["up", "stopping", "signal"]);
    assert_eq!(rig.state("a"), "inactive/dead");
}

#[test]
fn unknown_and_broken_units_are_explained() {
    let mut rig =
        Rig::new("unknown", &[("bad.service", "[Service]\n"), ("gone.service", "[Service]\nExecStart=/no/such\n")]);
    for (name, words) in [
        ("nothing", "Unit nothing.service not found."),
        ("../x", "not valid"),
        ("bad", "no ExecStart="),
        ("gone", "cannot run /no/such"),
    ] {
        rig.manager.start(name, Some(1));
        let answer = rig.answer(1).unwrap_err();
        assert!(answer.contains(words), "{answer}");
    }
    assert!(rig.manager.show("nothing").contains("LoadState=not-found"));
    assert!(rig.manager.list().contains("gone.service\tloaded\tfailed"));
}

#[test]
fn enabled_services_start_in_order() {
    let unit = |name: &str, after: &str| {
        (format!("{name}.service"), format!("[Unit]\nAfter={after}\n[Service]\nExecStart=sleep 1000\n"))
    };
    let units = [unit("a", "b.service"), unit("b", "c.service network.target"), unit("c", "a.service"), unit("d", "")];
    let units: Vec<(&str, &str)> = units.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let mut rig = Rig::new("order", &units);
    let wants = rig.root.join(unit::wants_directory(unit::DEFAULT_TARGET));
    fs::create_dir_all(&wants).unwrap();
    for name in ["a.service", "b.service", "c.service"] {
        std::os::unix::fs::symlink(format!("/usr/lib/systemd/system/{name}"), wants.join(name)).unwrap();
    }
    let names: BTreeSet<String> = unit::enabled(&rig.root).into_iter().collect();
    assert_eq!(order(&rig.root, &names), ["c.service", "b.service", "a.service"], "the circle is cut at its beginning");
    rig.manager.start_enabled();
    assert_eq!(rig.state("b"), "active/running");
    assert_eq!(rig.state("d"), "inactive/dead");
    rig.manager.stop_all();
    rig.until("all stopped", |m| m.pids().is_empty());
}

#[test]
fn forking_services_are_found_by_their_pid_file() {
    let root = std::env::temp_dir().join(format!("visor-fork-{}.pid", std::process::id()));
    let unit =
        format!("[Service]\nType=forking\nPIDFile={0}\nExecStart=sh -c 'sleep 1000 & echo $! >{0}'\n", root.display());
    let mut rig = Rig::new("forking", &[("a.service", &unit)]);
    rig.manager.start("a", Some(1));
    assert_eq!(rig.answer(1), Ok(()));
    assert_eq!(rig.state("a"), "active/running");
    let pid: u32 = fs::read_to_string(&root).unwrap().trim().parse().unwrap();
    assert_eq!(rig.manager.pids(), [pid]);
    // Only PID 1 inherits daemons; here it is told.
    rig.manager.stop("a", Some(2));
    assert!(rig.manager.child_ended(pid, std::os::unix::process::ExitStatusExt::from_raw(libc::SIGTERM)));
    assert_eq!(rig.answer(2), Ok(()));
    let _ = sys::kill(pid, libc::SIGKILL);
    fs::remove_file(root).unwrap();
}
