//! Devices: modules for those that are there at the start, and for those that come later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::modules::Loader;
use crate::sys;

/// An event of the kernel about a device, as its variables: `ACTION`, `SUBSYSTEM`, `MODALIAS`, `DEVNAME`, ...
pub(super) type Event = BTreeMap<String, String>;

/// The kernel's device events, and the modules to answer them with.
pub(super) struct Devices {
    socket: Option<fs::File>,
    pub(super) loader: Loader,
    /// SCSI devices get their drivers here, one by one in the order of their events, and not from the kernel.
    in_turn: bool,
}

/// The bus whose disks the kernel names in the order in which their probes run, several at once: as whoever is lucky gets `sda`,
/// they are probed in turn until all that the machine began with have their names.
const SCSI: &str = "/sys/bus/scsi";

impl Devices {
    /// Listens for events. Do this before loading for those present, so that no device falls between the two.
    pub(super) fn open(modules: &Path) -> Self {
        let socket = sys::uevent_socket().map(fs::File::from).ok();
        let mut devices = Self { socket, loader: Loader::open(modules), in_turn: false };
        devices.take_turns();
        devices
    }

    /// Has SCSI devices wait for [`Self::next_event`].
    fn take_turns(&mut self) {
        if self.loader.load("scsi_mod").is_err() && !Path::new(SCSI).exists() {
            return;
        }
        // Whoever loads an adapter's driver waits until all its addresses have been looked at, so that the events are there, in order.
        let _ = fs::write("/sys/module/scsi_mod/parameters/scan", "sync");
        self.in_turn = fs::write(format!("{SCSI}/drivers_autoprobe"), "0").is_ok();
    }

    /// The disks that were there have their names: later ones are the kernel's own business again.
    pub(super) fn end_turns(&mut self) {
        while self.next_event().is_some() {}
        if !std::mem::take(&mut self.in_turn) {
            return;
        }
        let _ = fs::write(format!("{SCSI}/drivers_autoprobe"), "1");
        // What came between the last event and now.
        for device in fs::read_dir(format!("{SCSI}/devices")).into_iter().flatten().flatten() {
            if !device.path().join("driver").exists() {
                probe(&device.file_name().to_string_lossy());
            }
        }
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// Loads modules for the virtio devices that are there: they answer at once, and usually the root is one of them.
    /// Loading a bus brings new devices: those arrive as events.
    pub(super) fn load_virtio(&mut self) {
        for alias in present() {
            if alias.starts_with("virtio:") || alias.starts_with("pci:v00001AF4") {
                self.load(&alias);
            }
        }
    }

    /// Loads modules for all devices that are there, however long their drivers take.
    pub(super) fn load_all(&mut self) {
        for alias in present() {
            self.load(&alias);
        }
    }

    /// Starts a process that loads what [`Self::load_virtio`] left out. An ATA controller, for one, makes whoever loads
    /// its driver wait until it has looked for disks.
    pub(super) fn load_rest_aside(&self) -> io::Result<()> {
        use std::os::unix::process::CommandExt;
        let rest: Vec<String> = present().into_iter().filter(|a| self.loader.has_unloaded(a)).collect();
        if rest.is_empty() {
            return Ok(());
        }
        let mut command = Command::new("/proc/self/exe");
        command.arg0("modprobe").args(["-a", "-q", "--"]).args(rest);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // PID 1 reaps it like any other child.
        sys::unblock_signals_for(&mut command);
        command.spawn().map(drop)
    }

    /// The next event, after loading the module it asks for.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let mut buffer = [0u8; 8192];
        let n = self.socket.as_mut()?.read(&mut buffer).ok()?;
        let event = parse_event(buffer.get(..n).unwrap_or_default());
        if event.get("ACTION").is_some_and(|a| a == "add")
            && let Some(alias) = event.get("MODALIAS")
        {
            self.load(alias);
            if self.in_turn && event.get("DEVTYPE").is_some_and(|t| t == "scsi_device") {
                probe(event.get("DEVPATH").and_then(|p| p.rsplit('/').next()).unwrap_or_default());
            }
        }
        Some(event)
    }

    fn load(&mut self, alias: &str) {
        match self.loader.load(alias) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                super::console::kernel_log(&format!("cannot load a module for {alias}: {e}"));
            }
            // Most devices need no module, or one the image does not carry.
            _ => {}
        }
    }
}

/// Has the kernel find a driver for a SCSI device, and waits until the driver has taken it. Devices that no driver wants are an error.
fn probe(name: &str) {
    let _ = fs::write(format!("{SCSI}/drivers_probe"), name);
}

/// The `MODALIAS` of every device that is there.
fn present() -> BTreeSet<String> {
    let mut aliases = BTreeSet::new();
    for bus in ["pci", "virtio", "scsi"] {
        let devices = fs::read_dir(format!("/sys/bus/{bus}/devices"));
        for device in devices.into_iter().flatten().flatten() {
            let alias = fs::read_to_string(device.path().join("modalias")).unwrap_or_default();
            aliases.insert(alias.trim_end().to_owned());
        }
    }
    aliases
}

/// The variables of an event: strings that end in zero, the first one a headline.
fn parse_event(bytes: &[u8]) -> Event {
    bytes
        .split(|b| *b == 0)
        .filter_map(|s| std::str::from_utf8(s).ok()?.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_its_variables() {
        let e = parse_event(b"add@/devices/x\0ACTION=add\0MODALIAS=virtio:d2v1\0SEQNUM=5\0\xff=1\0");
        assert_eq!(e.get("ACTION").map(String::as_str), Some("add"));
        assert_eq!(e.get("MODALIAS").map(String::as_str), Some("virtio:d2v1"));
        assert_eq!(e.len(), 3);
        assert!(parse_event(b"").is_empty());
    }
}
