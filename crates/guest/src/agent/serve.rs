//! The agent in a real guest: finds its virtio-console port and serves it for ever.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Agent, Platform};
use crate::protocol::{PORT_NAME, ShutdownKind};
use crate::sys::{self, PollSet, Power, SignalFd};

/// Signals PID 1 understands, the same as those of busybox's init.
const SIGNAL_OFF: i32 = libc::SIGUSR2;
const SIGNAL_RESTART: i32 = libc::SIGTERM;

/// The device of the port named [`PORT_NAME`], if the machine has one.
pub fn find_port() -> Option<PathBuf> {
    let named = Path::new("/dev/virtio-ports").join(PORT_NAME);
    if named.exists() {
        return Some(named);
    }
    // Without udev nobody makes that link.
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let found = ports.flatten().find(|p| {
        let name = fs::read_to_string(p.path().join("name")).unwrap_or_default();
        name.trim_end() == PORT_NAME
    })?;
    Some(Path::new("/dev").join(found.file_name())).filter(|p| p.exists())
}

/// Serves the port at `path`, one session after the other. Returns only when the port is gone.
///
/// # Errors
/// When the port cannot be opened or read.
pub fn serve_port(path: &Path, console: &Path) -> io::Result<()> {
    sys::ignore_sigpipe();
    let mut changes = SignalFd::new(&[libc::SIGIO])?;
    let mut port = sys::open_rw_nonblocking(path)?;
    sys::request_sigio(&port)?;
    let mut agent = Agent::new(Guest { console: console.to_owned() });
    loop {
        if host_is_there(&port)? {
            agent.serve(&mut port)?;
        }
        wait_for_host(&port, &mut changes)?;
    }
}

fn host_is_there(port: &File) -> io::Result<bool> {
    let mut set = PollSet::new();
    let at = set.add(port, true, false);
    set.wait(Some(Duration::ZERO))?;
    Ok(!set.result(at).hangup)
}

fn wait_for_host(port: &File, changes: &mut SignalFd) -> io::Result<()> {
    while changes.next_signal().is_some() {}
    while !host_is_there(port)? {
        let mut set = PollSet::new();
        set.add(changes, true, false);
        // The signal is what wakes us; the pause is for a kernel that does not send it.
        set.wait(Some(Duration::from_secs(2)))?;
        while changes.next_signal().is_some() {}
    }
    Ok(())
}

/// The machine this program runs on.
struct Guest {
    console: PathBuf,
}

impl Platform for Guest {
    fn shutdown(&mut self, kind: ShutdownKind) -> io::Result<()> {
        let (signal, power) = match kind {
            ShutdownKind::PowerOff => (SIGNAL_OFF, Power::Off),
            ShutdownKind::Reboot => (SIGNAL_RESTART, Power::Restart),
        };
        sys::kill(1, signal).inspect_err(|_| {
            // No PID 1 that could do it in order: better hard than not at all.
            sys::sync();
            let _ = sys::power(power);
        })
    }

    fn set_clock(&mut self, secs: i64, nanos: u32) -> io::Result<()> {
        sys::set_clock(secs, nanos)
    }

    fn resize_console(&mut self, cols: u16, rows: u16) -> io::Result<()> {
        sys::resize_tty(&sys::open_tty(&self.console)?, cols, rows)
    }
}
