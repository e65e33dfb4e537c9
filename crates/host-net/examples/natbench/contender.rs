//! The translators that are measured.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use visor_host_net::{Nat, NatPort, Resolvers};
use visor_nat::NatConfig;
use visor_net::{Frame, NetPort, Offload, Sent};

use crate::guest::Network;
use crate::link::{Direct, Link, Stream};
use crate::smol::Smol;

/// The far ends' address, on the loopback device.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What passt gives its guest: the address of the interface with the default route.
pub(crate) const UPLINK: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(crate) const UPLINK_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// A translator that runs.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) link: Box<dyn Link>,
    pub(crate) net: Network,
    pub(crate) nat: Option<Nat>,
    child: Option<Child>,
}

/// Names of all translators, in the order of the table.
pub(crate) const ALL: [&str; 8] = [
    "core, 64 KiB frames",
    "core, 1500 bytes",
    "smoltcp, 64 KiB frames",
    "smoltcp, 1500 bytes",
    "stream, MTU 65520",
    "passt, MTU 65520",
    "stream, MTU 1500",
    "qemu user, MTU 1500",
];

impl Contender {
    /// Starts one; an error says what is missing.
    pub(crate) fn start(name: &'static str) -> Result<Contender, String> {
        let slirp = Network {
            own: Ipv4Addr::new(10, 0, 2, 15),
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            far: FAR,
            mss: 1460,
            whole: false,
            window_scale: 7,
        };
        let large = Network { mss: 65480, ..slirp };
        match name {
            "core, 64 KiB frames" | "core, 1500 bytes" => {
                let whole = name.contains("64");
                let (nat, port) = open(1500);
                let link = Box::new(Direct::new(port, whole));
                Ok(Contender { name, link, net: Network { whole, ..slirp }, nat: Some(nat), child: None })
            }
            "smoltcp, 64 KiB frames" | "smoltcp, 1500 bytes" => {
                let net = if name.contains("64") { large } else { slirp };
                Ok(Contender { name, link: Box::new(Smol::new(net)), net, nat: None, child: None })
            }
            "passt, MTU 65520" => {
                // It drops what its stream has no room for at once, so a window of 8 MiB would measure retransmissions.
                let net = Network { own: UPLINK, gateway: UPLINK_GATEWAY, window_scale: 1, ..large };
                Self::spawn(name, net, |fd| {
                    let mut c = Command::new("passt");
                    c.args(["-f", "-q", "--runas", "0", "-F", &fd.to_string()]);
                    c
                })
            }
            "qemu user, MTU 1500" => Self::spawn(name, slirp, |fd| {
                let mut c = Command::new("qemu-system-x86_64");
                c.args(["-M", "none", "-nodefaults", "-display", "none", "-monitor", "none", "-serial", "none"]);
                c.args(["-netdev", "user,id=u", "-netdev", "hubport,hubid=0,id=a,netdev=u"]);
                c.arg("-netdev").arg(format!("socket,id=s,fd={fd}"));
                c.args(["-netdev", "hubport,hubid=0,id=b,netdev=s"]);
                c
            }),
            _ => {
                let mtu = if name.contains("65520") { "65520" } else { "1500" };
                let net = if mtu == "1500" { slirp } else { large };
                Self::spawn(name, net, |fd| {
                    let mut c = Command::new(std::env::current_exe().expect("a path"));
                    c.args(["stream", &fd.to_string(), mtu]);
                    c
                })
            }
        }
    }

    fn spawn(name: &'static str, net: Network, command: impl Fn(RawFd) -> Command) -> Result<Contender, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let fd = theirs.as_raw_fd();
        // SAFETY: no pointers. The child shall inherit it.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        let child = command(fd).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|e| format!("{name}: {e}"))?;
        Ok(Contender { name, link: Box::new(Stream::new(ours)), net, nat: None, child: Some(child) })
    }

    /// Seconds of CPU so far.
    pub(crate) fn cpu(&self) -> f64 {
        match &self.child {
            None => own_cpu(),
            Some(child) => tree(child.id()).iter().map(|p| process_cpu(*p)).sum(),
        }
    }

    /// Memory of its processes in MiB: what no other process shares.
    pub(crate) fn memory(&self) -> f64 {
        let pids = self.child.as_ref().map_or(vec![std::process::id()], |c| tree(c.id()));
        let kib = |p: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{p}/status")).unwrap_or_default();
            let line = text.lines().find(|l| l.starts_with("RssAnon:")).unwrap_or("").to_owned();
            line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
        };
        pids.iter().map(kib).sum::<f64>() / 1024.0
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// CPU of this thread: the guest's and the translator's.
fn own_cpu() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live value.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

fn process_cpu(pid: u32) -> f64 {
    // Nanoseconds, where the kernel has them for each thread; its ticks are too coarse.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok());
    nanos.filter_map(|s| s.split_whitespace().next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent_of = found[at];
        found.extend(all.iter().filter(|(_, parent)| *parent == parent_of).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

fn open(mtu: u16) -> (Nat, NatPort) {
    Nat::with_resolvers(NatConfig { mtu, ..NatConfig::default() }, Resolvers::fixed(Vec::new())).expect("a translator")
}

/// This translator behind a stream of frames.
pub(crate) fn stream(fd: RawFd, mtu: u16) {
    // SAFETY: whoever started us gave us this descriptor.
    let stream = unsafe { UnixStream::from_raw_fd(fd) };
    let mut cable = Stream::new(stream);
    let (_nat, mut port) = open(mtu);
    // SAFETY: no pointers.
    let bell = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    port.on_ready(std::sync::Arc::new(move || {
        // SAFETY: pointer and length describe the number.
        unsafe { libc::write(bell, 1u64.to_ne_bytes().as_ptr().cast(), 8) };
    }));
    loop {
        // A stream loses nothing, so checksums need not be looked at; nor does passt.
        let offload = Offload { trusted: true, ..Offload::default() };
        let up = cable.receive(&mut |data| {
            port.send(Frame { data, offload });
        });
        let down = port.receive(&mut |f: Frame<'_>| if cable.send(f) { Sent::Yes } else { Sent::Full });
        if up + down == 0 {
            cable.wait_with(bell, Duration::from_secs(1));
        }
    }
}
