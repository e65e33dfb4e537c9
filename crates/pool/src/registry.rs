//! What this host knows of its pools: where their members are, and the newest generation of each volume that it has seen.
//!
//! ```text
//! pools/NAME/pool.json          members, in words
//! pools/NAME/lock               held while the pool itself is changed
//! pools/NAME/VOLUME.generation  a number, or nothing
//! pools/NAME/VOLUME.lock        held by who has the volume open
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::{PoolError, PoolErrorKind, Result};

/// The folder with what is known of all pools.
#[derive(Clone, Debug)]
pub struct Registry {
    folder: PathBuf,
}

/// A lock; it ends when it is dropped.
pub(crate) struct Held(#[expect(dead_code, reason = "held")] Flock<File>);

impl Registry {
    /// The registry in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Registry { folder: folder.into() }
    }

    /// Names of all pools, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let known = entries.filter(|e| e.path().join("pool.json").is_file());
        let mut names: Vec<String> = known.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    pub(crate) fn read(&self, pool: &str) -> Result<Vec<u8>> {
        check_name(pool)?;
        let path = self.folder.join(pool).join("pool.json");
        fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => PoolError::new(PoolErrorKind::NotFound, format!("no pool `{pool}`")),
            _ => PoolError::host(format!("cannot read {}", path.display()), e),
        })
    }

    pub(crate) fn write(&self, pool: &str, content: &[u8]) -> Result<()> {
        check_name(pool)?;
        self.replace(&self.folder.join(pool).join("pool.json"), content)
    }

    pub(crate) fn remove(&self, pool: &str) -> Result<()> {
        check_name(pool)?;
        let folder = self.folder.join(pool);
        fs::remove_dir_all(&folder).map_err(|e| PoolError::host(format!("cannot remove {}", folder.display()), e))
    }

    /// The newest generation of a volume that this host has seen; 0 if none.
    pub(crate) fn generation(&self, pool: &str, volume: &str) -> u64 {
        let path = self.folder.join(pool).join(format!("{volume}.generation"));
        fs::read_to_string(path).ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    /// Remembers a generation, durably.
    pub(crate) fn advance(&self, pool: &str, volume: &str, generation: u64) -> Result<()> {
        self.replace(&self.folder.join(pool).join(format!("{volume}.generation")), generation.to_string().as_bytes())
    }

    pub(crate) fn forget(&self, pool: &str, volume: &str) {
        for what in ["generation", "lock"] {
            let _ = fs::remove_file(self.folder.join(pool).join(format!("{volume}.{what}")));
        }
    }

    /// Locks the pool itself, or a volume.
    pub(crate) fn lock(&self, pool: &str, volume: Option<&str>) -> Result<Held> {
        check_name(pool)?;
        let folder = self.folder.join(pool);
        make(&folder)?;
        let path = folder.join(volume.map_or("lock".into(), |v| format!("{v}.lock")));
        let fail = |e| PoolError::host(format!("cannot lock {}", path.display()), e);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match Flock::lock(open.map_err(fail)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Held(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                let what = match volume {
                    Some(v) => format!("the volume {pool}/{v} is in use"),
                    None => format!("the pool {pool} is being changed by somebody else"),
                };
                Err(PoolError::new(PoolErrorKind::Locked, what))
            }
            Err((_, e)) => Err(fail(e.into())),
        }
    }

    /// Puts a file in place of another one, as a whole.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        let fail = |e| PoolError::host(format!("cannot write {}", path.display()), e);
        let folder = path.parent().unwrap_or(Path::new("."));
        make(folder)?;
        let temporary = path.with_extension(format!("{}.part", std::process::id()));
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(fail)?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(fail)?;
        fs::rename(&temporary, path).map_err(fail)?;
        File::open(folder).and_then(|f| f.sync_all()).map_err(fail)
    }
}

fn make(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| PoolError::host(format!("cannot make {}", folder.display()), e))
}

/// Names of pools and volumes become names of files.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty()
        || name.len() > 60
        || !name.chars().all(good)
        || !name.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        let what = format!("`{}` is no name: letters, digits, `.`, `_` and `-`, up to 60", name.escape_debug());
        return Err(PoolError::new(PoolErrorKind::Bad, what));
    }
    Ok(())
}
