//! The end: services, processes, file systems, power.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::console;
use crate::service::manager::Manager;
use crate::sys::{self, Power, Reaped};

/// How long processes may take to end after SIGTERM, and after SIGKILL.
const TERM_PATIENCE: Duration = Duration::from_secs(3);
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// What a signal to PID 1 asks for; the same signals as busybox's init.
pub(super) fn wanted(signo: i32) -> Option<Power> {
    match signo {
        libc::SIGUSR1 => Some(Power::Halt),
        libc::SIGUSR2 | libc::SIGPWR => Some(Power::Off),
        // SIGINT: ctrl-alt-del.
        libc::SIGTERM | libc::SIGINT => Some(Power::Restart),
        _ => None,
    }
}

/// Stops everything and does not come back.
pub(super) fn perform(what: Power, manager: &mut Manager, terminal: Option<&PathBuf>) -> ! {
    let words = match what {
        Power::Off => "Powering off",
        Power::Restart => "Restarting",
        Power::Halt => "Halting",
    };
    console::print(terminal, &format!("\r\n{words}."));
    manager.stop_all();
    wait_for_services(manager, TERM_PATIENCE);
    // Shells ignore SIGTERM and obey SIGHUP.
    let _ = sys::kill_everyone(libc::SIGTERM);
    let _ = sys::kill_everyone(libc::SIGHUP);
    let _ = sys::kill_everyone(libc::SIGCONT);
    if !wait_for_all(TERM_PATIENCE) {
        let _ = sys::kill_everyone(libc::SIGKILL);
        wait_for_all(KILL_PATIENCE);
    }
    sys::sync();
    unmount_all();
    sys::sync();
    let error = sys::power(what);
    console::print(terminal, &format!("The kernel refused: {error}."));
    loop {
        sleep(Duration::from_secs(3600));
    }
}

/// Services stop by their own commands; what is left gets the signals that everybody gets.
fn wait_for_services(manager: &mut Manager, patience: Duration) {
    let end = Instant::now() + patience;
    while !manager.pids().is_empty() && Instant::now() < end {
        match sys::reap(None) {
            Reaped::Child(pid, status) => drop(manager.child_ended(pid, status)),
            Reaped::Running => sleep(Duration::from_millis(5)),
            Reaped::None => return,
        }
        manager.tick(Instant::now());
    }
}

/// Waits until no child is left; all processes are children of PID 1 once their parents are gone.
fn wait_for_all(patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        match sys::reap(None) {
            Reaped::None => return true,
            Reaped::Child(..) => {}
            Reaped::Running if Instant::now() >= end => return false,
            Reaped::Running => sleep(Duration::from_millis(5)),
        }
    }
}

fn unmount_all() {
    let table = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for point in table.lines().rev().filter_map(|l| l.split(' ').nth(1)) {
        let keep = ["/", "/proc", "/sys", "/dev"].contains(&point);
        if !keep {
            let _ = sys::umount(Path::new(&unescape(point)), false);
        }
    }
    let _ = sys::mount("", Path::new("/"), "", libc::MS_REMOUNT | libc::MS_RDONLY, "");
}

/// `/proc/mounts` writes spaces and the like as octal numbers.
fn unescape(field: &str) -> String {
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten().and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_those_of_busybox() {
        assert_eq!(wanted(libc::SIGUSR1), Some(Power::Halt));
        assert_eq!(wanted(libc::SIGUSR2), Some(Power::Off));
        assert_eq!(wanted(libc::SIGTERM), Some(Power::Restart));
        assert_eq!(wanted(libc::SIGCHLD), None);
    }

    #[test]
    fn mount_points_are_unescaped() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\9"), "/a\\9");
    }
}
