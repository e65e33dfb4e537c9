//! The guests of `cargo xtask bench guest` and `bench disk`.

use std::path::Path;

use anyhow::Context;

use crate::ramfs::Ramfs;
use crate::{BUSYBOX, KERNEL, cc, packages, sources};

/// Makes the benchmark's guest in `directory`: `vmlinuz`, `initrd.cpio`, and for running natively the same `bench` and `busybox`.
///
/// # Errors
/// If packages cannot be fetched, or gcc is missing or fails.
pub fn make(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let packages = packages(&[KERNEL, BUSYBOX])?;
    let busybox = std::fs::read(packages.directory().join("bin/busybox")).context("busybox")?;
    let source = sources("bench");
    let program = directory.join("bench");
    cc::compile(&cc::files(&source)?, &[], &program)?;

    let mut ramfs = Ramfs::new();
    ramfs.program("init", std::fs::read(source.join("init"))?);
    ramfs.program("bin/busybox", busybox);
    // The rows' command lines are run by a shell.
    ramfs.link("bin/sh", "busybox");
    ramfs.program("bin/bench", std::fs::read(&program)?);
    ramfs.write_file(&directory.join("initrd.cpio"))?;
    copy(&packages.directory().join("bin/busybox"), &directory.join("busybox"))?;
    copy(&packages.kernel()?, &directory.join("vmlinuz"))
}

/// Makes the disk benchmark's guest in `directory`: `vmlinuz`, and `initrd.cpio`, which measures `/dev/vda` and switches off.
///
/// # Errors
/// As [`make`].
pub fn make_disk(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let packages = packages(&[KERNEL, BUSYBOX])?;
    let source = sources("disk");
    let program = directory.join("disk");
    cc::compile(&cc::files(&source)?, &[], &program)?;
    let mut ramfs = Ramfs::new();
    ramfs.program("init", std::fs::read(source.join("init"))?);
    ramfs.copy("bin/busybox", &packages.directory().join("bin/busybox"))?;
    ramfs.program("bin/disk", std::fs::read(&program)?);
    let mut order = String::new();
    for file in packages.modules(&["virtio_pci", "virtio_blk"])? {
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).context("a module without a name")?;
        ramfs.file(&format!("modules/{name}"), std::fs::read(&file)?);
        order.push_str(&name);
        order.push('\n');
    }
    ramfs.file("modules/order", order.into_bytes());
    ramfs.write_file(&directory.join("initrd.cpio"))?;
    copy(&packages.kernel()?, &directory.join("vmlinuz"))
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::copy(from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(())
}
