//! The host's resolvers, from `/etc/resolv.conf` (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The resolvers of a file, read again when it changes: hosts move between networks while guests run.
pub struct Resolvers {
    path: PathBuf,
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    list: Vec<SocketAddr>,
}

impl Resolvers {
    /// The resolvers in a file of resolv.conf's format.
    pub fn new(path: impl Into<PathBuf>) -> Resolvers {
        Resolvers { path: path.into(), looked: None, changed: None, list: Vec::new() }
    }

    /// Always these.
    pub fn fixed(list: Vec<SocketAddr>) -> Resolvers {
        Resolvers { path: PathBuf::new(), looked: None, changed: None, list }
    }

    /// The resolvers as they are now, best first.
    pub fn get(&mut self) -> &[SocketAddr] {
        if !self.path.as_os_str().is_empty() && self.looked.is_none_or(|t| t.elapsed() >= INTERVAL) {
            self.looked = Some(Instant::now());
            let changed = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
            if changed.is_none() || changed != self.changed {
                self.changed = changed;
                self.list = parse(&std::fs::read_to_string(&self.path).unwrap_or_default());
            }
        }
        &self.list
    }
}

/// The `nameserver` lines; without any, the resolver of this host, as resolv.conf(5) says.
fn parse(text: &str) -> Vec<SocketAddr> {
    let mut list: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next().filter(|w| *w == "nameserver").and(words.next())?;
            // A zone ("%eth0") can stand behind a link-local address, which no socket here can use anyway.
            Some(SocketAddr::new(address.split('%').next()?.parse::<IpAddr>().ok()?, 53))
        })
        .collect();
    if list.is_empty() {
        list.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let text = "# comment\nsearch a b\nnameserver 10.1.2.3\nnameserver\t2001:db8::1\nnameserver bad\noptions x\n";
        let want: Vec<SocketAddr> = vec!["10.1.2.3:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(parse(text), want);
        assert_eq!(parse(""), ["127.0.0.1:53".parse().unwrap()]);
        let file = std::env::temp_dir().join(format!("resolv-{}", std::process::id()));
        std::fs::write(&file, text).unwrap();
        assert_eq!(Resolvers::new(&file).get(), want);
        std::fs::remove_file(&file).unwrap();
    }
}
