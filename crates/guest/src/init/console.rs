//! The console: messages of PID 1, and the shells people type into.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agent::DEFAULT_ENV;
use crate::sys;

/// A shell that ends sooner than this is started again only after a pause, or a broken one would eat the CPU.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Writes a line into the kernel's log, which is shown on the console unless the guest boots quietly.
pub(crate) fn kernel_log(text: &str) {
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // <3>: an error (printk's log levels). One write: each one becomes a record of its own.
        let _ = log.write_all(format!("<3>visor-init: {text}\n").as_bytes());
    }
}

/// The terminals of the console, the serial one first.
pub(super) fn terminals(consoles: &[String]) -> Vec<PathBuf> {
    // tty0 is the screen's visible terminal; its shell belongs on the first one.
    let device = |name: &String| Path::new("/dev").join(if name == "tty0" { "tty1" } else { name });
    let mut paths: Vec<PathBuf> = consoles.iter().map(device).collect();
    paths.push(PathBuf::from("/dev/ttyS0"));
    paths.sort_by_key(|p| !p.to_string_lossy().contains("ttyS"));
    let mut seen = Vec::new();
    paths.retain(|p| {
        p.exists() && !seen.contains(p) && {
            seen.push(p.clone());
            true
        }
    });
    paths
}

/// Prints a line on a terminal, or on the kernel's console when that cannot be opened.
pub(super) fn print(terminal: Option<&PathBuf>, line: &str) {
    let open = |p: &Path| OpenOptions::new().write(true).open(p);
    let file = terminal.and_then(|p| open(p).ok()).or_else(|| open(Path::new("/dev/console")).ok());
    if let Some(mut file) = file {
        // A terminal that is not read by anybody is no reason to stop.
        let _ = file.write_all(format!("{line}\r\n").as_bytes());
    }
}

/// The shell on one terminal; started again whenever it ends.
pub(super) struct Shell {
    terminal: PathBuf,
    pub(super) pid: Option<u32>,
    started: Instant,
    pub(super) due: Option<Instant>,
}

impl Shell {
    pub(super) fn new(terminal: PathBuf) -> Self {
        let now = Instant::now();
        Self { terminal, pid: None, started: now, due: Some(now) }
    }

    /// Starts the shell when it is due.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|t| t <= now) {
            self.due = None;
            self.started = now;
            match self.spawn() {
                Ok(pid) => self.pid = Some(pid),
                Err(error) => {
                    kernel_log(&format!("no shell on {}: {error}", self.terminal.display()));
                    self.due = Some(now + Duration::from_secs(10));
                }
            }
        }
    }

    /// Takes note that the shell has ended.
    pub(super) fn ended(&mut self, now: Instant) {
        self.pid = None;
        let pause = if now.duration_since(self.started) < SHORT_LIFE { SHORT_LIFE } else { Duration::ZERO };
        self.due = Some(now + pause);
    }

    fn spawn(&self) -> std::io::Result<u32> {
        use std::os::unix::process::CommandExt;
        let terminal = sys::open_tty(&self.terminal)?;
        sys::sane_tty(&terminal)?;
        let mut command = Command::new("/bin/sh");
        // A dash in front makes it a login shell, which reads /etc/profile.
        command.arg0("-sh").env_clear().envs(DEFAULT_ENV);
        let serial = self.terminal.to_string_lossy().contains("ttyS");
        command.env("TERM", if serial { "vt220" } else { "linux" });
        command.current_dir(if Path::new("/root").is_dir() { "/root" } else { "/" });
        command.stdin(terminal.try_clone()?).stdout(terminal.try_clone()?).stderr(terminal);
        sys::acquire_tty_for(&mut command);
        command.spawn().map(|child| child.id())
    }
}
