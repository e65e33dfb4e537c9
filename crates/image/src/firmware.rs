//! Firmware for virtual machines from Debian packages: where the host has them installed, or fetched by name into the cache.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apt::{Apt, Package, hash_file};
use crate::error::{ImageError, ImageErrorKind, IoContext};
use crate::progress::{Phase, Progress};
use crate::store::ImageStore;

/// Description of a package's files in the cache.
const MANIFEST: &str = "firmware.json";

/// A file of firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirmwareFile {
    /// SeaBIOS.
    Bios,
    /// SeaBIOS's VGA BIOS for a Bochs-compatible display adapter.
    VgaBios,
    /// OVMF's code.
    UefiCode,
    /// OVMF's variables as they are at first.
    UefiVars,
    /// iPXE for virtio network cards, for BIOS and UEFI.
    PxeVirtio,
    /// iPXE for Intel 8254x network cards, for BIOS and UEFI.
    PxeE1000,
}

impl FirmwareFile {
    /// The Debian package, the path in it without its first slash, and the sizes in bytes that the file may have.
    fn known(self) -> (&'static str, &'static str, std::ops::RangeInclusive<u64>) {
        const ROM: std::ops::RangeInclusive<u64> = 512..=1 << 20;
        match self {
            FirmwareFile::Bios => ("seabios", "usr/share/seabios/bios-256k.bin", 256 << 10..=256 << 10),
            FirmwareFile::VgaBios => ("seabios", "usr/share/seabios/vgabios-stdvga.bin", ROM),
            FirmwareFile::UefiCode => ("ovmf", "usr/share/OVMF/OVMF_CODE_4M.fd", 1 << 20..=4 << 20),
            FirmwareFile::UefiVars => ("ovmf", "usr/share/OVMF/OVMF_VARS_4M.fd", 64 << 10..=1 << 20),
            FirmwareFile::PxeVirtio => ("ipxe-qemu", "usr/lib/ipxe/qemu/efi-virtio.rom", ROM),
            FirmwareFile::PxeE1000 => ("ipxe-qemu", "usr/lib/ipxe/qemu/efi-e1000.rom", ROM),
        }
    }

    /// The Debian package it comes from.
    pub fn package(self) -> &'static str {
        self.known().0
    }
}

/// A package's files in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    package: String,
    version: String,
    /// SHA-256 of the package file.
    sha256: String,
    /// SHA-256 of each file by its path.
    files: BTreeMap<String, String>,
}

/// Finds firmware.
#[derive(Debug)]
pub struct FirmwareStore {
    store: ImageStore,
    root: PathBuf,
    programs: PathBuf,
}

impl FirmwareStore {
    /// Firmware of this host, or below visor's cache directory, which need not exist yet.
    pub fn open(cache: &Path) -> Self {
        Self { store: ImageStore::open(cache), root: PathBuf::from("/"), programs: PathBuf::new() }
    }

    /// Looks for installed firmware below `root` instead of `/`.
    pub fn with_root(mut self, root: &Path) -> Self {
        self.root = root.to_owned();
        self
    }

    /// Uses the `apt-get`, `apt-cache` and `dpkg-deb` of this directory instead of those in `PATH`.
    pub fn with_programs(mut self, directory: &Path) -> Self {
        self.programs = directory.to_owned();
        self
    }

    /// The path of `file`: where its package is installed; or in the cache, compared with its hash; or fetched into it.
    ///
    /// # Errors
    /// See [`ImageErrorKind`]; [`ImageErrorKind::Format`] for an installed file of the wrong size.
    pub fn find(&self, file: FirmwareFile, progress: &mut dyn Progress) -> Result<PathBuf, ImageError> {
        let (package, path, _) = file.known();
        let installed = self.root.join(path);
        if installed.is_file() {
            check_size(file, &installed)?;
            return Ok(installed);
        }
        if let Some(found) = self.cached(file) {
            return Ok(found);
        }
        let _lock = self.store.lock(|| progress.note("waiting for another download to finish"))?;
        // Whoever held the lock may have fetched it.
        if let Some(found) = self.cached(file) {
            return Ok(found);
        }
        self.fetch(package, progress)?;
        progress.phase(Phase::Done, 0);
        self.cached(file).ok_or_else(|| {
            let words = format!("the package {package} has no /{path}, or not the one that is needed");
            ImageError::new(ImageErrorKind::Missing, words)
        })
    }

    /// The file in the cache, if it is there and whole.
    fn cached(&self, file: FirmwareFile) -> Option<PathBuf> {
        let (package, path, _) = file.known();
        let directory = self.directory(package);
        let manifest: Manifest = serde_json::from_slice(&fs::read(directory.join(MANIFEST)).ok()?).ok()?;
        let found = directory.join(path);
        check_size(file, &found).ok()?;
        (hash_file(&found).ok()? == *manifest.files.get(path)?).then_some(found)
    }

    fn directory(&self, package: &str) -> PathBuf {
        self.store.firmware().join(package)
    }

    /// Brings the package into the cache.
    fn fetch(&self, name: &str, progress: &mut dyn Progress) -> Result<(), ImageError> {
        let apt = Apt::new(&self.store.packages(), &self.programs)?;
        progress.phase(Phase::Resolve, 1);
        apt.update(false, progress)?;
        let mut package = candidate(&apt, name)?;
        if let Err(first) = apt.download(std::slice::from_ref(&package), progress) {
            // Lists of yesterday name packages that mirrors no longer have.
            tracing::debug!(error = %first, "fetching the package lists again");
            apt.update(true, progress)?;
            package = candidate(&apt, name)?;
            apt.download(std::slice::from_ref(&package), progress)?;
        }
        if !apt.verify(std::slice::from_ref(&package), progress)?.is_empty() {
            let words = format!("the package {name} does not have the hash that the package lists promise");
            return Err(ImageError::new(ImageErrorKind::Corrupt, words));
        }
        self.install(&apt, &package)
    }

    /// Unpacks the package and puts it in its place.
    fn install(&self, apt: &Apt, package: &Package) -> Result<(), ImageError> {
        let parent = self.store.firmware();
        fs::create_dir_all(&parent).doing("create", &parent)?;
        let work =
            tempfile::Builder::new().prefix(".new-").tempdir_in(&parent).doing("create a directory in", &parent)?;
        apt.unpack(package, work.path())?;
        let mut files = BTreeMap::new();
        for file in ALL.iter().filter(|f| f.package() == package.name) {
            let (_, path, _) = file.known();
            let unpacked = work.path().join(path);
            if unpacked.is_file() {
                files.insert(path.to_owned(), hash_file(&unpacked)?);
            }
        }
        let (name, version, sha256) = (package.name.clone(), package.version.clone(), package.sha256.clone());
        let manifest = Manifest { package: name, version, sha256, files };
        let path = work.path().join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        fs::write(&path, text).doing("write", &path)?;
        let target = self.directory(&package.name);
        if target.exists() {
            fs::remove_dir_all(&target).doing("remove", &target)?;
        }
        let work = work.keep();
        fs::rename(&work, &target).doing("move firmware to", &target)
    }
}

const ALL: [FirmwareFile; 6] = [
    FirmwareFile::Bios,
    FirmwareFile::VgaBios,
    FirmwareFile::UefiCode,
    FirmwareFile::UefiVars,
    FirmwareFile::PxeVirtio,
    FirmwareFile::PxeE1000,
];

fn candidate(apt: &Apt, name: &str) -> Result<Package, ImageError> {
    let found = apt.show(&[name.to_owned()])?.into_iter().find(|p| p.name == name);
    found.ok_or_else(|| {
        let words = format!("the host's package sources have no package {name}");
        ImageError::new(ImageErrorKind::Missing, words)
    })
}

fn check_size(file: FirmwareFile, path: &Path) -> Result<(), ImageError> {
    let (package, _, sizes) = file.known();
    let size = fs::metadata(path).doing("open", path)?.len();
    if sizes.contains(&size) {
        return Ok(());
    }
    let words = format!("{} has {size} bytes: it is not the file of that name in {package}", path.display());
    Err(ImageError::new(ImageErrorKind::Format, words))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::progress::Silent;

    fn write(path: &Path, contents: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Programs that serve one package, whose file has the hash of `deb` and whose BIOS has `size` bytes.
    fn programs(at: &Path, size: u64) {
        let hash = "dae45e9c4c5641b0e8a58b6c3f0de0dd946b9ac47502cc45ef451f3119ebacd7"; // of "deb\n"
        let script = |name: &str, body: String| {
            let path = at.join(name);
            write(&path, format!("#!/bin/sh\n{body}\n").as_bytes());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        };
        script(
            "apt-get",
            "case \"$*\" in *download*) echo deb > seabios_1_all.deb; echo x >> \"$0.log\";; esac".into(),
        );
        let show = format!("Package: seabios\nVersion: 1\nSize: 4\nSHA256: {hash}\n");
        script("apt-cache", format!("cat <<'X'\n{show}\nX"));
        let bios = "usr/share/seabios/bios-256k.bin";
        script("dpkg-deb", format!("mkdir -p $3/usr/share/seabios; head -c {size} /dev/zero > $3/{bios}"));
    }

    fn store(at: &Path) -> FirmwareStore {
        FirmwareStore::open(&at.join("cache")).with_root(&at.join("root")).with_programs(&at.join("bin"))
    }

    #[test]
    fn installed_firmware_is_used_if_its_size_is_right() {
        let at = tempfile::tempdir().unwrap();
        let bios = at.path().join("root/usr/share/seabios/bios-256k.bin");
        write(&bios, &[0; 256 << 10]);
        assert_eq!(store(at.path()).find(FirmwareFile::Bios, &mut Silent).unwrap(), bios);
        write(&bios, &[0; 1000]);
        let e = store(at.path()).find(FirmwareFile::Bios, &mut Silent).unwrap_err();
        assert_eq!(e.kind(), ImageErrorKind::Format);
        assert!(e.to_string().contains("has 1000 bytes"), "{e}");
    }

    #[test]
    fn missing_firmware_is_fetched_once_and_again_when_damaged() {
        let at = tempfile::tempdir().unwrap();
        programs(&at.path().join("bin"), 256 << 10);
        let fetched = || fs::read_to_string(at.path().join("bin/apt-get.log")).map_or(0, |t| t.lines().count());
        let found = store(at.path()).find(FirmwareFile::Bios, &mut Silent).unwrap();
        assert!(found.starts_with(at.path().join("cache/firmware/seabios")));
        assert_eq!(store(at.path()).find(FirmwareFile::Bios, &mut Silent).unwrap(), found);
        assert_eq!(fetched(), 1);
        write(&found, &[1; 256 << 10]);
        store(at.path()).find(FirmwareFile::Bios, &mut Silent).unwrap();
        assert_eq!(fs::read(&found).unwrap()[0], 0, "unpacked anew");
        let e = store(at.path()).find(FirmwareFile::VgaBios, &mut Silent).unwrap_err();
        assert_eq!(e.kind(), ImageErrorKind::Missing);
    }

    #[test]
    fn a_package_with_another_file_is_refused() {
        let at = tempfile::tempdir().unwrap();
        programs(&at.path().join("bin"), 1000);
        let e = store(at.path()).find(FirmwareFile::Bios, &mut Silent).unwrap_err();
        assert_eq!(e.kind(), ImageErrorKind::Missing);
        let e = store(at.path()).find(FirmwareFile::UefiCode, &mut Silent).unwrap_err();
        assert!(e.to_string().contains("no package ovmf"), "{e}");
    }
}
