//! Which files go into an image: programs and libraries from packages, modules, settings, services.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use visor_guest::modules::{TABLE_NAME, Table};

use crate::GUEST_INIT;
use crate::elf;
use crate::error::{ImageError, ImageErrorKind, IoContext};
use crate::modules::{KernelModules, without_signature};
use crate::recipe::Recipe;
use crate::tree::{Content as Bytes, Tree};

/// Files that are visor's own, for both the initial ramfs and the root disk.
pub(crate) const FILES: [(&str, &str); 11] = [
    ("etc/passwd", include_str!("../guest/etc/passwd")),
    ("etc/group", include_str!("../guest/etc/group")),
    ("etc/hostname", include_str!("../guest/etc/hostname")),
    ("etc/hosts", include_str!("../guest/etc/hosts")),
    ("etc/nsswitch.conf", include_str!("../guest/etc/nsswitch.conf")),
    ("etc/os-release", include_str!("../guest/etc/os-release")),
    ("etc/profile", include_str!("../guest/etc/profile")),
    ("usr/lib/systemd/system/httpd.service", include_str!("../guest/units/httpd.service")),
    ("usr/lib/systemd/system/crond.service", include_str!("../guest/units/crond.service")),
    ("usr/lib/systemd/system/dhcp@.service", include_str!("../guest/units/dhcp@.service")),
    ("var/www/index.html", include_str!("../guest/www/index.html")),
];

/// Called by the DHCP client; the only text that is a program.
const UDHCPC_SCRIPT: &str = include_str!("../guest/udhcpc.script");

/// Where the guest's program lies; PID 1, `systemctl` and `modprobe` are links to it.
const GUEST_PROGRAM: &str = "usr/lib/visor/guest-init";

/// The shell of the root disk; the recipe says why it is not that of the other applets.
const SHELL: &str = "/usr/lib/visor/busybox-shell";

/// Applets of busybox that would only do harm: other package managers' tools, and what visor's own program does.
const UNWANTED_APPLETS: [&str; 12] = [
    "init", "linuxrc", "run-init", "modprobe", "depmod", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "login", "sulogin",
    "busybox",
];

/// Directories that are mount points, or empty at first.
const DIRECTORIES: [(&str, u32); 14] = [
    ("dev", 0o755),
    ("etc/systemd/system", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/local/bin", 0o755),
    ("var/log", 0o755),
    ("var/spool/cron/crontabs", 0o755),
];

/// What the files are taken from.
pub(crate) struct Content<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) sysroot: &'a Path,
    pub(crate) kernel: &'a KernelModules,
}

/// Where a package is unpacked that does not go with the others.
pub(crate) fn apart(sysroot: &Path, package: &str) -> PathBuf {
    sysroot.join(".apart").join(package)
}

/// The initial ramfs: PID 1, busybox, and the modules that lead to the root disk. Enough for a guest without disks.
pub(crate) fn initramfs(content: &Content<'_>, modules: &Table) -> Result<Tree, ImageError> {
    let mut tree = base();
    tree.take(content.sysroot, "bin/busybox")?;
    tree.link("init", &format!("/{GUEST_PROGRAM}"));
    add_applets(&mut tree, content.sysroot)?;
    add_modules(&mut tree, content.kernel, modules)?;
    Ok(tree)
}

/// The root disk: everything of the recipe.
pub(crate) fn root(content: &Content<'_>, modules: &Table) -> Result<Tree, ImageError> {
    let mut tree = base();
    let mut programs: Vec<PathBuf> = Vec::new();
    for package in &content.recipe.package {
        for path in &package.files {
            programs.extend(tree.take(content.sysroot, path)?);
        }
        for (from, to) in &package.renamed {
            let source = apart(content.sysroot, &package.name).join(from);
            tree.file(to, 0o755, Bytes::At(source.clone()));
            programs.push(source);
        }
    }
    for library in elf::closure(content.sysroot, &programs)? {
        tree.take(content.sysroot, &library)?;
    }
    for name in ["usr/bin/sh", "usr/bin/ash"] {
        tree.link(name, SHELL);
    }
    add_certificates(&mut tree, content.sysroot)?;
    add_applets(&mut tree, content.sysroot)?;
    add_modules(&mut tree, content.kernel, modules)?;
    Ok(tree)
}

/// What both have.
fn base() -> Tree {
    let mut tree = Tree::merged_usr();
    for (path, mode) in DIRECTORIES {
        tree.dir(path, mode);
    }
    for (path, text) in FILES {
        tree.text(path, 0o644, text);
    }
    tree.text("usr/share/udhcpc/default.script", 0o755, UDHCPC_SCRIPT);
    tree.link("etc/mtab", "/proc/self/mounts");
    tree.link("var/run", "/run");
    tree.file(GUEST_PROGRAM, 0o755, Bytes::Bytes(GUEST_INIT.to_vec()));
    for name in ["usr/sbin/init", "usr/bin/systemctl", "usr/sbin/modprobe"] {
        tree.link(name, &format!("/{GUEST_PROGRAM}"));
    }
    tree
}

/// A link to busybox for each applet that no better program stands for.
fn add_applets(tree: &mut Tree, sysroot: &Path) -> Result<(), ImageError> {
    let busybox = sysroot.join("bin/busybox");
    let output = Command::new(&busybox).arg("--list-full").output().doing("run", &busybox)?;
    let mut count = 0;
    for path in String::from_utf8_lossy(&output.stdout).lines() {
        let name = path.rsplit('/').next().unwrap_or_default();
        let taken = ["usr/bin", "usr/sbin"].iter().any(|d| tree.contains(&format!("{d}/{name}")));
        if taken || name.is_empty() || UNWANTED_APPLETS.contains(&name) {
            continue;
        }
        let in_sbin = path.contains("sbin/") || name == "httpd" || name == "udhcpc";
        let directory = if in_sbin { "usr/sbin" } else { "usr/bin" };
        tree.link(&format!("{directory}/{name}"), "/usr/bin/busybox");
        count += 1;
    }
    if count < 50 {
        return Err(ImageError::new(ImageErrorKind::Missing, "busybox does not list its applets"));
    }
    Ok(())
}

fn add_modules(tree: &mut Tree, kernel: &KernelModules, modules: &Table) -> Result<(), ImageError> {
    let base = format!("usr/lib/modules/{}", kernel.release);
    for module in modules.modules.values() {
        let path = format!("{base}/{}", module.path.display());
        let source = kernel.directory.join(&module.path);
        let bytes = fs::read(&source).doing("read", &source)?;
        tree.file(&path, 0o644, Bytes::Bytes(without_signature(&bytes).to_vec()));
    }
    tree.text(&format!("{base}/{TABLE_NAME}"), 0o644, &modules.to_text());
    Ok(())
}

/// The certificates in one file, as the package's own script would join them.
fn add_certificates(tree: &mut Tree, sysroot: &Path) -> Result<(), ImageError> {
    let directory = sysroot.join("usr/share/ca-certificates/mozilla");
    let entries = fs::read_dir(&directory).doing("list", &directory)?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "crt"));
    paths.sort();
    let mut joined = Vec::new();
    for path in paths {
        joined.extend(fs::read(&path).doing("read", &path)?);
        if !joined.ends_with(b"\n") {
            joined.push(b'\n');
        }
    }
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, Bytes::Bytes(joined));
    Ok(())
}
