//! Building an image: resolve, download, verify, unpack, choose modules, assemble.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::apt::{Apt, Package, hash_file, hex};
use crate::content::{Content, apart, initramfs, root};
use crate::error::{ImageError, ImageErrorKind, IoContext};
use crate::modules::KernelModules;
use crate::progress::{Phase, Progress};
use crate::recipe::Recipe;
use crate::store::{Image, ImageStore, MANIFEST, Manifest, ManifestFile, ManifestPackage, file};
use crate::{GUEST_INIT, archive, disk};

/// Version of the manifest.
const FORMAT: u32 = 1;

/// The code that decides what is in an image's files. It is part of the digest, so that a changed builder never takes an
/// image of the one before for its own.
const METHOD: [&str; 6] = [
    include_str!("archive.rs"),
    include_str!("builder.rs"),
    include_str!("content.rs"),
    include_str!("disk.rs"),
    include_str!("modules.rs"),
    include_str!("tree.rs"),
];

/// Boots from the disk with this label, quietly. `cryptomgr.notests=1`: the self-tests of the kernel's ciphers are two
/// fifths of its start on a software CPU. `tsc=reliable`, `no_timer_check`: a virtual machine's clocks need no second
/// opinion. `random.trust_cpu=on`: RDRAND seeds the pool, nothing waits for noise.
const KERNEL_ARGS: &str = "quiet root=LABEL=visor-root rw panic=-1 cryptomgr.notests=1 tsc=reliable no_timer_check \
                           random.trust_cpu=on";

/// Builds the image `tiny`.
#[derive(Debug)]
pub struct ImageBuilder {
    store: ImageStore,
    programs: PathBuf,
}

impl ImageBuilder {
    /// A builder that puts its images into `store`.
    pub fn new(store: ImageStore) -> Self {
        Self { store, programs: PathBuf::new() }
    }

    /// Uses the `apt-get`, `apt-cache` and `dpkg-deb` of this directory instead of those in `PATH`.
    pub fn with_programs(mut self, directory: &Path) -> Self {
        self.programs = directory.to_owned();
        self
    }

    /// Builds the image from the newest packages, or returns the one that was made of the same packages before. Waits
    /// while another process builds. An interrupted or failed build leaves only whole packages in the cache.
    ///
    /// # Errors
    /// See [`ImageErrorKind`]; each has a hint.
    pub fn build(&self, progress: &mut dyn Progress) -> Result<Image, ImageError> {
        let recipe = Recipe::parse(Recipe::TINY)?;
        let _lock = self.store.lock(|| progress.note("waiting for another build to finish"))?;
        let images = self.store.images(&recipe.name);
        fs::create_dir_all(&images).doing("create", &images)?;
        remove_leftovers(&images);
        let (apt, packages) = self.fetch(&recipe, progress)?;
        let digest = digest(&packages);
        let directory = images.join(&digest);
        let image = match Image::open(&directory) {
            Ok(image) => image,
            Err(_) => {
                let _ = fs::remove_dir_all(&directory);
                self.make(&apt, &recipe, &packages, &directory, progress)?
            }
        };
        point_to(&images, &digest)?;
        progress.phase(Phase::Done, 0);
        Ok(image)
    }

    /// Builds the image into `directory`, which must not exist, instead of the store; packages are cached there all the
    /// same.
    ///
    /// # Errors
    /// See [`ImageErrorKind`]; each has a hint.
    pub fn build_into(&self, directory: &Path, progress: &mut dyn Progress) -> Result<Image, ImageError> {
        let recipe = Recipe::parse(Recipe::TINY)?;
        let _lock = self.store.lock(|| progress.note("waiting for another build to finish"))?;
        let (apt, packages) = self.fetch(&recipe, progress)?;
        let image = self.make(&apt, &recipe, &packages, directory, progress)?;
        progress.phase(Phase::Done, 0);
        Ok(image)
    }

    /// Chooses the packages and brings them into the cache, whole and verified.
    fn fetch(&self, recipe: &Recipe, progress: &mut dyn Progress) -> Result<(Apt, Vec<Package>), ImageError> {
        let apt = Apt::new(&self.store.packages(), &self.programs)?;
        progress.phase(Phase::Resolve, 2);
        apt.update(false, progress)?;
        progress.at(1);
        let mut packages = resolve(&apt, recipe)?;
        progress.at(2);
        if let Err(first) = apt.download(&packages, progress) {
            // Lists of yesterday name packages that mirrors no longer have.
            tracing::debug!(error = %first, "fetching the package lists again");
            apt.update(true, progress)?;
            packages = resolve(&apt, recipe)?;
            apt.download(&packages, progress)?;
        }
        verify(&apt, &packages, progress)?;
        Ok((apt, packages))
    }

    fn make(
        &self,
        apt: &Apt,
        recipe: &Recipe,
        packages: &[Package],
        directory: &Path,
        progress: &mut dyn Progress,
    ) -> Result<Image, ImageError> {
        let images = directory.parent().unwrap_or(Path::new("."));
        let work =
            tempfile::Builder::new().prefix(".build-").tempdir_in(images).doing("create a directory in", images)?;
        let sysroot = work.path().join("sysroot");
        progress.phase(Phase::Unpack, packages.len() as u64);
        fs::create_dir(&sysroot).doing("create", &sysroot)?;
        for (done, package) in packages.iter().enumerate() {
            let target = if recipe.is_apart(&package.name) { apart(&sysroot, &package.name) } else { sysroot.clone() };
            fs::create_dir_all(&target).doing("create", &target)?;
            apt.unpack(package, &target)?;
            progress.at(done as u64 + 1);
        }

        progress.phase(Phase::Modules, 2);
        let kernel = KernelModules::find(&sysroot)?;
        let boot = kernel.table(&recipe.boot_modules, false)?;
        progress.at(1);
        let all: Vec<String> = recipe.boot_modules.iter().chain(&recipe.modules).cloned().collect();
        let all = kernel.table(&all, true)?;
        progress.at(2);

        let content = Content { recipe, sysroot: &sysroot, kernel: &kernel };
        let output = work.path().join("image");
        fs::create_dir(&output).doing("create", &output)?;
        progress.phase(Phase::Assemble, 3);
        copy_kernel(&sysroot, &kernel.release, &output.join(file::KERNEL))?;
        let ramfs = initramfs(&content, &boot)?;
        write_file(&output.join(file::INITRAMFS), |out| archive::write(&ramfs, out))?;
        progress.at(1);
        let root = root(&content, &all)?;
        let scratch = work.path().join("scratch");
        fs::create_dir(&scratch).doing("create", &scratch)?;
        disk::write(&root, &sysroot, &scratch, &output.join(file::ROOT_DISK))?;
        progress.at(2);

        write_manifest(recipe, packages, &kernel.release, &output)?;
        sync_all(&output)?;
        fs::rename(&output, directory).doing("move the image to", directory)?;
        sync_directory(images)?;
        progress.at(3);
        Image::open(directory)
    }
}

/// The packages of the recipe, the kernel's real package, and the libraries all of them depend on, sorted by name.
fn resolve(apt: &Apt, recipe: &Recipe) -> Result<Vec<Package>, ImageError> {
    let missing =
        |name: &str| ImageError::new(ImageErrorKind::Missing, format!("no package {name} in the host's sources"));
    let meta = apt.show(std::slice::from_ref(&recipe.kernel))?;
    let kernel = meta.iter().flat_map(|p| &p.depends).find(|d| d.starts_with("linux-image-"));
    let kernel = kernel.ok_or_else(|| missing(&recipe.kernel))?.clone();

    let asked: BTreeSet<String> = recipe.package_names().map(str::to_owned).chain([kernel]).collect();
    let mut chosen: BTreeMap<String, Package> = BTreeMap::new();
    let mut seen = asked.clone();
    let mut next: Vec<String> = asked.iter().cloned().collect();
    while !next.is_empty() {
        let found = apt.show(&next)?;
        next.clear();
        // Of what a package depends on only libraries matter here: maintainer scripts are never run.
        let is_library = |p: &Package| p.section == "libs" || p.section.ends_with("/libs");
        for package in found.into_iter().filter(|p| asked.contains(&p.name) || is_library(p)) {
            next.extend(package.depends.iter().filter(|d| seen.insert((*d).clone())).cloned());
            chosen.entry(package.name.clone()).or_insert(package);
        }
    }
    match asked.iter().find(|name| !chosen.contains_key(*name)) {
        Some(name) => Err(missing(name)),
        None => Ok(chosen.into_values().collect()),
    }
}

/// Compares all packages with their hashes; what is damaged is fetched once more.
fn verify(apt: &Apt, packages: &[Package], progress: &mut dyn Progress) -> Result<(), ImageError> {
    let bad = apt.verify(packages, progress)?;
    if bad.is_empty() {
        return Ok(());
    }
    apt.download(&bad, progress)?;
    match apt.verify(&bad, progress)?.first() {
        None => Ok(()),
        Some(package) => {
            let words =
                format!("package {} {} does not have the hash its index promises", package.name, package.version);
            Err(ImageError::new(ImageErrorKind::Corrupt, words))
        }
    }
}

/// A digest of everything an image is made of: the same digest, the same image.
fn digest(packages: &[Package]) -> String {
    let mut hash = maker();
    for package in packages {
        hash.update(format!("{} {} {}\n", package.name, package.version, package.sha256));
    }
    hex(&hash.finalize()).chars().take(16).collect()
}

/// A digest of what this visor itself brings into an image. An image with another one was made by another visor, whose guest
/// program and files need not fit.
pub(crate) fn maker_digest() -> String {
    hex(&maker().finalize()).chars().take(16).collect()
}

fn maker() -> Sha256 {
    let mut hash = Sha256::new();
    for text in METHOD.into_iter().chain([Recipe::TINY]) {
        hash.update(Sha256::digest(text));
    }
    for (path, text) in crate::content::FILES {
        hash.update(format!("{path}\0{}\0", text.len()));
        hash.update(text);
    }
    hash.update(Sha256::digest(GUEST_INIT));
    hash
}

fn copy_kernel(sysroot: &Path, release: &str, target: &Path) -> Result<(), ImageError> {
    let source = sysroot.join("boot").join(format!("vmlinuz-{release}"));
    fs::copy(&source, target).map(drop).doing("copy the kernel from", &source)
}

fn write_file(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), ImageError>) -> Result<(), ImageError> {
    let mut out = BufWriter::new(File::create(path).doing("create", path)?);
    write(&mut out)?;
    out.flush().doing("write", path)
}

fn write_manifest(recipe: &Recipe, packages: &[Package], release: &str, output: &Path) -> Result<(), ImageError> {
    let manifest = Manifest {
        format: FORMAT,
        name: recipe.name.clone(),
        digest: digest(packages),
        maker: maker_digest(),
        kernel_release: release.to_owned(),
        kernel_args: KERNEL_ARGS.to_owned(),
        files: describe(output)?,
        packages: packages.iter().map(ManifestPackage::of).collect(),
    };
    let text =
        serde_json::to_string_pretty(&manifest).map_err(|e| ImageError::new(ImageErrorKind::Format, e.to_string()))?;
    let path = output.join(MANIFEST);
    fs::write(&path, text).doing("write", &path)
}

/// Sizes and hashes of the files in a directory.
fn describe(directory: &Path) -> Result<BTreeMap<String, ManifestFile>, ImageError> {
    let mut files = BTreeMap::new();
    for name in [file::KERNEL, file::INITRAMFS, file::ROOT_DISK] {
        let path = directory.join(name);
        let size = fs::metadata(&path).doing("look at", &path)?.len();
        files.insert(name.to_owned(), ManifestFile { size, sha256: hash_file(&path)? });
    }
    Ok(files)
}

fn sync_all(directory: &Path) -> Result<(), ImageError> {
    for entry in fs::read_dir(directory).doing("list", directory)?.flatten() {
        let path = entry.path();
        File::open(&path).and_then(|f| f.sync_all()).doing("write", &path)?;
    }
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> Result<(), ImageError> {
    File::open(directory).and_then(|d| d.sync_all()).doing("write", directory)
}

/// Makes `current` point to the image, in one step.
fn point_to(images: &Path, digest: &str) -> Result<(), ImageError> {
    let (new, current) = (images.join(".current"), images.join("current"));
    let _ = fs::remove_file(&new);
    std::os::unix::fs::symlink(digest, &new).doing("create", &new)?;
    fs::rename(&new, &current).doing("write", &current)
}

/// Directories of builds that were killed; the lock says that none of them is alive.
fn remove_leftovers(images: &Path) {
    for entry in fs::read_dir(images).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".build-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
