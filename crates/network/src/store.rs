//! What outlives machines and networks: permanent rules of guests (`DATA/firewall/NAME.json`) and security groups
//! (`DATA/groups.json`). Files are written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use visor_firewall::{Group, RuleSet};

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
        let read = self.file(guest).ok_or(ErrorKind::NotFound.into()).and_then(|path| read(&path));
        read.unwrap_or_else(|e: io::Error| {
            if e.kind() != ErrorKind::NotFound {
                tracing::warn!(guest, error = %e, "the permanent rules of a guest cannot be read");
            }
            RuleSet::default()
        })
    }

    /// Stores the permanent rules of a guest.
    ///
    /// # Errors
    /// What the file system says; `InvalidInput` for a name that is none.
    pub fn set_rules(&self, guest: &str, rules: &RuleSet) -> io::Result<()> {
        let path = self.file(guest).ok_or(io::Error::from(ErrorKind::InvalidInput))?;
        if *rules == RuleSet::default() {
            return match fs::remove_file(path) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            };
        }
        write(&path, rules)
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

    fn file(&self, guest: &str) -> Option<PathBuf> {
        let valid = (1..=64).contains(&guest.len())
            && guest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !guest.starts_with('.');
        valid.then(|| self.directory.join("firewall").join(format!("{guest}.json")))
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
