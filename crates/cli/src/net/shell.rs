//! `visor net shell`: a shell of the host's user inside of a network.
//!
//! The process makes itself a user, network and mount namespace (namespaces(7)), in it a tap device (or a pair of virtual Ethernet
//! devices, where `/dev/net/tun` is closed to the user) that is plugged into the network, and runs the shell there. The user stays who they are; files are the host's.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::EventFd;
use visor_host_net::{TapPort, add_default_route, interface_up};
use visor_network::{shared, splice};

use super::networks::running;
use crate::report::Failure;
use crate::terminal::catch_signals;

/// Runs `command`, or the user's shell, in the network `name`.
pub(super) fn shell(name: &str, command: &[String], quiet: bool) -> Result<u8, Failure> {
    let place = running(name)?;
    // Before any thread is started: a process with several cannot change its user namespace.
    enter().map_err(|e| {
        Failure::from(e)
            .context("the host does not let visor make a network namespace")
            .hint("it needs user namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone")
            .hint("without them, ports of guests are reached with: visor port add GUEST 80")
    })?;
    let tap = TapPort::in_own_namespace("visor0").map_err(|e| {
        Failure::from(e)
            .hint("it needs /dev/net/tun to be open to you (sudo chmod 666 /dev/net/tun), or the kernel's module veth")
            .hint("without it, ports of guests are reached with: visor port add GUEST 80")
    })?;
    let (cable, welcome) =
        shared::plug_shell(&place).map_err(|e| Failure::from(e).context(format!("cannot plug into {name}")))?;
    let preset = welcome.preset.as_deref().and_then(parse);
    let (address, prefix, router, resolver) =
        preset.ok_or_else(|| Failure::new(format!("the network {name} has told no address")))?;
    welcome.mac.map_or(Ok(()), |mac| tap.set_mac(mac))?;
    tap.set_address(address, prefix)?;
    add_default_route(router)?;
    if let Err(e) = resolve_by(resolver) {
        eprintln!("visor: warning: guests have no names here, only addresses: {e}");
    }
    std::thread::Builder::new().name("shell".into()).spawn(move || splice(tap, cable))?;
    let own = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
    let (program, arguments) = command.split_first().map_or((&own, &[][..]), |(p, a)| (p, a));
    if command.is_empty() && !quiet {
        eprintln!("visor: in {name} as {address}; guests have their addresses and names; leave with exit");
    }
    // The terminal's signals are for the shell.
    catch_signals(EventFd::new()?.as_fd().try_clone_to_owned()?)?;
    let status = Command::new(program).args(arguments).env("VISOR_NET", name).status();
    let status = status.map_err(|e| Failure::from(e).context(format!("cannot run {program}")))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Enters namespaces in which the user is who they were, with the right to make interfaces until another program is run.
fn enter() -> io::Result<()> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))?;
    // ping(8) without privileges (icmp(7)).
    let _ = std::fs::write("/proc/sys/net/ipv4/ping_group_range", format!("{group} {group}"));
    interface_up("lo")
}

/// Lets programs of this mount namespace ask `resolver`.
fn resolve_by(resolver: Ipv4Addr) -> io::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let text = format!("search internal\nnameserver {resolver}\n");
    let file = std::env::temp_dir().join(format!("visor-shell-{}", std::process::id()));
    std::fs::write(&file, text)?;
    let target = std::fs::canonicalize("/etc/resolv.conf");
    let done = target.and_then(|t| Ok(mount(Some(&file), Path::new(&t), none, MsFlags::MS_BIND, none)?));
    let _ = std::fs::remove_file(file);
    done
}

/// `ADDRESS/PREFIX,ROUTER,RESOLVER`.
fn parse(preset: &str) -> Option<(Ipv4Addr, u8, Ipv4Addr, Ipv4Addr)> {
    let mut parts = preset.split(',');
    let (address, prefix) = parts.next()?.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
