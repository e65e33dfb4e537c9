//! A member of a pool: a folder, or an export of an NBD server. It belongs to one pool, which is written on it.
//!
//! In a folder, parts of volumes are sparse files. An export is divided: its record says which range is which part.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use visor_disk::{NbdAddress, NbdDisk, NbdOptions, TlsClient, TlsFiles};
use visor_qcow2::{FileStorage, Storage};

use crate::device::{Device, Part};
use crate::record;
use crate::volume::lock;
use crate::{PoolError, PoolErrorKind, Result};

/// Where parts start in an export, and what they are aligned to.
const FIRST_PART: u64 = 1 << 20;
/// How long a server that does not answer is waited for. The other copies serve meanwhile only when it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a member is: `dir:/path`, or the address of an NBD export with `,tls-ca=FILE`, `,tls-cert=FILE`, `,tls-key=FILE` behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A folder of this host.
    Dir(PathBuf),
    /// An export.
    Nbd {
        /// Of the server.
        address: NbdAddress,
        /// For `nbds://`.
        tls: TlsFiles,
    },
}

/// Whether a member can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It is there.
    Up,
    /// It is not, and why.
    Missing(String),
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct MemberRecord {
    pool: String,
    member: String,
    /// Of an export: start and length of each part.
    parts: BTreeMap<String, (u64, u64)>,
}

/// Space of a member, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// What parts can take in all.
    pub(crate) total: u64,
    /// What is left of it.
    pub(crate) free: u64,
    /// What parts will take when all of them are full.
    pub(crate) promised: u64,
    /// Parts of a hundred of the whole store that are in use, by whomever.
    pub(crate) percent: u8,
}

/// A member that can be used.
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) place: Place,
    record: Mutex<(u64, MemberRecord)>,
    /// Where the record is; of an export the whole of it.
    storage: Arc<dyn Storage>,
}

impl Place {
    /// Reads a place.
    ///
    /// # Errors
    /// [`PoolErrorKind::Bad`].
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| PoolError::new(PoolErrorKind::Bad, what);
        if let Some(path) = text.strip_prefix("dir:") {
            let path = std::path::absolute(path).map_err(|e| bad(format!("`{text}`: {e}")))?;
            return Ok(Place::Dir(path));
        }
        let mut words = text.split(",tls-");
        let address = words.next().unwrap_or_default();
        if !NbdAddress::is_one(address) {
            return Err(bad(format!("`{text}` is no member: write dir:/folder or nbd://HOST/EXPORT")));
        }
        let mut tls = TlsFiles::default();
        for word in words {
            let path = |v: &str| std::path::absolute(v).ok();
            match word.split_once('=') {
                Some(("ca", v)) => tls.ca = path(v),
                Some(("cert", v)) => tls.cert = path(v),
                Some(("key", v)) => tls.key = path(v),
                _ => return Err(bad(format!("`tls-{word}`: there are tls-ca, tls-cert and tls-key"))),
            }
        }
        Ok(Place::Nbd { address: NbdAddress::parse(address).map_err(bad)?, tls })
    }

    fn open(&self, create: bool) -> Result<Arc<dyn Storage>> {
        match self {
            Place::Dir(path) => {
                let folder = folder(path);
                let fail = |e| PoolError::host(format!("cannot use {self}"), e);
                if create {
                    if !path.is_dir() {
                        return Err(PoolError::new(
                            PoolErrorKind::NotFound,
                            format!("there is no folder {}", path.display()),
                        ));
                    }
                    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(fail)?;
                }
                let mut options = OpenOptions::new();
                let file = options.read(true).write(true).create(create).truncate(false).mode(0o600);
                Ok(Arc::new(FileStorage::new(file.open(folder.join("member")).map_err(fail)?)))
            }
            Place::Nbd { address, tls } => {
                let fail = |e| PoolError::host(format!("cannot use {self}"), e);
                let client = if address.tls() { Some(TlsClient::new(tls).map_err(fail)?) } else { None };
                let options = NbdOptions { read_only: false, patience: PATIENCE, tls: client };
                let disk = NbdDisk::connect(address, options)
                    .map_err(|e| fail(e.source.unwrap_or_else(|| io::Error::other(e.what))))?;
                Ok(Arc::new(Device(Arc::new(disk))))
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Dir(path) => write!(f, "dir:{}", path.display()),
            Place::Nbd { address, tls } => {
                write!(f, "{address}")?;
                for (name, path) in [("ca", &tls.ca), ("cert", &tls.cert), ("key", &tls.key)] {
                    if let Some(path) = path {
                        write!(f, ",tls-{name}={}", path.display())?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn folder(path: &Path) -> PathBuf {
    path.join("visor-pool")
}

impl Member {
    /// Makes the store at `place` a member of a pool.
    ///
    /// # Errors
    /// [`PoolErrorKind::Exists`] if it is one already, otherwise the host's.
    pub(crate) fn claim(place: Place, pool: &str, id: &str) -> Result<Self> {
        let storage = place.open(true)?;
        let fail = |e| PoolError::host(format!("cannot use {place}"), e);
        if record::load(&*storage, 0).map_err(fail)?.is_some() {
            let what = format!("{place} belongs to a pool already");
            return Err(PoolError::new(PoolErrorKind::Exists, what));
        }
        let mine = MemberRecord { pool: pool.into(), member: id.into(), ..MemberRecord::default() };
        let member = Member { id: id.into(), place, record: Mutex::new((0, mine.clone())), storage };
        member.save(mine)?;
        Ok(member)
    }

    /// Opens a member, which has to be that one.
    ///
    /// # Errors
    /// [`PoolErrorKind::Corrupt`] if it is another one, otherwise the host's.
    pub(crate) fn open(place: Place, pool: &str, id: &str) -> Result<Self> {
        let storage = place.open(false)?;
        let found = record::load(&*storage, 0).map_err(|e| PoolError::host(format!("cannot use {place}"), e))?;
        let found =
            found.ok_or_else(|| PoolError::new(PoolErrorKind::Corrupt, format!("{place} has no record of a pool")))?;
        let mine: MemberRecord = serde_json::from_slice(&found.payload)
            .map_err(|e| PoolError::host(format!("cannot use {place}"), e.into()))?;
        if (mine.pool.as_str(), mine.member.as_str()) != (pool, id) {
            return Err(PoolError::new(PoolErrorKind::Corrupt, format!("{place} is a member of another pool")));
        }
        Ok(Member { id: id.into(), place, record: Mutex::new((found.generation, mine)), storage })
    }

    fn save(&self, next: MemberRecord) -> Result<()> {
        let mut record = lock(&self.record);
        let payload = serde_json::to_vec(&next).map_err(|e| PoolError::host("cannot write a record", e.into()))?;
        record::store(&*self.storage, 0, record.0 + 1, &payload)
            .map_err(|e| PoolError::host(format!("cannot write to {}", self.place), e))?;
        *record = (record.0 + 1, next);
        Ok(())
    }

    /// Makes a part of `len` bytes, with `all` its space taken now. It reads as zeroes.
    ///
    /// # Errors
    /// [`PoolErrorKind::NoSpace`], otherwise the host's.
    pub(crate) fn create_part(&self, volume: &str, len: u64, all: bool) -> Result<Arc<dyn Storage>> {
        let fail = |e| PoolError::host(format!("cannot make a part on {}", self.place), e);
        match &self.place {
            Place::Dir(path) => {
                let path = folder(path).join(format!("{volume}.part"));
                let file =
                    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
                let storage = FileStorage::new(file);
                // What records need is taken now, so that they can be written when nothing is left.
                let taken = if all { len } else { crate::volume::DATA_AT };
                let made =
                    storage.set_size(len).and_then(|()| storage.allocate(0, taken)).and_then(|()| storage.flush());
                if let Err(e) = made {
                    let _ = fs::remove_file(&path);
                    return Err(fail(e));
                }
                fs::File::open(path.parent().unwrap_or(Path::new("/"))).and_then(|f| f.sync_all()).map_err(fail)?;
                Ok(Arc::new(storage))
            }
            Place::Nbd { .. } => {
                let mut next = lock(&self.record).1.clone();
                let size = self.storage.size().map_err(fail)?;
                let full = || {
                    PoolError::new(
                        PoolErrorKind::NoSpace,
                        format!("{} has no {len} bytes in one piece left", self.place),
                    )
                };
                let start = gap(next.parts.values().copied().collect(), size, len).ok_or_else(full)?;
                self.storage.release(start, len).map_err(fail)?;
                next.parts.insert(volume.to_owned(), (start, len));
                self.save(next)?;
                Ok(Arc::new(Part { whole: self.storage.clone(), start, len }))
            }
        }
    }

    /// Opens a part.
    ///
    /// # Errors
    /// [`PoolErrorKind::NotFound`], otherwise the host's.
    pub(crate) fn part(&self, volume: &str) -> Result<Arc<dyn Storage>> {
        let none = || PoolError::new(PoolErrorKind::NotFound, format!("{} has no part of the volume", self.place));
        match &self.place {
            Place::Dir(path) => {
                let path = folder(path).join(format!("{volume}.part"));
                let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => none(),
                    _ => PoolError::host(format!("cannot open {}", path.display()), e),
                })?;
                Ok(Arc::new(FileStorage::new(file)))
            }
            Place::Nbd { .. } => {
                let size = self.storage.size().unwrap_or(0);
                let (start, len) = lock(&self.record).1.parts.get(volume).copied().ok_or_else(none)?;
                if start < FIRST_PART || start.checked_add(len).is_none_or(|end| end > size) {
                    let what = format!("{} has a part that lies outside", self.place);
                    return Err(PoolError::new(PoolErrorKind::Corrupt, what));
                }
                Ok(Arc::new(Part { whole: self.storage.clone(), start, len }))
            }
        }
    }

    /// Removes a part, if there is one.
    pub(crate) fn remove_part(&self, volume: &str) -> Result<()> {
        match &self.place {
            Place::Dir(path) => {
                let path = folder(path).join(format!("{volume}.part"));
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        Err(PoolError::host(format!("cannot remove {}", path.display()), e))
                    }
                    _ => Ok(()),
                }
            }
            Place::Nbd { .. } => {
                let mut next = lock(&self.record).1.clone();
                let Some((start, len)) = next.parts.remove(volume) else { return Ok(()) };
                self.save(next)?;
                let _ = self.storage.release(start, len);
                Ok(())
            }
        }
    }

    /// Gives the store back: it belongs to no pool afterwards.
    pub(crate) fn release(self) -> Result<()> {
        let fail = |e| PoolError::host(format!("cannot release {}", self.place), e);
        match &self.place {
            Place::Dir(path) => {
                fs::remove_file(folder(path).join("member")).map_err(fail)?;
                let _ = fs::remove_dir(folder(path));
                Ok(())
            }
            Place::Nbd { .. } => {
                self.storage.release(0, record::BOTH).and_then(|()| self.storage.flush()).map_err(fail)
            }
        }
    }

    pub(crate) fn space(&self) -> Result<Space> {
        let fail = |e| PoolError::host(format!("cannot measure {}", self.place), e);
        match &self.place {
            Place::Dir(path) => {
                let folder = folder(path);
                let (mut taken, mut promised) = (0, 0);
                for entry in fs::read_dir(&folder).map_err(fail)?.flatten() {
                    if entry.path().extension().is_some_and(|e| e == "part") {
                        let meta = entry.metadata().map_err(fail)?;
                        taken += meta.blocks() * 512;
                        promised += meta.len();
                    }
                }
                let v = nix::sys::statvfs::statvfs(&folder).map_err(|e| fail(e.into()))?;
                let free = v.blocks_available() * v.fragment_size();
                let used = v.blocks().saturating_sub(v.blocks_free());
                let whole = (used + v.blocks_available()).max(1);
                let percent = (used * 100 / whole).min(100) as u8;
                Ok(Space { total: free + taken, free, promised, percent })
            }
            Place::Nbd { .. } => {
                let total = self.storage.size().map_err(fail)?.saturating_sub(FIRST_PART);
                let promised = lock(&self.record).1.parts.values().map(|(_, len)| len).sum::<u64>();
                let percent = (promised * 100 / total.max(1)).min(100) as u8;
                Ok(Space { total, free: total.saturating_sub(promised), promised, percent })
            }
        }
    }
}

/// The first range of `len` bytes in an export of `size` bytes that no part has.
fn gap(mut parts: Vec<(u64, u64)>, size: u64, len: u64) -> Option<u64> {
    parts.sort_unstable();
    let mut at = FIRST_PART;
    for (start, taken) in parts {
        if at.checked_add(len)? <= start {
            break;
        }
        at = at.max(start.checked_add(taken)?.checked_next_multiple_of(FIRST_PART)?);
    }
    (at.checked_add(len)? <= size).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(Place::parse("dir:/a/b").unwrap(), Place::Dir("/a/b".into()));
        for text in ["dir:/a", "nbd://h:99/e", "nbds://h:99/e,tls-ca=/c,tls-cert=/d,tls-key=/k"] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        assert!(Place::parse("/a").is_err() && Place::parse("nbd://h/e,tls-x=1").is_err());
    }

    #[test]
    fn gaps() {
        const M: u64 = 1 << 20;
        assert_eq!(gap(vec![], 10 * M, 3 * M), Some(M));
        assert_eq!(gap(vec![(M, 2 * M), (5 * M, M)], 10 * M, 2 * M), Some(3 * M));
        assert_eq!(gap(vec![(5 * M, M), (M, 2 * M)], 10 * M, 3 * M), Some(6 * M));
        assert_eq!(gap(vec![(M, 9 * M)], 10 * M, 1), None);
        assert_eq!(gap(vec![(M, u64::MAX)], 10 * M, 1), None);
    }
}
