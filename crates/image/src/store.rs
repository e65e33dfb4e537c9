//! Where images lie, and what an image is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apt::{Package, hash_file};
use crate::error::{ImageError, ImageErrorKind, IoContext};

/// Name of an image's description in its directory.
pub(crate) const MANIFEST: &str = "manifest.json";

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Size in bytes, holes included.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A package an image was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package file, hexadecimal.
    pub sha256: String,
    /// Size of the package file in bytes.
    pub size: u64,
}

/// What an image consists of (`manifest.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this description.
    pub format: u32,
    /// Name of the image.
    pub name: String,
    /// Digest of everything the image was made of; the name of its directory.
    pub digest: String,
    /// Digest of what the visor that made it brought into it; empty in images of old.
    #[serde(default)]
    pub maker: String,
    /// Release of the kernel.
    pub kernel_release: String,
    /// Kernel command line for booting from the root disk, without console settings.
    pub kernel_args: String,
    /// Files by name.
    pub files: BTreeMap<String, ManifestFile>,
    /// Packages, sorted by name.
    pub packages: Vec<ManifestPackage>,
}

impl ManifestPackage {
    pub(crate) fn of(package: &Package) -> Self {
        Self {
            name: package.name.clone(),
            version: package.version.clone(),
            sha256: package.sha256.clone(),
            size: package.size,
        }
    }
}

/// An image that is complete on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    directory: PathBuf,
    manifest: Manifest,
}

/// Names of an image's files.
pub(crate) mod file {
    pub(crate) const KERNEL: &str = "vmlinuz";
    pub(crate) const INITRAMFS: &str = "initramfs";
    pub(crate) const ROOT_DISK: &str = "root.img";
}

impl Image {
    /// The kernel, a bzImage.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(file::KERNEL)
    }

    /// The initial ramfs, an uncompressed cpio archive. With it alone a guest boots into memory.
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join(file::INITRAMFS)
    }

    /// The root disk: a raw ext4 file system without partitions. Never write to it: put a layer on top, or copy it. A
    /// larger disk is filled by the guest.
    pub fn root_disk(&self) -> PathBuf {
        self.directory.join(file::ROOT_DISK)
    }

    /// Kernel command line that makes the guest boot from the root disk, wherever it is attached; console settings are
    /// the machine's.
    pub fn kernel_args(&self) -> &str {
        &self.manifest.kernel_args
    }

    /// What the image consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens the image in `directory`; the sizes of its files must be right.
    ///
    /// # Errors
    /// When the description or a file is missing or wrong.
    pub fn open(directory: &Path) -> Result<Self, ImageError> {
        let path = directory.join(MANIFEST);
        let text = fs::read_to_string(&path).doing("read", &path)?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| ImageError::new(ImageErrorKind::Format, format!("{}: {e}", path.display())))?;
        for (name, expected) in &manifest.files {
            let path = directory.join(name);
            let size = fs::metadata(&path).doing("open", &path)?.len();
            if size != expected.size {
                let words = format!("{} has {size} bytes instead of {}", path.display(), expected.size);
                return Err(ImageError::new(ImageErrorKind::Format, words));
            }
        }
        Ok(Self { directory: directory.to_owned(), manifest })
    }

    /// Compares all files with their hashes. Takes a second or so.
    ///
    /// # Errors
    /// `Corrupt` when one differs.
    pub fn verify(&self) -> Result<(), ImageError> {
        for (name, expected) in &self.manifest.files {
            let path = self.directory.join(name);
            if hash_file(&path)? != expected.sha256 {
                let words = format!("{} is damaged", path.display());
                return Err(ImageError::new(ImageErrorKind::Corrupt, words));
            }
        }
        Ok(())
    }
}

/// The images of a user, below a cache directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStore {
    directory: PathBuf,
}

impl ImageStore {
    /// The store below visor's cache directory, which need not exist yet.
    pub fn open(cache: &Path) -> Self {
        Self { directory: cache.to_owned() }
    }

    /// Visor's cache directory by the XDG rules: `$XDG_CACHE_HOME/visor`, or `~/.cache/visor`; without a home,
    /// a directory for this user in the place for temporary files.
    pub fn default_directory() -> PathBuf {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || absolute("HOME").filter(|h| h.is_dir()).map(|h| h.join(".cache"));
        let temporary = || {
            use std::os::unix::fs::MetadataExt;
            let user = fs::metadata("/proc/self").map_or(0, |m| m.uid());
            std::env::temp_dir().join(format!("visor-cache-{user}"))
        };
        absolute("XDG_CACHE_HOME").or_else(home).map_or_else(temporary, |base| base.join("visor"))
    }

    /// The image `tiny` that this visor built last, if it is whole. One that another visor made - before an update, or of another
    /// checkout - is left alone: what is in it need not fit.
    pub fn tiny(&self) -> Option<Image> {
        let ours = crate::builder::maker_digest();
        let is_ours = |i: &Image| i.manifest.maker == ours;
        self.any_tiny().filter(is_ours).or_else(|| self.all("tiny").into_iter().find(is_ours))
    }

    /// The image `tiny` that was built last, whoever built it, if it is whole.
    pub fn any_tiny(&self) -> Option<Image> {
        let current = self.images("tiny").join("current");
        let directory = fs::canonicalize(current).ok()?;
        Image::open(&directory).ok()
    }

    /// All whole images of one name, the youngest first.
    fn all(&self, name: &str) -> Vec<Image> {
        let entries = fs::read_dir(self.images(name)).into_iter().flatten().flatten();
        let is_one = |e: &fs::DirEntry| {
            e.file_type().is_ok_and(|t| t.is_dir()) && !e.file_name().as_encoded_bytes().starts_with(b".")
        };
        let mut found: Vec<_> = entries
            .filter(is_one)
            .filter_map(|e| Some((e.metadata().and_then(|m| m.modified()).ok()?, Image::open(&e.path()).ok()?)))
            .collect();
        found.sort_by_key(|(made, _)| std::cmp::Reverse(*made));
        found.into_iter().map(|(_, image)| image).collect()
    }

    /// The directory with the images of one name.
    pub(crate) fn images(&self, name: &str) -> PathBuf {
        self.directory.join("images").join(name)
    }

    /// The directory of package lists and packages.
    pub(crate) fn packages(&self) -> PathBuf {
        self.directory.join("packages")
    }

    /// The directory of firmware by package.
    pub(crate) fn firmware(&self) -> PathBuf {
        self.directory.join("firmware")
    }

    /// Waits until no other build runs, and keeps others waiting until the result is dropped.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<File, ImageError> {
        fs::create_dir_all(&self.directory).doing("create", &self.directory)?;
        let path = self.directory.join("build.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).doing("open", &path)?;
        if lock.try_lock().is_err() {
            waiting();
            lock.lock().doing("lock", &path)?;
        }
        Ok(lock)
    }
}

#[cfg(test)]
mod tests;
