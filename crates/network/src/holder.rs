//! Who holds a port of the host (proc(5)).

use std::fs;
use std::net::SocketAddr;

use visor_net::Protocol;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

/// The process that holds `at`, if it can be seen: processes of other users hide theirs.
pub fn port_holder(protocol: Protocol, at: SocketAddr) -> Option<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::Icmp => return None,
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|t| fs::read_to_string(format!("/proc/net/{t}")).ok())
        .flat_map(|t| sockets(&t, at.port(), protocol == Protocol::Tcp))
        .collect();
    let wanted: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    if wanted.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|f| fs::read_link(f.path()).ok()).any(|l| wanted.iter().any(|w| l.as_os_str() == w.as_str()))
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    Some(Holder { pid, name })
}

/// Inodes of the sockets of a table of /proc/net that are bound to `port`; of TCP's only those that listen.
fn sockets(table: &str, port: u16, tcp: bool) -> Vec<String> {
    let local = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|l| l.split_whitespace().collect::<Vec<_>>());
    let bound = rows.filter(|r| r.get(1).is_some_and(|a| a.ends_with(&local)) && (!tcp || r.get(3) == Some(&"0A")));
    bound.filter_map(|r| r.get(9).map(|i| (*i).to_owned())).collect()
}
