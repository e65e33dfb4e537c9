//! Debian packages unpacked side by side in the cache, for tools and tests that put guests of their own together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::apt::{Apt, Package, hex};
use crate::error::{ImageError, ImageErrorKind, IoContext};
use crate::modules::KernelModules;
use crate::program::Program;
use crate::progress::{Phase, Progress};
use crate::store::ImageStore;

/// Packages unpacked into one directory. The directory is shared and stays; nothing may be written to it.
#[derive(Debug, Clone)]
pub struct Unpacked {
    directory: PathBuf,
}

impl Unpacked {
    /// Fetches the newest versions of the packages `names` and of the libraries they depend on, compares them with their
    /// hashes and unpacks them, unless the cache holds the same set already. A name such as `linux-image-cloud-amd64`
    /// brings the kernel that it depends on.
    ///
    /// # Errors
    /// See [`ImageErrorKind`]; each has a hint.
    pub fn get(store: &ImageStore, names: &[&str], progress: &mut dyn Progress) -> Result<Self, ImageError> {
        let _lock = store.lock(|| progress.note("waiting for another build to finish"))?;
        let apt = Apt::new(&store.packages(), Path::new(""))?;
        progress.phase(Phase::Resolve, 2);
        apt.update(false, progress)?;
        let mut packages = resolve(&apt, names)?;
        let base = store.packages().join("unpacked");
        if let Some(found) = Self::open(&base.join(digest(&packages))) {
            return Ok(found);
        }
        if apt.download(&packages, progress).is_err() {
            // Lists of yesterday name packages that mirrors no longer have.
            apt.update(true, progress)?;
            packages = resolve(&apt, names)?;
            apt.download(&packages, progress)?;
        }
        if let Some(bad) = apt.verify(&packages, progress)?.first() {
            let words = format!("package {} {} does not have the hash its index promises", bad.name, bad.version);
            return Err(ImageError::new(ImageErrorKind::Corrupt, words));
        }
        let directory = base.join(digest(&packages));
        match Self::open(&directory) {
            Some(found) => Ok(found),
            None => unpack(&apt, &packages, &base, &directory, progress),
        }
    }

    /// Where the packages' files lie, under their paths without the leading slash.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Runs the packages' program `name` on this host, with their libraries; arguments are to be added.
    ///
    /// # Errors
    /// `Missing` if none of the packages has such a program.
    pub fn program(&self, name: &str) -> Result<Command, ImageError> {
        Ok(Program::find(&self.directory, name)?.command())
    }

    /// A shell script that is the packages' program `name` to whoever starts it.
    ///
    /// # Errors
    /// `Missing` if none of the packages has such a program.
    pub fn script(&self, name: &str) -> Result<String, ImageError> {
        Ok(Program::find(&self.directory, name)?.script())
    }

    /// The kernel among the packages, a bzImage.
    ///
    /// # Errors
    /// `Missing` if none of the packages is a kernel.
    pub fn kernel(&self) -> Result<PathBuf, ImageError> {
        let release = KernelModules::find(&self.directory)?.release;
        Ok(self.directory.join("boot").join(format!("vmlinuz-{release}")))
    }

    /// The files of the kernel's modules `names` and of those they need, each after what it needs.
    ///
    /// # Errors
    /// `Missing` if the kernel does not offer one.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>, ImageError> {
        let kernel = KernelModules::find(&self.directory)?;
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let table = kernel.table(&names, false)?;
        let mut files: Vec<PathBuf> = Vec::new();
        for name in &names {
            let order = table.load_order(name).map_err(|e| ImageError::new(ImageErrorKind::Format, e.to_string()))?;
            for module in order.iter().filter_map(|name| table.modules.get(name)) {
                let file = kernel.directory.join(&module.path);
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }

    fn open(directory: &Path) -> Option<Self> {
        directory.is_dir().then(|| Unpacked { directory: directory.to_owned() })
    }
}

fn unpack(
    apt: &Apt,
    packages: &[Package],
    base: &Path,
    directory: &Path,
    progress: &mut dyn Progress,
) -> Result<Unpacked, ImageError> {
    fs::create_dir_all(base).doing("create", base)?;
    let work = tempfile::Builder::new().prefix(".unpack-").tempdir_in(base).doing("create a directory in", base)?;
    let files = work.path().join("files");
    fs::create_dir(&files).doing("create", &files)?;
    progress.phase(Phase::Unpack, packages.len() as u64);
    for (done, package) in packages.iter().enumerate() {
        apt.unpack(package, &files)?;
        progress.at(done as u64 + 1);
    }
    fs::rename(&files, directory).doing("move the packages to", directory)?;
    Ok(Unpacked { directory: directory.to_owned() })
}

/// The packages, what stands behind a kernel's name, and the libraries that all of them need, sorted by name.
fn resolve(apt: &Apt, names: &[&str]) -> Result<Vec<Package>, ImageError> {
    let mut chosen: BTreeMap<String, Package> = BTreeMap::new();
    let mut seen: BTreeSet<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut next: Vec<String> = seen.iter().cloned().collect();
    while !next.is_empty() {
        let found = apt.show(&next)?;
        next.clear();
        for package in found {
            let library = package.section == "libs" || package.section.ends_with("/libs");
            let kernel = package.name.starts_with("linux-image-");
            if !library && !kernel && !names.contains(&package.name.as_str()) {
                continue;
            }
            next.extend(package.depends.iter().filter(|d| seen.insert((*d).clone())).cloned());
            chosen.entry(package.name.clone()).or_insert(package);
        }
    }
    match names.iter().find(|n| !chosen.contains_key(**n)) {
        Some(name) => Err(ImageError::new(ImageErrorKind::Missing, format!("no package {name} in the host's sources"))),
        None => Ok(chosen.into_values().collect()),
    }
}

/// The same digest, the same files.
fn digest(packages: &[Package]) -> String {
    let mut hash = Sha256::new();
    for package in packages {
        hash.update(format!("{} {}\n", package.name, package.sha256));
    }
    hex(&hash.finalize()).chars().take(16).collect()
}
