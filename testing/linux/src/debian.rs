//! Debian as its users know it: systemd as the first program, udev, the system bus and logind, in memory.
//!
//! The packages are unpacked and not configured: what their maintainer scripts would do and a boot needs - users, the merged `/usr`,
//! a machine's identity - is done here. The initial ramfs is the whole system, so no disk is involved.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use visor_image::Unpacked;

use crate::ramfs::Ramfs;
use crate::{BUSYBOX, KERNEL, packages};

/// The system; the libraries come with it.
const SYSTEM: [&str; 17] = [
    "base-files",
    "base-passwd",
    "bash",
    "coreutils",
    "dash",
    "util-linux",
    "mount",
    "login",
    "kmod",
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "dbus-bin",
    "dbus-daemon",
    "dbus-system-bus-common",
    BUSYBOX,
];
/// What the power button comes through: ACPI's driver, and the device that logind reads.
const MODULES: [&str; 2] = ["button", "evdev"];
/// Directories of the packages that programs need, and where they are in a merged `/usr`.
const PARTS: [(&str, &str); 10] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/bin", "usr/bin"),
    ("usr/sbin", "usr/sbin"),
    ("usr/lib", "usr/lib"),
    ("usr/lib64", "usr/lib64"),
    ("usr/share/dbus-1", "usr/share/dbus-1"),
    ("etc", "etc"),
];
/// Modules are loaded by number: no package has run depmod.
const INIT: &str = "#!/bin/busybox sh
for m in /m/*; do /bin/busybox insmod $m; done
exec /sbin/init
";

/// The kernel and the system.
pub struct Debian {
    kernel: PathBuf,
    packages: Unpacked,
}

impl Debian {
    /// What to add to the kernel's command line: the serial console, with the journal on it.
    pub const APPEND: &str =
        "console=ttyS0 panic=-1 tsc=reliable systemd.journald.forward_to_console=1 systemd.show_status=1";

    /// Fetches the packages.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn new() -> anyhow::Result<Self> {
        let packages = packages(&[&SYSTEM[..], &[KERNEL]].concat())?;
        Ok(Debian { kernel: packages.kernel()?, packages })
    }

    /// The kernel, a bzImage.
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// Writes the initial ramfs, some 70 MB.
    ///
    /// # Errors
    /// If a package lacks a file or writing fails.
    pub fn write_initrd(&self, path: &Path) -> anyhow::Result<()> {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        let mut out = std::io::BufWriter::new(file);
        self.system()?.write(&mut out)?;
        Ok(out.flush()?)
    }

    fn system(&self) -> anyhow::Result<Ramfs> {
        let root = self.packages.directory();
        let mut ramfs = Ramfs::new();
        for (from, to) in PARTS {
            if root.join(from).is_dir() {
                add(&mut ramfs, to, &root.join(from))?;
            }
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            ramfs.link(name, &format!("usr/{name}"));
        }
        for name in ["run", "var/log", "var/tmp", "var/lib/dbus", "mnt"] {
            ramfs.file(&format!("{name}/.keep"), Vec::new());
        }
        for (number, path) in self.packages.modules(&MODULES)?.iter().enumerate() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ramfs.copy(&format!("m/{number:02}-{name}"), path)?;
        }
        let master = |name: &str| {
            let path = root.join("usr/share/base-passwd").join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let users = master("passwd.master")? + "messagebus:x:100:107::/nonexistent:/usr/sbin/nologin\n";
        ramfs.file("etc/passwd", users.replacen("root:*:", "root::", 1).into_bytes());
        ramfs.file("etc/group", (master("group.master")? + "messagebus:x:107:\n").into_bytes());
        ramfs.file("etc/hostname", b"debian\n".to_vec());
        // With an identity it is not this system's first boot, which would ask questions.
        ramfs.file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n".to_vec());
        ramfs.link("usr/bin/sh", "dash");
        ramfs.program("init", INIT.as_bytes().to_vec());
        Ok(ramfs)
    }
}

/// Adds a directory but for the kernel's modules, of which two are wanted.
fn add(ramfs: &mut Ramfs, to: &str, from: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{to}/{name}");
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if !(to == "usr/lib" && name == "modules") {
                ramfs.copy_all(&path, &entry.path())?;
            }
        } else if kind.is_symlink() {
            ramfs.link(&path, &std::fs::read_link(entry.path())?.to_string_lossy());
        } else {
            ramfs.copy(&path, &entry.path())?;
        }
    }
    Ok(())
}
