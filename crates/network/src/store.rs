//! What outlives machines and networks: of guests by their names the permanent rules (`DATA/firewall/NAME.json`), the permanently
//! forwarded ports (`DATA/ports/NAME.json`) and the Ethernet address (`DATA/mac/NAME.json`); and security groups (`DATA/groups.json`).
//! Files are written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use visor_firewall::{Group, RuleSet};
use visor_net::MacAddr;

use crate::forward::ForwardSpec;

/// A user's rules and groups.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Below the directory `data`, which is made when it is needed.
    pub fn new(data: &Path) -> Self {
        Store { directory: data.to_owned() }
    }

    /// The permanent rules of a guest; none if nothing is stored.
    pub fn rules(&self, guest: &str) -> RuleSet {
        self.kept("firewall", guest)
    }

    /// Stores the permanent rules of a guest.
    ///
    /// # Errors
    /// What the file system says; `InvalidInput` for a name that is none.
    pub fn set_rules(&self, guest: &str, rules: &RuleSet) -> io::Result<()> {
        self.keep("firewall", guest, rules)
    }

    /// The ports that are forwarded to a guest whenever it runs.
    pub fn ports(&self, guest: &str) -> Vec<ForwardSpec> {
        let texts: Vec<String> = self.kept("ports", guest);
        texts.iter().filter_map(|t| t.parse().ok()).collect()
    }

    /// Stores the ports that are forwarded to a guest whenever it runs.
    ///
    /// # Errors
    /// As [`Store::set_rules`].
    pub fn set_ports(&self, guest: &str, ports: &[ForwardSpec]) -> io::Result<()> {
        self.keep("ports", guest, &ports.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    /// The Ethernet address of a guest: a random one, and the same each time it is asked for.
    ///
    /// # Errors
    /// As [`Store::set_rules`].
    pub fn mac(&self, guest: &str) -> io::Result<MacAddr> {
        if let Some(mac) = self.kept::<Option<MacAddr>>("mac", guest).filter(|m| !m.is_multicast()) {
            return Ok(mac);
        }
        let mac = crate::random_mac();
        self.keep("mac", guest, &Some(mac)).map(|()| mac)
    }

    /// The security groups by name.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` for a file that makes no sense.
    pub fn groups(&self) -> io::Result<BTreeMap<String, Group>> {
        match read(&self.directory.join("groups.json")) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(BTreeMap::new()),
            other => other,
        }
    }

    /// Changes the security groups; who else changes them waits.
    ///
    /// # Errors
    /// As [`Store::groups`], and what `change` says: then nothing is changed.
    pub fn change_groups<R, E: From<io::Error>>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Group>) -> Result<R, E>,
    ) -> Result<R, E> {
        private_directory(&self.directory)?;
        let lock = fs::File::create(self.directory.join("groups.lock"))?;
        lock.lock()?;
        let mut groups = self.groups()?;
        let result = change(&mut groups)?;
        write(&self.directory.join("groups.json"), &groups)?;
        Ok(result)
    }

    fn kept<T: DeserializeOwned + Default>(&self, kind: &str, guest: &str) -> T {
        let read = self.file(kind, guest).ok_or(ErrorKind::NotFound.into()).and_then(|path| read(&path));
        read.unwrap_or_else(|e: io::Error| {
            if e.kind() != ErrorKind::NotFound {
                tracing::warn!(kind, guest, error = %e, "what is kept about a guest cannot be read");
            }
            T::default()
        })
    }

    fn keep<T: Serialize + Default + PartialEq>(&self, kind: &str, guest: &str, value: &T) -> io::Result<()> {
        let path = self.file(kind, guest).ok_or(io::Error::from(ErrorKind::InvalidInput))?;
        if *value == T::default() {
            return match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        }
        write(&path, value)
    }

    fn file(&self, kind: &str, guest: &str) -> Option<PathBuf> {
        let valid = (1..=64).contains(&guest.len())
            && guest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !guest.starts_with('.');
        valid.then(|| self.directory.join(kind).join(format!("{guest}.json")))
    }
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs::read(path)?).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
}

/// Writes a file so that it is whole whatever happens. Its directory is made for the user alone.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    path.parent().map_or(Ok(()), private_directory)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut out = fs::File::create(&new)?;
    io::Write::write_all(&mut out, &text)?;
    out.sync_all()?;
    fs::rename(new, path)
}

pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_groups_are_kept() {
        let root = std::env::temp_dir().join(format!("visor-store-{}", std::process::id()));
        let store = Store::new(&root);
        assert!(store.rules("web").inbound.is_empty() && store.groups().unwrap().is_empty());
        let rules = RuleSet { inbound: vec!["service http".parse().unwrap()], ..RuleSet::default() };
        store.set_rules("web", &rules).unwrap();
        assert_eq!(Store::new(&root).rules("web"), rules);
        assert!(store.set_rules("../web", &rules).is_err() && store.set_rules("", &rules).is_err());
        store.set_rules("web", &RuleSet::default()).unwrap();
        assert!(store.rules("web").inbound.is_empty());
        let ports: Vec<ForwardSpec> = ["8080:80", "[::1]:53:53/udp"].map(|p| p.parse().unwrap()).into();
        store.set_ports("web", &ports).unwrap();
        assert_eq!((store.ports("web"), store.ports("db")), (ports, vec![]));
        let mac = store.mac("web").unwrap();
        assert_eq!(Store::new(&root).mac("web").unwrap(), mac, "it stays");
        assert_ne!(store.mac("db").unwrap(), mac, "and is nobody else's");
        let add = |name: &'static str| {
            move |groups: &mut BTreeMap<String, Group>| {
                groups.insert(name.into(), Group::default());
                if name == "bad" { Err(io::Error::other("no")) } else { Ok(groups.len()) }
            }
        };
        assert_eq!(store.change_groups(add("one")).unwrap(), 1);
        assert!(store.change_groups(add("bad")).is_err());
        assert_eq!(store.change_groups(add("two")).unwrap(), 2);
        fs::write(root.join("groups.json"), "x").unwrap();
        assert_eq!(store.groups().unwrap_err().kind(), ErrorKind::InvalidData);
        fs::remove_dir_all(root).unwrap();
    }
}
