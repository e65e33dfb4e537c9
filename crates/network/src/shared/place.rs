//! Where networks live: `DATA/net/NAME/network.json` and `leases.json`, and the socket `RUN/net/NAME.sock`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SharedSpec;
use crate::store::{Store, private_directory, read, write};

/// The directories of a user's networks.
#[derive(Clone, Debug)]
pub struct Places {
    root: PathBuf,
    data: PathBuf,
    run: PathBuf,
}

/// One network's.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Rules and groups of the user.
    pub store: Store,
    directory: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
}

impl Places {
    /// Below two directories; they are made when they are needed, for the user alone.
    pub fn new(data: &Path, run: &Path) -> Self {
        Places { root: data.to_owned(), data: data.join("net"), run: run.join("net") }
    }

    /// Rules and groups of the user.
    pub fn store(&self) -> Store {
        Store::new(&self.root)
    }

    /// The network called `name`, whether it exists or not. Letters, digits and dashes, at most 32, and not what `--net` knows.
    pub fn named(&self, name: &str) -> Option<Place> {
        let valid = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !name.starts_with('-')
            && !matches!(name, "nat" | "none");
        valid.then(|| Place {
            name: name.into(),
            store: self.store(),
            directory: self.data.join(name),
            socket: self.run.join(format!("{name}.sock")),
        })
    }

    /// All networks, by name.
    pub fn all(&self) -> Vec<Place> {
        let entries = fs::read_dir(&self.data).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names.iter().filter_map(|n| self.named(n)).filter(Place::exists).collect()
    }
}

impl Place {
    /// Whether there is such a network.
    pub fn exists(&self) -> bool {
        self.directory.join("network.json").exists()
    }

    /// Makes the network.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the file system says.
    pub fn create(&self, spec: &SharedSpec) -> io::Result<()> {
        if self.exists() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        private_directory(&self.directory)?;
        self.write("network.json", spec)
    }

    /// Forgets the network.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> io::Result<()> {
        let _ = fs::remove_file(&self.socket);
        fs::remove_dir_all(&self.directory)
    }

    /// Its description.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidData` for a file that makes no sense.
    pub fn spec(&self) -> io::Result<SharedSpec> {
        self.read("network.json")
    }

    /// The file for messages of its process.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Makes the directory of the socket.
    pub(super) fn prepare_socket(&self) -> io::Result<()> {
        self.socket.parent().map_or(Ok(()), private_directory)
    }

    pub(super) fn read<T: DeserializeOwned>(&self, file: &str) -> io::Result<T> {
        read(&self.directory.join(file))
    }

    /// Writes a file so that it is whole whatever happens.
    pub(super) fn write(&self, file: &str, value: &impl Serialize) -> io::Result<()> {
        write(&self.directory.join(file), value)
    }
}
