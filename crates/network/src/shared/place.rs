//! Where networks live: `DATA/net/NAME/network.json` and `leases.json`, and the socket `RUN/net/NAME.sock`.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::SharedSpec;

/// The directories of a user's networks.
#[derive(Clone, Debug)]
pub struct Places {
    data: PathBuf,
    run: PathBuf,
}

/// One network's.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub name: String,
    directory: PathBuf,
    /// Its socket.
    pub socket: PathBuf,
}

impl Places {
    /// Below two directories; they are made when they are needed, for the user alone.
    pub fn new(data: &Path, run: &Path) -> Self {
        Places { data: data.join("net"), run: run.join("net") }
    }

    /// The network called `name`, whether it exists or not. Letters, digits and dashes, at most 32, and not what `--net` knows.
    pub fn named(&self, name: &str) -> Option<Place> {
        let valid = (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !name.starts_with('-')
            && !matches!(name, "nat" | "none");
        valid.then(|| Place {
            name: name.into(),
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
        let text = fs::read(self.directory.join(file))?;
        serde_json::from_slice(&text).map_err(|e| io::Error::new(ErrorKind::InvalidData, e))
    }

    /// Writes a file so that it is whole whatever happens.
    pub(super) fn write(&self, file: &str, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(value)?;
        let (path, new) = (self.directory.join(file), self.directory.join(format!("{file}.new")));
        let mut out = fs::File::create(&new)?;
        io::Write::write_all(&mut out, &text)?;
        out.sync_all()?;
        fs::rename(new, path)
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
