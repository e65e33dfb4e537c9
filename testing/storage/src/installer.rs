//! A disc that installs Debian by itself: made of Debian's packages, booted by BIOS or UEFI.
//!
//! ```text
//! isolinux/      ISOLINUX and its configuration, for BIOS
//! boot/efi.img   a FAT file system with GRUB, for UEFI; boot/grub/grub.cfg tells it what to boot
//! install/       the kernel, the initial ramfs that installs, and what it installs: the same kernel, a smaller initial ramfs, the
//!                system's files, boot loaders
//! ```
//! The installed system is Debian's base files, shell and tools, with busybox as its init; its boot loader is EXTLINUX in the
//! partition, behind an MBR, or GRUB in an EFI system partition. Everything reports on the serial line.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::Compression;
use flate2::write::GzEncoder;
use visor_image::{ImageStore, Silent, Unpacked};
use visor_iso::MakeOptions;
use visor_test_linux::ramfs::Ramfs;

/// What the installer itself runs.
const TOOLS: [&str; 4] = ["sbin/mke2fs", "sbin/sfdisk", "sbin/mkfs.fat", "usr/bin/extlinux"];
/// Packages the installed system consists of; their libraries come with them.
const SYSTEM: [&str; 6] = ["base-files", "bash", "coreutils", "util-linux", "mount", "e2fsprogs"];
/// Packages of the disc alone.
const DISC: [&str; 8] = [
    "linux-image-cloud-amd64",
    "busybox-static",
    "fdisk",
    "dosfstools",
    "extlinux",
    "syslinux-common",
    "isolinux",
    "grub-efi-amd64-bin",
];
const MODULES: [&str; 10] = [
    "virtio_pci",
    "virtio_scsi",
    "ata_piix",
    "sd_mod",
    "sr_mod",
    "isofs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859-1",
];

/// Bytes of the FAT file system with GRUB.
const ESP: usize = 8 << 20;
/// GRUB for discs, as Debian's own installer has it.
const GRUB_DISC: &str = "usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi";
/// GRUB for disks.
const GRUB_DISK: &str = "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi";

const ISOLINUX: &str = "serial 0 115200
default install
label install
  kernel /install/vmlinuz
  append initrd=/install/installer.gz console=ttyS0 quiet
";

const GRUB: &str = "linux /install/vmlinuz console=ttyS0 quiet
initrd /install/installer.gz
boot
";

/// First program of both initial ramfs.
const BEGIN: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in /m/*; do insmod $m || echo CANNOT LOAD $m; done
say() { echo \"@@ $*\"; }
";

const INSTALL: &str = include_str!("installer/install.sh");
const START: &str = include_str!("installer/start.sh");
const SYSTEM_INIT: &str = include_str!("installer/rcS");

/// The recipe of the disc.
pub struct Installer {
    packages: Unpacked,
    system: Unpacked,
}

impl Installer {
    /// Fetches what the disc is made of.
    ///
    /// # Errors
    /// If the packages cannot be had.
    pub fn new() -> anyhow::Result<Self> {
        let store = ImageStore::open(&ImageStore::default_directory());
        let packages = Unpacked::get(&store, &DISC, &mut Silent)?;
        let system = Unpacked::get(&store, &SYSTEM, &mut Silent)?;
        Ok(Installer { packages, system })
    }

    /// Writes the disc `iso`, with `scratch` for what goes into it.
    ///
    /// # Errors
    /// If a package lacks a file, or writing fails.
    pub fn write(&self, iso: &Path, scratch: &Path) -> anyhow::Result<()> {
        let tree = scratch.join("disc");
        let put = |path: &str, bytes: &[u8]| -> anyhow::Result<()> {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&tree))?;
            std::fs::write(&path, bytes).with_context(|| path.display().to_string())
        };
        put("isolinux/isolinux.bin", &self.file("usr/lib/ISOLINUX/isolinux.bin")?)?;
        put("isolinux/ldlinux.c32", &self.file("usr/lib/syslinux/modules/bios/ldlinux.c32")?)?;
        put("isolinux/isolinux.cfg", ISOLINUX.as_bytes())?;
        put("boot/grub/grub.cfg", GRUB.as_bytes())?;
        put("boot/efi.img", &fat(&[("EFI/BOOT/BOOTX64.EFI", &self.file(GRUB_DISC)?)])?)?;
        let kernel = self.packages.kernel()?;
        put("install/vmlinuz", &std::fs::read(&kernel)?)?;
        put("install/installer.gz", &self.ramfs(INSTALL, true)?)?;
        put("install/start.gz", &self.ramfs(START, false)?)?;
        put("install/system.gz", &self.system_files()?)?;
        put("install/mbr.bin", &self.file("usr/lib/syslinux/mbr/mbr.bin")?)?;
        put("install/grubx64.efi", &self.file(GRUB_DISK)?)?;
        let options = MakeOptions {
            label: "VISOR_INSTALL".into(),
            bios_boot: Some("isolinux/isolinux.bin".into()),
            efi_boot: Some("boot/efi.img".into()),
            boot_info_table: true,
        };
        visor_iso::make(&tree, iso, &options)?;
        Ok(())
    }

    fn file(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.packages.directory().join(path);
        std::fs::read(&path).with_context(|| path.display().to_string())
    }

    /// An initial ramfs with `script`; with the tools of the installer, or busybox alone.
    fn ramfs(&self, script: &str, tools: bool) -> anyhow::Result<Vec<u8>> {
        let mut ramfs = Ramfs::new();
        ramfs.program("bin/busybox", self.file("bin/busybox")?);
        ramfs.program("init", format!("{BEGIN}{script}").into_bytes());
        for name in ["cd", "target", "esp"] {
            ramfs.file(&format!("{name}/.keep"), Vec::new());
        }
        for (number, path) in self.packages.modules(&MODULES)?.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ramfs.copy(&format!("m/{number:02}-{name}"), path)?;
        }
        if tools {
            for tool in TOOLS {
                ramfs.copy(tool, &self.tool(tool)?)?;
            }
            libraries(&mut ramfs, &[self.packages.directory(), self.system.directory()])?;
        }
        compressed(|out| ramfs.write(out))
    }

    fn tool(&self, path: &str) -> anyhow::Result<PathBuf> {
        let of = |d: &Path| [d.join(path), d.join("usr").join(path)];
        let all = [of(self.packages.directory()), of(self.system.directory())].concat();
        all.into_iter().find(|p| p.is_file()).with_context(|| format!("no package brings {path}"))
    }

    /// The system that is installed, without what only people read.
    fn system_files(&self) -> anyhow::Result<Vec<u8>> {
        let mut ramfs = Ramfs::new();
        for entry in std::fs::read_dir(self.system.directory())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "usr" {
                for part in ["bin", "sbin", "lib", "lib64"] {
                    let from = entry.path().join(part);
                    if from.is_dir() {
                        ramfs.copy_all(&format!("usr/{part}"), &from)?;
                    }
                }
            } else if entry.file_type()?.is_dir() {
                ramfs.copy_all(&name, &entry.path())?;
            }
        }
        ramfs.program("sbin/init", self.file("bin/busybox")?);
        ramfs.program("bin/busybox", self.file("bin/busybox")?);
        ramfs.link("bin/sh", "bash");
        ramfs.program("etc/init.d/rcS", SYSTEM_INIT.as_bytes().to_vec());
        ramfs.file("etc/inittab", b"::sysinit:/etc/init.d/rcS\n::shutdown:/bin/umount -a -r\n".to_vec());
        ramfs.file("etc/hostname", b"installed\n".to_vec());
        compressed(|out| ramfs.write(out))
    }
}

fn compressed(f: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<Vec<u8>> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    f(&mut gz)?;
    Ok(gz.finish()?)
}

/// The shared libraries of packages, and their loader.
fn libraries(ramfs: &mut Ramfs, roots: &[&Path]) -> anyhow::Result<()> {
    for root in roots {
        for directory in ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64"] {
            let Ok(entries) = std::fs::read_dir(root.join(directory)) else { continue };
            for entry in entries {
                let entry = entry?;
                let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type()?);
                let to = format!("{}/{name}", directory.trim_start_matches("usr/"));
                if kind.is_symlink() {
                    ramfs.link(&to, &std::fs::read_link(entry.path())?.to_string_lossy());
                } else if kind.is_file() {
                    ramfs.copy(&to, &entry.path())?;
                }
            }
        }
    }
    Ok(())
}

/// A FAT file system with these files.
fn fat(files: &[(&str, &[u8])]) -> anyhow::Result<Vec<u8>> {
    let mut image = Cursor::new(vec![0; ESP]);
    fatfs::format_volume(&mut image, fatfs::FormatVolumeOptions::new().volume_label(*b"EFI        "))?;
    {
        let volume = fatfs::FileSystem::new(&mut image, fatfs::FsOptions::new())?;
        for (path, bytes) in files {
            let mut at = volume.root_dir();
            let mut parts: Vec<&str> = path.split('/').collect();
            let name = parts.pop().unwrap_or_default();
            for part in parts {
                at = at.create_dir(part)?;
            }
            at.create_file(name)?.write_all(bytes)?;
        }
    }
    Ok(image.into_inner())
}
