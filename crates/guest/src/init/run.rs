//! The main loop of PID 1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cmdline::{Address, Cmdline};
use super::console::{self, Shell, kernel_log};
use super::devices::{Devices, Event};
use super::{mounts, root, shutdown};
use crate::agent::find_port;
use crate::modules::TABLE_NAME;
use crate::service::control::{SOCKET, Server};
use crate::service::manager::Manager;
use crate::sys::{self, PollSet, Reaped, SignalFd};

/// Pause before an agent that ended is started again.
const AGENT_PAUSE: Duration = Duration::from_millis(500);
/// How long after an interface was given its address in advance the DHCP client is started: not while the first command runs.
const DHCP_LATER: Duration = Duration::from_secs(3);
/// Tells the script of the DHCP client that the interface in it must not lose its address.
const PRESET: &str = "/run/visor-preset";

/// Everything PID 1 looks after.
struct Init {
    cmdline: Cmdline,
    terminals: Vec<PathBuf>,
    devices: Devices,
    signals: SignalFd,
    manager: Manager,
    server: Option<Server>,
    shells: Vec<Shell>,
    agent: Option<u32>,
    agent_due: Option<Instant>,
    /// Interfaces that wait for their DHCP client.
    dhcp_due: Vec<(Instant, String)>,
}

/// Runs as PID 1; never returns.
pub fn main() -> ! {
    sys::umask(0o022);
    mounts::early();
    let cmdline = Cmdline::read();
    let mut devices = Devices::open(&modules_directory());
    devices.load_virtio();
    while devices.next_event().is_some() {}
    if let Err(error) = root::change(&cmdline, &mut devices) {
        kernel_log(&format!("staying in the initial ramfs: {error}"));
    }
    devices.end_turns();
    mounts::late();
    set_names(&cmdline);
    let mut init = Init::new(cmdline, devices);
    init.start();
    loop {
        init.step();
    }
}

/// The directory with the table of modules: `/lib/modules/RELEASE`.
fn modules_directory() -> PathBuf {
    Path::new("/lib/modules").join(sys::uname_release())
}

fn set_names(cmdline: &Cmdline) {
    let configured = fs::read_to_string("/etc/hostname").unwrap_or_default();
    let name = cmdline.hostname.as_deref().unwrap_or_else(|| configured.trim());
    for (what, done) in [
        ("set the host name", sys::set_hostname(if name.is_empty() { "visor" } else { name })),
        ("switch lo on", sys::link_up("lo")),
    ] {
        if let Err(error) = done {
            kernel_log(&format!("cannot {what}: {error}"));
        }
    }
}

/// Sets an interface up with an address that is known in advance.
fn preset(name: &str, a: &Address) -> std::io::Result<()> {
    sys::set_address(name, a.address, a.prefix)?;
    sys::link_up(name)?;
    sys::add_default_route(a.gateway)?;
    fs::write("/etc/resolv.conf", format!("search internal\nnameserver {}\n", a.resolver))?;
    fs::write(PRESET, name)
}

impl Init {
    fn new(cmdline: Cmdline, mut devices: Devices) -> Self {
        // The root has more modules than the initial ramfs had; keep the events that wait in the socket.
        if modules_directory().join(TABLE_NAME).exists() {
            devices.loader.move_to(&modules_directory());
        }
        let wanted =
            [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPWR, libc::SIGHUP];
        let signals = match SignalFd::new(&wanted) {
            Ok(signals) => signals,
            // Without it nothing would ever be reaped or stopped; the kernel's panic is the honest end.
            Err(error) => {
                kernel_log(&format!("no signals: {error}"));
                std::process::exit(1);
            }
        };
        let server = Server::bind(Path::new(SOCKET)).inspect_err(|e| kernel_log(&format!("no control socket: {e}")));
        Self {
            terminals: console::terminals(&cmdline.consoles),
            cmdline,
            devices,
            signals,
            manager: Manager::new(Path::new("/"), Path::new("/var/log")),
            server: server.ok(),
            shells: Vec::new(),
            agent: None,
            agent_due: None,
            dhcp_due: Vec::new(),
        }
    }

    fn start(&mut self) {
        self.devices.load_virtio();
        self.drain_events();
        if let Err(error) = self.devices.load_rest_aside() {
            kernel_log(&format!("cannot load modules: {error}"));
        }
        self.agent_due = Some(Instant::now());
        self.start_agent();
        self.start_network();
        self.manager.start_enabled();
        let uptime = sys::uptime_ms();
        console::print(self.terminals.first(), &format!("READY {}.{:03}", uptime / 1000, uptime % 1000));
        if self.cmdline.shell {
            self.shells = self.terminals.iter().cloned().map(Shell::new).collect();
        }
    }

    fn step(&mut self) {
        let now = Instant::now();
        self.manager.tick(now);
        self.shells.iter_mut().for_each(|s| s.tick(now));
        if self.agent_due.is_some_and(|t| t <= now) {
            self.start_agent();
        }
        for (_, name) in self.dhcp_due.extract_if(.., |(t, _)| *t <= now) {
            self.manager.start(&format!("dhcp@{name}.service"), None);
        }
        // Signals first: an event must not be missed between looking and waiting, and a signalfd stays readable.
        self.wait();
        self.drain_events();
        while let Some(signo) = self.signals.next_signal() {
            if let Some(what) = shutdown::wanted(signo) {
                shutdown::perform(what, &mut self.manager, self.terminals.first());
            }
        }
        while let Reaped::Child(pid, status) = sys::reap(None) {
            if !self.manager.child_ended(pid, status) {
                self.own_child_ended(pid);
            }
        }
        if let Some(server) = &mut self.server {
            server.step(&mut self.manager);
        }
    }

    fn wait(&self) {
        let mut set = PollSet::new();
        set.add(&self.signals, true, false);
        if let Some(events) = self.devices.descriptor() {
            set.add(&events, true, false);
        }
        for fd in self.server.iter().flat_map(Server::descriptors) {
            set.add(&fd, true, false);
        }
        let shells = self.shells.iter().filter_map(|s| s.due);
        let dhcp = self.dhcp_due.iter().map(|(t, _)| *t);
        let next = shells.chain(self.agent_due).chain(self.manager.next_deadline()).chain(dhcp).min();
        let timeout = next.map(|t| t.saturating_duration_since(Instant::now()));
        if set.wait(timeout).is_err() {
            // Never spin as PID 1.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn own_child_ended(&mut self, pid: u32) {
        let now = Instant::now();
        if self.agent == Some(pid) {
            self.agent = None;
            self.agent_due = Some(now + AGENT_PAUSE);
        }
        if let Some(shell) = self.shells.iter_mut().find(|s| s.pid == Some(pid)) {
            shell.ended(now);
        }
    }

    fn start_agent(&mut self) {
        use std::os::unix::process::CommandExt;
        self.agent_due = None;
        // Without a port nothing is tried again until a device event brings one.
        let Some(port) = find_port().filter(|_| self.agent.is_none()) else {
            return;
        };
        let console = self.terminals.first().cloned().unwrap_or_else(|| PathBuf::from("/dev/console"));
        // This program, still in memory, whatever has become of its file.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("visor-agent").arg(port).arg(console);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::unblock_signals_for(&mut command);
        match command.spawn() {
            Ok(child) => self.agent = Some(child.id()),
            Err(error) => kernel_log(&format!("cannot start the agent: {error}")),
        }
    }

    fn start_network(&mut self) {
        for interface in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
            self.interface_came(&interface.file_name().to_string_lossy());
        }
    }

    fn interface_came(&mut self, name: &str) {
        let wired = name.starts_with("eth") || name.starts_with("en");
        if !self.cmdline.network || !wired {
            return;
        }
        // Both the event and the look at the directory tell of an interface.
        if self.dhcp_due.iter().any(|(_, n)| n == name) {
            return;
        }
        match self.cmdline.address.take() {
            Some(address) => match preset(name, &address) {
                Ok(()) => self.dhcp_due.push((Instant::now() + DHCP_LATER, name.to_owned())),
                Err(error) => {
                    kernel_log(&format!("cannot give {name} its address: {error}"));
                    self.manager.start(&format!("dhcp@{name}.service"), None);
                }
            },
            None => self.manager.start(&format!("dhcp@{name}.service"), None),
        }
    }

    fn drain_events(&mut self) {
        while let Some(event) = self.devices.next_event() {
            self.device_event(&event);
        }
    }

    fn device_event(&mut self, event: &Event) {
        let get = |key: &str| event.get(key).map_or("", String::as_str);
        if get("ACTION") != "add" {
            return;
        }
        match get("SUBSYSTEM") {
            "net" => self.interface_came(get("INTERFACE")),
            "virtio-ports" => self.start_agent(),
            _ => {}
        }
    }
}
