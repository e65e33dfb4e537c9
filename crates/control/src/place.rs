//! Where running machines live, and what they may be called.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::claim::{self, Probe};
use crate::record::MachineRecord;

/// Most bytes of a name: those of a host name's label, since guests find each other by it.
pub const MAX_NAME: usize = 63;

/// The machines of a user.
#[derive(Clone, Debug)]
pub struct Places {
    directory: PathBuf,
    logs: PathBuf,
}

/// One machine's place, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
    pub(crate) directory: PathBuf,
    log: PathBuf,
}

/// A machine that runs.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it is.
    pub place: Place,
    /// What it tells of itself; missing while it starts.
    pub record: Option<MachineRecord>,
}

/// The directory of machines cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The name is none.
    #[error("`{0}` is no name for a machine")]
    Name(String),
    /// The directory is not the user's alone.
    #[error("{} is not a directory of yours alone: {why}", path.display())]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file system refuses.
    #[error("cannot use the directory of running machines {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

impl Places {
    /// Those of the user who runs this program: below `$XDG_RUNTIME_DIR/visor`, or else `/tmp/visor-UID`. The directory is made if it
    /// is missing.
    ///
    /// # Errors
    /// [`PlaceError::NotOurs`] if somebody else could write to it: in /tmp it may be anybody's.
    pub fn of_user() -> Result<Self, PlaceError> {
        let user = nix::unistd::geteuid();
        let run = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
        let aside = || Path::new("/tmp").join(format!("visor-{user}"));
        Places::new(&run.map_or_else(aside, |r| r.join("visor")))
    }

    /// Those below `root`, which is made if it is missing.
    ///
    /// # Errors
    /// As [`Places::of_user`].
    pub fn new(root: &Path) -> Result<Self, PlaceError> {
        let directory = root.join("machines");
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| PlaceError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(error(&directory))?;
        for path in [root, &directory] {
            let meta = fs::symlink_metadata(path).map_err(error(path))?;
            let fault = if !meta.is_dir() {
                Some("it is something else")
            } else if meta.uid() != nix::unistd::geteuid().as_raw() {
                Some("it belongs to another user")
            } else if meta.mode() & 0o022 != 0 {
                Some("others can write to it")
            } else {
                None
            };
            if let Some(why) = fault {
                return Err(PlaceError::NotOurs { path: path.to_owned(), why });
            }
        }
        Ok(Places { directory, logs: root.join("logs") })
    }

    /// The place of the machine called `name`: small letters, digits and dashes, no dash first, up to [`MAX_NAME`] of them.
    ///
    /// # Errors
    /// [`PlaceError::Name`] for other names.
    pub fn named(&self, name: &str) -> Result<Place, PlaceError> {
        let valid = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-');
        match valid {
            true => Ok(Place { name: name.into(), directory: self.directory.join(name), log: self.logs.join(name) }),
            false => Err(PlaceError::Name(name.into())),
        }
    }

    /// The machines that run, by name. What killed ones left behind is removed on the way.
    pub fn running(&self) -> Vec<Found> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter_map(|n| self.named(n).ok()).filter_map(|place| place.find()).collect()
    }
}

impl Place {
    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the messages of a machine in the background go. They outlive it, so that its end can be explained.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Makes an empty log.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new_log(&self) -> io::Result<fs::File> {
        let directory = self.log.parent().unwrap_or(&self.log);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&self.log)
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// The machine, if it runs; what is left of a killed one is removed.
    pub fn find(&self) -> Option<Found> {
        match claim::probe(self) {
            Probe::Alive => Some(Found { place: self.clone(), record: self.record() }),
            Probe::Nobody => None,
        }
    }

    /// What its process wrote about it.
    pub fn record(&self) -> Option<MachineRecord> {
        serde_json::from_slice(&fs::read(self.directory.join("machine.json")).ok()?).ok()
    }

    pub(crate) fn make(&self) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }
}

/// The name among `names` that `wrong` was probably meant to be.
pub fn near<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |n: &str| strsim::damerau_levenshtein(wrong, n);
    let close = |n: &&str| distance(n) <= 2.max(wrong.chars().count() / 3) && distance(n) < n.chars().count();
    // Longer names than exist cost the square of their length.
    names.into_iter().filter(|_| wrong.len() <= 2 * MAX_NAME).filter(close).min_by_key(|n| distance(n))
}
